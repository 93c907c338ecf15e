//! Meshseal's decisions, without a clock, I/O, host or log. The proxy, the issuer and the CLI run
//! the same code.
//!
//! Path of a request's token through this crate:
//!
//! ```text
//! token text ─ jose::token (form, V1–V3) ─ header (V4, V8) ─ claims (types, V13) ─▶ authn::check
//!                                                                                      │
//!      keys ◀── authn::Trust (bundle, fetched sets, revocation) ── signature, revocation
//!                                                                                      ▼
//!                        authz (route, scopes, staleness) ◀──── authn::Verified
//! ```
//!
//! [`decide`] states the order of a decision, [`authn::check`] the order of the checks of a token.
//! [`rejection`] lists every way to fail, [`limits`] every budget. Issuer and filter must agree on
//! [`bundle`] and [`revocation`].
//!
//! A module imports only earlier modules of this list: [`jose`], crypto, [`keys`] and
//! [`revocation`], [`bundle`], [`authn`], [`authz`], [`policy`], [`decide`] and [`config`].
#![no_std]
#![deny(
    clippy::std_instead_of_core,
    clippy::std_instead_of_alloc,
    clippy::alloc_instead_of_core
)]
// A trap in the module is an outage of the proxy, so arithmetic on external values must state what
// happens at its limits.
#![cfg_attr(
    not(test),
    deny(clippy::arithmetic_side_effects, clippy::as_conversions)
)]

extern crate alloc;

pub mod authn;
pub mod authz;
pub mod base64url;
pub mod bundle;
pub mod bytes;
pub mod config;
mod crypto;
pub mod decide;
pub mod der;
mod inline;
pub mod jose;
pub mod json;
pub mod keys;
pub mod limits;
pub mod matcher;
mod pem;
pub mod policy;
pub mod rejection;
pub mod revocation;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
