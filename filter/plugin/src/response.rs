//! How a refusal looks on the wire: the one file that maps [`Rejection`] to HTTP and gRPC.
//!
//! RFC 6750 §3 for `WWW-Authenticate`, RFC 9457 for the body, RFC 9110 §10.2.3 for `Retry-After`,
//! and the gRPC status codes. The code says which rule was broken and nothing that would help to
//! get around it (V26); `challenge.hideReason` leaves even that out.

use std::cell::RefCell;
use std::rc::Rc;

use meshseal_abi::header_map;
use meshseal_core::policy::Challenge;
use meshseal_core::rejection::{Class, Rejection};

use crate::host::Reply;

/// When a client should come back after a 503, in seconds: polls retry within ten, and most succeed
/// at once.
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
        Self {
            rejection,
            scopes: Vec::new(),
        }
    }
}

/// HTTP status, gRPC status and title of a class.
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

/// Builds replies, and remembers those that were built before: whoever floods a proxy with bad
/// tokens gets the same few.
#[derive(Debug)]
pub(crate) struct Replies {
    /// Scheme and parameters that every challenge begins with.
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

/// The reply before there is a configuration.
pub(crate) fn unavailable(grpc: bool) -> Reply {
    Replies::new(&Challenge::default()).build(&Rejection::KeysUnavailable.into(), grpc)
}

impl Replies {
    /// Replies with these parameters.
    pub(crate) fn new(config: &Challenge) -> Self {
        // The configuration has checked that neither value can end its quoted string.
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

    /// The reply to a refused request.
    pub(crate) fn reply(&self, refusal: &Refusal, grpc: bool) -> Rc<Reply> {
        // The scopes of a rule are its own.
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
            format!(
                r#"{{"type":"urn:meshseal:problem:{told}","title":"{title}","status":{status},"code":"{told}"}}"#
            )
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

    /// The class that the caller sees. A missing scope would tell that a rule for the route exists.
    fn class(&self, class: Class) -> Class {
        if class == Class::InsufficientScope && !self.tells_reason {
            Class::Forbidden
        } else {
            class
        }
    }

    /// RFC 6750 §3: at least one parameter; no error code where no token was sent; no challenge for
    /// what a better token cannot mend.
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

/// The code that stands for every rejection of a class, where the reason is hidden.
fn class_code(class: Class) -> &'static str {
    match class {
        Class::MissingToken => "token-missing",
        Class::InvalidToken => "token-not-accepted",
        Class::BadRequest | Class::InvalidRequest => "request-not-accepted",
        Class::InsufficientScope | Class::Forbidden => "not-allowed",
        Class::Unavailable => "unavailable",
    }
}

/// Scope tokens as RFC 6749 §3.3 has them; what could end the quoted string is left out.
fn scope_list(scopes: &[Box<str>]) -> String {
    let is_scope = |scope: &&str| {
        scope
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
    };
    scopes
        .iter()
        .map(AsRef::as_ref)
        .filter(is_scope)
        .collect::<Vec<&str>>()
        .join(" ")
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

    #[test]
    fn a_reply_is_the_same_the_next_time_and_scopes_are_those_of_the_rule() {
        let replies = Replies::new(&Challenge::default());
        let scoped = |scope: &str| Refusal {
            rejection: Rejection::ScopeMissing,
            scopes: vec![scope.into()],
        };
        let plain = |rejection: Rejection| Refusal::from(rejection);
        for refusal in [
            plain(Rejection::TokenExpired),
            scoped("a"),
            scoped("b"),
            plain(Rejection::TokenMissing),
        ] {
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
        assert_eq!(
            (reply.status, header(&reply, "www-authenticate")),
            (401, Some(r#"Bearer realm="meshseal""#))
        );
    }

    #[test]
    fn an_invalid_token_is_named_so() {
        let reply = reply(&Rejection::TokenExpired.into(), false);
        let challenge =
            r#"Bearer realm="meshseal", error="invalid_token", error_description="token-expired""#;
        assert_eq!(
            (reply.status, header(&reply, "www-authenticate")),
            (401, Some(challenge))
        );
    }

    #[test]
    fn a_missing_scope_names_the_scopes_that_are_needed() {
        let refusal = Refusal {
            rejection: Rejection::ScopeMissing,
            scopes: vec!["a".into(), "b".into()],
        };
        let reply = reply(&refusal, false);
        assert_eq!(reply.status, 403);
        assert_eq!(
            header(&reply, "www-authenticate"),
            Some(r#"Bearer realm="meshseal", error="insufficient_scope", scope="a b""#)
        );
    }

    #[test]
    fn a_scope_cannot_break_out_of_the_challenge() {
        let refusal = Refusal {
            rejection: Rejection::ScopeMissing,
            scopes: vec!["a\", x=\"".into(), "b".into()],
        };
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
    fn what_cannot_be_known_is_a_503_with_a_time_to_come_back() {
        let reply = reply(&Rejection::KeysUnavailable.into(), false);
        assert_eq!(
            (reply.status, header(&reply, "retry-after")),
            (503, Some("5"))
        );
        assert_eq!(header(&reply, "www-authenticate"), None);
    }

    #[test]
    fn every_rejection_has_a_problem_body_and_details_of_its_own() {
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
