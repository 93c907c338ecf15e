//! The end-to-end side of Meshseal: what needs two parts or a real host.
//!
//! The harness starts the real Envoy ([`envoy`]), the real issuer ([`issuer`]), an echo upstream
//! ([`echo`]) and a scriptable bundle server ([`bundles`]); [`mint`] makes tokens with cryptography
//! that the filter does not use; [`http`] is a client that hides nothing. The integration tests in
//! `tests/`, the local runner (`make run`, `make demo`) and the benches share it.

pub mod bootstrap;
pub mod build;
pub mod bundles;
pub mod child;
pub mod clock;
pub mod echo;
pub mod envoy;
pub mod http;
pub mod issuer;
pub mod load;
pub mod mint;
pub mod paths;
pub mod ports;
pub mod proxy;
pub mod serve;
pub mod stack;
pub mod wait;
pub mod workers;
