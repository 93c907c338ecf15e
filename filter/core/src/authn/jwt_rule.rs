//! The accepted issuers, as RequestAuthentication has them: one `JwtRule` each, and the trust bundle
//! that the issuer pushes.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::bundle::Staleness;
use crate::jose::{Alg, Claims};
use crate::keys::{Key, KeySet, PassedOver};
use crate::limits;
use crate::matcher::StringMatcher;
use crate::rejection::Rejection;

/// The accepted issuers, and the trust bundle that holds keys of some: what RequestAuthentication
/// configures.
#[derive(Clone, Debug, Default)]
pub struct RequestAuthentication {
    jwt_rules: Vec<JwtRule>,
    trust_bundle: Option<TrustBundleConfig>,
}

impl RequestAuthentication {
    /// Returns the authentication by these rules.
    #[must_use]
    pub fn new(jwt_rules: Vec<JwtRule>, trust_bundle: Option<TrustBundleConfig>) -> Self {
        Self {
            jwt_rules,
            trust_bundle,
        }
    }

    /// Returns the accepted issuers.
    #[must_use]
    pub fn jwt_rules(&self) -> &[JwtRule] {
        &self.jwt_rules
    }

    /// Returns how the trust bundle is received, if it is.
    #[must_use]
    pub fn trust_bundle(&self) -> Option<&TrustBundleConfig> {
        self.trust_bundle.as_ref()
    }

    /// Returns whether the keys of an issuer come from the trust bundle.
    #[must_use]
    pub fn uses_bundle(&self) -> bool {
        let from_bundle = |rule: &JwtRule| matches!(rule.keys, KeySource::Bundle);
        self.trust_bundle.is_some() && self.jwt_rules.iter().any(from_bundle)
    }

    /// The keys that stand in the configuration itself.
    pub fn inline_keys(&self) -> impl Iterator<Item = &Key> {
        self.inline_sets().flat_map(KeySet::iter)
    }

    /// How many keys of the configuration itself are of unknown types, or otherwise of no use.
    #[must_use]
    pub fn skipped_inline_keys(&self) -> usize {
        self.inline_sets().map(KeySet::skipped).sum()
    }

    /// The keys of the configuration itself that were passed over, with the index of their rule.
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

    /// Every header that an output may set, to be removed from requests first (V21). Lower case;
    /// may repeat.
    pub fn sanitized_headers(&self) -> impl Iterator<Item = &str> {
        self.jwt_rules.iter().flat_map(|rule| {
            let claims = rule
                .output_claim_to_headers
                .iter()
                .map(|output| output.header.as_ref());
            rule.output_payload_to_header
                .as_deref()
                .into_iter()
                .chain(claims)
        })
    }

    /// The rules for an issuer, compared exactly (V9). Each has keys of its own.
    pub fn jwt_rules_for(&self, issuer: &str) -> impl Iterator<Item = (usize, &JwtRule)> {
        self.jwt_rules
            .iter()
            .enumerate()
            .filter(move |(_, rule)| *rule.issuer == *issuer)
    }
}

/// How the trust bundle is received.
#[derive(Clone, Debug)]
pub struct TrustBundleConfig {
    /// The Envoy cluster that reaches the issuer.
    pub cluster: Box<str>,
    /// The `:authority` of the request.
    pub authority: Box<str>,
    /// The path of the request.
    pub path: Box<str>,
    /// The keys that may sign bundles: one, or two while they change.
    pub pins: KeySet,
    /// A bundle to start with.
    pub embedded: Option<Box<str>>,
    /// Credential for the issuer.
    pub poll_token: Option<Box<str>>,
    /// How long a poll waits, in seconds.
    pub wait_s: u64,
    /// What to do when the bundle is old, unless the route says otherwise.
    pub staleness: Staleness,
}

/// Where keys for an issuer come from.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// `jwks`: in the configuration.
    Inline(KeySet),
    /// `trustBundle: true`: pushed by the issuer.
    Bundle,
    /// `jwksUri`: fetched from the provider.
    Remote(RemoteJwks),
}

/// How to fetch a provider's key set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteJwks {
    /// Path and query of the request.
    pub path: Box<str>,
    /// The `:authority` of the request.
    pub authority: Box<str>,
    /// Whether the URI says https: then `:scheme` does too. TLS itself is the cluster's matter.
    pub https: bool,
    /// The Envoy cluster that reaches the provider.
    pub cluster: Box<str>,
    /// Longest wait for an answer, in milliseconds.
    pub timeout_ms: u64,
    /// Time between fetches, in seconds.
    pub refresh_s: u64,
    /// Longest time since the last successful fetch for which the keys are trusted, in seconds;
    /// `None`: without limit.
    pub max_age_s: Option<u64>,
}

impl RemoteJwks {
    /// Whether both fetch the same document from the same place.
    pub(crate) fn is_same_place(&self, other: &Self) -> bool {
        let place = |jwks: &Self| {
            (
                jwks.path.clone(),
                jwks.authority.clone(),
                jwks.cluster.clone(),
                jwks.https,
            )
        };
        place(self) == place(other)
    }
}

impl KeySource {
    /// Whether a key may come from both. The bundle revokes, so no other source may speak for its
    /// issuer.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bundle, _) | (_, Self::Bundle) => true,
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
    /// What stands before the token, such as `Bearer `; may be empty.
    pub prefix: Box<str>,
}

/// A claim that goes to a request header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimToHeader {
    /// Lower-case header name.
    pub header: Box<str>,
    /// The claim's path of member names.
    pub claim: Vec<Box<str>>,
    /// What happens if the value cannot be forwarded.
    pub on_unsafe: OnUnsafe,
}

/// Treatment of an output that cannot be forwarded unchanged, or that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnsafe {
    /// The request goes on without the header.
    Omit,
    /// The request is rejected.
    Reject,
}

/// Setting that tells services from users (V23).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectType {
    /// Path of the claim that decides.
    pub claim: Vec<Box<str>>,
    /// Values of the claim in tokens of a service; empty: the claim repeats the subject.
    pub client_values: Vec<StringMatcher>,
}

/// What a `typ` header stands for (V11). Types of other slots (`dpop+jwt`, `secevent+jwt`, …) are
/// never accepted as a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    /// `at+jwt`: RFC 9068 access tokens, whose claims are required.
    AccessToken,
    /// `JWT`, `JOSE` or none: other providers' tokens.
    Jwt,
    /// The same by `typ`, and an ID token by its claims (OpenID Connect Core §2).
    IdToken,
    /// `client-authentication+jwt`: client assertions, in the issuer only.
    ClientAuthentication,
}

/// One accepted issuer: RequestAuthentication's JWTRule and our additions.
#[derive(Clone, Debug)]
pub struct JwtRule {
    /// `iss`, compared exactly.
    pub issuer: Box<str>,
    /// One of these must be in `aud`.
    pub audiences: Vec<Box<str>>,
    /// Where its keys come from.
    pub keys: KeySource,
    /// The allowed algorithms.
    pub algorithms: Vec<Alg>,
    /// The accepted token types.
    pub token_types: Vec<TokenType>,
    /// Leeway for times, in seconds.
    pub clock_skew: u64,
    /// Longest time from `iat` to `exp`, in seconds.
    pub max_lifetime: u64,
    /// Paths of the claims that must be present; `None`: those of the token type.
    pub required_claims: Option<Vec<Vec<Box<str>>>>,
    /// Path of the claim that names the audience in a token without `aud`.
    pub audience_claim: Option<Vec<Box<str>>>,
    /// Paths of the claims that hold scopes; empty: `scope`.
    pub scope_claims: Vec<Vec<Box<str>>>,
    /// How services are told from users; `None`: `sub` equals `client_id`.
    pub subject_type: Option<SubjectType>,
    /// Headers that may carry the token.
    pub from_headers: Vec<FromHeader>,
    /// Cookies that may carry the token.
    pub from_cookies: Vec<Box<str>>,
    /// Query parameters that may carry the token.
    pub from_params: Vec<Box<str>>,
    /// Whether the upstream sees the token.
    pub forward_original_token: bool,
    /// The header for the whole payload, base64url.
    pub output_payload_to_header: Option<Box<str>>,
    /// The headers for single claims.
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    /// What happens if the payload cannot be forwarded.
    pub on_unsafe: OnUnsafe,
    /// Longest value of one claim's header in bytes.
    pub output_max_value_bytes: usize,
    /// Most bytes of all output headers together, names included.
    pub output_max_total_bytes: usize,
}

impl JwtRule {
    /// A rule for access tokens (RFC 9068) of an issuer, with the defaults of the configuration and
    /// no keys of its own.
    #[must_use]
    pub fn new(issuer: &str, audiences: Vec<Box<str>>) -> Self {
        Self {
            issuer: issuer.into(),
            audiences,
            keys: KeySource::Inline(KeySet::empty()),
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

    /// Whether both rules fetch the same keys from the same place.
    pub(crate) fn fetches_like(&self, other: &Self) -> bool {
        let (KeySource::Remote(ours), KeySource::Remote(theirs)) = (&self.keys, &other.keys) else {
            return false;
        };
        self.issuer == other.issuer
            && ours.is_same_place(theirs)
            && self.algorithms == other.algorithms
    }

    /// V11: which accepted type a token is of, by its `typ` header and by its claims. Media types
    /// are compared without case, `application/` may be left out (RFC 7515 §4.1.9).
    pub(crate) fn admit_type(
        &self,
        typ: Option<&str>,
        claims: &Claims,
    ) -> Result<TokenType, Rejection> {
        let short = typ.map(|typ| match typ.split_at_checked(12) {
            Some((prefix, rest)) if prefix.eq_ignore_ascii_case("application/") => rest,
            _ => typ,
        });
        let is = |name: &str| short.is_some_and(|typ| typ.eq_ignore_ascii_case(name));
        let means = if is("at+jwt") {
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
        let admitted = self.token_types.contains(&means) && !claims.is_for_another_use();
        if admitted {
            Ok(means)
        } else {
            Err(Rejection::TypeNotAllowed)
        }
    }
}
