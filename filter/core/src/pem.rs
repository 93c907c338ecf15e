//! Public keys in PEM (RFC 7468). Google publishes them as a JSON object that maps key ids to PEM
//! texts.

use alloc::string::String;
use alloc::vec::Vec;

use crate::base64url;
use crate::der::{self, PublicKeyInfo};
use crate::json::{Kind, Value};

const BEGIN: &str = "-----BEGIN ";
const CERTIFICATE: &str = "CERTIFICATE";
const PUBLIC_KEY: &str = "PUBLIC KEY";

/// Decoded content of a PEM text.
pub(crate) enum Pem {
    /// An X.509 certificate (RFC 5280 §4.1).
    Certificate(Vec<u8>),
    /// A `SubjectPublicKeyInfo`.
    PublicKey(Vec<u8>),
}

impl Pem {
    /// Returns the public key; `None` if the content is not the DER structure that the label names.
    pub(crate) fn public_key(&self) -> Option<PublicKeyInfo<'_>> {
        match self {
            Self::Certificate(certificate) => der::certified_key(certificate),
            Self::PublicKey(key) => PublicKeyInfo::read(key),
        }
    }
}

/// Returns the members of a map from key ids to PEM texts; `None` for any other document.
pub(crate) fn members<'d>(
    root: Value<'d>,
) -> Option<impl Iterator<Item = (&'d str, Value<'d>)> + use<'d>> {
    // An object with `keys` is a JWK set, even if another member holds PEM.
    let is_set = root
        .get("keys")
        .is_some_and(|keys| keys.kind() == Kind::Array);
    let has_pem = root.members().any(|(_, value)| {
        value
            .as_str()
            .is_some_and(|text| text.trim_ascii_start().starts_with(BEGIN))
    });
    (!is_set && has_pem).then(|| root.members())
}

/// Decodes the first block of a text. Providers that publish a chain put the signing certificate
/// first.
pub(crate) fn decode(text: &str) -> Option<Pem> {
    let (label, rest) = text
        .trim_ascii_start()
        .strip_prefix(BEGIN)?
        .split_once("-----")?;
    let (body, end) = rest.split_once("-----END ")?;
    end.strip_prefix(label)?.strip_prefix("-----")?;
    // PEM uses the standard alphabet, and the strict base64url decoder is reused: map `+` and `/`.
    let mut url_safe = String::with_capacity(body.len());
    for character in body.trim_ascii_end().trim_end_matches('=').chars() {
        match character {
            '+' => url_safe.push('-'),
            '/' => url_safe.push('_'),
            '-' | '_' => return None,
            character if character.is_ascii_whitespace() => {}
            character => url_safe.push(character),
        }
    }
    let der = base64url::decode(&url_safe)?;
    match label {
        CERTIFICATE => Some(Pem::Certificate(der)),
        PUBLIC_KEY => Some(Pem::PublicKey(der)),
        _ => None,
    }
}
