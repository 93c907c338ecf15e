//! How a refusal looks on the wire: the one file that maps [`Rejection`] to HTTP and gRPC.
//!
//! RFC 6750 §3 for `WWW-Authenticate`, RFC 9457 for the body, RFC 9110 §10.2.3 for `Retry-After`, and the gRPC status codes.
//! The code says which rule was broken and nothing that would help to get around it (V26).

use meshseal_core::rejection::{Class, Rejection};

use crate::host::Reply;

/// When a client should come back after a 503, in seconds: polls retry within ten, and most succeed at once.
const RETRY_AFTER_S: &str = "5";

/// What a request is refused for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The rule that was broken.
    pub(crate) rejection: Rejection,
    /// The scopes that would have been enough.
    pub(crate) scopes: Vec<Box<str>>,
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Self { rejection, scopes: Vec::new() }
    }
}

/// HTTP status, the same as text, gRPC status and title of a class.
fn statuses(class: Class) -> (u16, &'static str, u8, &'static str) {
    match class {
        Class::MissingToken => (401, "401", 16, "Authentication required"),
        Class::InvalidToken => (401, "401", 16, "Token not accepted"),
        Class::InvalidRequest => (400, "400", 3, "Invalid request"),
        Class::InsufficientScope => (403, "403", 7, "Insufficient scope"),
        Class::Forbidden => (403, "403", 7, "Not allowed"),
        Class::Unavailable => (503, "503", 14, "Cannot verify tokens now"),
    }
}

/// The reply to a refused request. Put together without the formatter: whoever floods a proxy with bad tokens gets many.
pub(crate) fn reply(refusal: &Refusal, grpc: bool) -> Reply {
    let code = refusal.rejection.code();
    let (status, status_text, grpc_status, title) = statuses(refusal.rejection.class());
    let mut headers = Vec::with_capacity(3);
    if let Some(challenge) = challenge(refusal) {
        headers.push(("www-authenticate", challenge));
    }
    if refusal.rejection.class() == Class::Unavailable {
        headers.push(("retry-after", RETRY_AFTER_S.to_owned()));
    }
    let body = if grpc {
        [title, ": ", code].concat()
    } else {
        headers.push(("content-type", "application/problem+json".to_owned()));
        // Code and title are constants without a character that JSON would escape.
        [
            r#"{"type":"urn:meshseal:problem:"#,
            code,
            r#"","title":""#,
            title,
            r#"","status":"#,
            status_text,
            r#","code":""#,
            code,
            r#""}"#,
        ]
        .concat()
    };
    let details = ["meshseal_", code].concat().replace('-', "_");
    Reply { status, details, headers, body, grpc_status }
}

/// RFC 6750 §3: no error code where no token was sent, none for what a better token cannot mend.
fn challenge(refusal: &Refusal) -> Option<String> {
    let code = refusal.rejection.code();
    match refusal.rejection.class() {
        Class::MissingToken => Some("Bearer".to_owned()),
        Class::InvalidToken => Some([r#"Bearer error="invalid_token", error_description=""#, code, "\""].concat()),
        Class::InvalidRequest => Some([r#"Bearer error="invalid_request", error_description=""#, code, "\""].concat()),
        Class::InsufficientScope => {
            Some([r#"Bearer error="insufficient_scope", scope=""#, &scope_list(&refusal.scopes), "\""].concat())
        }
        Class::Forbidden | Class::Unavailable => None,
    }
}

/// Scope tokens as RFC 6749 §3.3 has them; what could end the quoted string is left out.
fn scope_list(scopes: &[Box<str>]) -> String {
    let is_scope = |scope: &&str| scope.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\');
    scopes.iter().map(AsRef::as_ref).filter(is_scope).collect::<Vec<&str>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header<'r>(reply: &'r Reply, name: &str) -> Option<&'r str> {
        reply.headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn a_missing_token_is_asked_for_without_an_error_code() {
        let reply = reply(&Rejection::TokenMissing.into(), false);
        assert_eq!((reply.status, header(&reply, "www-authenticate")), (401, Some("Bearer")));
    }

    #[test]
    fn an_invalid_token_is_named_so() {
        let reply = reply(&Rejection::TokenExpired.into(), false);
        let challenge = r#"Bearer error="invalid_token", error_description="token-expired""#;
        assert_eq!((reply.status, header(&reply, "www-authenticate")), (401, Some(challenge)));
    }

    #[test]
    fn a_missing_scope_names_the_scopes_that_are_needed() {
        let refusal = Refusal { rejection: Rejection::ScopeMissing, scopes: vec!["a".into(), "b".into()] };
        let reply = reply(&refusal, false);
        assert_eq!(reply.status, 403);
        assert_eq!(header(&reply, "www-authenticate"), Some(r#"Bearer error="insufficient_scope", scope="a b""#));
    }

    #[test]
    fn a_scope_cannot_break_out_of_the_challenge() {
        let refusal = Refusal { rejection: Rejection::ScopeMissing, scopes: vec!["a\", x=\"".into(), "b".into()] };
        assert_eq!(
            header(&reply(&refusal, false), "www-authenticate"),
            Some(r#"Bearer error="insufficient_scope", scope="b""#)
        );
    }

    #[test]
    fn what_cannot_be_known_is_a_503_with_a_time_to_come_back() {
        let reply = reply(&Rejection::KeysUnavailable.into(), false);
        assert_eq!((reply.status, header(&reply, "retry-after")), (503, Some("5")));
        assert_eq!(header(&reply, "www-authenticate"), None);
    }

    #[test]
    fn every_rejection_has_a_problem_body_and_details_of_its_own() {
        for rejection in Rejection::ALL {
            let reply = reply(&(*rejection).into(), false);
            let body: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
            assert_eq!(body["code"], rejection.code());
            assert_eq!(body["type"], format!("urn:meshseal:problem:{}", rejection.code()));
            assert_eq!(body["status"], reply.status);
            assert_eq!(header(&reply, "content-type"), Some("application/problem+json"));
            assert_eq!(reply.details, format!("meshseal_{}", rejection.code().replace('-', "_")));
        }
    }

    #[test]
    fn grpc_gets_a_status_and_a_plain_message() {
        for (rejection, status) in [
            (Rejection::TokenMissing, 16),
            (Rejection::SignatureInvalid, 16),
            (Rejection::RuleDenied, 7),
            (Rejection::ScopeMissing, 7),
            (Rejection::KeysUnavailable, 14),
            (Rejection::TokenRepeated, 3),
        ] {
            let reply = reply(&rejection.into(), true);
            assert_eq!(reply.grpc_status, status, "{rejection}");
            assert!(reply.body.ends_with(rejection.code()) && !reply.body.starts_with('{'));
            assert_eq!(header(&reply, "content-type"), None, "Envoy sets its own");
        }
    }
}
