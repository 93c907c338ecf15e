//! The accepted issuers, as RequestAuthentication has them: one `JwtRule` each, and the trust
//! bundle that the issuer pushes.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::TokenSources;
use crate::bundle::Staleness;
use crate::jose::{Alg, Claims};
use crate::keys::{Key, KeySet, PassedOver};
use crate::limits;
use crate::matcher::StringMatcher;
use crate::rejection::Rejection;

/// The accepted issuers, and the trust bundle that holds the keys of some of them.
/// RequestAuthentication configures both.
#[derive(Clone, Debug, Default)]
pub struct RequestAuthentication {
    jwt_rules: Vec<JwtRule>,
    trust_bundle: Option<TrustBundleConfig>,
    token_sources: TokenSources,
    output_headers: Vec<Box<str>>,
}

impl RequestAuthentication {
    /// Returns the authentication by these rules.
    #[must_use]
    pub fn new(jwt_rules: Vec<JwtRule>, trust_bundle: Option<TrustBundleConfig>) -> Self {
        let mut output_headers: Vec<Box<str>> = Vec::new();
        for name in jwt_rules.iter().flat_map(JwtRule::output_headers) {
            if output_headers.iter().all(|known| **known != *name) {
                output_headers.push(name.into());
            }
        }
        Self {
            token_sources: TokenSources::of(&jwt_rules),
            output_headers,
            jwt_rules,
            trust_bundle,
        }
    }

    /// Returns the accepted issuers.
    #[must_use]
    pub fn jwt_rules(&self) -> &[JwtRule] {
        &self.jwt_rules
    }

    /// Returns the settings of the trust bundle, if one is configured.
    #[must_use]
    pub fn trust_bundle(&self) -> Option<&TrustBundleConfig> {
        self.trust_bundle.as_ref()
    }

    /// Returns whether a configured trust bundle provides the keys of at least one issuer.
    #[must_use]
    pub fn uses_bundle(&self) -> bool {
        let mut sources = self.jwt_rules.iter().map(|rule| &rule.keys);
        self.trust_bundle.is_some() && sources.any(|keys| matches!(keys, KeySource::Bundle))
    }

    /// Returns the keys that the configuration itself contains.
    pub fn inline_keys(&self) -> impl Iterator<Item = &Key> {
        self.inline_sets().flat_map(KeySet::iter)
    }

    /// Returns the number of unusable keys that the configuration contains, such as keys of unknown
    /// types.
    #[must_use]
    pub fn skipped_inline_keys(&self) -> usize {
        self.inline_sets().map(KeySet::skipped).sum()
    }

    /// Returns the unusable keys of the configuration, each with the index of its rule.
    pub fn passed_over_inline_keys(&self) -> impl Iterator<Item = (usize, &PassedOver)> {
        self.jwt_rules.iter().enumerate().flat_map(|(at, rule)| {
            let set = if let KeySource::Inline(set) = &rule.keys {
                Some(set)
            } else {
                None
            };
            set.into_iter()
                .flat_map(KeySet::passed_over)
                .map(move |passed| (at, passed))
        })
    }

    fn inline_sets(&self) -> impl Iterator<Item = &KeySet> {
        self.jwt_rules.iter().filter_map(|rule| {
            if let KeySource::Inline(set) = &rule.keys {
                Some(set)
            } else {
                None
            }
        })
    }

    /// Returns the parts of a request that may carry a token.
    #[must_use]
    pub fn token_sources(&self) -> &TokenSources {
        &self.token_sources
    }

    /// Returns the names of all headers that an output may set, in lower case, each once. The
    /// filter removes them from each request first (V21), so that a client cannot forge them.
    #[must_use]
    pub fn output_headers(&self) -> &[Box<str>] {
        &self.output_headers
    }

    /// Returns whether the keys of an issuer are fetched from a provider.
    #[must_use]
    pub fn fetches_keys(&self) -> bool {
        let mut sources = self.jwt_rules.iter().map(|rule| &rule.keys);
        sources.any(|keys| matches!(keys, KeySource::Remote(_)))
    }

    /// Returns the rules for an issuer, which is compared exactly (V9), with their indices. Each
    /// rule has its own keys.
    pub fn jwt_rules_for(&self, issuer: &str) -> impl Iterator<Item = (usize, &JwtRule)> {
        self.jwt_rules
            .iter()
            .enumerate()
            .filter(move |(_, rule)| *rule.issuer == *issuer)
    }
}

/// Settings of the polls for the trust bundle.
#[derive(Clone, Debug)]
pub struct TrustBundleConfig {
    /// Envoy cluster that reaches the issuer.
    pub cluster: Box<str>,
    /// `:authority` of the request.
    pub authority: Box<str>,
    /// Path of the request.
    pub path: Box<str>,
    /// Pinned keys that may sign bundles: one, or two during a rotation.
    pub pins: KeySet,
    /// Bundle to start with.
    pub embedded: Option<Box<str>>,
    /// Credential for the issuer.
    pub poll_token: Option<Box<str>>,
    /// Maximum time in seconds for which the issuer may hold a poll open.
    pub wait_s: u64,
    /// Behaviour with an old bundle, unless the route overrides it.
    pub staleness: Staleness,
}

/// Source of the keys for an issuer.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// `jwks`: contained in the configuration.
    Inline(KeySet),
    /// `trustBundle: true`: pushed by the issuer in the trust bundle.
    Bundle,
    /// `jwksUri`: fetched from the provider.
    Remote(RemoteJwks),
}

/// Settings for fetching a provider's key set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteJwks {
    /// Path and query of the request.
    pub path: Box<str>,
    /// `:authority` of the request.
    pub authority: Box<str>,
    /// True if the URI scheme is https. It sets `:scheme` only; Envoy's cluster configures TLS.
    pub https: bool,
    /// Envoy cluster that reaches the provider.
    pub cluster: Box<str>,
    /// Maximum wait for a response, in milliseconds.
    pub timeout_ms: u64,
    /// Time between fetches, in seconds.
    pub refresh_s: u64,
    /// Maximum age in seconds, since the last successful fetch, at which the keys are trusted;
    /// `None` means no limit.
    pub max_age_s: Option<u64>,
}

impl RemoteJwks {
    /// Returns whether both fetch the same document from the same place.
    pub(crate) fn is_same_place(&self, other: &Self) -> bool {
        // The timings may differ: they do not change the fetched document.
        self.path == other.path
            && self.authority == other.authority
            && self.cluster == other.cluster
            && self.https == other.https
    }
}

impl KeySource {
    /// Returns whether both sources may provide the same key.
    ///
    /// The bundle overlaps every source: it carries revocations, which rules with other sources do
    /// not check, so no second source may provide keys for its issuer.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bundle, _) | (_, Self::Bundle) => true,
            // Two inline sets overlap if they share a key, whatever its `kid`.
            (Self::Inline(ours), Self::Inline(theirs)) => ours
                .iter()
                .any(|key| theirs.iter().any(|other| other.id() == key.id())),
            (Self::Remote(ours), Self::Remote(theirs)) => ours.is_same_place(theirs),
            (Self::Inline(_), Self::Remote(_)) | (Self::Remote(_), Self::Inline(_)) => false,
        }
    }
}

/// A header that may carry a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FromHeader {
    /// Lower-case name.
    pub name: Box<str>,
    /// Text before the token, such as `Bearer `; may be empty.
    pub prefix: Box<str>,
}

/// A claim that the filter copies to a request header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimToHeader {
    /// Lower-case header name.
    pub header: Box<str>,
    /// Path of member names to the claim.
    pub claim: Vec<Box<str>>,
    /// Treatment of a value that cannot be forwarded.
    pub on_unsafe: OnUnsafe,
}

/// Treatment of an output that cannot be forwarded unchanged, or that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnsafe {
    /// Forwards the request without the header.
    Omit,
    /// Rejects the request.
    Reject,
}

/// Setting that distinguishes services from users (V23).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectType {
    /// Path of the claim that distinguishes them.
    pub claim: Vec<Box<str>>,
    /// Values of the claim in tokens of a service. If empty, the token is a service's if the claim
    /// equals the subject.
    pub client_values: Vec<StringMatcher>,
}

/// Token type derived from the `typ` header and the claims (V11). Types with another purpose
/// (`dpop+jwt`, `secevent+jwt`, …) are never accepted as a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    /// `at+jwt`: RFC 9068 access tokens, whose claims are required.
    AccessToken,
    /// `JWT`, `JOSE` or no `typ`: tokens of other providers.
    Jwt,
    /// The same values of `typ`, with claims that mark an ID token (OpenID Connect Core §2).
    IdToken,
    /// `client-authentication+jwt`: client assertions, which only the issuer accepts.
    ClientAuthentication,
}

/// One accepted issuer: JWTRule of RequestAuthentication with Meshseal's additions.
#[derive(Clone, Debug)]
pub struct JwtRule {
    /// Value of `iss`, compared exactly.
    pub issuer: Box<str>,
    /// Accepted audiences, of which `aud` must contain at least one.
    pub audiences: Vec<Box<str>>,
    /// Source of the issuer's keys.
    pub keys: KeySource,
    /// The allowed algorithms.
    pub algorithms: Vec<Alg>,
    /// The accepted token types.
    pub token_types: Vec<TokenType>,
    /// Maximum clock skew in seconds, allowed for all times in the token.
    pub clock_skew: u64,
    /// Maximum time from `iat` to `exp`, in seconds.
    pub max_lifetime: u64,
    /// Paths of the claims that must be present; `None` requires those of the token type.
    pub required_claims: Option<Vec<Vec<Box<str>>>>,
    /// Path of the claim that names the audience in a token without `aud`.
    pub audience_claim: Option<Vec<Box<str>>>,
    /// Paths of the claims that hold scopes; empty means `scope`.
    pub scope_claims: Vec<Vec<Box<str>>>,
    /// Setting that distinguishes services from users; `None` compares `sub` with `client_id`.
    pub subject_type: Option<SubjectType>,
    /// Headers that may carry the token.
    pub from_headers: Vec<FromHeader>,
    /// Cookies that may carry the token.
    pub from_cookies: Vec<Box<str>>,
    /// Query parameters that may carry the token.
    pub from_params: Vec<Box<str>>,
    /// True if the filter forwards the token to the upstream.
    pub forward_original_token: bool,
    /// Header for the whole payload in base64url.
    pub output_payload_to_header: Option<Box<str>>,
    /// Headers for single claims.
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    /// Treatment of a payload that cannot be forwarded.
    pub on_unsafe: OnUnsafe,
    /// Maximum length of one claim's header value in bytes.
    pub output_max_value_bytes: usize,
    /// Maximum length of all output headers together in bytes, names included.
    pub output_max_total_bytes: usize,
}

impl JwtRule {
    /// Returns the names of the headers that this rule's outputs set.
    fn output_headers(&self) -> impl Iterator<Item = &str> {
        let claims = self.output_claim_to_headers.iter();
        let claims = claims.map(|output| output.header.as_ref());
        self.output_payload_to_header
            .as_deref()
            .into_iter()
            .chain(claims)
    }

    /// Creates a rule for access tokens (RFC 9068) of an issuer, with the defaults of the
    /// configuration and without keys.
    #[must_use]
    pub fn new(issuer: &str, audiences: Vec<Box<str>>) -> Self {
        Self {
            issuer: issuer.into(),
            audiences,
            keys: KeySource::Inline(KeySet::empty()),
            // A shared secret is allowed only if the configuration names its algorithm.
            algorithms: Alg::ALL
                .into_iter()
                .filter(|alg| !alg.is_symmetric())
                .collect(),
            token_types: alloc::vec![TokenType::AccessToken],
            clock_skew: 30,
            max_lifetime: 24 * 3600,
            required_claims: None,
            audience_claim: None,
            scope_claims: Vec::new(),
            subject_type: None,
            from_headers: alloc::vec![FromHeader {
                name: "authorization".into(),
                prefix: "Bearer ".into()
            }],
            from_cookies: Vec::new(),
            from_params: Vec::new(),
            forward_original_token: false,
            output_payload_to_header: None,
            output_claim_to_headers: Vec::new(),
            on_unsafe: OnUnsafe::Omit,
            output_max_value_bytes: limits::OUTPUT_VALUE_BYTES,
            output_max_total_bytes: limits::OUTPUT_TOTAL_BYTES,
        }
    }

    /// Returns whether both rules fetch the same keys from the same place.
    pub(crate) fn fetches_like(&self, other: &Self) -> bool {
        // Inline keys belong to their configuration, and bundles are taken over separately.
        let (KeySource::Remote(ours), KeySource::Remote(theirs)) = (&self.keys, &other.keys) else {
            return false;
        };
        self.issuer == other.issuer
            && ours.is_same_place(theirs)
            && self.algorithms == other.algorithms
    }

    /// Returns the accepted type of a token (V11), judged by its `typ` header and its claims.
    ///
    /// Media types are compared case-insensitively, and `application/` may be omitted (RFC 7515
    /// §4.1.9).
    pub(crate) fn admit_type(
        &self,
        typ: Option<&str>,
        claims: &Claims,
    ) -> Result<TokenType, Rejection> {
        // 12 is the length of `application/`.
        let short = typ.map(|typ| match typ.split_at_checked(12) {
            Some((prefix, rest)) if prefix.eq_ignore_ascii_case("application/") => rest,
            _ => typ,
        });
        let is = |name: &str| short.is_some_and(|typ| typ.eq_ignore_ascii_case(name));
        let token_type = if is("at+jwt") {
            TokenType::AccessToken
        } else if is("client-authentication+jwt") {
            TokenType::ClientAuthentication
        } else if !(short.is_none() || is("JWT") || is("JOSE")) {
            return Err(Rejection::TypeNotAllowed);
        } else if claims.is_id_token() {
            TokenType::IdToken
        } else {
            TokenType::Jwt
        };
        // Logout tokens and security events must never pass as a token (RFC 8725 §3.12).
        let admitted = self.token_types.contains(&token_type) && !claims.is_for_another_use();
        if admitted {
            Ok(token_type)
        } else {
            Err(Rejection::TypeNotAllowed)
        }
    }
}
