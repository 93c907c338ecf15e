//! Meshseal's decisions, without a clock, I/O, host or log: the same code decides in the proxy, in
//! the issuer and in the CLI.
//!
//! A request's token takes one way through this crate:
//!
//! ```text
//! token text ─ token (form, V1–V3) ─ header (V4, V8) ─ claims (types, V13) ─ validate::check ─▶ Checked
//!                        keys ◀── trust (bundle, fetched sets, revocation) ──┘        │ signature, revocation
//!                                                                                     ▼
//!                              policy::authorize (route, scopes, staleness) ◀──── Verified
//! ```
//!
//! [`validate`] is the one place that states the order of the checks, [`rejection`] names every way
//! to fail, [`limits`] holds every budget. What issuer and filter must agree on is [`bundle`] and
//! [`revocation`].
#![no_std]
#![deny(
    clippy::std_instead_of_core,
    clippy::std_instead_of_alloc,
    clippy::alloc_instead_of_core
)]
// A trap in the module is an outage of the proxy: arithmetic on what came from outside says what
// happens at its ends.
#![cfg_attr(
    not(test),
    deny(clippy::arithmetic_side_effects, clippy::as_conversions)
)]

extern crate alloc;

pub mod alg;
pub mod base64url;
pub mod bundle;
pub mod bytes;
pub mod cache;
pub mod claims;
pub mod config;
mod crypto;
pub mod der;
pub mod header;
mod inline;
pub mod json;
pub mod keys;
pub mod limits;
mod pem;
pub mod policy;
pub mod rejection;
pub mod revocation;
pub mod token;
pub mod trust;
pub mod validate;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use crypto::{KeyTables, Portable, SignatureVerifier};
