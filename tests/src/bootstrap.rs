//! Envoy bootstraps for tests, as JSON. The shipped bootstraps are in envoy-config/.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::paths;

/// Header in which a local reply carries Envoy's response code details, for tests to read.
pub const DETAILS: &str = "x-details";

/// A bootstrap with clusters, and listeners on free ports of the loopback interface.
#[derive(Clone, Debug, Default)]
pub struct Bootstrap {
    listeners: Vec<Value>,
    clusters: Vec<Value>,
    lds: Option<Value>,
}

impl Bootstrap {
    /// Creates a bootstrap without listeners or clusters.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a listener, see [`listener`].
    #[must_use]
    pub fn listener(mut self, listener: Value) -> Self {
        self.listeners.push(listener);
        self
    }

    /// Adds a cluster with one HTTP/1.1 endpoint.
    #[must_use]
    pub fn cluster(mut self, name: &str, to: SocketAddr) -> Self {
        self.clusters.push(cluster(name, to));
        self
    }

    /// Adds a file of listeners, which Envoy reloads whenever another file is moved over it.
    #[must_use]
    pub fn listeners_from(mut self, file: &Path) -> Self {
        let watched = file.parent().unwrap_or(file);
        self.lds = Some(json!({"lds_config": {
            "resource_api_version": "V3",
            "path_config_source": {"path": file, "watched_directory": {"path": watched}},
        }}));
        self
    }

    /// Returns the bootstrap as JSON. Statistics are flushed five times a second, so that tests can
    /// wait for histograms.
    pub fn to_json(&self) -> Value {
        let mut bootstrap = json!({
            "admin": {"address": address(SocketAddr::from(([127, 0, 0, 1], 0)))},
            "stats_flush_interval": "0.2s",
            "static_resources": {"listeners": self.listeners, "clusters": self.clusters},
        });
        if let (Some(lds), Some(members)) = (&self.lds, bootstrap.as_object_mut()) {
            members.insert("dynamic_resources".to_owned(), lds.clone());
        }
        bootstrap
    }

    /// Writes the bootstrap to a file.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn write(&self, file: &Path) -> Result<()> {
        write_whole(file, &self.to_json().to_string())
    }
}

/// Writes a file atomically: writes a temporary file beside it and renames that. A watcher never
/// sees half of the content.
///
/// # Errors
/// Fails if the folder cannot be written.
pub fn write_whole(file: &Path, text: &str) -> Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let draft = file.with_extension("draft");
    fs::write(&draft, text).with_context(|| format!("cannot write {}", draft.display()))?;
    fs::rename(&draft, file).with_context(|| format!("cannot write {}", file.display()))
}

/// A cluster with one HTTP/1.1 endpoint.
pub fn cluster(name: &str, to: SocketAddr) -> Value {
    json!({
        "name": name,
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(to)}}]}],
        },
    })
}

fn address(of: SocketAddr) -> Value {
    json!({"socket_address": {"address": of.ip().to_string(), "port_value": of.port()}})
}

/// Writes the file for [`Bootstrap::listeners_from`]: one listener per plugin configuration, with
/// the Meshseal filter and the cluster `echo`.
///
/// # Errors
/// Fails if the file cannot be written.
pub fn write_listeners(file: &Path, plugins: &[(&str, &Value)]) -> Result<()> {
    let mut resources = Vec::new();
    for (name, plugin) in plugins {
        let mut resource = listener(name, &[meshseal(plugin)], "echo");
        if let Some(members) = resource.as_object_mut() {
            members.insert(
                "@type".to_owned(),
                "type.googleapis.com/envoy.config.listener.v3.Listener".into(),
            );
        }
        resources.push(resource);
    }
    write_whole(
        file,
        &json!({"version_info": "1", "resources": resources}).to_string(),
    )
}

/// Returns a listener on a free port that routes everything to `cluster`, with `filters` before the
/// router. It balances connections exactly, so that two connections reach two workers.
pub fn listener(name: &str, filters: &[Value], cluster: &str) -> Value {
    routed(
        name,
        filters,
        &json!({"match": {"prefix": "/"}, "route": {"cluster": cluster}}),
    )
}

/// Returns a listener like [`listener`], but Envoy itself answers 200 to every request that passes
/// the filters. So a bench measures only the cost of the filters.
pub fn answering_listener(name: &str, filters: &[Value]) -> Value {
    routed(
        name,
        filters,
        &json!({"match": {"prefix": "/"}, "direct_response": {"status": 200}}),
    )
}

fn routed(name: &str, filters: &[Value], route: &Value) -> Value {
    let router = json!({
        "name": "router",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        },
    });
    let filters: Vec<&Value> = filters.iter().chain([&router]).collect();
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.\
            http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": "AUTO",
        "http_filters": filters,
        "route_config": {"virtual_hosts": [
            {"name": "all", "domains": ["*"], "routes": [route]},
        ]},
        "local_reply_config": {"mappers": [{
            "filter": {"status_code_filter": {"comparison": {
                "op": "GE", "value": {"default_value": 100, "runtime_key": "none"},
            }}},
            "headers_to_add": [{"header": {"key": DETAILS, "value": "%RESPONSE_CODE_DETAILS%"}}],
        }]},
    });
    json!({
        "name": name,
        "stat_prefix": name,
        "address": address(SocketAddr::from(([127, 0, 0, 1], 0))),
        "connection_balance_config": {"exact_balance": {}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    })
}

/// Returns the Meshseal filter with a plugin configuration.
pub fn meshseal(plugin: &Value) -> Value {
    wasm("meshseal", &paths::wasm(), plugin)
}

/// Returns the filter of a Wasm module with a plugin configuration.
pub fn wasm(name: &str, module: &Path, plugin: &Value) -> Value {
    json!({
        "name": name,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {
                "name": name,
                "root_id": name,
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": plugin.to_string(),
                },
                "vm_config": {
                    "vm_id": name,
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": {"local": {"filename": module}},
                },
            },
        },
    })
}
