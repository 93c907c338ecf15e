//! `jwtRules`: the accepted issuers, the token locations and the outputs for claims.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::reader::Object;
use super::{problems_at, read_staleness};
use crate::authn::{
    ClaimToHeader, FromHeader, JwtRule, KeySource, OnUnsafe, RemoteJwks, SubjectType, TokenType,
};
use crate::authz::host::Authority;
use crate::authz::rules::is_claim_name;
use crate::bundle::Staleness;
use crate::jose::Alg;
use crate::json::{Kind, Value};
use crate::keys::KeySet;
use crate::limits;
use crate::matcher::StringMatcher;

const FIELDS: [&str; 26] = [
    "issuer",
    "audiences",
    "trustBundle",
    "jwks",
    "jwksUri",
    "jwksCluster",
    "timeout",
    "refreshInterval",
    "staleness",
    "algorithms",
    "tokenTypes",
    "clockSkew",
    "maxLifetime",
    "requiredClaims",
    "audienceClaim",
    "scopeClaims",
    "subjectType",
    "fromHeaders",
    "fromCookies",
    "fromParams",
    "forwardOriginalToken",
    "outputPayloadToHeader",
    "outputClaimToHeaders",
    "onUnsafe",
    "outputMaxValueBytes",
    "outputMaxTotalBytes",
];

/// Reads one rule. The result is usable only if no mistake was recorded.
pub(super) fn read(rule: &Object<'_, '_>) -> JwtRule {
    rule.only(&FIELDS);
    let issuer = rule
        .required_text("issuer", "give the exact `iss` of the tokens")
        .unwrap_or_default();
    if !rule.has("audiences") {
        rule.mistake(
            "audiences",
            "missing; list the `aud` values of this service, else tokens for other services pass",
        );
    }
    let mut read = JwtRule::new(issuer, rule.texts("audiences"));
    // The algorithms come first: they decide which keys of an inline set are usable.
    read_algorithms(rule, &mut read);
    read.keys = read_keys(rule, &read.algorithms);
    read_token_types(rule, &mut read);
    read.clock_skew = rule.seconds("clockSkew", read.clock_skew, 0, limits::MAX_CLOCK_SKEW_S);
    read.max_lifetime = rule.seconds("maxLifetime", read.max_lifetime, 1, 366 * 24 * 3600);
    read_claims(rule, &mut read);
    read_locations(rule, &mut read);
    read_outputs(rule, &mut read);
    read
}

/// Reads the locations of claims that a provider does not place where the standards put them.
fn read_claims(rule: &Object<'_, '_>, read: &mut JwtRule) {
    let paths = |field: &str| {
        let texts = rule.texts(field);
        texts
            .iter()
            .enumerate()
            .filter_map(|(at, text)| claim_path(rule, &format!("{field}[{at}]"), text))
            .collect::<Vec<_>>()
    };
    if rule.has("requiredClaims") {
        read.required_claims = Some(paths("requiredClaims"));
    }
    read.scope_claims = paths("scopeClaims");
    read.audience_claim = rule
        .text("audienceClaim")
        .and_then(|text| claim_path(rule, "audienceClaim", text));
    read.subject_type = rule
        .object("subjectType")
        .and_then(|object| read_subject_type(&object));
}

/// Reads `subjectType`.
fn read_subject_type(object: &Object<'_, '_>) -> Option<SubjectType> {
    object.only(&["claim", "clientValues"]);
    let client_values = object
        .texts("clientValues")
        .iter()
        .enumerate()
        .filter_map(|(at, text)| {
            StringMatcher::parse(text)
                .map_err(|message| object.mistake(&format!("clientValues[{at}]"), message))
                .ok()
        })
        .collect();
    let claim = object.required_text(
        "claim",
        "name the claim that distinguishes services from users",
    )?;
    Some(SubjectType {
        claim: claim_path(object, "claim", claim)?,
        client_values,
    })
}

/// Reads the path of a claim: `a.b`, or `[a][b]` for names that contain dots.
fn claim_path(object: &Object<'_, '_>, field: &str, text: &str) -> Option<Vec<Box<str>>> {
    // Brackets allow names that contain dots.
    let bracketed = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let path: Vec<Box<str>> = match bracketed {
        Some(inner) => inner.split("][").map(Into::into).collect(),
        None => text.split('.').map(Into::into).collect(),
    };
    if !path.iter().all(|name| is_claim_name(name)) {
        object.mistake(
            field,
            "must be a claim name without quotes and surrounding spaces; write a.b or [a][b] for b \
             inside a",
        );
        return None;
    }
    // URL-shaped names are common (Auth0), and their dots are part of the name.
    if bracketed.is_none() && text.contains("://") {
        object.mistake(
            field,
            format!("a dot separates names here; write [{text}] for the claim of this name"),
        );
        return None;
    }
    if bracketed.is_none() && path.len() > 1 {
        warn_of_dots(object, field, text);
    }
    Some(path)
}

/// Adds a warning for a dot that is probably part of a name.
fn warn_of_dots(object: &Object<'_, '_>, field: &str, text: &str) {
    let whole = DOTTED_CLAIMS.contains(&text) || text.contains(['/', ':']);
    let Some(remedy) = inside_dotted_claim(text).or_else(|| whole.then(|| format!("[{text}]")))
    else {
        return;
    };
    object.warning(
        field,
        format!("a dot separates names here; write {remedy} if the name of a claim contains it"),
    );
}

/// Provider claims whose names contain dots: bound service account tokens of Kubernetes.
const DOTTED_CLAIMS: [&str; 1] = ["kubernetes.io"];

/// Returns the bracket notation for a member of a claim whose name contains dots.
pub(super) fn inside_dotted_claim(text: &str) -> Option<String> {
    let (claim, inner) = DOTTED_CLAIMS
        .iter()
        .find_map(|claim| Some((claim, text.strip_prefix(claim)?.strip_prefix('.')?)))?;
    Some(format!("[{claim}][{}]", inner.replace('.', "][")))
}

/// Reads `algorithms`; the default applies if the field is absent.
fn read_algorithms(rule: &Object<'_, '_>, read: &mut JwtRule) {
    if !rule.has("algorithms") {
        return;
    }
    // The list replaces the default, which may contain algorithms that the rule must not allow.
    read.algorithms.clear();
    for (at, name) in rule.texts("algorithms").iter().enumerate() {
        match Alg::parse(name) {
            Some(alg) if read.algorithms.contains(&alg) => {
                rule.mistake(&format!("algorithms[{at}]"), "given twice");
            }
            Some(alg) => read.algorithms.push(alg),
            None => {
                let known = Alg::ALL.map(Alg::name).join(", ");
                rule.mistake(
                    &format!("algorithms[{at}]"),
                    format!("unknown algorithm; known: {known}"),
                );
            }
        }
    }
}

/// Reads the one source of keys.
fn read_keys(rule: &Object<'_, '_>, algorithms: &[Alg]) -> KeySource {
    let bundle = rule.flag("trustBundle");
    let sources = [bundle, rule.has("jwks"), rule.has("jwksUri")]
        .into_iter()
        .filter(|given| *given)
        .count();
    // Two sources would leave open which one revokes a key.
    if sources != 1 {
        rule.mistake(
            "",
            "name exactly one source of keys: trustBundle: true, jwks, or jwksUri with jwksCluster",
        );
    }
    for field in ["jwksCluster", "timeout", "refreshInterval", "staleness"] {
        if rule.has(field) && !rule.has("jwksUri") {
            rule.mistake(field, "is valid only with jwksUri");
        }
    }
    if let Some(jwks) = rule.value("jwks") {
        return KeySource::Inline(read_inline(rule, jwks, algorithms));
    }
    // A shared secret must not come from a public key set.
    if algorithms.iter().any(|alg| alg.is_symmetric()) {
        rule.mistake(
            "algorithms",
            "HS256, HS384 and HS512 need a shared secret: an `oct` key in this rule's inline jwks \
             (V4)",
        );
    }
    if rule.has("jwksUri") {
        KeySource::Remote(read_remote(rule))
    } else {
        KeySource::Bundle
    }
}

/// Reads `jwks`. Istio writes the key set as a string; an object is easier to write in YAML.
fn read_inline(rule: &Object<'_, '_>, jwks: Value<'_>, algorithms: &[Alg]) -> KeySet {
    let text = match jwks.kind() {
        Kind::Object => format!("{jwks}"),
        Kind::Null | Kind::Bool | Kind::Number | Kind::String | Kind::Array => {
            rule.text("jwks").unwrap_or_default().into()
        }
    };
    // Shared secrets are accepted only if the rule names their algorithm (V4).
    let symmetric = rule.has("algorithms") && algorithms.iter().any(|alg| alg.is_symmetric());
    let set = match KeySet::from_config(&text, algorithms, symmetric) {
        Ok(set) => set,
        Err(problems) => {
            problems_at(rule, "jwks", problems);
            return KeySet::empty();
        }
    };
    if rule.has("algorithms") {
        for (at, alg) in algorithms
            .iter()
            .enumerate()
            .filter(|(_, alg)| set.iter().all(|key| key.alg() != **alg))
        {
            rule.mistake(
                &format!("algorithms[{at}]"),
                format!(
                    "no key of jwks can serve {}; add the key or drop the algorithm",
                    alg.name()
                ),
            );
        }
    }
    set
}

/// Reads `jwksUri` and the settings for fetching it.
fn read_remote(rule: &Object<'_, '_>) -> RemoteJwks {
    let cluster = rule
        .required_text("jwksCluster", "name the Envoy cluster that reaches jwksUri")
        .unwrap_or_default();
    let uri = rule.text("jwksUri").unwrap_or_default();
    let https = uri.starts_with("https://");
    let rest = uri
        .strip_prefix("https://")
        .or_else(|| uri.strip_prefix("http://"))
        .unwrap_or_default();
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    // The URI is sent as `:authority` and `:path` without further checks.
    let is_clean = path
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#');
    // An unusual authority would be sent to the provider as it is.
    let is_url = is_clean && Authority::parse(authority).is_some();
    if !uri.is_empty() && !is_url {
        rule.mistake(
            "jwksUri",
            "must be http(s)://host/path, with a port up to 65535 if any, without user, spaces or \
             fragment",
        );
    }
    let refresh_s = rule.seconds("refreshInterval", 300, 10, 24 * 3600);
    RemoteJwks {
        path: path.into(),
        authority: authority.into(),
        https,
        cluster: cluster.into(),
        timeout_ms: read_timeout(rule),
        refresh_s,
        max_age_s: read_max_age(rule, refresh_s),
    }
}

/// Number of refresh intervals after which fetched keys are stale by default.
const MAX_AGE_INTERVALS: u64 = 3;

/// Reads the maximum age of fetched keys; `None` means no limit.
fn read_max_age(rule: &Object<'_, '_>, refresh_s: u64) -> Option<u64> {
    let staleness = read_staleness(rule).unwrap_or(Staleness::DEFAULT);
    if staleness.max_age.is_some_and(|max_age| max_age < refresh_s) {
        rule.mistake(
            "staleness.maxAge",
            "must not be shorter than refreshInterval, otherwise valid keys would become stale",
        );
    }
    let default = refresh_s.saturating_mul(MAX_AGE_INTERVALS);
    if staleness.serve {
        None
    } else {
        Some(staleness.max_age.unwrap_or(default))
    }
}

/// Reads `timeout` in milliseconds.
fn read_timeout(rule: &Object<'_, '_>) -> u64 {
    let millis = rule.millis("timeout").unwrap_or(5_000);
    if !(100..=60_000).contains(&millis) {
        rule.mistake("timeout", "must be from 100ms to 60s");
    }
    millis
}

/// Reads `tokenTypes`; the default applies if the field is absent.
fn read_token_types(rule: &Object<'_, '_>, read: &mut JwtRule) {
    if !rule.has("tokenTypes") {
        return;
    }
    read.token_types.clear();
    for (at, name) in rule.texts("tokenTypes").iter().enumerate() {
        match name.as_ref() {
            "at+jwt" => read.token_types.push(TokenType::AccessToken),
            "JWT" => read.token_types.push(TokenType::Jwt),
            "ID" => read.token_types.push(TokenType::IdToken),
            _ => rule.mistake(
                &format!("tokenTypes[{at}]"),
                "must be at+jwt (RFC 9068 access tokens), JWT (also JOSE and no typ) or ID (ID \
                 tokens); other types are not tokens for a request",
            ),
        }
    }
}

/// Reads the token locations.
fn read_locations(rule: &Object<'_, '_>, read: &mut JwtRule) {
    read.from_cookies = rule.texts("fromCookies");
    for (at, _) in read
        .from_cookies
        .iter()
        .enumerate()
        .filter(|(_, name)| !is_cookie_name(name))
    {
        rule.mistake(
            &format!("fromCookies[{at}]"),
            "can never match: must be a cookie's name, without =, ; and blanks",
        );
    }
    read.from_params = rule.texts("fromParams");
    let headers = rule.objects("fromHeaders");
    if !headers.is_empty() {
        read.from_headers = headers.iter().map(read_from_header).collect();
    } else if !read.from_cookies.is_empty() || !read.from_params.is_empty() {
        // As in Envoy and Istio, naming any location replaces the default location.
        read.from_headers.clear();
    }
}

/// Reads an entry of `fromHeaders`.
fn read_from_header(object: &Object<'_, '_>) -> FromHeader {
    object.only(&["name", "prefix"]);
    let name = header_name(object, "name").unwrap_or_default();
    let prefix = object.value("prefix").map_or(Some(""), Value::as_str);
    if let Some(message) = prefix.map_or(Some(NO_PREFIX), wrong_prefix) {
        object.mistake("prefix", message);
    }
    let prefix = prefix.unwrap_or_default();
    // A word is compared case-sensitively, and also matches the beginning of a longer word.
    let credentials = matches!(&*name, "authorization" | "proxy-authorization");
    let word = !prefix.is_empty()
        && prefix
            .bytes()
            .all(|byte| byte.is_ascii_alphabetic() || byte == b'-');
    if word || (credentials && prefix.ends_with(|last: char| last.is_ascii_alphanumeric())) {
        let remedy =
            format!("has no blank at its end; for an authentication scheme write \"{prefix} \"");
        object.warning("prefix", remedy);
    }
    FromHeader {
        name,
        prefix: prefix.into(),
    }
}

/// Message for a prefix that is not a usable string.
const NO_PREFIX: &str = "must be a text without control characters, such as \"Bearer \"";

/// Returns the problem of a prefix that no header value can have.
fn wrong_prefix(prefix: &str) -> Option<&'static str> {
    if prefix.bytes().any(|byte| byte.is_ascii_control()) {
        return Some(NO_PREFIX);
    }
    if prefix.starts_with(' ') {
        return Some(
            "can never match: no value begins with a blank; remove the blank at the beginning",
        );
    }
    if prefix.ends_with("  ") {
        return Some(
            "can never match a single blank; write one at the end, which stands for any number",
        );
    }
    prefix
        .contains(',')
        .then_some("can never match: a comma separates the items of a header; remove it")
}

/// Returns whether a cookie may have this name. A name ends at the first `=`, and spaces around it
/// are not part of it.
fn is_cookie_name(name: &str) -> bool {
    name.trim() == name
        && !name
            .bytes()
            .any(|byte| matches!(byte, b'=' | b';') || byte.is_ascii_control())
}

/// Reads a header field name (RFC 9110 §5.1), not a pseudo-header, and converts it to lower case.
fn header_name(object: &Object<'_, '_>, field: &str) -> Option<Box<str>> {
    let name = object
        .required_text(field, "name the header")?
        .to_ascii_lowercase();
    if !name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    {
        object.mistake(field, "is not a header name (RFC 9110 §5.1)");
        return None;
    }
    Some(name.into())
}

/// Headers with a request's framing, routing or credentials, which an output must not overwrite.
const NOT_FOR_OUTPUT: [&str; 10] = [
    "host",
    "connection",
    "content-length",
    "content-type",
    "transfer-encoding",
    "te",
    "upgrade",
    "cookie",
    "authorization",
    "proxy-authorization",
];

/// Reads the name of an output header.
fn output_header(object: &Object<'_, '_>, field: &str) -> Option<Box<str>> {
    let name = header_name(object, field)?;
    if NOT_FOR_OUTPUT.contains(&name.as_ref())
        || name.starts_with("x-envoy-")
        || name.starts_with("x-forwarded-")
    {
        object.mistake(
            field,
            "the proxy or HTTP itself uses this header; choose another name",
        );
        return None;
    }
    Some(name)
}

/// Reads the headers for payload and claims.
fn read_outputs(rule: &Object<'_, '_>, read: &mut JwtRule) {
    read.forward_original_token = rule.flag("forwardOriginalToken");
    read.on_unsafe = read_on_unsafe(rule, read.on_unsafe);
    let most = limits::MAX_OUTPUT_BYTES;
    read.output_max_value_bytes =
        rule.count("outputMaxValueBytes", read.output_max_value_bytes, 1, most);
    read.output_max_total_bytes =
        rule.count("outputMaxTotalBytes", read.output_max_total_bytes, 1, most);
    if rule.has("outputPayloadToHeader") {
        read.output_payload_to_header = output_header(rule, "outputPayloadToHeader");
    }
    for object in rule.objects("outputClaimToHeaders") {
        object.only(&["header", "claim", "onUnsafe"]);
        let claim = object.required_text(
            "claim",
            "name the claim; write a.b or [a][b] for b inside a",
        );
        let claim = claim.and_then(|claim| claim_path(&object, "claim", claim));
        let on_unsafe = read_on_unsafe(&object, read.on_unsafe);
        if let (Some(header), Some(claim)) = (output_header(&object, "header"), claim) {
            read.output_claim_to_headers.push(ClaimToHeader {
                header,
                claim,
                on_unsafe,
            });
        }
    }
    // Two outputs to one header would overwrite each other.
    let outputs: Vec<&str> = outputs_of(read).collect();
    if outputs
        .iter()
        .enumerate()
        .any(|(at, name)| outputs.iter().take(at).any(|other| other == name))
    {
        rule.mistake("outputClaimToHeaders", "one header is given twice");
    }
}

/// Reads `onUnsafe`.
fn read_on_unsafe(object: &Object<'_, '_>, default: OnUnsafe) -> OnUnsafe {
    object.word(
        "onUnsafe",
        default,
        &[("OMIT", OnUnsafe::Omit), ("REJECT", OnUnsafe::Reject)],
    )
}

/// Returns the output headers of a rule.
fn outputs_of(rule: &JwtRule) -> impl Iterator<Item = &str> {
    let claims = rule
        .output_claim_to_headers
        .iter()
        .map(|output| output.header.as_ref());
    rule.output_payload_to_header
        .as_deref()
        .into_iter()
        .chain(claims)
}

/// Checks the rules together, for mistakes that a single rule does not show.
pub(super) fn check_together(root: &Object<'_, '_>, rules: &[JwtRule], has_bundle: bool) {
    for (at, rule) in rules.iter().enumerate() {
        let mistake =
            |field: &str, message: &str| root.mistake(&format!("jwtRules[{at}]{field}"), message);
        // Two rules of one issuer must differ in their keys, so that the signature selects one.
        if rules
            .iter()
            .take(at)
            .any(|earlier| earlier.issuer == rule.issuer && earlier.keys.overlaps(&rule.keys))
        {
            mistake(
                ".issuer",
                "given twice with the same keys; merge the audiences into one rule, or give each \
                 rule its own jwks or jwksUri",
            );
        }
        if matches!(rule.keys, KeySource::Bundle) && !has_bundle {
            mistake(
                ".trustBundle",
                "needs the top-level trustBundle, which configures the source of bundles",
            );
        }
        // The filter removes output headers before it looks for tokens.
        let reads_output = outputs_of(rule).any(|header| {
            rules
                .iter()
                .flat_map(|rule| &rule.from_headers)
                .any(|from| *from.name == *header)
        });
        if reads_output {
            mistake(
                "",
                "an output header is also a token location; the filter removes output headers \
                 before it looks for tokens, so choose another header",
            );
        }
    }
    if has_bundle
        && !rules.is_empty()
        && rules
            .iter()
            .all(|rule| !matches!(rule.keys, KeySource::Bundle))
    {
        root.mistake(
            "trustBundle",
            "is unused, because no rule has trustBundle: true; add it to a rule, or remove this",
        );
    }
}
