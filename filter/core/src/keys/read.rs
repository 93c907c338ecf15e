//! Reader for keys from JWKs (RFC 7517 §4) and PEM.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{Key, KeyProblem, PassedOver, PublicKey};
use crate::crypto::{EcKey, EdKey, EdProblem, RsaKey, RsaProblem, Secret};
use crate::jose::{Alg, Family};
use crate::json::{Budget, Document, JsonError, Kind, Value};
use crate::{base64url, limits, pem};

/// Reason why an entry of a key set is not a usable key.
pub(super) enum Unusable {
    /// Another key type, curve, use or algorithm, as is common in the sets of identity providers.
    Foreign(&'static str, String),
    /// A mistake in a key that could otherwise be used.
    Wrong(&'static str, String),
}

impl Unusable {
    /// Adds the location in the set.
    pub(super) fn passed_over(self, path: &str) -> PassedOver {
        let (faulty, member, message) = match self {
            Self::Foreign(member, message) => (false, member, message),
            Self::Wrong(member, message) => (true, member, message),
        };
        let path = if member.is_empty() {
            path.into()
        } else {
            format!("{path}.{member}")
        };
        PassedOver {
            problem: KeyProblem { path, message },
            faulty,
        }
    }
}

/// Maximum number of characters of a string from a key set that a message repeats.
const MAX_SHOWN_CHARS: usize = 64;

/// Formats a string from a key set for a message: quoted, escaped and truncated.
pub(super) fn shown(text: &str) -> String {
    // Cuts between characters, never inside one.
    let cut = text.char_indices().nth(MAX_SHOWN_CHARS);
    match cut.and_then(|(end, _)| text.get(..end)) {
        Some(start) => format!("\"{}…\"", start.escape_debug()),
        None => format!("\"{}\"", text.escape_debug()),
    }
}

/// Parses a JWK Set up to its list of keys.
pub(super) fn parse_set(jwks: &str) -> Result<Document<'_>, KeyProblem> {
    if jwks.len() > limits::MAX_JWKS_BYTES {
        return Err(KeyProblem::new(
            "",
            format!("larger than {} bytes", limits::MAX_JWKS_BYTES),
        ));
    }
    // Repeated names inside a key invalidate that key only; repeated names of the set are an error.
    let document = Document::lent(jwks, Budget::JWKS).map_err(no_set)?;
    if document.root().repeats_name() {
        return Err(no_set(JsonError::DuplicateName));
    }
    // An empty list is a valid set; its users decide whether they need a key.
    match document.root().get("keys") {
        Some(keys) if keys.kind() == Kind::Array => Ok(document),
        _ => Err(KeyProblem::new(
            "keys",
            "missing or not a list; a JSON Web Key Set is {\"keys\":[…]}",
        )),
    }
}

/// Returns the problem of a text that is not a JWK Set.
pub(super) fn no_set(error: JsonError) -> KeyProblem {
    KeyProblem::new(
        "",
        format!("{error}; a JSON Web Key Set is {{\"keys\":[…]}}"),
    )
}

/// Returns the entries that are read, each with its location.
pub(super) fn set_members<'d>(
    document: &'d Document<'d>,
) -> impl Iterator<Item = (String, Value<'d>)> {
    let keys = document
        .root()
        .get("keys")
        .into_iter()
        .flat_map(Value::items);
    keys.take(limits::MAX_KEYS)
        .enumerate()
        .map(|(at, jwk)| (format!("keys[{at}]"), jwk))
}

/// Returns the number of entries that a set lists.
pub(super) fn set_size(document: &Document<'_>) -> usize {
    document
        .root()
        .get("keys")
        .map_or(0, |keys| keys.items().count())
}

/// Returns the value of a member. Null, an empty list and an empty string count as absent, because
/// serializers write them for fields without a value.
fn member<'d>(jwk: Value<'d>, name: &str) -> Option<Value<'d>> {
    jwk.get(name).filter(|value| match value.kind() {
        Kind::Null => false,
        Kind::Array => value.items().next().is_some(),
        Kind::String => value.as_str() != Some(""),
        Kind::Bool | Kind::Number | Kind::Object => true,
    })
}

/// Returns the reason for a key that serves another purpose.
fn foreign(member: &'static str, message: impl Into<String>) -> Unusable {
    Unusable::Foreign(member, message.into())
}

/// Returns the reason for a faulty key.
fn wrong(member: &'static str, message: impl Into<String>) -> Unusable {
    Unusable::Wrong(member, message.into())
}

/// Reads a key from a JWK.
pub(super) fn read_key(
    jwk: Value<'_>,
    allowed: &[Alg],
    symmetric_ok: bool,
) -> Result<Key, Unusable> {
    if jwk.kind() != Kind::Object {
        return Err(wrong("", "not an object"));
    }
    if jwk.contains_repeats() {
        return Err(wrong("", "has two members of the same name"));
    }
    // Purpose before content: the parameters of a key for another use are not judged.
    let family = family(jwk)?;
    check_use(jwk)?;
    check_no_private_members(jwk, family, symmetric_ok)?;
    let alg = bound_alg(jwk, family, allowed)?;
    let parts = parameters(jwk, family)?;
    let public = if family == Family::Oct {
        read_secret(jwk, alg)?
    } else {
        public_key(family, &parts)?
    };
    Ok(Key {
        kid: read_kid(jwk)?,
        ..Key::of(family, alg, public, &parts)
    })
}

/// Reads the key type and curve.
fn family(jwk: Value<'_>) -> Result<Family, Unusable> {
    let kty = member(jwk, "kty")
        .and_then(Value::as_str)
        .ok_or_else(|| wrong("kty", "missing; RSA, EC, OKP or oct"))?;
    let crv = member(jwk, "crv").and_then(Value::as_str);
    match (kty, crv) {
        ("RSA", _) => Ok(Family::Rsa),
        ("oct", _) => Ok(Family::Oct),
        ("EC", Some("P-256")) => Ok(Family::P256),
        ("EC", Some("P-384")) => Ok(Family::P384),
        ("EC", Some("P-521")) => Ok(Family::P521),
        ("OKP", Some("Ed25519")) => Ok(Family::Ed25519),
        // Without the curve, the key type is ambiguous.
        ("EC" | "OKP", None) => Err(wrong("crv", "missing")),
        ("EC" | "OKP", Some(crv)) => {
            Err(foreign("crv", format!("unsupported curve {}", shown(crv))))
        }
        (kty, _) => Err(foreign(
            "kty",
            format!("unsupported key type {}", shown(kty)),
        )),
    }
}

/// Decodes the parameters of the key in the order of RFC 7518 §6.
fn parameters(jwk: Value<'_>, family: Family) -> Result<Vec<Vec<u8>>, Unusable> {
    let members: &[&'static str] = match family {
        Family::Rsa => &["n", "e"],
        Family::P256 | Family::P384 | Family::P521 => &["x", "y"],
        Family::Ed25519 => &["x"],
        Family::Oct => &["k"],
    };
    let parts = members.iter().map(|member| bytes(jwk, member));
    if family == Family::Rsa {
        // One key must have one identity, whatever the padding of its numbers.
        parts
            .map(|part| part.map(|number| without_zeros(&number).to_vec()))
            .collect()
    } else {
        parts.collect()
    }
}

/// Strips the leading zeros of a big-endian number.
fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// Rejects a key for another use (RFC 7517 §4.2, §4.3).
fn check_use(jwk: Value<'_>) -> Result<(), Unusable> {
    if let Some(usage) = member(jwk, "use") {
        let usage = usage.as_str().ok_or_else(|| wrong("use", "not a string"))?;
        if usage != "sig" {
            return Err(foreign("use", format!("{}, not \"sig\"", shown(usage))));
        }
    }
    if let Some(operations) = member(jwk, "key_ops") {
        if operations.kind() != Kind::Array {
            return Err(wrong("key_ops", "not a list"));
        }
        // Other operations may be listed beside `verify`.
        if !operations
            .items()
            .any(|operation| operation.as_str() == Some("verify"))
        {
            return Err(foreign("key_ops", "does not contain \"verify\""));
        }
    }
    Ok(())
}

/// Rejects a private key, and a shared secret unless it is allowed.
fn check_no_private_members(
    jwk: Value<'_>,
    family: Family,
    symmetric_ok: bool,
) -> Result<(), Unusable> {
    if family == Family::Oct {
        return if symmetric_ok {
            Ok(())
        } else {
            Err(wrong(
                "kty",
                "a shared secret (oct) is accepted only in the inline jwks of a rule whose \
                 algorithms name HS256, HS384 or HS512",
            ))
        };
    }
    // RFC 7518 §6.2.2 and §6.3.2, and RFC 8037 §2. A `k` outside of `oct` is a misplaced secret.
    let private = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
    match private.into_iter().find(|name| member(jwk, name).is_some()) {
        Some(name) => Err(wrong(
            name,
            "a private member in a public key set: its readers can sign tokens, so replace the key",
        )),
        None => Ok(()),
    }
}

/// Returns the algorithm of a key (V5): the one that it names, else the one to which its type is
/// bound.
fn bound_alg(jwk: Value<'_>, family: Family, allowed: &[Alg]) -> Result<Alg, Unusable> {
    let Some(named) = member(jwk, "alg") else {
        return family_alg(family, allowed);
    };
    let named = named.as_str().ok_or_else(|| wrong("alg", "not a string"))?;
    // Encryption algorithms end up here, too, so an unknown name is not a fault.
    let Some(alg) = Alg::parse(named) else {
        return Err(foreign(
            "alg",
            format!("unsupported algorithm {}", shown(named)),
        ));
    };
    if alg.family() != family {
        return Err(wrong(
            "alg",
            format!("{named} does not match this kty and crv"),
        ));
    }
    if allowed.contains(&alg) {
        Ok(alg)
    } else {
        Err(foreign(
            "alg",
            format!("{named} is not among the rule's algorithms"),
        ))
    }
}

/// Returns the algorithm of a key that names none.
fn family_alg(family: Family, allowed: &[Alg]) -> Result<Alg, Unusable> {
    let of_family = allowed.iter().any(|alg| alg.family() == family);
    family.bind(allowed).ok_or_else(|| {
        if of_family {
            wrong(
                "alg",
                "missing, and the rule allows several algorithms for this key; name one",
            )
        } else {
            foreign("kty", "the rule allows no algorithm for this type of key")
        }
    })
}

/// Reads an entry of a map from key ids to PEM texts. The certificate is not validated: the
/// provider's URL and TLS authenticate the map (ADR 15).
pub(super) fn read_pem(kid: &str, text: Value<'_>, allowed: &[Alg]) -> Result<Key, Unusable> {
    if kid.is_empty() || kid.len() > limits::MAX_KID_BYTES {
        return Err(wrong(
            "",
            format!(
                "the key id is empty or longer than {} bytes",
                limits::MAX_KID_BYTES
            ),
        ));
    }
    let der = pem::decode(text.as_str().unwrap_or_default())
        .ok_or_else(|| wrong("", "not a certificate or public key in PEM"))?;
    let public = der.public_key().ok_or_else(|| {
        wrong(
            "",
            "not the DER of an X.509 certificate or SubjectPublicKeyInfo",
        )
    })?;
    let (family, parts) = public
        .parameters()
        .ok_or_else(|| foreign("", "unsupported type of public key"))?;
    // A certificate names no JWS algorithm.
    let alg = family_alg(family, allowed)?;
    let public = public_key(family, &parts)?;
    Ok(Key {
        kid: Some(kid.into()),
        ..Key::of(family, alg, public, &parts)
    })
}

/// Builds an asymmetric key from its JWK parameters in the order of [`parameters`].
fn public_key(family: Family, parts: &[Vec<u8>]) -> Result<PublicKey, Unusable> {
    match (family, parts) {
        (Family::Rsa, [modulus, exponent]) => rsa(modulus, exponent),
        (Family::P256, [x, y]) => Ok(PublicKey::P256(on_curve(x, y, 32, EcKey::new)?)),
        (Family::P384, [x, y]) => Ok(PublicKey::P384(on_curve(x, y, 48, EcKey::new)?)),
        (Family::P521, [x, y]) => Ok(PublicKey::P521(on_curve(x, y, 66, EcKey::new)?)),
        (Family::Ed25519, [x]) => ed25519(x),
        (
            Family::Rsa
            | Family::P256
            | Family::P384
            | Family::P521
            | Family::Ed25519
            | Family::Oct,
            _,
        ) => Err(wrong("kty", "not a public key")),
    }
}

/// Reads the key id.
fn read_kid(jwk: Value<'_>) -> Result<Option<Box<str>>, Unusable> {
    let Some(kid) = member(jwk, "kid") else {
        return Ok(None);
    };
    match kid.as_str() {
        Some(kid) if kid.len() <= limits::MAX_KID_BYTES => Ok(Some(kid.into())),
        Some(_) => Err(wrong(
            "kid",
            format!("longer than {} bytes", limits::MAX_KID_BYTES),
        )),
        None => Err(wrong("kid", "not a string")),
    }
}

/// Decodes a required base64url member.
fn bytes(jwk: Value<'_>, member: &'static str) -> Result<Vec<u8>, Unusable> {
    let text = self::member(jwk, member)
        .and_then(Value::as_str)
        .ok_or_else(|| wrong(member, "missing or not a string"))?;
    base64url::decode(text).ok_or_else(|| wrong(member, "not base64url without padding"))
}

/// Builds an RSA key.
fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<PublicKey, Unusable> {
    let key = RsaKey::new(modulus, exponent).map_err(|problem| match problem {
        RsaProblem::Size(bits) => wrong(
            "n",
            format!(
                "{bits} bits; RSA keys have 2048 to {} (RFC 7518 §3.3)",
                limits::MAX_RSA_BITS
            ),
        ),
        RsaProblem::Exponent => wrong(
            "e",
            "not an odd public exponent of at least 3 for an odd modulus",
        ),
    })?;
    Ok(PublicKey::Rsa(key))
}

/// Checks the length of affine coordinates and builds a point that must be on the curve.
fn on_curve<K>(
    x: &[u8],
    y: &[u8],
    length: usize,
    read: fn(&[u8], &[u8]) -> Option<K>,
) -> Result<K, Unusable> {
    for (member, coordinate) in [("x", x), ("y", y)] {
        if coordinate.len() != length {
            let told = format!(
                "{} bytes; this curve's coordinates have {length} (RFC 7518 §6.2.1.2)",
                coordinate.len()
            );
            return Err(wrong(member, told));
        }
    }
    read(x, y).ok_or_else(|| wrong("x", "not a point on the curve"))
}

/// Builds an Ed25519 key.
fn ed25519(x: &[u8]) -> Result<PublicKey, Unusable> {
    // RFC 8037 §2: `x` holds the encoded point.
    let x: [u8; 32] = x
        .try_into()
        .map_err(|_| wrong("x", "not 32 bytes (RFC 8037 §2)"))?;
    EdKey::new(&x)
        .map(PublicKey::Ed25519)
        .map_err(|problem| match problem {
            EdProblem::NoPoint => wrong("x", "not the encoding of a point on the curve"),
            EdProblem::SmallOrder => {
                wrong("x", "low-order point: such a key accepts forged signatures")
            }
        })
}

/// Builds a shared secret, which must be as long as the hash (RFC 7518 §3.2).
fn read_secret(jwk: Value<'_>, alg: Alg) -> Result<PublicKey, Unusable> {
    let secret = bytes(jwk, "k")?;
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the family is oct: only HS256 is left"
    )]
    // A shorter secret would be weaker than the hash.
    let least = match alg {
        Alg::Hs512 => 64,
        Alg::Hs384 => 48,
        _ => 32,
    };
    if secret.len() < least {
        return Err(wrong(
            "k",
            format!(
                "{} bytes; {} needs at least {least} (RFC 7518 §3.2)",
                secret.len(),
                alg.name()
            ),
        ));
    }
    Ok(PublicKey::Secret(Secret(secret)))
}
