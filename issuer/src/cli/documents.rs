//! Configuration files as they come: our YAML or JSON, or with a plugin configuration inside an Istio or Envoy document.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Failure;

/// Largest file in bytes.
const MAX_BYTES: u64 = 8 * 1024 * 1024;

/// What a document turned out to be.
pub(super) enum Found {
    /// The issuer's configuration.
    Issuer(Value),
    /// A plugin configuration, and where it was found.
    Plugin(String, Value),
    /// A plugin configuration in a text that is not JSON.
    Broken(String, String),
}

pub(super) fn read_text(path: &PathBuf) -> Result<String, Failure> {
    let unreadable = |error: std::io::Error| Failure::usage(format!("{}: {error}", path.display()));
    if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_BYTES {
        return Err(Failure::usage(format!("{}: larger than {MAX_BYTES} bytes", path.display())));
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

/// The one plugin configuration in a file.
pub(super) fn plugin_configuration(path: &PathBuf) -> Result<Value, Failure> {
    let wrong = |message: &str| Failure::usage(format!("{}: {message}", path.display()));
    let mut found = find_all(&read_text(path)?, path).map_err(|message| wrong(&message))?.into_iter();
    match (found.next(), found.next()) {
        (Some(Found::Plugin(_, configuration)), None) => Ok(configuration),
        (Some(Found::Broken(at, message)), None) => Err(wrong(&format!("{at}: {message}"))),
        (Some(_), Some(_)) => Err(wrong("holds several configurations; cut out the one you mean")),
        (Some(Found::Issuer(_)) | None, _) => Err(wrong("holds no plugin configuration (`jwtRules`)")),
    }
}

/// Every configuration in a text, which may be several YAML documents.
pub(super) fn find_all(text: &str, path: &Path) -> Result<Vec<Found>, String> {
    let documents: Vec<Value> = if path.extension().is_some_and(|extension| extension == "json") {
        vec![serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?]
    } else {
        serde_saphyr::from_multiple(text).map_err(|error| format!("not YAML: {error}"))?
    };
    let mut found = Vec::new();
    for document in documents {
        sort(document, &mut found);
    }
    Ok(found)
}

fn sort(document: Value, found: &mut Vec<Found>) {
    let has = |name: &str| document.get(name).is_some();
    if let Some(kind) = document.get("kind").and_then(Value::as_str).filter(|_| has("apiVersion")) {
        let kind = kind.to_owned();
        in_kubernetes(&kind, &document, found);
    } else if has("static_resources") || has("admin") || has("dynamic_resources") {
        in_envoy(&document, "", found);
    } else if has("jwtRules") || has("rules") || has("mode") || has("trustBundle") {
        found.push(Found::Plugin(String::new(), document));
    } else {
        found.push(Found::Issuer(document));
    }
}

fn in_kubernetes(kind: &str, document: &Value, found: &mut Vec<Found>) {
    match kind {
        "WasmPlugin" | "TrafficExtension" => in_plugin_config(document, "", found),
        "ConfigMap" => {
            let data = document.get("data").and_then(Value::as_object);
            for (name, text) in data.into_iter().flatten() {
                let yaml = text.as_str().filter(|_| name.ends_with(".yaml") || name.ends_with(".yml"));
                if let Some(Ok(value)) = yaml.map(serde_saphyr::from_str::<Value>) {
                    sort(value, found);
                }
            }
        }
        _ => {}
    }
}

/// `pluginConfig` wherever the kind has it: `spec.pluginConfig`, `spec.wasm.pluginConfig`.
fn in_plugin_config(value: &Value, at: &str, found: &mut Vec<Found>) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let at = join(at, name);
        if name == "pluginConfig" {
            found.push(Found::Plugin(at, value.clone()));
        } else {
            in_plugin_config(value, &at, found);
        }
    }
}

/// The `configuration` of every wasm filter whose value reads like ours.
fn in_envoy(value: &Value, at: &str, found: &mut Vec<Found>) {
    match value {
        Value::Object(members) => {
            if let Some((text, at)) = wasm_configuration(members, at) {
                match serde_json::from_str::<Value>(text) {
                    Ok(value) if value.get("jwtRules").is_some() => found.push(Found::Plugin(at, value)),
                    Ok(_) => {}
                    Err(error) => found.push(Found::Broken(at, format!("not JSON: {error}"))),
                }
                return;
            }
            for (name, value) in members {
                in_envoy(value, &join(at, name), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                in_envoy(item, &format!("{at}[{index}]"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// `{configuration: {"@type": …StringValue, value: TEXT}}` (envoy.extensions.wasm.v3.PluginConfig).
fn wasm_configuration<'v>(members: &'v serde_json::Map<String, Value>, at: &str) -> Option<(&'v str, String)> {
    let configuration = members.get("configuration")?;
    let kind = configuration.get("@type")?.as_str()?;
    let text = configuration.get("value")?.as_str()?;
    kind.ends_with("google.protobuf.StringValue").then(|| (text, join(at, "configuration.value")))
}

fn join(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}
