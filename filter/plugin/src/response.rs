//! How a refusal looks on the wire: the one file that maps [`Rejection`] to HTTP and gRPC.
//!
//! RFC 6750 §3 for `WWW-Authenticate`, RFC 9457 for the body, RFC 9110 §10.2.3 for `Retry-After`, and the gRPC status codes.
//! The code says which rule was broken and nothing that would help to get around it (V26).

use std::cell::RefCell;
use std::rc::Rc;

use meshseal_abi::header_map;
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

/// HTTP status, gRPC status and title of a class.
fn statuses(class: Class) -> (u16, u8, &'static str) {
    match class {
        Class::MissingToken => (401, 16, "Authentication required"),
        Class::InvalidToken => (401, 16, "Token not accepted"),
        Class::InvalidRequest => (400, 3, "Invalid request"),
        Class::InsufficientScope => (403, 7, "Insufficient scope"),
        Class::Forbidden => (403, 7, "Not allowed"),
        Class::Unavailable => (503, 14, "Cannot verify tokens now"),
    }
}

/// Replies that were put together before: whoever floods a proxy with bad tokens gets the same few.
#[derive(Debug, Default)]
pub(crate) struct Replies(RefCell<Vec<Known>>);

#[derive(Debug)]
struct Known {
    rejection: Rejection,
    grpc: bool,
    reply: Rc<Reply>,
}

impl Replies {
    /// The reply to a refused request.
    pub(crate) fn reply(&self, refusal: &Refusal, grpc: bool) -> Rc<Reply> {
        // The scopes of a rule are its own.
        let Some(mut known) = self.0.try_borrow_mut().ok().filter(|_| refusal.scopes.is_empty()) else {
            return Rc::new(reply(refusal, grpc));
        };
        let rejection = refusal.rejection;
        if let Some(known) = known.iter().find(|known| known.rejection == rejection && known.grpc == grpc) {
            return Rc::clone(&known.reply);
        }
        let reply = Rc::new(reply(refusal, grpc));
        known.push(Known { rejection, grpc, reply: Rc::clone(&reply) });
        reply
    }
}

/// Puts a reply together.
pub(crate) fn reply(refusal: &Refusal, grpc: bool) -> Reply {
    let code = refusal.rejection.code();
    let (status, grpc_status, title) = statuses(refusal.rejection.class());
    let challenge = challenge(refusal);
    let mut headers: Vec<(&str, &str)> = Vec::new();
    headers.extend(challenge.as_deref().map(|challenge| ("www-authenticate", challenge)));
    if refusal.rejection.class() == Class::Unavailable {
        headers.push(("retry-after", RETRY_AFTER_S));
    }
    let body = if grpc {
        format!("{title}: {code}")
    } else {
        headers.push(("content-type", "application/problem+json"));
        // Code and title are constants without a character that JSON would escape.
        format!(r#"{{"type":"urn:meshseal:problem:{code}","title":"{title}","status":{status},"code":"{code}"}}"#)
    };
    let details = format!("meshseal_{}", code.replace('-', "_"));
    Reply { status, details, headers: header_map(&headers), body, grpc_status }
}

/// RFC 6750 §3: no error code where no token was sent, none for what a better token cannot mend.
fn challenge(refusal: &Refusal) -> Option<String> {
    let code = refusal.rejection.code();
    match refusal.rejection.class() {
        Class::MissingToken => Some("Bearer".to_owned()),
        Class::InvalidToken => Some(format!(r#"Bearer error="invalid_token", error_description="{code}""#)),
        Class::InvalidRequest => Some(format!(r#"Bearer error="invalid_request", error_description="{code}""#)),
        Class::InsufficientScope => {
            Some(format!(r#"Bearer error="insufficient_scope", scope="{}""#, scope_list(&refusal.scopes)))
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
    use meshseal_abi::Pairs;

    fn header<'r>(reply: &'r Reply, name: &str) -> Option<&'r str> {
        let found = Pairs::of(&reply.headers).find(|(key, _)| *key == name.as_bytes());
        found.map(|(_, value)| std::str::from_utf8(value).unwrap())
    }

    #[test]
    fn a_reply_is_the_same_the_next_time_and_scopes_are_those_of_the_rule() {
        let replies = Replies::default();
        let scoped = |scope: &str| Refusal { rejection: Rejection::ScopeMissing, scopes: vec![scope.into()] };
        let plain = |rejection: Rejection| Refusal::from(rejection);
        for refusal in [plain(Rejection::TokenExpired), scoped("a"), scoped("b"), plain(Rejection::TokenMissing)] {
            for grpc in [false, true] {
                for _ in 0..2 {
                    assert_eq!(*replies.reply(&refusal, grpc), reply(&refusal, grpc));
                }
            }
        }
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
