//! Reader for configuration objects. It collects every mistake with its path, so that an operator
//! can correct a file in one pass.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;

use crate::json::{Kind, Value};
use crate::policy::Mistake;

/// All mistakes of a configuration; displayed one per line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub(crate) Vec<Mistake>);

impl ConfigErrors {
    /// Returns the mistakes in the order of the configuration's fields.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.0.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, mistake) in self.0.iter().enumerate() {
            if at > 0 {
                out.write_str("\n")?;
            }
            write!(out, "{mistake}")?;
        }
        Ok(())
    }
}

impl core::error::Error for ConfigErrors {}

/// Mistakes of a configuration, and warnings about valid settings that are probably unintended.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) mistakes: RefCell<Vec<Mistake>>,
    pub(crate) warnings: RefCell<Vec<Mistake>>,
}

/// An object of the configuration and its path.
#[derive(Clone)]
pub(crate) struct Object<'d, 'm> {
    value: Value<'d>,
    path: String,
    findings: &'m Findings,
}

impl<'d, 'm> Object<'d, 'm> {
    /// Wraps a value, which must be an object.
    pub(crate) fn new(value: Value<'d>, path: String, findings: &'m Findings) -> Self {
        let object = Self {
            value,
            path,
            findings,
        };
        if value.kind() != Kind::Object {
            object.mistake("", "must be an object");
        }
        object
    }

    /// Rejects every field that is not in `known`.
    pub(crate) fn only(&self, known: &[&str]) {
        for (name, _) in self
            .value
            .members()
            .filter(|(name, _)| !known.contains(name))
        {
            // A name may contain control characters; the path must stay on one line.
            let name = name.escape_debug().to_string();
            self.mistake(
                &name,
                format!("unknown field; known here: {}", known.join(", ")),
            );
        }
    }

    /// Returns the path of a field, or of this object if `field` is empty.
    pub(crate) fn path_of(&self, field: &str) -> String {
        match (self.path.is_empty(), field.is_empty()) {
            (true, _) => field.into(),
            (_, true) => self.path.clone(),
            _ => format!("{}.{field}", self.path),
        }
    }

    /// Records a mistake at a field.
    pub(crate) fn mistake(&self, field: &str, message: impl Into<String>) {
        self.findings.mistakes.borrow_mut().push(Mistake {
            path: self.path_of(field),
            message: message.into(),
        });
    }

    /// Records a warning about a valid setting that is probably unintended.
    pub(crate) fn warning(&self, field: &str, message: impl Into<String>) {
        self.findings.warnings.borrow_mut().push(Mistake {
            path: self.path_of(field),
            message: message.into(),
        });
    }

    /// Returns whether the field is present.
    pub(crate) fn has(&self, field: &str) -> bool {
        self.value.get(field).is_some()
    }

    /// Returns whether this is an object without members.
    pub(crate) fn is_empty(&self) -> bool {
        self.value.kind() == Kind::Object && self.value.members().next().is_none()
    }

    /// Returns the number of mistakes found so far in the whole configuration.
    pub(crate) fn mistakes(&self) -> usize {
        self.findings.mistakes.borrow().len()
    }

    /// Returns the value of a field.
    pub(crate) fn value(&self, field: &str) -> Option<Value<'d>> {
        self.value.get(field)
    }

    /// Returns a non-empty string; `None` if it is absent or wrong.
    pub(crate) fn text(&self, field: &str) -> Option<&'d str> {
        let value = self.value.get(field)?;
        let text = value.as_str().filter(|text| !text.is_empty());
        if text.is_none() {
            self.mistake(field, "must be a non-empty string");
        }
        text
    }

    /// Returns a non-empty string that must be present; `why` names the remedy if it is absent.
    pub(crate) fn required_text(&self, field: &str, why: &str) -> Option<&'d str> {
        if !self.has(field) {
            self.mistake(field, format!("missing; {why}"));
        }
        self.text(field)
    }

    /// Returns a boolean; false if it is absent or wrong.
    pub(crate) fn flag(&self, field: &str) -> bool {
        let Some(value) = self.value.get(field) else {
            return false;
        };
        value.as_bool().unwrap_or_else(|| {
            self.mistake(field, "must be true or false");
            false
        })
    }

    /// Returns a whole number between `least` and `most`.
    pub(crate) fn count(&self, field: &str, default: usize, least: u64, most: u64) -> usize {
        let Some(value) = self.value.get(field) else {
            return default;
        };
        // Negative numbers and fractions are not `u64`, so they are rejected here as well.
        let count = value
            .as_u64()
            .filter(|count| (least..=most).contains(count));
        if count.is_none() {
            self.mistake(
                field,
                format!("must be a whole number from {least} to {most}"),
            );
        }
        count
            .and_then(|count| usize::try_from(count).ok())
            .unwrap_or(default)
    }

    /// Returns a duration in milliseconds, in the notation of Envoy and Istio: `250ms`, `30s`,
    /// `5m`, `1h`.
    pub(crate) fn millis(&self, field: &str) -> Option<u64> {
        let text = self.text(field)?;
        let parsed = parse_millis(text);
        if parsed.is_none() {
            self.mistake(field, "must be a duration such as 250ms, 30s, 5m or 1h");
        }
        parsed
    }

    /// Returns a duration of whole seconds between `least` and `most`.
    pub(crate) fn seconds(&self, field: &str, default: u64, least: u64, most: u64) -> u64 {
        let Some(millis) = self.millis(field) else {
            return default;
        };
        // `1500ms` would be rounded silently, so it is rejected below.
        let seconds = millis / 1000;
        if millis % 1000 != 0 || seconds < least || seconds > most {
            self.mistake(
                field,
                format!("must be whole seconds from {least}s to {most}s"),
            );
        }
        seconds
    }

    /// Returns the meaning of one of the given words.
    pub(crate) fn word<T: Copy>(&self, field: &str, default: T, words: &[(&str, T)]) -> T {
        if !self.has(field) {
            return default;
        }
        let text = self
            .value
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default();
        words.iter().find(|(word, _)| *word == text).map_or_else(
            || {
                let known = words
                    .iter()
                    .map(|(word, _)| *word)
                    .collect::<Vec<_>>()
                    .join(", ");
                self.mistake(field, format!("must be one of {known}"));
                default
            },
            |(_, meaning)| *meaning,
        )
    }

    /// Returns the strings of a list; an absent list is empty.
    ///
    /// An empty list or string is a mistake, because it looks like a restriction but restricts
    /// nothing.
    pub(crate) fn texts(&self, field: &str) -> Vec<Box<str>> {
        let Some(list) = self.value.get(field) else {
            return Vec::new();
        };
        if list.kind() != Kind::Array || list.items().next().is_none() {
            self.mistake(field, "must be a list with at least one string");
            return Vec::new();
        }
        list.items()
            .enumerate()
            .filter_map(|(at, item)| {
                // Wrong items are reported and left out, so that one pass finds them all.
                let text = item.as_str().filter(|text| !text.is_empty());
                if text.is_none() {
                    self.mistake(&format!("{field}[{at}]"), "must be a non-empty string");
                }
                text.map(Into::into)
            })
            .collect()
    }

    /// Returns the objects of a list; an absent list is empty.
    pub(crate) fn objects(&self, field: &str) -> Vec<Object<'d, 'm>> {
        let Some(list) = self.value.get(field) else {
            return Vec::new();
        };
        if list.kind() != Kind::Array || list.items().next().is_none() {
            self.mistake(field, "must be a list with at least one entry");
            return Vec::new();
        }
        list.items()
            .enumerate()
            .map(|(at, item)| {
                let path = self.path_of(&format!("{field}[{at}]"));
                Object::new(item, path, self.findings)
            })
            .collect()
    }

    /// Returns the object in a field.
    pub(crate) fn object(&self, field: &str) -> Option<Object<'d, 'm>> {
        self.value
            .get(field)
            .map(|value| Object::new(value, self.path_of(field), self.findings))
    }
}

/// Parses a duration into milliseconds.
fn parse_millis(text: &str) -> Option<u64> {
    // `ms` comes before `s` and `m`, which are its parts.
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    units.into_iter().find_map(|(unit, millis): (&str, u64)| {
        let digits = text
            .strip_suffix(unit)
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        digits.parse::<u64>().ok()?.checked_mul(millis)
    })
}
