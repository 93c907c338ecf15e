//! Maps every [`Rejection`] to an HTTP or gRPC response. No other file does.
//!
//! The response follows RFC 6750 §3 (`WWW-Authenticate`), RFC 9457 (body), RFC 9110 §10.2.3
//! (`Retry-After`) and the gRPC status codes. Its code names the failed check and nothing that
//! would help an attacker to pass it (V26). With `challenge.hideReason` it does not name the check
//! either.

use std::cell::RefCell;
use std::rc::Rc;

use meshseal_abi::header_map;
use meshseal_core::decide::Refusal;
use meshseal_core::policy::Challenge;
use meshseal_core::rejection::{Class, Rejection};

use crate::host::Reply;

/// `Retry-After` of a 503 in seconds. A failed poll is retried within ten seconds, and most retries
/// succeed at once.
const RETRY_AFTER_S: &str = "5";

/// Returns HTTP status, gRPC status and title of a class.
fn statuses(class: Class) -> (u16, u8, &'static str) {
    match class {
        Class::MissingToken => (401, 16, "Authentication required"),
        Class::InvalidToken => (401, 16, "Token not accepted"),
        Class::BadRequest | Class::InvalidRequest => (400, 3, "Invalid request"),
        Class::InsufficientScope => (403, 7, "Insufficient scope"),
        Class::Forbidden => (403, 7, "Not allowed"),
        Class::Unavailable => (503, 14, "Cannot verify tokens now"),
    }
}

/// Builds and caches replies, so that a flood of bad tokens does not cost a new reply each.
#[derive(Debug)]
pub(crate) struct Replies {
    /// Scheme and parameters at the start of every challenge.
    challenge: String,
    tells_reason: bool,
    known: RefCell<Vec<Known>>,
}

#[derive(Debug)]
struct Known {
    rejection: Rejection,
    grpc: bool,
    reply: Rc<Reply>,
}

/// Returns the reply for requests that arrive before a configuration.
pub(crate) fn unavailable(grpc: bool) -> Reply {
    Replies::new(&Challenge::default()).build(&Rejection::KeysUnavailable.into(), grpc)
}

impl Replies {
    /// Creates a builder with the parameters of `challenge`.
    pub(crate) fn new(config: &Challenge) -> Self {
        // INVARIANT: `config` has checked that neither value can end its quoted string.
        let mut challenge = format!(r#"Bearer realm="{}""#, config.realm);
        if let Some(url) = &config.resource_metadata {
            challenge.push_str(&format!(r#", resource_metadata="{url}""#));
        }
        Self {
            challenge,
            tells_reason: config.tells_reason,
            known: RefCell::default(),
        }
    }

    /// Returns the reply to a rejected request.
    pub(crate) fn reply(&self, refusal: &Refusal, grpc: bool) -> Rc<Reply> {
        // A reply that names the scopes of a rule is not cached, because rules differ in them.
        let Some(mut known) = self
            .known
            .try_borrow_mut()
            .ok()
            .filter(|_| refusal.scopes.is_empty())
        else {
            return Rc::new(self.build(refusal, grpc));
        };
        let rejection = refusal.rejection;
        if let Some(known) = known
            .iter()
            .find(|known| known.rejection == rejection && known.grpc == grpc)
        {
            return Rc::clone(&known.reply);
        }
        let reply = Rc::new(self.build(refusal, grpc));
        known.push(Known {
            rejection,
            grpc,
            reply: Rc::clone(&reply),
        });
        reply
    }

    fn build(&self, refusal: &Refusal, grpc: bool) -> Reply {
        let class = self.class(refusal.rejection.class());
        let code = refusal.rejection.code();
        let told = if self.tells_reason {
            code
        } else {
            class_code(class)
        };
        let (status, grpc_status, title) = statuses(class);
        let challenge = self.challenge(class, refusal);
        let mut headers: Vec<(&str, &str)> = Vec::new();
        headers.extend(
            challenge
                .as_deref()
                .map(|challenge| ("www-authenticate", challenge)),
        );
        if class == Class::Unavailable {
            headers.push(("retry-after", RETRY_AFTER_S));
        }
        let body = if grpc {
            format!("{title}: {told}")
        } else {
            headers.push(("content-type", "application/problem+json"));
            // Code and title are constants without a character that JSON would escape.
            let kind = format!(r#""type":"urn:meshseal:problem:{told}","title":"{title}""#);
            format!(r#"{{{kind},"status":{status},"code":"{told}"}}"#)
        };
        let details = format!("meshseal_{}", code.replace('-', "_"));
        Reply {
            status,
            details,
            headers: header_map(&headers),
            body,
            grpc_status,
        }
    }

    /// Returns the class that the client sees. With hidden reasons a missing scope looks like any
    /// other denial, because it would reveal that a rule for the route exists.
    fn class(&self, class: Class) -> Class {
        if class == Class::InsufficientScope && !self.tells_reason {
            Class::Forbidden
        } else {
            class
        }
    }

    /// Returns the `WWW-Authenticate` value, with at least one parameter (RFC 6750 §3). It has no
    /// error code if no token was sent. Returns `None` if a better token would not help.
    fn challenge(&self, class: Class, refusal: &Refusal) -> Option<String> {
        let start = &self.challenge;
        let description = if self.tells_reason {
            format!(r#", error_description="{}""#, refusal.rejection.code())
        } else {
            String::new()
        };
        match class {
            Class::MissingToken => Some(start.clone()),
            Class::InvalidToken => Some(format!(r#"{start}, error="invalid_token"{description}"#)),
            Class::InvalidRequest => {
                Some(format!(r#"{start}, error="invalid_request"{description}"#))
            }
            Class::InsufficientScope => Some(format!(
                r#"{start}, error="insufficient_scope", scope="{}""#,
                scope_list(&refusal.scopes)
            )),
            Class::BadRequest | Class::Forbidden | Class::Unavailable => None,
        }
    }
}

/// Returns the code that replaces every rejection code of a class if reasons are hidden.
fn class_code(class: Class) -> &'static str {
    match class {
        Class::MissingToken => "token-missing",
        Class::InvalidToken => "token-not-accepted",
        Class::BadRequest | Class::InvalidRequest => "request-not-accepted",
        Class::InsufficientScope | Class::Forbidden => "not-allowed",
        Class::Unavailable => "unavailable",
    }
}

/// Joins scope tokens as in RFC 6749 §3.3. Omits every scope that could end the quoted string.
fn scope_list(scopes: &[Box<str>]) -> String {
    scopes
        .iter()
        .map(|scope| &**scope)
        .filter(|scope| is_scope_token(scope))
        .collect::<Vec<&str>>()
        .join(" ")
}

fn is_scope_token(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshseal_abi::Pairs;

    fn reply(refusal: &Refusal, grpc: bool) -> Reply {
        Replies::new(&Challenge::default()).build(refusal, grpc)
    }

    fn header<'r>(reply: &'r Reply, name: &str) -> Option<&'r str> {
        let found = Pairs::of(&reply.headers).find(|(key, _)| *key == name.as_bytes());
        found.map(|(_, value)| std::str::from_utf8(value).unwrap())
    }

    fn scope_missing(scopes: &[&str]) -> Refusal {
        Refusal {
            rejection: Rejection::ScopeMissing,
            scopes: scopes.iter().map(|scope| (*scope).into()).collect(),
            rule: None,
        }
    }

    #[test]
    fn caches_replies_except_with_scopes() {
        let replies = Replies::new(&Challenge::default());
        for refusal in [
            Refusal::from(Rejection::TokenExpired),
            scope_missing(&["a"]),
            scope_missing(&["b"]),
            Refusal::from(Rejection::TokenMissing),
        ] {
            for grpc in [false, true] {
                for _ in 0..2 {
                    assert_eq!(*replies.reply(&refusal, grpc), reply(&refusal, grpc));
                }
            }
        }
    }

    #[test]
    fn missing_token_challenge_has_no_error_code() {
        let reply = reply(&Rejection::TokenMissing.into(), false);
        assert_eq!(
            (reply.status, header(&reply, "www-authenticate")),
            (401, Some(r#"Bearer realm="meshseal""#))
        );
    }

    #[test]
    fn invalid_token_challenge_names_error() {
        let reply = reply(&Rejection::TokenExpired.into(), false);
        let challenge =
            r#"Bearer realm="meshseal", error="invalid_token", error_description="token-expired""#;
        assert_eq!(
            (reply.status, header(&reply, "www-authenticate")),
            (401, Some(challenge))
        );
    }

    #[test]
    fn missing_scope_challenge_names_required_scopes() {
        let reply = reply(&scope_missing(&["a", "b"]), false);
        assert_eq!(reply.status, 403);
        assert_eq!(
            header(&reply, "www-authenticate"),
            Some(r#"Bearer realm="meshseal", error="insufficient_scope", scope="a b""#)
        );
    }

    #[test]
    fn omits_scope_that_would_break_challenge() {
        let refusal = scope_missing(&["a\", x=\"", "b"]);
        assert_eq!(
            header(&reply(&refusal, false), "www-authenticate"),
            Some(r#"Bearer realm="meshseal", error="insufficient_scope", scope="b""#)
        );
    }

    #[test]
    fn malformed_request_gets_no_challenge() {
        for rejection in [Rejection::PathNotNormalized, Rejection::HostMalformed] {
            let reply = reply(&rejection.into(), false);
            assert_eq!(
                (reply.status, header(&reply, "www-authenticate")),
                (400, None)
            );
        }
    }

    #[test]
    fn every_401_names_realm_and_metadata() {
        let url = "https://api.example/.well-known/oauth-protected-resource";
        let config = Challenge {
            realm: "orders".into(),
            resource_metadata: Some(url.into()),
            tells_reason: true,
        };
        let start = format!(r#"Bearer realm="orders", resource_metadata="{url}""#);
        for rejection in Rejection::ALL {
            let reply = Replies::new(&config).build(&(*rejection).into(), false);
            let named = header(&reply, "www-authenticate")
                .is_some_and(|challenge| challenge.starts_with(&start));
            assert!(named || reply.status != 401, "{rejection}");
        }
    }

    #[test]
    fn hidden_reason_depends_on_status_alone() {
        let config = Challenge {
            tells_reason: false,
            ..Challenge::default()
        };
        let mut answers = std::collections::BTreeMap::new();
        for rejection in Rejection::ALL
            .iter()
            .filter(|rejection| rejection.class() != Class::MissingToken)
        {
            let refusal = Refusal {
                rejection: *rejection,
                scopes: vec!["secret".into()],
                rule: None,
            };
            let reply = Replies::new(&config).build(&refusal, false);
            assert_eq!(
                reply.details,
                format!("meshseal_{}", rejection.code().replace('-', "_"))
            );
            let challenged = header(&reply, "www-authenticate").is_some();
            let answer = (reply.headers.clone(), reply.body.clone());
            let first = answers
                .entry((reply.status, challenged))
                .or_insert_with(|| answer.clone());
            assert_eq!(*first, answer, "{rejection}");
        }
    }

    #[test]
    fn unavailable_keys_answer_503_with_retry_after() {
        let reply = reply(&Rejection::KeysUnavailable.into(), false);
        assert_eq!(
            (reply.status, header(&reply, "retry-after")),
            (503, Some("5"))
        );
        assert_eq!(header(&reply, "www-authenticate"), None);
    }

    #[test]
    fn every_rejection_has_own_body_and_details() {
        for rejection in Rejection::ALL {
            let reply = reply(&(*rejection).into(), false);
            let body: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
            assert_eq!(body["code"], rejection.code());
            assert_eq!(
                body["type"],
                format!("urn:meshseal:problem:{}", rejection.code())
            );
            assert_eq!(body["status"], reply.status);
            assert_eq!(
                header(&reply, "content-type"),
                Some("application/problem+json")
            );
            assert_eq!(
                reply.details,
                format!("meshseal_{}", rejection.code().replace('-', "_"))
            );
        }
    }

    #[test]
    fn grpc_reply_has_status_and_plain_message() {
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
