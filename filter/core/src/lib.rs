//! Meshseal's decisions, without a clock, I/O, host or log: the same code decides in the proxy, in
//! the issuer and in the CLI.
//!
//! A request's token takes one way through this crate:
//!
//! ```text
//! token text ─ jose::token (form, V1–V3) ─ header (V4, V8) ─ claims (types, V13) ─▶ authn::check
//!                                                                                      │
//!      keys ◀── authn::Trust (bundle, fetched sets, revocation) ── signature, revocation
//!                                                                                      ▼
//!                        authz (route, scopes, staleness) ◀──── authn::Verified
//! ```
//!
//! [`decide`] states the order of a decision, [`authn::check`] that of the checks of a token, [`rejection`] names every way to fail, [`limits`]
//! holds every budget. Issuer and filter must agree on [`bundle`] and [`revocation`]. A module
//! imports only those before it in this list: [`jose`], crypto, [`keys`] and [`revocation`],
//! [`bundle`], [`authn`], [`authz`], [`policy`], [`decide`] and [`config`].
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
