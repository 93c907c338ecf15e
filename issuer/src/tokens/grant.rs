//! Grants: the service, scopes and lifetime of a requested token, decided by the configuration
//! alone.

use crate::clients::{Access, Client};
use crate::config::{Config, Service};
use crate::error::{OAuthError, OAuthErrorKind};
use crate::http::Form;

/// A well-formed token request.
#[derive(Clone, Copy, Debug)]
pub struct GrantRequest<'r> {
    /// Audience of the requested service, if named.
    pub audience: Option<&'r str>,
    /// Requested scopes, space-delimited, if named.
    pub scope: Option<&'r str>,
}

/// Contents of a token to mint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant<'c> {
    /// Claims `sub` and `client_id`, which are equal for client credentials.
    pub client: &'c str,
    /// Claim `aud`: one service (I3).
    pub audience: &'c str,
    /// Claim `scope`, space-delimited; empty for no scopes.
    pub scope: String,
    /// Lifetime in seconds.
    pub lifetime_s: u64,
}

impl<'r> GrantRequest<'r> {
    /// Reads the parameters of RFC 6749 §4.4.2 and RFC 8707 §2; `audience` is another name for
    /// `resource`.
    ///
    /// # Errors
    /// `unsupported_grant_type`, `invalid_request`, `invalid_target`.
    pub fn read(form: &'r Form) -> Result<Self, OAuthError> {
        match form.get("grant_type") {
            Some("client_credentials") => {}
            Some(_) => {
                return Err(OAuthErrorKind::UnsupportedGrantType
                    .because("`grant_type` must be client_credentials"));
            }
            None => {
                return Err(OAuthErrorKind::InvalidRequest
                    .because("`grant_type` is missing; send client_credentials"));
            }
        }
        let audience = match (form.get("resource"), form.get("audience")) {
            (Some(resource), Some(audience)) if resource != audience => {
                return Err(OAuthErrorKind::InvalidTarget
                    .because("`resource` and `audience` differ; name one service"));
            }
            (resource, audience) => resource.or(audience),
        };
        Ok(Self {
            audience,
            scope: form.get("scope"),
        })
    }
}

/// Decides on a token request of an authenticated client.
///
/// # Errors
/// `invalid_target`, `invalid_scope`.
pub fn grant<'c>(
    config: &'c Config,
    client: &'c Client,
    request: &GrantRequest<'_>,
) -> Result<Grant<'c>, OAuthError> {
    let (service, access) = target(config, client, request.audience)?;
    // A scope must be granted to the client and defined by the service.
    let may_have = |scope: &str| {
        [&access.scopes, &service.scopes]
            .iter()
            .all(|scopes| scopes.iter().any(|known| known == scope))
    };
    let scope = match request.scope {
        // RFC 6749 §3.3: without `scope`, the default is every scope of this client there.
        None => access
            .scopes
            .iter()
            .map(String::as_str)
            .filter(|scope| may_have(scope))
            .collect::<Vec<_>>(),
        Some(asked) => {
            let mut scopes: Vec<&str> = Vec::new();
            for scope in asked.split(' ') {
                if !may_have(scope) {
                    return Err(OAuthErrorKind::InvalidScope.because(
                        "a scope is unknown to the service or not granted to this client",
                    ));
                }
                if !scopes.contains(&scope) {
                    scopes.push(scope);
                }
            }
            scopes
        }
    };
    Ok(Grant {
        client: &client.id,
        audience: &service.audience,
        scope: scope.join(" "),
        lifetime_s: service.lifetime_s,
    })
}

/// Returns the service that a request names, and the client's access to it. Without a name, the
/// client's only service is meant.
fn target<'c>(
    config: &'c Config,
    client: &'c Client,
    asked: Option<&str>,
) -> Result<(&'c Service, &'c Access), OAuthError> {
    // Unknown services and services of other clients get the same answer.
    let access = match (asked, client.access.as_slice()) {
        (Some(asked), access) => access
            .iter()
            .find(|access| access.audience == asked)
            .ok_or_else(|| {
                OAuthErrorKind::InvalidTarget
                    .because("the service is unknown or not granted to this client")
            })?,
        (None, [only]) => only,
        (None, []) => {
            return Err(
                OAuthErrorKind::UnauthorizedClient.because("no service is granted to this client")
            );
        }
        (None, _) => {
            return Err(OAuthErrorKind::InvalidTarget
                .because("several services are granted to this client; name one in `resource`"));
        }
    };
    let service = config.service(&access.audience);
    service
        .map(|service| (service, access))
        .ok_or_else(|| OAuthErrorKind::InvalidTarget.because("the service is unknown"))
}
