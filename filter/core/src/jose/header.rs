//! The JOSE header (RFC 7515 §4). Only `alg`, `kid`, `typ`, `crit` and `b64` are read. `jwk`,
//! `jku`, `x5u`, `x5c` and all others are ignored (V7), because a token must not choose the key to
//! trust.

use crate::base64url::Decoded;
use crate::inline::Inline;
use crate::jose::Alg;
use crate::json::{Budget, Document, JsonError, Kind, Value};
use crate::limits;
use crate::rejection::Rejection;

/// A `kid`, stored inline without a heap allocation.
pub(crate) type Kid = Inline<{ limits::MAX_KID_BYTES }>;

/// A well-formed header. Its content is unverified.
#[derive(Clone, Debug)]
pub struct Header {
    alg: Alg,
    kid: Option<Kid>,
    typ: Option<Inline<{ limits::MAX_TYP_BYTES }>>,
}

/// Size of the stack buffer for the decoded header; longer headers are decoded on the heap.
const SHORT_HEADER_BYTES: usize = 192;

impl Header {
    /// Reads the encoded header.
    ///
    /// # Errors
    /// [`Rejection::HeaderTooLarge`], [`Rejection::TokenMalformed`],
    /// [`Rejection::HeaderMalformed`], [`Rejection::TokenTooDeep`], [`Rejection::KidTooLong`],
    /// [`Rejection::CriticalHeader`], [`Rejection::TypeTooLong`],
    /// [`Rejection::AlgorithmNotAllowed`] for an algorithm that is unknown or `none`.
    pub fn parse(encoded: &str) -> Result<Self, Rejection> {
        if encoded.len() > limits::MAX_HEADER_SEGMENT_BYTES {
            return Err(Rejection::HeaderTooLarge);
        }
        // Limits come first: nothing above the size limit is decoded.
        let bytes = Decoded::<SHORT_HEADER_BYTES>::of(encoded).ok_or(Rejection::TokenMalformed)?;
        let text =
            core::str::from_utf8(bytes.as_bytes()).map_err(|_| Rejection::HeaderMalformed)?;
        let document = Document::lent(text, Budget::TOKEN)
            .map_err(|error| over_limit(error, Rejection::HeaderMalformed))?;
        // Only the parameters that validation needs are read.
        let root = document.root();
        if root.kind() != Kind::Object {
            return Err(Rejection::HeaderMalformed);
        }
        refuse_extensions(root)?;
        let alg = string(root, "alg")?.ok_or(Rejection::HeaderMalformed)?;
        let alg = Alg::parse(alg).ok_or(Rejection::AlgorithmNotAllowed)?;
        // An empty string counts as absent, as it does for claims.
        let kid = string(root, "kid")?
            .filter(|kid| !kid.is_empty())
            .map(Kid::new);
        let typ = string(root, "typ")?.map(Inline::new);
        Ok(Self {
            alg,
            kid: kid
                .map(|kid| kid.ok_or(Rejection::KidTooLong))
                .transpose()?,
            typ: typ
                .map(|typ| typ.ok_or(Rejection::TypeTooLong))
                .transpose()?,
        })
    }

    /// Returns the signature algorithm that the token claims.
    #[must_use]
    pub fn alg(&self) -> Alg {
        self.alg
    }

    /// Returns the key id, an opaque string.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_ref().map(Inline::as_str)
    }

    /// Takes the key id out of the header.
    pub(crate) fn into_kid(self) -> Option<Kid> {
        self.kid
    }

    /// Returns the media type of the token, as it was sent.
    #[must_use]
    pub fn typ(&self) -> Option<&str> {
        self.typ.as_ref().map(Inline::as_str)
    }
}

/// Maps a JSON error in a part of a token to a rejection; `malformed` stands for syntax errors.
pub(crate) fn over_limit(error: JsonError, malformed: Rejection) -> Rejection {
    match error {
        JsonError::TooDeep => Rejection::TokenTooDeep,
        JsonError::TooBig => Rejection::TokenTooLarge,
        JsonError::Encoding | JsonError::Syntax { .. } | JsonError::DuplicateName => malformed,
    }
}

/// Rejects extensions of the JWS format.
///
/// Meshseal implements no extension, so every `crit` names an unknown one; an empty or ill-typed
/// list is invalid anyway (RFC 7515 §4.1.11). `b64: false` changes the signed bytes (RFC 7797 §3).
fn refuse_extensions(header: Value<'_>) -> Result<(), Rejection> {
    let plain_payload = header
        .get("b64")
        .is_some_and(|b64| b64.as_bool() != Some(true));
    if header.get("crit").is_some() || plain_payload {
        return Err(Rejection::CriticalHeader);
    }
    Ok(())
}

/// Returns a string parameter of the header, or a rejection if it has another type.
fn string<'d>(header: Value<'d>, name: &str) -> Result<Option<&'d str>, Rejection> {
    header
        .get(name)
        .map(|value| value.as_str().ok_or(Rejection::HeaderMalformed))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base64url;
    use alloc::format;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn parse(json: &str) -> Result<Header, Rejection> {
        Header::parse(&base64url::encode(json.as_bytes()))
    }

    #[test]
    fn ignores_key_hints_in_header() {
        let header = parse(
            r#"{"typ":"at+jwt","jwk":{"kty":"oct","k":"AA"},"jku":"https://evil","x5c":["x"],
            "alg":"ES256","kid":"k\u0031"}"#,
        )
        .unwrap();
        assert_eq!(
            (header.alg(), header.kid(), header.typ()),
            (Alg::Es256, Some("k1"), Some("at+jwt"))
        );
    }

    #[test]
    fn each_invalid_header_has_own_code() {
        use Rejection::{AlgorithmNotAllowed, CriticalHeader, HeaderMalformed};
        for (json, expected) in [
            ("[]", HeaderMalformed),
            ("{}", HeaderMalformed),
            ("{", HeaderMalformed),
            (r#"{"alg":1}"#, HeaderMalformed),
            (r#"{"alg":"EdDSA","alg":"EdDSA"}"#, HeaderMalformed),
            (r#"{"alg":"EdDSA","kid":7}"#, HeaderMalformed),
            (r#"{"alg":"EdDSA","typ":null}"#, HeaderMalformed),
            (r#"{"alg":"none"}"#, AlgorithmNotAllowed),
            (r#"{"alg":"nOnE"}"#, AlgorithmNotAllowed),
            (r#"{"alg":"eddsa"}"#, AlgorithmNotAllowed),
            (r#"{"alg":"EdDSA","crit":["exp"],"exp":1}"#, CriticalHeader),
            (r#"{"alg":"EdDSA","crit":[]}"#, CriticalHeader),
            (r#"{"alg":"EdDSA","b64":false}"#, CriticalHeader),
            (r#"{"alg":"EdDSA","b64":"true"}"#, CriticalHeader),
        ] {
            assert_eq!(parse(json).unwrap_err(), expected, "{json}");
        }
        let long = format!(
            r#"{{"alg":"EdDSA","kid":"{}"}}"#,
            "k".repeat(limits::MAX_KID_BYTES + 1)
        );
        assert_eq!(parse(&long).unwrap_err(), Rejection::KidTooLong);
        let deep = format!(
            r#"{{"alg":"EdDSA","x":{}{}}}"#,
            "[".repeat(40),
            "]".repeat(40)
        );
        assert_eq!(parse(&deep).unwrap_err(), Rejection::TokenTooDeep);
        let huge = format!(
            r#"{{"alg":"EdDSA","x":"{}"}}"#,
            "k".repeat(limits::MAX_HEADER_SEGMENT_BYTES)
        );
        assert_eq!(parse(&huge).unwrap_err(), Rejection::HeaderTooLarge);
    }

    #[test]
    fn empty_kid_is_absent() {
        assert_eq!(parse(r#"{"alg":"EdDSA","kid":""}"#).unwrap().kid(), None);
    }
}
