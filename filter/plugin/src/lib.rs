//! Meshseal filter.
