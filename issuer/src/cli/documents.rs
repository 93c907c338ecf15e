//! Configuration files as they come: YAML or JSON of Meshseal, or inside Kubernetes, Istio or Envoy
//! documents.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde_json::{Map, Value};

use super::Failure;
use crate::config::{FIELDS, yaml_to_json};

/// Largest file in bytes.
const MAX_BYTES: u64 = 8 * 1024 * 1024;

/// Deepest nesting of documents within documents: a List of ConfigMaps that hold bootstraps takes
/// three.
const MAX_DEPTH: u32 = 8;

/// Fields of a plugin configuration.
const PLUGIN_FIELDS: [&str; 5] = ["jwtRules", "rules", "trustBundle", "mode", "statPrefix"];

/// Those that the configurations of other wasm filters do not have.
const DISTINCT_FIELDS: [&str; 2] = ["jwtRules", "trustBundle"];

/// One configuration, or a document that holds none, and its place in the file.
pub(super) struct Found {
    pub(super) at: String,
    pub(super) what: What,
}

impl Found {
    /// Returns whether no other program is likely to have such a configuration.
    fn is_distinct(&self) -> bool {
        let has = |fields: &Value, is_ours: fn(&str) -> bool| {
            fields
                .as_object()
                .is_some_and(|fields| fields.keys().any(|name| is_ours(name)))
        };
        match &self.what {
            What::Issuer(document) => has(document, |name| name == "issuer"),
            What::Plugin(text) => {
                serde_json::from_str(text).is_ok_and(|fields| has(&fields, is_distinct_field))
            }
            What::Broken(_) | What::Other(_) => false,
        }
    }
}

/// The kind of a document.
pub(super) enum What {
    /// The issuer's configuration.
    Issuer(Value),
    /// A plugin configuration, as the filter gets it.
    Plugin(String),
    /// A configuration that cannot be read.
    Broken(String),
    /// A document that holds no configuration of Meshseal: its description.
    Other(String),
}

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

/// The one plugin configuration in a file.
pub(super) fn plugin_configuration(path: &PathBuf) -> Result<Value, Failure> {
    let wrong = |message: &str| Failure::usage(format!("{}: {message}", path.display()));
    let found = find_all(&read_text(path)?, path).map_err(|message| wrong(&message))?;
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
            "holds several configurations; cut out the one you mean",
        )),
        (Some(_) | None, _) => Err(wrong("holds no plugin configuration (`jwtRules`)")),
    }
}

/// Every configuration in a text, which may be several YAML documents.
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

    /// Looks at a JSON text, or at each document of a YAML text.
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
        let is_issuer = |one: &Found| one.at == at && matches!(one.what, What::Issuer(_));
        // A second document counts although it is empty: `serve` refuses it.
        if self.found.iter().skip(before).any(is_issuer) && yaml_to_json(text).is_err() {
            let message = "the issuer's configuration must be the only document of its file; remove the `---`";
            self.push(at, What::Broken(message.to_owned()));
        }
        Ok(())
    }

    /// Looks at a document. `text` is its JSON as written: the filter refuses repeated members,
    /// which a tree does not show.
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
        // `admin` and `resources` alone are Envoy's; beside a section of the issuer they are its
        // mistake.
        let has_section = FIELDS.iter().any(|name| *name != "admin" && has(name));
        let admin_address = members.get("admin").and_then(|admin| admin.get("address"));
        let is_envoy = has("static_resources")
            || has("dynamic_resources")
            || has("@type")
            || (!has_section && (has("resources") || admin_address.is_some_and(Value::is_object)));
        let is_plugin =
            count(&PLUGIN_FIELDS) > 0 || members.keys().any(|name| is_distinct_field(name));
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

    /// Files in a ConfigMap or Secret.
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

    /// One file. Without an extension, it is checked if it looks like a configuration of Meshseal.
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
        let message = "not recognised; if it is a configuration, give it a name that ends with .yaml, .yml or .json";
        self.push(at, What::Other(message.to_owned()));
    }

    /// `pluginConfig` wherever the kind has it: `spec.pluginConfig`, `spec.wasm.pluginConfig`.
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

    /// The configuration of every wasm filter.
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
            "must be a google.protobuf.StringValue, BytesValue or Struct: the filter gets no other as text",
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

/// Returns whether a name is `jwtRules` or `trustBundle`, or one of them misspelt.
fn is_distinct_field(name: &str) -> bool {
    let plain = |name: &str| {
        name.chars()
            .filter(char::is_ascii_alphanumeric)
            .collect::<String>()
            .to_lowercase()
    };
    DISTINCT_FIELDS
        .iter()
        .any(|known| distance(&plain(name), &plain(known)) <= 2)
}

/// Levenshtein distance.
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

fn decoded(text: &str) -> Option<String> {
    let plain: String = text.split_whitespace().collect();
    String::from_utf8(STANDARD.decode(plain).ok()?).ok()
}

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
