//! Reading a configuration tree: a node knows its path, says what is wrong with it, and goes on, so
//! that one look tells all.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use super::duration;

/// One thing that is wrong, where, and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Such as `clients[0].auth.secrets[1].hash`; empty for the document itself.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// All that is wrong, one a line.
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

/// A place in the tree. Absent and `null` are the same.
#[derive(Debug)]
pub struct Node<'d> {
    value: Option<&'d Value>,
    path: String,
    mistakes: &'d RefCell<Vec<Mistake>>,
}

impl<'d> Node<'d> {
    /// The document itself.
    #[must_use]
    pub fn root(value: &'d Value, mistakes: &'d RefCell<Vec<Mistake>>) -> Self {
        Self {
            value: Some(value).filter(|value| !value.is_null()),
            path: String::new(),
            mistakes,
        }
    }

    /// Whether anything is written here.
    #[must_use]
    pub const fn is_present(&self) -> bool {
        self.value.is_some()
    }

    /// What is written here.
    #[must_use]
    pub const fn raw(&self) -> Option<&'d Value> {
        self.value
    }

    /// Notes a mistake at this place.
    pub fn refuse(&self, message: impl Into<String>) {
        self.mistakes.borrow_mut().push(Mistake {
            path: self.path.clone(),
            message: message.into(),
        });
    }

    /// Notes a mistake below this place.
    pub fn refuse_at(&self, below: &str, message: impl Into<String>) {
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

    /// The same place again.
    #[must_use]
    pub fn reborrow(&self) -> Self {
        Self {
            value: self.value,
            path: self.path.clone(),
            mistakes: self.mistakes,
        }
    }

    /// The members of an object, all of which must be among the known names.
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
        for name in members.into_iter().flat_map(serde_json::Map::keys) {
            if !known.contains(&name.as_str()) {
                self.child(name, None)
                    .refuse(format!("unknown field; known here: {}", list(known)));
            }
        }
        Members { members, at: self }
    }

    /// The items of a list; nothing when absent.
    #[must_use]
    pub fn items(&self) -> Vec<Self> {
        match self.value {
            None => Vec::new(),
            Some(Value::Array(items)) => {
                let node = |(at, value)| Self {
                    value: Some(value),
                    path: format!("{}[{at}]", self.path),
                    mistakes: self.mistakes,
                };
                items.iter().enumerate().map(node).collect()
            }
            Some(_) => {
                self.refuse("must be a list");
                Vec::new()
            }
        }
    }

    /// A text that is not empty; `None` when absent or wrong (which is noted).
    #[must_use]
    pub fn text(&self) -> Option<&'d str> {
        match self.value?.as_str() {
            Some("") => self.wrong("must not be empty"),
            None => self.wrong("must be a text; put it in quotes"),
            text => text,
        }
    }

    /// A text that must be there.
    #[must_use]
    pub fn required_text(&self) -> Option<&'d str> {
        if !self.is_present() {
            self.refuse("is required");
        }
        self.text()
    }

    /// Whole seconds of a duration within bounds, or the default when absent.
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
        default
    }

    /// A whole number within bounds, or the default when absent.
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

    /// Yes or no; no when absent.
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

    /// A list of distinct texts, each of which the check accepts or explains.
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

    fn wrong<T>(&self, message: &str) -> Option<T> {
        self.refuse(message);
        None
    }

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

/// The members of an object.
#[derive(Debug)]
pub struct Members<'d> {
    members: Option<&'d serde_json::Map<String, Value>>,
    /// The object itself.
    pub at: Node<'d>,
}

impl<'d> Members<'d> {
    /// The member's place, whether or not it is written.
    #[must_use]
    pub fn get(&self, name: &str) -> Node<'d> {
        self.at
            .child(name, self.members.and_then(|members| members.get(name)))
    }
}

fn list(names: &[&str]) -> String {
    names.join(", ")
}
