//! Tests of the issuer through its public interfaces: endpoints by `oneshot` on a fixed clock, both
//! databases under the same tests, faults, and the `meshseal` binary.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests: a surprise must stop the test"
)]

mod support;

mod admin;
mod assertion;
mod batching;
mod bundle;
mod bundle_keys;
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
mod incident_proofs;
mod incidents;
mod introspection;
mod key_revocation;
mod operator;
mod pgbouncer;
mod polls;
mod postgres;
mod readiness;
mod receipts;
mod replicas;
mod revocation;
mod revocation_groups;
mod rotation;
mod server;
mod single_use;
mod store;
mod store_revocations;
mod tampering;
mod tokens;
mod upgrade;
mod verify;
