//! HTTP server that can be killed with all its connections and restarted on the same port.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use axum::Router;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::ports::loopback;

/// An axum app on its own runtime. Dropping the runtime breaks all connections, as a crash would.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Server {
    /// Starts the server on `127.0.0.1:port`; port 0 takes any free port.
    ///
    /// # Errors
    /// Fails if the port is taken.
    pub fn start(port: u16, app: Router) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        // The caller must not continue before the server listens.
        let (bound, address) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            let listener = TcpListener::bind(loopback(port)).await;
            let address = listener
                .as_ref()
                .map_err(ToString::to_string)
                .and_then(|it| it.local_addr().map_err(|e| e.to_string()));
            drop(bound.send(address));
            if let Ok(listener) = listener {
                drop(axum::serve(listener, app).await);
            }
        });
        let address = address
            .recv()?
            .map_err(|error| anyhow::anyhow!(error))
            .with_context(|| format!("port {port}"))?;
        Ok(Self {
            address,
            runtime: Some(runtime),
        })
    }

    /// The address on which the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
