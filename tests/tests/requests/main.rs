//! Requests through the real module in a real Envoy: each case is put before both workers, and says
//! what the client gets, why, and what the upstream saw.
//!
//! A case reads: `name: listener, request => expectation`. The listeners' configurations are in
//! `world.rs`.

mod accepted;
mod claims;
mod form;
mod grpc;
mod locations;
mod modes;
mod outputs;
mod routes;
mod signatures;
mod stats;
mod world;
