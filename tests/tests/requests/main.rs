//! Requests through the real module in a real Envoy. Each case is sent to both workers. It states
//! the response, the reason of a rejection, and the headers that the upstream sees.
//!
//! A case has the form `name: listener, request => expectation`. The configurations of the
//! listeners are in `world.rs`.

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
