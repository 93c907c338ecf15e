//! Echo upstream: answers with the method, path and headers that it received, and records them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use axum::extract::{Request, State};
use axum::{Json, Router};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::ports::loopback;

/// Header whose value names the case under which the upstream records a request.
pub const CASE: &str = "x-case";

/// A request as the upstream received it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Headers in order, names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Seen {
    /// All values of a header (lower case).
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .collect()
    }
}

type Memory = Arc<Mutex<HashMap<String, Vec<Seen>>>>;

/// The running upstream. It ends when dropped.
#[derive(Debug)]
pub struct Echo {
    address: SocketAddr,
    memory: Memory,
    server: JoinHandle<()>,
}

impl Echo {
    /// Starts the upstream on `127.0.0.1:port`; port 0 takes any free port.
    ///
    /// # Errors
    /// Fails if the port is taken.
    pub async fn start(port: u16) -> Result<Self> {
        let listener = TcpListener::bind(loopback(port))
            .await
            .with_context(|| format!("the echo upstream cannot listen on port {port}"))?;
        let address = listener.local_addr()?;
        let memory = Memory::default();
        let app = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&memory));
        // axum::serve ends only with the task.
        let server = tokio::spawn(async move { drop(axum::serve(listener, app).await) });
        Ok(Self {
            address,
            memory,
            server,
        })
    }

    /// The address on which the upstream listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns and removes the requests recorded under an `x-case` value.
    pub fn take(&self, case: &str) -> Vec<Seen> {
        self.memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(case)
            .unwrap_or_default()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(State(memory): State<Memory>, request: Request) -> Json<Value> {
    let seen = Seen {
        method: request.method().to_string(),
        path: request
            .uri()
            .path_and_query()
            .map_or_else(String::new, ToString::to_string),
        headers: request
            .headers()
            .iter()
            .map(|(name, value)| {
                (
                    name.as_str().to_owned(),
                    String::from_utf8_lossy(value.as_bytes()).into_owned(),
                )
            })
            .collect(),
    };
    let body = describe(&seen);
    if let Some(case) = seen.header(CASE).first().map(|case| (*case).to_owned()) {
        memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(case)
            .or_default()
            .push(seen);
    }
    Json(body)
}

/// Returns the JSON of a recorded request. Repeated headers become arrays.
fn describe(seen: &Seen) -> Value {
    let mut headers = Map::new();
    for (name, value) in &seen.headers {
        let value = Value::String(value.clone());
        match headers.get_mut(name) {
            None => drop(headers.insert(name.clone(), value)),
            Some(Value::Array(values)) => values.push(value),
            Some(one) => *one = json!([one.take(), value]),
        }
    }
    json!({ "method": seen.method, "path": seen.path, "headers": headers })
}
