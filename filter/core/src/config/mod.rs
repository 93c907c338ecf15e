//! The plugin configuration: plain data, read strictly. Field names are Istio's wherever Istio has
//! the concept (RequestAuthentication's `jwtRules`, AuthorizationPolicy's `rules`), so that an
//! operator can paste them.

mod challenge;
mod jwt_rules;
mod reader;
mod route_rules;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::alg::Alg;
use crate::claims::Claims;
use crate::json::{Budget, Document, Value};
use crate::keys::KeySet;
use crate::policy::host::Authority;
use crate::policy::matching::Word;
use crate::policy::rules::Rule;
use crate::policy::{EscapedSlashes, Policy, RouteRules};
use crate::rejection::Rejection;
use crate::{keys, limits};

pub use challenge::Challenge;
pub use reader::{ConfigErrors, Mistake};
use reader::{Findings, Object};

/// Whether verdicts are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Refuse what is refused.
    Enforce,
    /// Decide and count, let everything pass.
    Shadow,
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
    pub client_values: Vec<Word>,
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

/// What to do when keys and revocations are too old (V16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staleness {
    /// Oldest acceptable confirmation in seconds; `None`: only the bundle's own not-after counts.
    pub max_age: Option<u64>,
    /// Whether to go on with what there is.
    pub serve: bool,
}

impl Staleness {
    /// Refuse once the bundle's not-after has passed.
    pub const DEFAULT: Self = Self {
        max_age: None,
        serve: false,
    };

    /// Whether this serves whenever `other` does.
    pub(crate) fn is_as_patient_as(self, other: Self) -> bool {
        let longer = self
            .max_age
            .is_none_or(|ours| other.max_age.is_some_and(|theirs| ours >= theirs));
        self.serve || (!other.serve && longer)
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

/// Reads a plugin configuration.
///
/// # Errors
/// Every mistake in it.
pub(crate) fn parse(json: &str) -> Result<Policy, ConfigErrors> {
    let whole = |message: String| {
        ConfigErrors(alloc::vec![Mistake {
            path: String::new(),
            message
        }])
    };
    if json.len() > limits::MAX_CONFIG_BYTES {
        return Err(whole(format!(
            "the configuration is larger than {} bytes",
            limits::MAX_CONFIG_BYTES
        )));
    }
    let document = Document::lent(json, Budget::CONFIG)
        .map_err(|error| whole(format!("the configuration is {error}")))?;
    let findings = Findings::default();
    let root = Object::new(document.root(), String::new(), &findings);
    let policy = read(&root);
    let mistakes = findings.mistakes.into_inner();
    if !mistakes.is_empty() {
        return Err(ConfigErrors(mistakes));
    }
    Ok(Policy {
        warnings: findings.warnings.into_inner(),
        ..policy
    })
}

const FIELDS: [&str; 9] = [
    "mode",
    "statPrefix",
    "bypassCorsPreflight",
    "hostVerification",
    "pathWithEscapedSlashesAction",
    "challenge",
    "trustBundle",
    "jwtRules",
    "rules",
];

fn read(root: &Object<'_, '_>) -> Policy {
    root.only(&FIELDS);
    let trust_bundle = root
        .object("trustBundle")
        .map(|bundle| read_trust_bundle(&bundle));
    if !root.has("jwtRules") {
        root.mistake(
            "jwtRules",
            "missing; name at least one issuer whose tokens are accepted",
        );
    }
    let jwt_rules: Vec<JwtRule> = root
        .objects("jwtRules")
        .iter()
        .map(jwt_rules::read)
        .collect();
    jwt_rules::check_together(root, &jwt_rules, trust_bundle.is_some());
    let staleness = trust_bundle
        .as_ref()
        .map_or(Staleness::DEFAULT, |bundle| bundle.staleness);
    let slashes = root.word(
        "pathWithEscapedSlashesAction",
        EscapedSlashes::Reject,
        &[
            ("REJECT_REQUEST", EscapedSlashes::Reject),
            ("KEEP_UNCHANGED", EscapedSlashes::Keep),
        ],
    );
    let before = root.mistakes();
    let rules: Vec<Rule> = root
        .objects("rules")
        .iter()
        .map(|rule| route_rules::read(rule, staleness, slashes))
        .collect();
    // A rule with a mistake is read as broader than it is meant, so what it seems to cover says
    // nothing.
    if root.mistakes() == before {
        route_rules::check_together(root, &rules);
    }
    let stat_prefix = root.text("statPrefix").unwrap_or_default();
    if !stat_prefix
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    {
        root.mistake("statPrefix", "must be letters, digits and _");
    }
    Policy {
        mode: root.word(
            "mode",
            Mode::Enforce,
            &[("ENFORCE", Mode::Enforce), ("SHADOW", Mode::Shadow)],
        ),
        stat_prefix: stat_prefix.into(),
        bypass_cors_preflight: root.flag("bypassCorsPreflight"),
        host_verification: !root.has("hostVerification") || root.flag("hostVerification"),
        challenge: challenge::read(root),
        trust_bundle,
        jwt_rules,
        route_rules: RouteRules::new(rules, slashes),
        warnings: Vec::new(),
    }
}

fn read_trust_bundle(bundle: &Object<'_, '_>) -> TrustBundleConfig {
    bundle.only(&[
        "cluster",
        "authority",
        "path",
        "keys",
        "embedded",
        "pollToken",
        "wait",
        "staleness",
    ]);
    let cluster = bundle
        .required_text("cluster", "name the Envoy cluster that reaches the issuer")
        .unwrap_or_default();
    let path = bundle.text("path").unwrap_or("/bundle");
    if !path.starts_with('/') || path.contains(['?', '#', ' ']) {
        bundle.mistake("path", "must be a path that starts with / and has no query");
    }
    if bundle
        .text("authority")
        .is_some_and(|authority| Authority::parse(authority).is_none())
    {
        bundle.mistake("authority", "must be a host, and a port up to 65535 if any");
    }
    TrustBundleConfig {
        cluster: cluster.into(),
        authority: bundle.text("authority").unwrap_or(cluster).into(),
        path: path.into(),
        pins: read_pins(bundle),
        embedded: bundle.text("embedded").map(Into::into),
        poll_token: bundle.text("pollToken").map(Into::into),
        wait_s: bundle.seconds("wait", 25, 1, 55),
        staleness: read_staleness(bundle).unwrap_or(Staleness::DEFAULT),
    }
}

/// `keys` is the list that `meshseal keys pins` prints.
fn read_pins(bundle: &Object<'_, '_>) -> KeySet {
    let Some(list) = bundle.value("keys") else {
        bundle.mistake(
            "keys",
            "missing; pin the issuer's bundle key as `meshseal keys pins` prints it",
        );
        return KeySet::empty();
    };
    if !(1..=2).contains(&list.items().count()) {
        bundle.mistake(
            "keys",
            "must be a list of one bundle key, or two while the key changes",
        );
        return KeySet::empty();
    }
    match KeySet::from_config(&jwks_text(list), &[Alg::EdDsa], false) {
        Ok(set) if set.len() == list.items().count() => set,
        Ok(_) => {
            bundle.mistake(
                "keys",
                "one key is given twice; a second pin is for the next bundle key",
            );
            KeySet::empty()
        }
        Err(problems) => {
            problems
                .into_iter()
                .for_each(|problem| bundle.mistake(&problem.path, problem.message));
            KeySet::empty()
        }
    }
}

/// A list of JWKs, in the form of a set.
fn jwks_text(list: Value<'_>) -> String {
    format!("{{\"keys\":{list}}}")
}

fn read_staleness(parent: &Object<'_, '_>) -> Option<Staleness> {
    let object = parent.object("staleness")?;
    object.only(&["maxAge", "action"]);
    let max_age = object
        .has("maxAge")
        .then(|| object.seconds("maxAge", 0, 1, 7 * 24 * 3600));
    let serve = object.word("action", false, &[("DENY", false), ("SERVE", true)]);
    if serve && max_age.is_some() {
        object.mistake(
            "maxAge",
            "has no effect with action SERVE; leave one of them out",
        );
    }
    Some(Staleness { max_age, serve })
}

fn problems_at(object: &Object<'_, '_>, field: &str, problems: Vec<keys::KeyProblem>) {
    for problem in problems {
        let path = if problem.path.is_empty() {
            field.into()
        } else {
            format!("{field}.{}", problem.path)
        };
        object.mistake(&path, problem.message);
    }
}

#[cfg(test)]
#[path = "../config_tests.rs"]
mod tests;
