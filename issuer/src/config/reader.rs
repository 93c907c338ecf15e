//! Reads a configuration tree. A node knows its path and records mistakes without stopping, so that
//! one run reports all of them.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use super::duration;

/// Mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Path, such as `clients[0].auth.secrets[1].hash`; empty for the document itself.
    pub path: String,
    /// Finding and remedy.
    pub message: String,
}

/// All mistakes of a configuration. They are displayed one per line.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Mistake { path, message }) in self.0.iter().enumerate() {
            let newline = if at == 0 { "" } else { "\n" };
            let path = if path.is_empty() { "(document)" } else { path };
            write!(out, "{newline}{path}: {message}")?;
        }
        Ok(())
    }
}

/// Node of the tree. A node that is absent and one that is `null` are treated alike.
#[derive(Debug)]
pub struct Node<'d> {
    value: Option<&'d Value>,
    path: String,
    mistakes: &'d RefCell<Vec<Mistake>>,
}

impl<'d> Node<'d> {
    /// Returns the root node of a document.
    #[must_use]
    pub fn root(value: &'d Value, mistakes: &'d RefCell<Vec<Mistake>>) -> Self {
        Self {
            value: Some(value).filter(|value| !value.is_null()),
            path: String::new(),
            mistakes,
        }
    }

    /// Returns whether the node has a value.
    #[must_use]
    pub const fn is_present(&self) -> bool {
        self.value.is_some()
    }

    /// Returns the value.
    #[must_use]
    pub const fn raw(&self) -> Option<&'d Value> {
        self.value
    }

    /// Records a mistake at this node.
    pub fn refuse(&self, message: impl Into<String>) {
        self.mistakes.borrow_mut().push(Mistake {
            path: self.path.clone(),
            message: message.into(),
        });
    }

    /// Records a mistake below this node.
    pub fn refuse_at(&self, below: &str, message: impl Into<String>) {
        // An item such as `[0]` follows its list without a dot.
        let dot = if below.is_empty() || self.path.is_empty() || below.starts_with('[') {
            ""
        } else {
            "."
        };
        self.mistakes.borrow_mut().push(Mistake {
            path: format!("{}{dot}{below}", self.path),
            message: message.into(),
        });
    }

    /// Returns a copy of the node.
    #[must_use]
    pub fn reborrow(&self) -> Self {
        Self {
            value: self.value,
            path: self.path.clone(),
            mistakes: self.mistakes,
        }
    }

    /// Returns the members of an object. Unknown names are recorded as mistakes.
    #[must_use]
    pub fn object(self, known: &[&str]) -> Members<'d> {
        let members = match self.value {
            None => None,
            Some(Value::Object(members)) => Some(members),
            Some(_) => {
                self.refuse(format!("must be a mapping with {}", list(known)));
                None
            }
        };
        // A misspelled name must not silently disable a setting.
        for name in members.into_iter().flat_map(serde_json::Map::keys) {
            if !known.contains(&name.as_str()) {
                self.child(name, None)
                    .refuse(format!("unknown field; known here: {}", list(known)));
            }
        }
        Members { members, at: self }
    }

    /// Returns the items of a list; empty if the node is absent.
    #[must_use]
    pub fn items(&self) -> Vec<Self> {
        match self.value {
            None => Vec::new(),
            Some(Value::Array(items)) => items
                .iter()
                .enumerate()
                .map(|(at, value)| Self {
                    value: Some(value),
                    path: format!("{}[{at}]", self.path),
                    mistakes: self.mistakes,
                })
                .collect(),
            Some(_) => {
                self.refuse("must be a list");
                Vec::new()
            }
        }
    }

    /// Returns a non-empty string; `None` if it is absent or wrong, which is recorded.
    #[must_use]
    pub fn text(&self) -> Option<&'d str> {
        match self.value?.as_str() {
            Some("") => self.wrong("must not be empty"),
            None => self.wrong("must be a string; put it in quotes"),
            text => text,
        }
    }

    /// Returns a non-empty string. A missing one is recorded as a mistake.
    #[must_use]
    pub fn required_text(&self) -> Option<&'d str> {
        if !self.is_present() {
            self.refuse("is required");
        }
        self.text()
    }

    /// Returns a duration in whole seconds within bounds, or the default if it is absent or wrong.
    #[must_use]
    pub fn seconds(&self, default: u64, least: u64, most: u64) -> u64 {
        let parsed = match self.value {
            None => return default,
            Some(Value::Number(number)) => number.as_u64(),
            Some(Value::String(text)) => duration::parse(text),
            Some(_) => None,
        };
        match parsed {
            Some(seconds) if (least..=most).contains(&seconds) => return seconds,
            Some(seconds) => self.refuse(format!(
                "is {seconds}s; must be between {least}s and {most}s"
            )),
            None => self.refuse("must be a duration such as 90s, 5m, 24h or 7d"),
        }
        // After a mistake the value is never used.
        default
    }

    /// Returns a whole number within bounds, or the default if it is absent or wrong.
    #[must_use]
    pub fn number(&self, default: u64, least: u64, most: u64) -> u64 {
        let Some(value) = self.value else {
            return default;
        };
        match value.as_u64() {
            Some(number) if (least..=most).contains(&number) => return number,
            _ => self.refuse(format!("must be a whole number between {least} and {most}")),
        }
        default
    }

    /// Returns a Boolean; false if it is absent or wrong.
    #[must_use]
    pub fn flag(&self) -> bool {
        match self.value {
            None => false,
            Some(Value::Bool(flag)) => *flag,
            Some(_) => {
                self.refuse("must be true or false");
                false
            }
        }
    }

    /// Returns a list of distinct strings. `check` returns a message for a string that is wrong.
    #[must_use]
    pub fn texts(&self, check: impl Fn(&str) -> Result<(), String>) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let mut texts = Vec::new();
        for item in self.items() {
            let Some(text) = item.text() else { continue };
            match check(text) {
                Err(message) => item.refuse(message),
                Ok(()) if !seen.insert(text) => {
                    item.refuse(format!("`{text}` is listed twice; remove one"));
                }
                Ok(()) => texts.push(text.to_owned()),
            }
        }
        texts
    }

    /// Records a mistake and returns `None`.
    fn wrong<T>(&self, message: &str) -> Option<T> {
        self.refuse(message);
        None
    }

    /// Returns the node of a member.
    fn child(&self, name: &str, value: Option<&'d Value>) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        let value = value.filter(|value| !value.is_null());
        Self {
            value,
            path: format!("{}{dot}{name}", self.path),
            mistakes: self.mistakes,
        }
    }
}

/// Members of an object.
#[derive(Debug)]
pub struct Members<'d> {
    members: Option<&'d serde_json::Map<String, Value>>,
    /// Node of the object itself.
    pub at: Node<'d>,
}

impl<'d> Members<'d> {
    /// Returns the node of a member, also of an absent one.
    #[must_use]
    pub fn get(&self, name: &str) -> Node<'d> {
        self.at
            .child(name, self.members.and_then(|members| members.get(name)))
    }
}

fn list(names: &[&str]) -> String {
    names.join(", ")
}
