//! Strict parsing of form bodies: a repeated parameter is rejected (RFC 6749 §3.2), an empty one
//! counts as absent.

use std::collections::BTreeMap;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// Largest body in bytes: enough for an assertion of 16 KiB and the other parameters.
pub(crate) const MAX_BODY_BYTES: usize = 32 * 1024;

/// Largest number of parameters in a request.
const MAX_PARAMETERS: usize = 32;

/// Error returned for a body that is not a valid form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// A parameter occurs twice.
    #[error("`{0}` is given twice; send it once")]
    Repeated(String),
    /// The body has too many parameters.
    #[error("the body has more than {MAX_PARAMETERS} parameters")]
    TooMany,
    /// The body is not UTF-8.
    #[error("the body is not UTF-8 in application/x-www-form-urlencoded")]
    NotText,
    /// A JSON body is not an object with string values.
    #[error("the body must be a JSON object whose values are strings")]
    NotTexts,
}

/// The parameters of a request.
#[derive(Clone, Default)]
pub struct Form(BTreeMap<String, String>);

impl Form {
    /// Reads `application/x-www-form-urlencoded`.
    ///
    /// # Errors
    /// [`FormError`].
    pub fn parse(body: &[u8]) -> Result<Self, FormError> {
        std::str::from_utf8(body).map_err(|_| FormError::NotText)?;
        Self::collect(
            form_urlencoded::parse(body)
                .map(|(name, value)| (name.into_owned(), value.into_owned())),
        )
    }

    /// Reads a JSON object whose values are strings.
    ///
    /// # Errors
    /// [`FormError`].
    pub fn from_json(body: &[u8]) -> Result<Self, FormError> {
        let Pairs(pairs) = serde_json::from_slice(body).map_err(|_| FormError::NotTexts)?;
        Self::collect(pairs.into_iter())
    }

    fn collect(pairs: impl Iterator<Item = (String, String)>) -> Result<Self, FormError> {
        let mut form = BTreeMap::new();
        for (name, value) in pairs {
            // Percent-decoding puts U+FFFD in place of invalid UTF-8, so different inputs could
            // become the same value.
            if value.contains('\u{fffd}') {
                return Err(FormError::NotText);
            }
            if form.len() >= MAX_PARAMETERS {
                return Err(FormError::TooMany);
            }
            // The error quotes the name, so it is shortened and stripped of control characters.
            if form.contains_key(&name) {
                return Err(FormError::Repeated(
                    name.chars()
                        .filter(|letter| !letter.is_control())
                        .take(64)
                        .collect(),
                ));
            }
            form.insert(name, value);
        }
        Ok(Self(form))
    }

    /// Returns the value of a parameter; `None` if it is absent or empty (RFC 6749 §3.1).
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }
}

/// Members of a JSON object in order, including repeated ones. A map would silently keep only the
/// last (RFC 8259 §4).
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        source.deserialize_map(PairsVisitor)
    }
}

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = Pairs;

    fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("an object with string values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Pairs, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = members.next_entry()? {
            pairs.push(pair);
        }
        Ok(Pairs(pairs))
    }
}

impl std::fmt::Debug for Form {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Print names only, because values may be secrets.
        out.debug_list().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_repeated_parameters_and_invalid_utf8() {
        assert_eq!(
            Form::parse(b"a=1&a=1").unwrap_err(),
            FormError::Repeated("a".into())
        );
        assert_eq!(Form::parse(b"a=%ff").unwrap_err(), FormError::NotText);
        assert_eq!(Form::parse(b"a=\xff").unwrap_err(), FormError::NotText);
        assert_eq!(Form::parse(b"a=1&").unwrap().get("a"), Some("1"));
        let many: String = (0..33).map(|at| format!("p{at}=1&")).collect();
        assert_eq!(
            Form::parse(many.as_bytes()).unwrap_err(),
            FormError::TooMany
        );
    }

    #[test]
    fn json_is_as_strict() {
        assert_eq!(
            Form::from_json(br#"{"a":"1","b":"2"}"#).unwrap().get("b"),
            Some("2")
        );
        assert_eq!(
            Form::from_json(br#"{"a":"1","\u0061":"2"}"#).unwrap_err(),
            FormError::Repeated("a".into())
        );
        for body in ["", "[]", "{\"a\":1}", "{\"a\":\"1\"} x"] {
            assert_eq!(
                Form::from_json(body.as_bytes()).unwrap_err(),
                FormError::NotTexts,
                "{body}"
            );
        }
    }

    #[test]
    fn ignores_empty_parameters_and_hides_values() {
        let form = Form::parse(b"scope=&client_secret=hunter2").unwrap();
        assert_eq!(
            (form.get("scope"), form.get("client_secret")),
            (None, Some("hunter2"))
        );
        assert!(!format!("{form:?}").contains("hunter2"));
    }
}
