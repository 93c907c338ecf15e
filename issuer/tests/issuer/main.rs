//! The issuer from outside: its endpoints by `oneshot` on a clock that stands still, both databases
//! under the same tests, faults, and the binary itself.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails; clippy knows that of #[test] functions only, not of what they share"
)]

mod support;

mod admin;
mod assertion;
mod bundle;
mod clients;
mod clocks;
mod command_line;
mod config;
mod config_check;
mod connections;
mod discovery;
mod durability;
mod failover;
mod faults;
mod incidents;
mod introspection;
mod operator;
mod postgres;
mod readiness;
mod replicas;
mod revocation;
mod rotation;
mod server;
mod single_use;
mod store;
mod tampering;
mod tokens;
mod upgrade;
