//! Search for configurations in files: plain YAML or JSON, or inside Kubernetes, Istio or Envoy
//! documents.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde_json::{Map, Value};

use super::Failure;
use crate::config::{FIELDS, yaml_to_json};

/// Largest file in bytes.
const MAX_BYTES: u64 = 8 * 1024 * 1024;

/// Maximum nesting of documents within documents. A List of ConfigMaps that hold Envoy bootstraps
/// needs three levels.
const MAX_DEPTH: u32 = 8;

/// Fields of a plugin configuration.
const PLUGIN_FIELDS: [&str; 5] = ["jwtRules", "rules", "trustBundle", "mode", "statPrefix"];

/// Fields of a plugin configuration that other wasm filters do not use.
const DISTINCT_FIELDS: [&str; 2] = ["jwtRules", "trustBundle"];

/// A document of a file: a configuration of Meshseal, or another document.
pub(super) struct Found {
    /// Path inside the file; empty for the whole document.
    pub(super) at: String,
    pub(super) what: What,
}

impl Found {
    /// Returns whether the document is very likely a configuration of Meshseal.
    fn is_distinct(&self) -> bool {
        match &self.what {
            What::Issuer(document) => has_field(document, |name| name == "issuer"),
            What::Plugin(text) => {
                serde_json::from_str(text).is_ok_and(|fields| has_field(&fields, is_distinct_field))
            }
            What::Broken(_) | What::Other(_) => false,
        }
    }
}

/// Returns whether a JSON object has a field with a matching name.
fn has_field(document: &Value, is_match: fn(&str) -> bool) -> bool {
    document
        .as_object()
        .is_some_and(|fields| fields.keys().any(|name| is_match(name)))
}

/// Kind and content of a document.
pub(super) enum What {
    /// Configuration of the issuer.
    Issuer(Value),
    /// Plugin configuration as the text that the filter receives.
    Plugin(String),
    /// Configuration that cannot be read: the error.
    Broken(String),
    /// Document without a configuration of Meshseal: its description.
    Other(String),
}

/// Reads a file of limited size.
pub(super) fn read_text(path: &PathBuf) -> Result<String, Failure> {
    let unreadable = |error: std::io::Error| Failure::usage(format!("{}: {error}", path.display()));
    if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_BYTES {
        return Err(Failure::usage(format!(
            "{}: larger than {MAX_BYTES} bytes",
            path.display()
        )));
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

/// Returns the only plugin configuration in a file.
pub(super) fn plugin_configuration(path: &PathBuf) -> Result<Value, Failure> {
    let wrong = |message: &str| Failure::usage(format!("{}: {message}", path.display()));
    let found = find_all(&read_text(path)?, path).map_err(|message| wrong(&message))?;
    // Documents without a configuration do not matter.
    let mut found = found
        .into_iter()
        .filter(|one| !matches!(one.what, What::Other(_)));
    match (found.next(), found.next()) {
        (
            Some(Found {
                what: What::Plugin(text),
                ..
            }),
            None,
        ) => serde_json::from_str(&text).map_err(|error| wrong(&format!("not JSON: {error}"))),
        (
            Some(Found {
                at,
                what: What::Broken(message),
            }),
            None,
        ) => Err(wrong(&format!("{at}: {message}"))),
        (Some(_), Some(_)) => Err(wrong(
            "holds several configurations; use a file with only one of them",
        )),
        (Some(_) | None, _) => Err(wrong("holds no plugin configuration (`jwtRules`)")),
    }
}

/// Returns all documents in a text, which may consist of several YAML documents.
pub(super) fn find_all(text: &str, path: &Path) -> Result<Vec<Found>, String> {
    let mut search = Search::default();
    let is_json = path
        .extension()
        .is_some_and(|extension| extension == "json");
    search.text(text, is_json, "", 0)?;
    Ok(search.found)
}

#[derive(Default)]
struct Search {
    found: Vec<Found>,
}

impl Search {
    fn push(&mut self, at: &str, what: What) {
        self.found.push(Found {
            at: at.to_owned(),
            what,
        });
    }

    /// Searches a JSON text, or each document of a YAML text.
    fn text(&mut self, text: &str, is_json: bool, at: &str, depth: u32) -> Result<(), String> {
        if is_json {
            let document: Value =
                serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
            self.document(&document, at, Some(text), depth);
            return Ok(());
        }
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(text).map_err(|error| format!("not YAML: {error}"))?;
        if documents.is_empty() {
            self.push(at, What::Other("an empty document".to_owned()));
        }
        let before = self.found.len();
        for document in &documents {
            self.document(document, at, None, depth);
        }
        // `meshseal serve` rejects a file with a second document, even if that is empty.
        let holds_issuer = self
            .found
            .iter()
            .skip(before)
            .any(|one| one.at == at && matches!(one.what, What::Issuer(_)));
        if holds_issuer && yaml_to_json(text).is_err() {
            let message = "the issuer's configuration must be the only document of its file; \
                remove the `---`";
            self.push(at, What::Broken(message.to_owned()));
        }
        Ok(())
    }

    /// Classifies a document. `text` is the JSON as written: the filter rejects repeated members,
    /// which the parsed tree no longer shows.
    fn document(&mut self, document: &Value, at: &str, text: Option<&str>, depth: u32) {
        let Some(members) = document.as_object().filter(|_| depth < MAX_DEPTH) else {
            let what = if document.is_null() {
                "an empty document"
            } else {
                "neither a mapping nor a known document"
            };
            return self.push(at, What::Other(what.to_owned()));
        };
        let has = |name: &str| members.contains_key(name);
        let count = |fields: &[&str]| fields.iter().filter(|name| has(name)).count();
        // `admin` or `resources` alone belong to Envoy. Beside a section of the issuer's
        // configuration they are a mistake in that configuration.
        let has_section = FIELDS.iter().any(|name| *name != "admin" && has(name));
        let admin_address = members.get("admin").and_then(|admin| admin.get("address"));
        let is_envoy = has("static_resources")
            || has("dynamic_resources")
            || has("@type")
            || (!has_section && (has("resources") || admin_address.is_some_and(Value::is_object)));
        let is_plugin =
            count(&PLUGIN_FIELDS) > 0 || members.keys().any(|name| is_distinct_field(name));
        // The most specific kind of document wins.
        if let (Some(kind), true) = (
            members.get("kind").and_then(Value::as_str),
            has("apiVersion"),
        ) {
            self.kubernetes(kind, members, at, depth);
        } else if is_envoy {
            self.envoy(document, at);
        } else if is_plugin && count(&PLUGIN_FIELDS) >= count(&FIELDS) {
            self.push(
                at,
                What::Plugin(text.map_or_else(|| document.to_string(), str::to_owned)),
            );
        } else if count(&FIELDS) > 0 {
            self.push(at, What::Issuer(document.clone()));
        } else {
            self.push(
                at,
                What::Other("no field of an issuer or plugin configuration".to_owned()),
            );
        }
    }

    /// Searches a Kubernetes or Istio resource.
    fn kubernetes(&mut self, kind: &str, members: &Map<String, Value>, at: &str, depth: u32) {
        let before = self.found.len();
        match kind {
            "WasmPlugin" | "TrafficExtension" => self.plugin_config(members, at),
            "EnvoyFilter" => self.members(members, at),
            "ConfigMap" | "Secret" => self.files(kind, members, at, depth),
            _ if kind.ends_with("List") => {
                let items = members.get("items").and_then(Value::as_array);
                for (index, item) in items.into_iter().flatten().enumerate() {
                    self.document(
                        item,
                        &join(at, &format!("items[{index}]")),
                        None,
                        depth.saturating_add(1),
                    );
                }
            }
            _ => {}
        }
        if self.found.len() == before {
            self.push(at, What::Other(format!("kind {kind}")));
        }
    }

    /// Searches the files in a ConfigMap or Secret.
    fn files(&mut self, kind: &str, members: &Map<String, Value>, at: &str, depth: u32) {
        for (field, is_base64) in [
            ("data", kind == "Secret"),
            ("stringData", false),
            ("binaryData", true),
        ] {
            for (name, content) in members
                .get(field)
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
            {
                let at = join(at, &format!("{field}.{name}"));
                let text = content.as_str().map(str::to_owned);
                let text = if is_base64 {
                    text.and_then(|text| decoded(&text))
                } else {
                    text
                };
                self.file(name, text.as_deref(), &at, depth.saturating_add(1));
            }
        }
    }

    /// Searches one file of a ConfigMap or Secret. A file without a known extension counts only if
    /// it is very likely a configuration of Meshseal.
    fn file(&mut self, name: &str, text: Option<&str>, at: &str, depth: u32) {
        let is_json = name.ends_with(".json");
        if is_json || name.ends_with(".yaml") || name.ends_with(".yml") {
            let looked = text.ok_or_else(|| "must be a string".to_owned());
            if let Err(message) = looked.and_then(|text| self.text(text, is_json, at, depth)) {
                self.push(at, What::Broken(message));
            }
            return;
        }
        let mut inside = Self::default();
        let text = text.unwrap_or_default();
        let read = inside
            .text(text, text.trim_start().starts_with('{'), at, depth)
            .is_ok();
        if read && inside.found.iter().any(Found::is_distinct) {
            return self.found.append(&mut inside.found);
        }
        let message = "not recognised; if it is a configuration, give it a name that ends with \
            .yaml, .yml or .json";
        self.push(at, What::Other(message.to_owned()));
    }

    /// Searches for `pluginConfig` at any depth, because its place depends on the kind:
    /// `spec.pluginConfig` or `spec.wasm.pluginConfig`.
    fn plugin_config(&mut self, members: &Map<String, Value>, at: &str) {
        for (name, value) in members {
            let at = join(at, name);
            if name == "pluginConfig" {
                self.push(&at, What::Plugin(value.to_string()));
            } else if let Some(members) = value.as_object() {
                self.plugin_config(members, &at);
            }
        }
    }

    /// Searches an Envoy configuration for wasm filters.
    fn envoy(&mut self, value: &Value, at: &str) {
        let before = self.found.len();
        match value {
            Value::Object(members) => self.members(members, at),
            Value::Array(items) => self.items(items, at),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
        if at.is_empty() && self.found.len() == before {
            self.push(
                at,
                What::Other("an Envoy configuration without a wasm filter".to_owned()),
            );
        }
    }

    fn members(&mut self, members: &Map<String, Value>, at: &str) {
        if let Some(found) = wasm_configuration(members, at) {
            return self.found.push(found);
        }
        for (name, value) in members {
            self.inner(value, &join(at, name));
        }
    }

    fn items(&mut self, items: &[Value], at: &str) {
        for (index, item) in items.iter().enumerate() {
            self.inner(item, &format!("{at}[{index}]"));
        }
    }

    fn inner(&mut self, value: &Value, at: &str) {
        match value {
            Value::Object(members) => self.members(members, at),
            Value::Array(items) => self.items(items, at),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

/// Reads `{configuration: {"@type": …StringValue, value: TEXT}}`
/// (envoy.extensions.wasm.v3.PluginConfig). Envoy unwraps a BytesValue likewise, and turns a Struct
/// into JSON.
fn wasm_configuration(members: &Map<String, Value>, at: &str) -> Option<Found> {
    let configuration = members.get("configuration")?;
    let kind = configuration.get("@type")?.as_str()?;
    let value = configuration.get("value")?;
    let at = join(at, "configuration.value");
    let mut named = ["name", "root_id", "vm_config"]
        .iter()
        .filter_map(|name| members.get(*name));
    // A filter that mentions `meshseal` must be valid; others may have any configuration.
    let is_ours = named.any(|value| value.to_string().contains("meshseal"));
    let text = match kind.rsplit('/').next().unwrap_or_default() {
        "google.protobuf.Struct" => Ok(value.to_string()),
        "google.protobuf.StringValue" => {
            value.as_str().map(str::to_owned).ok_or("must be a string")
        }
        "google.protobuf.BytesValue" => value
            .as_str()
            .and_then(bytes_value)
            .ok_or("must be base64 of UTF-8 text"),
        _ => Err(
            "must be a google.protobuf.StringValue, BytesValue or Struct: Envoy passes no other \
             type to the filter as text",
        ),
    };
    let what = match text.map(|text| (serde_json::from_str::<Value>(&text), text)) {
        Err(message) if is_ours => What::Broken(message.to_owned()),
        Ok((Ok(Value::Object(fields)), text))
            if is_ours || fields.keys().any(|name| is_distinct_field(name)) =>
        {
            What::Plugin(text)
        }
        Ok((Err(error), text)) if is_ours || text.contains("jwtRules") => {
            What::Broken(format!("not JSON: {error}"))
        }
        Ok((Ok(_), _)) if is_ours => What::Broken("must be a JSON object".to_owned()),
        Ok(_) | Err(_) => What::Other("the configuration of another wasm filter".to_owned()),
    };
    Some(Found { at, what })
}

/// Decodes bytes in protobuf's JSON: base64 in either alphabet, padded or not.
fn bytes_value(text: &str) -> Option<String> {
    let plain: String = text
        .chars()
        .filter(|letter| *letter != '=')
        .map(|letter| match letter {
            '-' => '+',
            '_' => '/',
            other => other,
        })
        .collect();
    String::from_utf8(STANDARD_NO_PAD.decode(plain).ok()?).ok()
}

/// Returns whether a name is `jwtRules`, `trustBundle`, or a misspelling of one of them. A misspelt
/// field must not make the check skip the document.
fn is_distinct_field(name: &str) -> bool {
    DISTINCT_FIELDS
        .iter()
        .any(|known| distance(&normalized(name), &normalized(known)) <= 2)
}

fn normalized(name: &str) -> String {
    name.chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_lowercase()
}

/// Returns the Levenshtein distance of two strings.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.bytes().enumerate() {
        let mut diagonal = at;
        let mut left = at.saturating_add(1);
        let mut next = vec![left];
        for (cell, expected) in row.iter().skip(1).zip(other.bytes()) {
            let replaced = diagonal.saturating_add(usize::from(letter != expected));
            left = replaced
                .min(cell.saturating_add(1))
                .min(left.saturating_add(1));
            diagonal = *cell;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// Decodes base64, which may contain line breaks.
fn decoded(text: &str) -> Option<String> {
    let plain: String = text.split_whitespace().collect();
    String::from_utf8(STANDARD.decode(plain).ok()?).ok()
}

/// Appends a field name to a path.
fn join(at: &str, name: &str) -> String {
    if at.is_empty() {
        name.to_owned()
    } else {
        format!("{at}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognises_misspelt_fields() {
        for name in [
            "jwtRule",
            "jwt_rules",
            "JWTRules",
            "jwtRulse",
            "trustBundel",
        ] {
            assert!(is_distinct_field(name), "{name}");
        }
        for name in ["issuer", "clients", "providers", "default_value", ""] {
            assert!(!is_distinct_field(name), "{name}");
        }
    }
}
