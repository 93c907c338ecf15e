//! The claims of a token (RFC 7519 §4, RFC 9068 §2.2): strict JSON with the registered claims type-checked (V13).

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::json::{Budget, Document, Kind, Value};
use crate::rejection::Rejection;

/// Claims whose form is right. Only [`crate::validate::Verified`] lends them out, so whoever reads claims has verified them.
#[derive(Clone, Debug)]
pub struct Claims {
    document: Document<'static>,
    places: Places,
}

/// Where the registered claims are in the document.
#[derive(Clone, Copy, Debug, Default)]
struct Places {
    iss: Option<usize>,
    sub: Option<usize>,
    aud: Option<usize>,
    exp: Option<usize>,
    nbf: Option<usize>,
    iat: Option<usize>,
    jti: Option<usize>,
    client_id: Option<usize>,
    scope: Option<usize>,
    sid: Option<usize>,
    grant_id: Option<usize>,
    cnf: Option<usize>,
    act: Option<usize>,
}

/// Says whether a registered claim's value has the right form.
type Form = fn(Value<'_>) -> bool;

impl Places {
    /// The place for a claim of this name and the form that its value must have.
    fn slot(&mut self, name: &str) -> Option<(&mut Option<usize>, Form)> {
        let text: Form = |value| value.as_str().is_some_and(|text| !text.is_empty());
        let date: Form = |value| value.as_numeric_date().is_some();
        let object: Form = |value| value.kind() == Kind::Object;
        Some(match name {
            "iss" => (&mut self.iss, text),
            "sub" => (&mut self.sub, text),
            "aud" => (&mut self.aud, is_audience),
            "exp" => (&mut self.exp, date),
            "nbf" => (&mut self.nbf, date),
            "iat" => (&mut self.iat, date),
            "jti" => (&mut self.jti, text),
            "client_id" => (&mut self.client_id, text),
            // An empty scope is allowed in the wild and grants nothing; a list is what some providers send.
            "scope" => (&mut self.scope, |value| value.kind() == Kind::String || is_string_list(value)),
            "sid" => (&mut self.sid, text),
            "grant_id" => (&mut self.grant_id, text),
            "cnf" => (&mut self.cnf, object),
            "act" => (&mut self.act, is_actor),
            _ => return None,
        })
    }
}

fn is_string_list(value: Value<'_>) -> bool {
    value.kind() == Kind::Array && value.items().all(|item| item.kind() == Kind::String)
}

/// Returns whether each level of an actor chain has the form of RFC 8693 §4.1: an object whose identity claims are strings.
///
/// Nested levels decide nothing, but the depth counts them, so a level of another type must not hide the rest.
fn is_actor(value: Value<'_>) -> bool {
    let mut next = Some(value);
    while let Some(actor) = next {
        let named = |name: &str| actor.get(name).is_none_or(|value| value.kind() == Kind::String);
        if actor.kind() != Kind::Object || !["iss", "sub", "client_id"].into_iter().all(named) {
            return false;
        }
        next = actor.get("act");
    }
    true
}

fn is_audience(value: Value<'_>) -> bool {
    value.kind() == Kind::String || is_string_list(value)
}

impl Claims {
    /// Reads a decoded payload.
    ///
    /// # Errors
    /// [`Rejection::ClaimsMalformed`].
    pub fn parse(payload: Vec<u8>) -> Result<Self, Rejection> {
        let document = Document::parse(payload, Budget::TOKEN).map_err(|_| Rejection::ClaimsMalformed)?;
        if document.root().kind() != Kind::Object {
            return Err(Rejection::ClaimsMalformed);
        }
        let mut places = Places::default();
        for (name, value) in document.root().members() {
            if let Some((slot, well_formed)) = places.slot(name) {
                if !well_formed(value) {
                    return Err(Rejection::ClaimsMalformed);
                }
                *slot = Some(value.index());
            }
        }
        Ok(Self { document, places })
    }

    fn text(&self, place: Option<usize>) -> Option<&str> {
        self.document.value(place?).as_str()
    }

    fn date(&self, place: Option<usize>) -> Option<u64> {
        self.document.value(place?).as_numeric_date()
    }

    /// `iss`.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.text(self.places.iss)
    }

    /// `sub`.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.text(self.places.sub)
    }

    /// `client_id` (RFC 8693 §4.3).
    #[must_use]
    pub fn client_id(&self) -> Option<&str> {
        self.text(self.places.client_id)
    }

    /// `jti`.
    #[must_use]
    pub fn jti(&self) -> Option<&str> {
        self.text(self.places.jti)
    }

    /// `sid`, the session (OpenID Connect Front-Channel Logout §3).
    #[must_use]
    pub fn session(&self) -> Option<&str> {
        self.text(self.places.sid)
    }

    /// `grant_id`, the grant (Grant Management for OAuth 2.0).
    #[must_use]
    pub fn grant(&self) -> Option<&str> {
        self.text(self.places.grant_id)
    }

    /// `exp` in Unix seconds.
    #[must_use]
    pub fn expires_at(&self) -> Option<u64> {
        self.date(self.places.exp)
    }

    /// `nbf` in Unix seconds.
    #[must_use]
    pub fn not_before(&self) -> Option<u64> {
        self.date(self.places.nbf)
    }

    /// `iat` in Unix seconds.
    #[must_use]
    pub fn issued_at(&self) -> Option<u64> {
        self.date(self.places.iat)
    }

    /// Whether the token is bound to a key (`cnf`, RFC 7800).
    #[must_use]
    pub fn is_bound(&self) -> bool {
        self.places.cnf.is_some()
    }

    /// Whether the subject is the client itself rather than a user (RFC 9068 §5, V23).
    #[must_use]
    pub fn subject_is_client(&self) -> bool {
        self.subject().is_some_and(|subject| self.client_id() == Some(subject))
    }

    /// Returns whether an actor uses the token on behalf of the subject: `act` is present, whatever it contains (RFC 8693 §4.1).
    #[must_use]
    pub fn is_delegated(&self) -> bool {
        self.places.act.is_some()
    }

    /// Issuer and name of the outermost actor, the only one that decides (RFC 8693 §4.1).
    ///
    /// The name is `sub`, else `client_id`. An actor without `iss` belongs to the issuer of the token.
    #[must_use]
    pub fn actor(&self) -> Option<(&str, &str)> {
        let actor = self.document.value(self.places.act?);
        let text = |name: &str| actor.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let name = text("sub").or_else(|| text("client_id"))?;
        Some((text("iss").or_else(|| self.issuer())?, name))
    }

    /// Number of actors in the chain of `act` claims; 0 for a token that is not delegated.
    #[must_use]
    pub fn delegation_depth(&self) -> usize {
        let outermost = self.places.act.map(|at| self.document.value(at));
        core::iter::successors(outermost, |actor| actor.get("act")).count()
    }

    /// The audiences.
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        self.places.aud.into_iter().flat_map(|at| texts(self.document.value(at)))
    }

    /// Whether `aud` is there at all.
    #[must_use]
    pub fn has_audience_claim(&self) -> bool {
        self.places.aud.is_some()
    }

    /// Whether `scope` grants this scope (RFC 6749 §3.3: separated by spaces, compared exactly).
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        let granted = self.places.scope.into_iter().flat_map(|at| texts(self.document.value(at)));
        granted.flat_map(|list| list.split(' ')).any(|one| one == scope)
    }

    /// The claim at a path of member names.
    #[must_use]
    pub fn get(&self, path: &[Box<str>]) -> Option<Value<'_>> {
        let mut value = self.document.root();
        for name in path {
            value = value.get(name)?;
        }
        (!path.is_empty()).then_some(value)
    }

    /// The payload's JSON text as it was signed.
    #[must_use]
    pub fn payload(&self) -> &str {
        self.document.text()
    }
}

/// A string, or the strings of a list.
pub(crate) fn texts(value: Value<'_>) -> impl Iterator<Item = &str> {
    value.as_str().into_iter().chain(value.items().filter_map(Value::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn parse(json: &str) -> Result<Claims, Rejection> {
        Claims::parse(json.as_bytes().to_vec())
    }

    #[test]
    fn registered_claims_of_a_wrong_type_refuse_the_token() {
        for json in [
            r#"{"iss":1}"#,
            r#"{"iss":""}"#,
            r#"{"sub":{}}"#,
            r#"{"sub":null}"#,
            r#"{"aud":7}"#,
            r#"{"aud":["a",7]}"#,
            r#"{"aud":{"a":1}}"#,
            r#"{"exp":"1700000000"}"#,
            r#"{"exp":-1}"#,
            r#"{"nbf":true}"#,
            r#"{"iat":[1]}"#,
            r#"{"jti":12}"#,
            r#"{"client_id":["a"]}"#,
            r#"{"scope":{"a":1}}"#,
            r#"{"scope":["a",1]}"#,
            r#"{"cnf":"x"}"#,
            r#"{"act":"x"}"#,
            r#"{"act":null}"#,
            r#"{"act":["x"]}"#,
            r#"{"act":{"sub":1}}"#,
            r#"{"act":{"iss":{}}}"#,
            r#"{"act":{"client_id":null}}"#,
            r#"{"act":{"act":"x"}}"#,
            r#"{"act":{"act":{"sub":[]}}}"#,
            r#"{"sid":1}"#,
            r#"{"iss":"a","iss":"b"}"#,
            "[]",
            "\"claims\"",
            "",
        ] {
            assert_eq!(parse(json).unwrap_err(), Rejection::ClaimsMalformed, "{json}");
        }
    }

    #[test]
    fn scopes_are_compared_whole() {
        let claims = parse(r#"{"scope":"orders.read  orders.write-all","x":1}"#).unwrap();
        assert!(claims.has_scope("orders.read"));
        for scope in ["orders", "orders.write", "read", "ORDERS.READ", "orders.read orders.write-all"] {
            assert!(!claims.has_scope(scope), "{scope}");
        }
        assert!(parse(r#"{"scope":["a b","c"]}"#).unwrap().has_scope("b"));
    }

    #[test]
    fn a_claim_path_is_followed_by_exact_names() {
        let claims = parse(r#"{"a":{"b.c":{"d":1}},"e":2}"#).unwrap();
        let get = |path: &[&str]| {
            let path = path.iter().map(|&name| name.into()).collect::<Vec<Box<str>>>();
            claims.get(&path).and_then(Value::as_u64)
        };
        assert_eq!(get(&["a", "b.c", "d"]), Some(1));
        assert_eq!(get(&["a", "b"]), None);
        assert_eq!(get(&["e", "e"]), None);
        assert_eq!(get(&[]), None);
    }

    #[test]
    fn client_and_user_subjects_are_told_apart() {
        assert!(parse(r#"{"sub":"checkout","client_id":"checkout"}"#).unwrap().subject_is_client());
        assert!(!parse(r#"{"sub":"alice","client_id":"checkout"}"#).unwrap().subject_is_client());
        assert!(!parse(r#"{"sub":"alice"}"#).unwrap().subject_is_client());
    }
}
