//! Reasons for rejecting a request: a flat `Copy` type without text. Each reason has a code that
//! stays the same between versions.
//!
//! The filter maps [`Class`] to HTTP in one file. Operators find the codes in counters, response
//! code details and response bodies.

use crate::limits;

/// HTTP response to a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// 401 without an error code: the client sent no credentials (RFC 6750 §3.1).
    MissingToken,
    /// 400 without a challenge: the request itself is malformed, with or without credentials.
    BadRequest,
    /// 400 `invalid_request` (RFC 6750 §3.1).
    InvalidRequest,
    /// 401 `invalid_token`.
    InvalidToken,
    /// 403 `insufficient_scope`.
    InsufficientScope,
    /// 403: the token is valid, but the policy denies the request.
    Forbidden,
    /// 503 with Retry-After: the filter lacks the data for a decision (V16).
    Unavailable,
}

// One table defines variant, code and class, so that no rejection can lack one of them.
macro_rules! rejections {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $class:ident;)+) => {
        /// Reason for rejecting a request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Rejection { $($(#[$doc])* $name,)+ }

        impl Rejection {
            /// Every rejection, in the order of the checks.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Returns the stable code in kebab-case.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }

            /// Returns the class, which determines the HTTP response.
            #[must_use]
            pub const fn class(self) -> Class {
                match self { $(Self::$name => Class::$class,)+ }
            }
        }
    };
}

rejections! {
    /// Servers may interpret the path in different ways (dot segments, `//`, `\`, `;`, escapes that
    /// are not UTF-8 text).
    PathNotNormalized = "path-not-normalized", BadRequest;
    /// The path is longer than [`crate::limits::MAX_PATH_BYTES`], and rules compare paths.
    PathTooLong = "path-too-long", BadRequest;
    /// `:authority` is not one host with at most one port (RFC 3986 §3.2).
    HostMalformed = "host-malformed", BadRequest;
    /// The host is longer than [`crate::limits::MAX_HOST_BYTES`], and rules compare hosts.
    HostTooLong = "host-too-long", BadRequest;
    /// No token at the configured token locations.
    TokenMissing = "token-missing", MissingToken;
    /// More than one token or token location (V18, RFC 6750 §2).
    TokenRepeated = "token-repeated", InvalidRequest;
    /// Longer than [`crate::limits::MAX_TOKEN_BYTES`] (V3).
    TokenTooLarge = "token-too-large", InvalidToken;
    /// Not three base64url parts in their canonical encoding (V1, V2).
    TokenMalformed = "token-malformed", InvalidToken;
    /// The header segment is longer than [`crate::limits::MAX_HEADER_SEGMENT_BYTES`] (V3).
    HeaderTooLarge = "header-too-large", InvalidToken;
    /// `kid` is longer than [`crate::limits::MAX_KID_BYTES`] (V7).
    KidTooLong = "kid-too-long", InvalidToken;
    /// `typ` is longer than [`crate::limits::MAX_TYP_BYTES`] (V3).
    TypeTooLong = "type-too-long", InvalidToken;
    /// The signature is longer than [`crate::limits::MAX_SIGNATURE_BYTES`] (V3).
    SignatureTooLong = "signature-too-long", InvalidToken;
    /// Header or claims are nested deeper than [`crate::limits::MAX_JSON_DEPTH`] (V3).
    TokenTooDeep = "token-too-deep", InvalidToken;
    /// The JOSE header is not a strict JSON object, or a parameter has the wrong type (V3).
    HeaderMalformed = "header-malformed", InvalidToken;
    /// `crit` names an extension, or `b64` is false (V8).
    CriticalHeader = "critical-header", InvalidToken;
    /// `alg` is unknown, `none`, or not allowed for the issuer (V4).
    AlgorithmNotAllowed = "algorithm-not-allowed", InvalidToken;
    /// The claims are not a strict JSON object, or a registered claim has the wrong type (V3, V13).
    ClaimsMalformed = "claims-malformed", InvalidToken;
    /// No rule accepts this `iss` (V9).
    IssuerUnknown = "issuer-unknown", InvalidToken;
    /// The token is not of a type that the rule accepts, by its `typ` or by its claims (V11).
    TypeNotAllowed = "type-not-allowed", InvalidToken;
    /// The filter has not received keys for the issuer yet, so it cannot judge the token (V16).
    KeysUnavailable = "keys-unavailable", Unavailable;
    /// The fetched keys of the issuer are older than the rule's `staleness` allows (V16).
    KeysStale = "keys-stale", Unavailable;
    /// The signing key was revoked.
    KeyRevoked = "key-revoked", InvalidToken;
    /// The issuer has no key with this `kid`.
    KeyUnknown = "key-unknown", InvalidToken;
    /// Several keys match the token, and nothing in the token distinguishes them.
    KeyAmbiguous = "key-ambiguous", InvalidToken;
    /// `alg` differs from the one algorithm of the key (V5).
    AlgorithmMismatch = "algorithm-mismatch", InvalidToken;
    /// A claim that the rule requires is absent (V12, V13).
    ClaimMissing = "claim-missing", InvalidToken;
    /// `aud` contains none of the rule's audiences (V10).
    AudienceMismatch = "audience-mismatch", InvalidToken;
    /// `exp` has passed (V12).
    TokenExpired = "token-expired", InvalidToken;
    /// `nbf` is in the future (V12).
    TokenNotYetValid = "token-not-yet-valid", InvalidToken;
    /// `iat` is in the future (V12).
    TokenIssuedInFuture = "token-issued-in-future", InvalidToken;
    /// The lifetime exceeds the rule's maximum (V12).
    TokenLifetimeTooLong = "token-lifetime-too-long", InvalidToken;
    /// The token is bound to a key (`cnf`) and the binding cannot be checked here (V19).
    BindingUnsupported = "binding-unsupported", InvalidToken;
    /// The signature does not verify (V14).
    SignatureInvalid = "signature-invalid", InvalidToken;
    /// This single token was revoked (V15).
    TokenRevoked = "token-revoked", InvalidToken;
    /// All tokens that the issuer issued before a time were revoked.
    IssuedBeforeEpoch = "issued-before-epoch", InvalidToken;
    /// Tokens of this subject issued before a time were revoked.
    SubjectRevoked = "subject-revoked", InvalidToken;
    /// Tokens of this client issued before a time were revoked.
    ClientRevoked = "client-revoked", InvalidToken;
    /// Tokens of this session (`sid`) issued before a time were revoked.
    SessionRevoked = "session-revoked", InvalidToken;
    /// Tokens of this grant (`grant_id`) issued before a time were revoked.
    GrantRevoked = "grant-revoked", InvalidToken;
    /// Keys and revocations are older than the route accepts (V16).
    BundleStale = "bundle-stale", Unavailable;
    /// A claim cannot be forwarded as a header unchanged, or is too long, and its output has
    /// `onUnsafe: REJECT`.
    OutputUnsafe = "output-unsafe", Forbidden;
    /// A DENY rule matches.
    RuleDenied = "rule-denied", Forbidden;
    /// The route is known, the token lacks a required scope (V22).
    ScopeMissing = "scope-missing", InsufficientScope;
    /// No ALLOW rule matches: default deny.
    RuleUnmatched = "rule-unmatched", Forbidden;
}

/// Rejections that stand for an exceeded limit, with the limit in bytes.
pub(crate) const LIMITS: [(Rejection, usize); 7] = [
    (Rejection::PathTooLong, limits::MAX_PATH_BYTES),
    (Rejection::HostTooLong, limits::MAX_HOST_BYTES),
    (Rejection::TypeTooLong, limits::MAX_TYP_BYTES),
    (Rejection::TokenTooLarge, limits::MAX_TOKEN_BYTES),
    (Rejection::HeaderTooLarge, limits::MAX_HEADER_SEGMENT_BYTES),
    (Rejection::KidTooLong, limits::MAX_KID_BYTES),
    (Rejection::SignatureTooLong, limits::MAX_SIGNATURE_BYTES),
];

impl Rejection {
    /// Returns the limit that the request exceeds, if the rejection stands for one.
    #[must_use]
    pub fn limit(self) -> Option<usize> {
        if self == Self::TokenTooDeep {
            return Some(limits::MAX_JSON_DEPTH.into());
        }
        LIMITS
            .iter()
            .find(|(rejection, _)| *rejection == self)
            .map(|(_, limit)| *limit)
    }
}

impl core::fmt::Display for Rejection {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.write_str(self.code())
    }
}

impl core::error::Error for Rejection {}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn codes_are_distinct_kebab_case() {
        for (at, rejection) in Rejection::ALL.iter().enumerate() {
            let code = rejection.code();
            assert!(
                code.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'-'),
                "{code}"
            );
            assert!(
                Rejection::ALL
                    .iter()
                    .skip(at + 1)
                    .all(|other| other.code() != code),
                "{code} twice"
            );
        }
    }
}
