//! Reads keys from JWKs (RFC 7517 §4) and PEM.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{Key, KeyProblem, PassedOver, PublicKey};
use crate::crypto::{EcKey, EdKey, EdProblem, RsaKey, RsaProblem, Secret};
use crate::jose::{Alg, Family};
use crate::json::{Budget, Document, JsonError, Kind, Value};
use crate::{base64url, limits, pem};

/// Reason why a JWK gives no key.
pub(super) enum Unusable {
    /// Another key type, curve, use or algorithm. Common in the sets of identity providers.
    Foreign(&'static str, String),
    /// A mistake in a key that is meant for us.
    Wrong(&'static str, String),
}

impl Unusable {
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

/// Most characters of a text from a key set that a message repeats.
const MAX_SHOWN_CHARS: usize = 64;

/// A text from a key set for a message: quoted, escaped, cut.
pub(super) fn shown(text: &str) -> String {
    let cut = text.char_indices().nth(MAX_SHOWN_CHARS);
    match cut.and_then(|(end, _)| text.get(..end)) {
        Some(start) => format!("\"{}…\"", start.escape_debug()),
        None => format!("\"{}\"", text.escape_debug()),
    }
}

pub(super) fn parse_set(jwks: &str) -> Result<Document<'_>, KeyProblem> {
    if jwks.len() > limits::MAX_JWKS_BYTES {
        return Err(KeyProblem::new(
            "",
            format!("larger than {} bytes", limits::MAX_JWKS_BYTES),
        ));
    }
    let document = Document::lent(jwks, Budget::JWKS).map_err(no_set)?;
    if document.root().repeats_name() {
        return Err(no_set(JsonError::DuplicateName));
    }
    match document.root().get("keys") {
        Some(keys) if keys.kind() == Kind::Array => Ok(document),
        _ => Err(KeyProblem::new(
            "keys",
            "missing or not a list; a JSON Web Key Set is {\"keys\":[…]}",
        )),
    }
}

pub(super) fn no_set(error: JsonError) -> KeyProblem {
    KeyProblem::new(
        "",
        format!("{error}; a JSON Web Key Set is {{\"keys\":[…]}}"),
    )
}

/// The keys that are read, each with its place.
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

/// The number of keys that a set lists.
pub(super) fn set_size(document: &Document<'_>) -> usize {
    document
        .root()
        .get("keys")
        .map_or(0, |keys| keys.items().count())
}

/// The value of a member. A member that is null, an empty list or an empty string counts as absent:
/// serializers write these for fields without a value.
fn member<'d>(jwk: Value<'d>, name: &str) -> Option<Value<'d>> {
    jwk.get(name).filter(|value| match value.kind() {
        Kind::Null => false,
        Kind::Array => value.items().next().is_some(),
        Kind::String => value.as_str() != Some(""),
        Kind::Bool | Kind::Number | Kind::Object => true,
    })
}

fn foreign(member: &'static str, message: impl Into<String>) -> Unusable {
    Unusable::Foreign(member, message.into())
}

fn wrong(member: &'static str, message: impl Into<String>) -> Unusable {
    Unusable::Wrong(member, message.into())
}

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

/// What the key consists of.
fn parameters(jwk: Value<'_>, family: Family) -> Result<Vec<Vec<u8>>, Unusable> {
    let members: &[&'static str] = match family {
        Family::Rsa => &["n", "e"],
        Family::P256 | Family::P384 | Family::P521 => &["x", "y"],
        Family::Ed25519 => &["x"],
        Family::Oct => &["k"],
    };
    // One key has one identity, however its numbers are padded.
    let canonical = |bytes: Vec<u8>| {
        if family == Family::Rsa {
            without_zeros(&bytes).to_vec()
        } else {
            bytes
        }
    };
    members
        .iter()
        .map(|member| bytes(jwk, member).map(canonical))
        .collect()
}

/// A big-endian number in as few bytes as hold it.
fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// RFC 7517 §4.2, §4.3: a key for another use is none of ours.
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
        if !operations
            .items()
            .any(|operation| operation.as_str() == Some("verify"))
        {
            return Err(foreign("key_ops", "does not contain \"verify\""));
        }
    }
    Ok(())
}

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
                "a shared secret (oct) is accepted only in the inline jwks of a rule whose algorithms name HS256, HS384 or HS512",
            ))
        };
    }
    let private = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
    match private.into_iter().find(|name| member(jwk, name).is_some()) {
        Some(name) => Err(wrong(
            name,
            "a private member in a public key set; whoever read it can sign, so replace the key",
        )),
        None => Ok(()),
    }
}

/// V5: the algorithm that the key names, else the one its family is bound to.
fn bound_alg(jwk: Value<'_>, family: Family, allowed: &[Alg]) -> Result<Alg, Unusable> {
    let Some(named) = member(jwk, "alg") else {
        return family_alg(family, allowed);
    };
    let named = named.as_str().ok_or_else(|| wrong("alg", "not a string"))?;
    let Some(alg) = Alg::parse(named) else {
        return Err(foreign(
            "alg",
            format!("unsupported algorithm {}", shown(named)),
        ));
    };
    if alg.family() != family {
        return Err(wrong(
            "alg",
            format!("{named} does not go with this kty and crv"),
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

/// The algorithm of a key that names none.
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

/// A key of a map from key ids to PEM texts. The certificate is not validated: the provider's URL
/// and TLS vouch for the map (ADR 15).
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
    let alg = family_alg(family, allowed)?;
    let public = public_key(family, &parts)?;
    Ok(Key {
        kid: Some(kid.into()),
        ..Key::of(family, alg, public, &parts)
    })
}

/// An asymmetric key of its JWK parameters in the order of [`parameters`].
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

fn bytes(jwk: Value<'_>, member: &'static str) -> Result<Vec<u8>, Unusable> {
    let text = self::member(jwk, member)
        .and_then(Value::as_str)
        .ok_or_else(|| wrong(member, "missing or not a string"))?;
    base64url::decode(text).ok_or_else(|| wrong(member, "not base64url without padding"))
}

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

/// A point in affine coordinates, and on the curve.
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

fn ed25519(x: &[u8]) -> Result<PublicKey, Unusable> {
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

fn read_secret(jwk: Value<'_>, alg: Alg) -> Result<PublicKey, Unusable> {
    let secret = bytes(jwk, "k")?;
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the family is oct: only HS256 is left"
    )]
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
