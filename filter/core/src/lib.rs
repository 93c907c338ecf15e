//! Meshseal core.
#![no_std]
