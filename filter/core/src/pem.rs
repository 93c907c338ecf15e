//! Public keys in PEM (RFC 7468), as Google publishes them: a JSON object of key ids and texts.

use alloc::string::String;
use alloc::vec::Vec;

use crate::base64url;
use crate::der::{self, PublicKeyInfo};
use crate::json::{Kind, Value};

const BEGIN: &str = "-----BEGIN ";
const CERTIFICATE: &str = "CERTIFICATE";
const PUBLIC_KEY: &str = "PUBLIC KEY";

/// The content of a PEM text.
pub(crate) enum Pem {
    /// An X.509 certificate (RFC 5280 §4.1).
    Certificate(Vec<u8>),
    /// A `SubjectPublicKeyInfo`.
    PublicKey(Vec<u8>),
}

impl Pem {
    /// The public key; `None` if the content is not the DER that the label announces.
    pub(crate) fn public_key(&self) -> Option<PublicKeyInfo<'_>> {
        match self {
            Self::Certificate(certificate) => der::certified_key(certificate),
            Self::PublicKey(key) => PublicKeyInfo::read(key),
        }
    }
}

/// The members of a map from key ids to PEM texts; `None` for any other document.
pub(crate) fn members<'d>(
    root: Value<'d>,
) -> Option<impl Iterator<Item = (&'d str, Value<'d>)> + use<'d>> {
    let is_pem = |value: Value<'_>| {
        value
            .as_str()
            .is_some_and(|text| text.trim_ascii_start().starts_with(BEGIN))
    };
    let is_set = root
        .get("keys")
        .is_some_and(|keys| keys.kind() == Kind::Array);
    (!is_set && root.members().any(|(_, value)| is_pem(value))).then(|| root.members())
}

/// Decodes the first block of a text. A provider that publishes a chain puts the signing
/// certificate first.
pub(crate) fn decode(text: &str) -> Option<Pem> {
    let (label, rest) = text
        .trim_ascii_start()
        .strip_prefix(BEGIN)?
        .split_once("-----")?;
    let (body, end) = rest.split_once("-----END ")?;
    end.strip_prefix(label)?.strip_prefix("-----")?;
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
