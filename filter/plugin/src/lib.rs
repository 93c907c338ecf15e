//! The filter: one proxy-wasm module that decides every request where it arrives.
//!
//! ```text
//! proxy ─▶ root, streams ─▶ engine ─▶ config     a configuration, or all its mistakes
//!                             │       decide     drives the decision of meshseal-core
//!                             │       verify     who does the arithmetic of a signature
//!                             │       response   refusals on the wire
//!                             │       sync       trust bundle and key sets, kept current
//!                             │       waiters    requests that wait for a newer key
//!                             │       metrics, log
//!                             └─▶ host           a trait; host/proxy.rs alone names the SDK's host calls
//! ```
//!
//! Whatever decides is in `meshseal-core`. This crate moves bytes between that and the proxy; it
//! never panics, and where it cannot know it refuses (V28).

mod config;
mod decide;
pub mod engine;
pub mod headers;
pub mod host;
mod log;
mod metrics;
mod registry;
mod response;
mod root;
mod streams;
mod sync;
#[cfg(test)]
mod testing;
mod verify;
mod waiters;

/// Where the proxy enters; a module of its own because the macro's function has no documentation.
mod entry {
    proxy_wasm::main! {{
        crate::streams::listen();
        proxy_wasm::set_root_context(|context_id| -> Box<dyn proxy_wasm::traits::RootContext> {
            Box::new(crate::root::Root::new(context_id))
        });
    }}
}
