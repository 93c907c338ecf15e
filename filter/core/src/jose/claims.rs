//! The claims of a token (RFC 7519 §4, RFC 9068 §2.2): strict JSON with the registered claims
//! type-checked (V13).

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::jose::header::over_limit;
use crate::json::{Budget, Document, Kind, Value};
use crate::rejection::Rejection;

/// Well-formed claims of a token. [`crate::authn::Verified`] alone gives access to them outside of
/// validation, so code that reads claims has verified them.
#[derive(Clone, Debug)]
pub struct Claims {
    document: Document<'static>,
    places: ClaimPositions,
}

/// Indices into the document of the claims that validation and policy read.
#[derive(Clone, Copy, Debug, Default)]
struct ClaimPositions {
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
    nonce: Option<usize>,
    /// `at_hash`, `c_hash` or `s_hash`.
    hash: Option<usize>,
    events: Option<usize>,
    /// Claims of single providers (`scp`, `token_use`, `typ`), of any type.
    scp: Option<usize>,
    token_use: Option<usize>,
    typ: Option<usize>,
}

impl ClaimPositions {
    /// Returns the field for the claim of this name.
    fn slot(&mut self, name: &str) -> Option<&mut Option<usize>> {
        // The length is compared first: most names differ in it.
        Some(match (name.len(), name) {
            (3, "iss") => &mut self.iss,
            (3, "sub") => &mut self.sub,
            (3, "aud") => &mut self.aud,
            (3, "exp") => &mut self.exp,
            (3, "nbf") => &mut self.nbf,
            (3, "iat") => &mut self.iat,
            (3, "jti") => &mut self.jti,
            (3, "sid") => &mut self.sid,
            (3, "cnf") => &mut self.cnf,
            (3, "act") => &mut self.act,
            (3, "scp") => &mut self.scp,
            (3, "typ") => &mut self.typ,
            (5, "scope") => &mut self.scope,
            (5, "nonce") => &mut self.nonce,
            (6, "events") => &mut self.events,
            (6, "c_hash" | "s_hash") | (7, "at_hash") => &mut self.hash,
            (8, "grant_id") => &mut self.grant_id,
            (9, "client_id") => &mut self.client_id,
            (9, "token_use") => &mut self.token_use,
            _ => return None,
        })
    }
}

/// Type of a registered claim (V13). Where well-known providers deviate from the standard, their
/// form is accepted, too. A claim is compared and forwarded as it was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClaimType {
    /// A string.
    Text,
    /// A string or a list of strings. RFC 8693 wants a string for `scope`; Ory and others send a
    /// list.
    Texts,
    /// A NumericDate.
    Date,
    /// A number; AD FS (`auth_time`) and Auth0 (`updated_at`) send an ISO 8601 string.
    DateOrText,
    /// A boolean; Cognito and Apple send `"true"` or `"false"`.
    Flag,
    /// An object.
    Object,
    /// An object; some providers send a string (`address`).
    ObjectOrText,
    /// A chain of actors (RFC 8693 §4.1).
    Actor,
    /// A string, or a list of strings or objects: SCIM values (RFC 9068 §2.2.3.1), and `amr` of
    /// Supabase.
    Values,
}

impl ClaimType {
    /// Returns the type of a registered claim: RFC 7519 §4.1, RFC 7800 §3.1, RFC 8417 §2.2, RFC
    /// 8693 §4, RFC 9068 §2.2, Grant Management, OpenID Connect Core §2, §5.1, §5.6.2 and §7.4,
    /// Front-Channel Logout §3.
    fn of(name: &str) -> Option<Self> {
        // The length is compared first: most names differ in it, and most claims of a large token
        // are not registered.
        Some(match (name.len(), name) {
            (3, "iss" | "sub" | "jti" | "sid" | "acr" | "azp") => Self::Text,
            (3, "exp" | "nbf" | "iat") => Self::Date,
            (3, "aud") | (5, "scope") => Self::Texts,
            (3, "cnf") | (6, "events") | (7, "may_act" | "sub_jwk") => Self::Object,
            (3, "act") => Self::Actor,
            (3, "amr") | (5, "roles") | (6, "groups") | (12, "entitlements") => Self::Values,
            (4, "name")
            | (5, "nonce" | "email")
            | (6, "c_hash" | "s_hash" | "gender" | "locale") => Self::Text,
            (7, "at_hash" | "profile" | "picture" | "website") => Self::Text,
            (8, "grant_id" | "nickname" | "zoneinfo") | (9, "client_id" | "birthdate") => {
                Self::Text
            }
            (10, "given_name") | (11, "family_name" | "middle_name") | (12, "phone_number") => {
                Self::Text
            }
            (18, "preferred_username") => Self::Text,
            (7, "address") => Self::ObjectOrText,
            (9, "auth_time") | (10, "updated_at") => Self::DateOrText,
            (12, "_claim_names") | (14, "_claim_sources") => Self::Object,
            (14, "email_verified") | (21, "phone_number_verified") => Self::Flag,
            _ => return None,
        })
    }

    /// Returns whether a value has this type.
    fn fits(self, value: Value<'_>) -> bool {
        let kind = value.kind();
        match self {
            Self::Text => kind == Kind::String,
            Self::Texts => kind == Kind::String || is_list(value, &[Kind::String]),
            Self::Date => value.as_numeric_date().is_some(),
            Self::DateOrText => value.as_numeric_date().is_some() || kind == Kind::String,
            Self::Flag => kind == Kind::Bool || matches!(value.as_str(), Some("true" | "false")),
            Self::Object => kind == Kind::Object,
            Self::ObjectOrText => matches!(kind, Kind::Object | Kind::String),
            Self::Actor => is_actor(value),
            Self::Values => kind == Kind::String || is_list(value, &[Kind::String, Kind::Object]),
        }
    }
}

fn is_list(value: Value<'_>, of: &[Kind]) -> bool {
    value.kind() == Kind::Array && value.items().all(|item| of.contains(&item.kind()))
}

/// Returns whether each level of an actor chain has the form of RFC 8693 §4.1: an object whose
/// identity claims are strings.
///
/// Nested levels do not affect the decision. The delegation depth counts them, however, so a level
/// of another type must not hide the levels below it.
fn is_actor(value: Value<'_>) -> bool {
    // INVARIANT: the JSON reader has bounded the nesting, so the loop ends.
    let mut next = Some(value);
    while let Some(actor) = next {
        let strings = ["iss", "sub", "client_id"].into_iter().all(|name| {
            actor
                .get(name)
                .is_none_or(|value| value.kind() == Kind::String)
        });
        if actor.kind() != Kind::Object || !strings {
            return false;
        }
        next = actor.get("act");
    }
    true
}

impl Claims {
    /// Reads a decoded payload.
    ///
    /// # Errors
    /// [`Rejection::ClaimsMalformed`], [`Rejection::TokenTooDeep`].
    pub fn parse(payload: Vec<u8>) -> Result<Self, Rejection> {
        let document = Document::parse(payload, Budget::TOKEN)
            .map_err(|error| over_limit(error, Rejection::ClaimsMalformed))?;
        // RFC 7519 §7.2: the claims set is a JSON object.
        if document.root().kind() != Kind::Object {
            return Err(Rejection::ClaimsMalformed);
        }
        let mut places = ClaimPositions::default();
        // One pass checks every registered claim and records the indices of the claims read later.
        for (name, value) in document.root().members() {
            if ClaimType::of(name).is_some_and(|form| !form.fits(value)) {
                return Err(Rejection::ClaimsMalformed);
            }
            // Cloudflare Access and Hydra send an empty string for a claim that the token lacks.
            if value.as_str() != Some("")
                && let Some(slot) = places.slot(name)
            {
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

    /// Returns `iss`.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.text(self.places.iss)
    }

    /// Returns `sub`.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.text(self.places.sub)
    }

    /// Returns `client_id` (RFC 8693 §4.3).
    #[must_use]
    pub fn client_id(&self) -> Option<&str> {
        self.text(self.places.client_id)
    }

    /// Returns `jti`.
    #[must_use]
    pub fn jti(&self) -> Option<&str> {
        self.text(self.places.jti)
    }

    /// Returns `sid`, the session (OpenID Connect Front-Channel Logout §3).
    #[must_use]
    pub fn session(&self) -> Option<&str> {
        self.text(self.places.sid)
    }

    /// Returns `grant_id`, the grant (Grant Management for OAuth 2.0).
    #[must_use]
    pub fn grant(&self) -> Option<&str> {
        self.text(self.places.grant_id)
    }

    /// Returns `exp` in Unix seconds.
    #[must_use]
    pub fn expires_at(&self) -> Option<u64> {
        self.date(self.places.exp)
    }

    /// Returns `nbf` in Unix seconds.
    #[must_use]
    pub fn not_before(&self) -> Option<u64> {
        self.date(self.places.nbf)
    }

    /// Returns `iat` in Unix seconds.
    #[must_use]
    pub fn issued_at(&self) -> Option<u64> {
        self.date(self.places.iat)
    }

    /// Returns whether the token is bound to a key (`cnf`, RFC 7800).
    #[must_use]
    pub fn is_bound(&self) -> bool {
        self.places.cnf.is_some()
    }

    /// Returns whether the subject is the client itself rather than a user (RFC 9068 §5, V23).
    #[must_use]
    pub fn subject_is_client(&self) -> bool {
        self.subject()
            .is_some_and(|subject| self.client_id() == Some(subject))
    }

    /// Returns whether this is an ID token (OpenID Connect Core §2), judged by the claims that only
    /// ID tokens contain (V11).
    ///
    /// Keycloak and Cognito state the type of the token in a claim. Otherwise a hash of another
    /// token proves an ID token. A `nonce` does too, unless the token has a scope: Keycloak up to
    /// version 24 copies `nonce` into access tokens.
    #[must_use]
    pub(crate) fn is_id_token(&self) -> bool {
        let access = self.says("Bearer", "access") || self.says("DPoP", "access");
        // Only access tokens have scopes.
        let scoped = self.places.scope.is_some() || self.places.scp.is_some();
        let bound_to_login = self.places.hash.is_some() || (self.places.nonce.is_some() && !scoped);
        self.says("ID", "id") || (bound_to_login && !access)
    }

    /// Returns whether this is neither an access token nor an ID token: a logout token or another
    /// security event (RFC 8417), or a token of Keycloak for its own endpoints (V11).
    #[must_use]
    pub(crate) fn is_for_another_use(&self) -> bool {
        // Keycloak marks the tokens for its own endpoints with these values of `typ`.
        let own = ["Refresh", "Offline", "Logout"]
            .into_iter()
            .any(|kind| self.text(self.places.typ) == Some(kind));
        own || self.places.events.is_some()
    }

    /// Returns whether the issuer states this use of the token: Keycloak in a claim `typ`, Cognito
    /// in `token_use`.
    fn says(&self, keycloak: &str, cognito: &str) -> bool {
        self.text(self.places.typ) == Some(keycloak)
            || self.text(self.places.token_use) == Some(cognito)
    }

    /// Returns whether an actor uses the token on behalf of the subject: `act` is present, with any
    /// content (RFC 8693 §4.1).
    #[must_use]
    pub fn is_delegated(&self) -> bool {
        self.places.act.is_some()
    }

    /// Returns issuer and name of the outermost actor. RFC 8693 §4.1 bases decisions on that actor
    /// only.
    ///
    /// The name is `sub`, else `client_id`. An actor without `iss` belongs to the issuer of the
    /// token.
    #[must_use]
    pub fn actor(&self) -> Option<(&str, &str)> {
        let actor = self.document.value(self.places.act?);
        let text = |name: &str| {
            actor
                .get(name)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
        };
        let name = text("sub").or_else(|| text("client_id"))?;
        Some((text("iss").or_else(|| self.issuer())?, name))
    }

    /// Returns the number of actors in the chain of `act` claims; 0 for a token without delegation.
    #[must_use]
    pub fn delegation_depth(&self) -> usize {
        let outermost = self.places.act.map(|at| self.document.value(at));
        core::iter::successors(outermost, |actor| actor.get("act")).count()
    }

    /// Returns the audiences of `aud`.
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        self.places
            .aud
            .into_iter()
            .flat_map(|at| texts(self.document.value(at)))
    }

    /// Returns whether `aud` is present.
    #[must_use]
    pub fn has_audience_claim(&self) -> bool {
        self.places.aud.is_some()
    }

    /// Returns whether `scope` grants this scope (RFC 6749 §3.3: separated by spaces, compared
    /// exactly).
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        self.places
            .scope
            .is_some_and(|at| grants(self.document.value(at), scope))
    }

    /// Returns whether the claim at this path grants this scope.
    #[must_use]
    pub(crate) fn has_scope_at(&self, path: &[Box<str>], scope: &str) -> bool {
        self.get(path).is_some_and(|value| grants(value, scope))
    }

    /// Returns whether the claim at this path is present: neither null nor an empty string.
    #[must_use]
    pub(crate) fn has(&self, path: &[Box<str>]) -> bool {
        self.get(path)
            .is_some_and(|value| value.kind() != Kind::Null && value.as_str() != Some(""))
    }

    /// Returns the claim at a path of member names.
    #[must_use]
    pub fn get(&self, path: &[Box<str>]) -> Option<Value<'_>> {
        let mut value = self.document.root();
        for name in path {
            value = value.get(name)?;
        }
        // An empty path would name the whole payload, which is not a claim.
        (!path.is_empty()).then_some(value)
    }

    /// Returns the payload's JSON text as it was signed.
    #[must_use]
    pub fn payload(&self) -> &str {
        self.document.text()
    }
}

/// Returns whether a claim contains this scope: in a list, or in a string separated by spaces.
fn grants(claim: Value<'_>, scope: &str) -> bool {
    texts(claim)
        .flat_map(|list| list.split(' '))
        .any(|one| one == scope)
}

/// Returns a string, or the strings of a list.
pub(crate) fn texts(value: Value<'_>) -> impl Iterator<Item = &str> {
    value
        .as_str()
        .into_iter()
        .chain(value.items().filter_map(Value::as_str))
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
    fn rejects_registered_claims_of_wrong_type() {
        for json in [
            r#"{"iss":1}"#,
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
            assert_eq!(
                parse(json).unwrap_err(),
                Rejection::ClaimsMalformed,
                "{json}"
            );
        }
    }

    #[test]
    fn each_registered_claim_has_one_type() {
        fn check(name: &str, good: &[&str]) {
            for value in [
                r#""text""#,
                r#""""#,
                "1",
                "-1",
                "true",
                "null",
                "{}",
                "[]",
                r#"["a"]"#,
                "[1]",
                "[{}]",
                "[null]",
            ] {
                let parsed = parse(&alloc::format!("{{\"{name}\":{value}}}"));
                assert_eq!(parsed.is_ok(), good.contains(&value), "{name}: {value}");
            }
        }
        let text = [
            "iss",
            "sub",
            "jti",
            "client_id",
            "sid",
            "grant_id",
            "acr",
            "azp",
            "nonce",
            "at_hash",
            "c_hash",
        ];
        let profile = [
            "name",
            "given_name",
            "family_name",
            "middle_name",
            "nickname",
            "preferred_username",
            "profile",
            "picture",
            "website",
            "email",
            "gender",
            "birthdate",
            "zoneinfo",
            "locale",
            "phone_number",
            "s_hash",
        ];
        text.iter()
            .chain(&profile)
            .for_each(|name| check(name, &[r#""text""#, r#""""#]));
        for name in ["aud", "scope"] {
            check(name, &[r#""text""#, r#""""#, "[]", r#"["a"]"#]);
        }
        for name in ["roles", "groups", "entitlements", "amr"] {
            check(name, &[r#""text""#, r#""""#, "[]", r#"["a"]"#, "[{}]"]);
        }
        ["exp", "nbf", "iat"]
            .into_iter()
            .for_each(|name| check(name, &["1"]));
        ["auth_time", "updated_at"]
            .into_iter()
            .for_each(|name| check(name, &["1", r#""text""#, r#""""#]));
        for name in [
            "cnf",
            "act",
            "may_act",
            "events",
            "sub_jwk",
            "_claim_names",
            "_claim_sources",
        ] {
            check(name, &["{}"]);
        }
        check("address", &["{}", r#""text""#, r#""""#]);
        for name in ["email_verified", "phone_number_verified"] {
            check(name, &["true"]);
            assert!(parse(&alloc::format!("{{\"{name}\":\"false\"}}")).is_ok());
        }
    }

    #[test]
    fn empty_text_claims_are_absent() {
        let claims = parse(
            r#"{"iss":"","sub":"","jti":"","client_id":"","sid":"","grant_id":"","aud":"",
            "nonce":""}"#,
        )
        .unwrap();
        let texts = [
            claims.issuer(),
            claims.subject(),
            claims.jti(),
            claims.client_id(),
            claims.session(),
            claims.grant(),
        ];
        assert_eq!(texts, [None; 6]);
        assert!(
            !claims.has_audience_claim() && !claims.subject_is_client() && !claims.is_id_token()
        );
    }

    #[test]
    fn scopes_are_compared_whole() {
        let claims = parse(r#"{"scope":"orders.read  orders.write-all","x":1}"#).unwrap();
        assert!(claims.has_scope("orders.read"));
        for scope in [
            "orders",
            "orders.write",
            "read",
            "ORDERS.READ",
            "orders.read orders.write-all",
        ] {
            assert!(!claims.has_scope(scope), "{scope}");
        }
        assert!(parse(r#"{"scope":["a b","c"]}"#).unwrap().has_scope("b"));
    }

    #[test]
    fn claim_path_matches_exact_names() {
        let claims = parse(r#"{"a":{"b.c":{"d":1}},"e":2}"#).unwrap();
        let get = |path: &[&str]| {
            let path = path
                .iter()
                .map(|&name| name.into())
                .collect::<Vec<Box<str>>>();
            claims.get(&path).and_then(Value::as_u64)
        };
        assert_eq!(get(&["a", "b.c", "d"]), Some(1));
        assert_eq!(get(&["a", "b"]), None);
        assert_eq!(get(&["e", "e"]), None);
        assert_eq!(get(&[]), None);
    }

    #[test]
    fn distinguishes_client_from_user_subjects() {
        assert!(
            parse(r#"{"sub":"checkout","client_id":"checkout"}"#)
                .unwrap()
                .subject_is_client()
        );
        assert!(
            !parse(r#"{"sub":"alice","client_id":"checkout"}"#)
                .unwrap()
                .subject_is_client()
        );
        assert!(!parse(r#"{"sub":"alice"}"#).unwrap().subject_is_client());
    }
}
