//! Harness for end-to-end tests, which need several parts of Meshseal or a real host.
//!
//! The harness starts the real Envoy ([`envoy`]), the real issuer ([`issuer`]), an echo upstream
//! ([`echo`]) and a scriptable bundle server ([`bundles`]). [`mint`] makes tokens with cryptography
//! that the filter does not use. [`http`] is a client that neither normalizes nor merges anything.
//! The integration tests in `tests/`, the local runner (`make run`, `make demo`) and the benches
//! share this harness.

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
