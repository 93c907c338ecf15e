//! Reads configuration objects and collects every mistake with its path, so that an operator mends
//! a file once.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;

use crate::json::{Kind, Value};
use crate::policy::Mistake;

/// Every mistake of a configuration; it prints one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub(crate) Vec<Mistake>);

impl ConfigErrors {
    /// The mistakes, in the order of the configuration's fields.
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

/// What is wrong with a configuration, and what is allowed but probably not meant.
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

    /// Refuses every field that is not in `known`.
    pub(crate) fn only(&self, known: &[&str]) {
        for (name, _) in self
            .value
            .members()
            .filter(|(name, _)| !known.contains(name))
        {
            let name = name.escape_debug().to_string();
            self.mistake(
                &name,
                format!("unknown field; known here: {}", known.join(", ")),
            );
        }
    }

    pub(crate) fn path_of(&self, field: &str) -> String {
        match (self.path.is_empty(), field.is_empty()) {
            (true, _) => field.into(),
            (_, true) => self.path.clone(),
            _ => format!("{}.{field}", self.path),
        }
    }

    pub(crate) fn mistake(&self, field: &str, message: impl Into<String>) {
        self.findings.mistakes.borrow_mut().push(Mistake {
            path: self.path_of(field),
            message: message.into(),
        });
    }

    /// Notes what is allowed but probably not meant.
    pub(crate) fn warning(&self, field: &str, message: impl Into<String>) {
        self.findings.warnings.borrow_mut().push(Mistake {
            path: self.path_of(field),
            message: message.into(),
        });
    }

    pub(crate) fn has(&self, field: &str) -> bool {
        self.value.get(field).is_some()
    }

    /// Whether it is an object without members.
    pub(crate) fn is_empty(&self) -> bool {
        self.value.kind() == Kind::Object && self.value.members().next().is_none()
    }

    /// Number of mistakes found so far, anywhere.
    pub(crate) fn mistakes(&self) -> usize {
        self.findings.mistakes.borrow().len()
    }

    pub(crate) fn value(&self, field: &str) -> Option<Value<'d>> {
        self.value.get(field)
    }

    /// A text that is not empty.
    pub(crate) fn text(&self, field: &str) -> Option<&'d str> {
        let value = self.value.get(field)?;
        let text = value.as_str().filter(|text| !text.is_empty());
        if text.is_none() {
            self.mistake(field, "must be a text that is not empty");
        }
        text
    }

    pub(crate) fn required_text(&self, field: &str, why: &str) -> Option<&'d str> {
        if !self.has(field) {
            self.mistake(field, format!("missing; {why}"));
        }
        self.text(field)
    }

    pub(crate) fn flag(&self, field: &str) -> bool {
        let Some(value) = self.value.get(field) else {
            return false;
        };
        value.as_bool().unwrap_or_else(|| {
            self.mistake(field, "must be true or false");
            false
        })
    }

    /// A whole number between `least` and `most`.
    pub(crate) fn count(&self, field: &str, default: usize, least: u64, most: u64) -> usize {
        let Some(value) = self.value.get(field) else {
            return default;
        };
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

    /// A duration as Envoy and Istio write it: `250ms`, `30s`, `5m`, `1h`; in milliseconds.
    pub(crate) fn millis(&self, field: &str) -> Option<u64> {
        let text = self.text(field)?;
        let parsed = parse_millis(text);
        if parsed.is_none() {
            self.mistake(field, "must be a duration such as 250ms, 30s, 5m or 1h");
        }
        parsed
    }

    /// A duration of whole seconds between `least` and `most`.
    pub(crate) fn seconds(&self, field: &str, default: u64, least: u64, most: u64) -> u64 {
        let Some(millis) = self.millis(field) else {
            return default;
        };
        let seconds = millis / 1000;
        if millis % 1000 != 0 || seconds < least || seconds > most {
            self.mistake(
                field,
                format!("must be whole seconds from {least}s to {most}s"),
            );
        }
        seconds
    }

    /// One of a few words.
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

    /// The texts of a list; absent is empty. An empty list or text is a mistake: it looks like a
    /// restriction and is none.
    pub(crate) fn texts(&self, field: &str) -> Vec<Box<str>> {
        let Some(list) = self.value.get(field) else {
            return Vec::new();
        };
        if list.kind() != Kind::Array || list.items().next().is_none() {
            self.mistake(field, "must be a list with at least one text");
            return Vec::new();
        }
        let read = |(at, item): (usize, Value<'d>)| {
            let text = item.as_str().filter(|text| !text.is_empty());
            if text.is_none() {
                self.mistake(
                    &format!("{field}[{at}]"),
                    "must be a text that is not empty",
                );
            }
            text.map(Into::into)
        };
        list.items().enumerate().filter_map(read).collect()
    }

    /// The objects of a list; absent is empty.
    pub(crate) fn objects(&self, field: &str) -> Vec<Object<'d, 'm>> {
        let Some(list) = self.value.get(field) else {
            return Vec::new();
        };
        if list.kind() != Kind::Array || list.items().next().is_none() {
            self.mistake(field, "must be a list with at least one entry");
            return Vec::new();
        }
        let named = |at: usize| self.path_of(&format!("{field}[{at}]"));
        list.items()
            .enumerate()
            .map(|(at, item)| Object::new(item, named(at), self.findings))
            .collect()
    }

    pub(crate) fn object(&self, field: &str) -> Option<Object<'d, 'm>> {
        self.value
            .get(field)
            .map(|value| Object::new(value, self.path_of(field), self.findings))
    }
}

fn parse_millis(text: &str) -> Option<u64> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    units.into_iter().find_map(|(unit, millis): (&str, u64)| {
        let digits = text
            .strip_suffix(unit)
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        digits.parse::<u64>().ok()?.checked_mul(millis)
    })
}
