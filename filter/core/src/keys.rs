//! Key sets (RFC 7517): public keys, each bound to exactly one algorithm (V5, V6).

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;

use jwt_compact::jwk::JsonWebKey;
use sha2::{Digest as _, Sha256};

use crate::alg::{Alg, Family};
use crate::crypto::{EcKey, EdKey, EdProblem, P256, P384, P521, RsaKey, RsaProblem, Secret};
use crate::json::{Budget, Document, Kind, Value};
use crate::rejection::Rejection;
use crate::{base64url, der, limits};

/// A key in the form that its algorithm's arithmetic wants.
#[derive(Clone, Debug, PartialEq)]
pub enum PublicKey {
    /// RSA of 2048 to [`limits::MAX_RSA_BITS`] bits.
    Rsa(RsaKey),
    /// A point of P-256.
    P256(EcKey<P256>),
    /// A point of P-384.
    P384(EcKey<P384>),
    /// A point of P-521.
    P521(EcKey<P521>),
    /// A point of Ed25519.
    Ed25519(EdKey),
    /// A shared secret, from configuration only.
    Secret(Secret),
}

/// What tells two keys apart whatever they are called: a digest of algorithm and public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 16]);

impl KeyId {
    /// Lengths stand before the parts, so that no two lists of parts run together.
    fn of(alg: Alg, parts: &[Vec<u8>]) -> Self {
        let mut hash = Sha256::new_with_prefix(alg.name());
        for part in parts {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        let (half, _) = digest.split_at(16);
        Self(half.try_into().unwrap_or_default())
    }
}

/// One key of a set, bound to one algorithm.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    id: KeyId,
    kid: Option<Box<str>>,
    alg: Alg,
    public: PublicKey,
    /// What a proxy that verifies by itself wants; none for keys of which no proxy does.
    spki: Option<Box<[u8]>>,
}

impl Key {
    /// What tells it from every other key. Tokens never see it.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The key id that tokens name (`kid`).
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The one algorithm it verifies.
    #[must_use]
    pub fn alg(&self) -> Alg {
        self.alg
    }

    /// The key as `SubjectPublicKeyInfo` (RFC 5280 §4.1), for RSA and ECDSA keys.
    #[must_use]
    pub fn spki(&self) -> Option<&[u8]> {
        self.spki.as_deref()
    }

    /// The key itself.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }
}

/// What is wrong with a key set, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyProblem {
    /// JSON path inside the set, such as `keys[2].e`; empty for the set itself.
    pub path: String,
    /// The mistake and its remedy.
    pub message: String,
}

impl KeyProblem {
    fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for KeyProblem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { out.write_str(&self.message) } else { write!(out, "{}: {}", self.path, self.message) }
    }
}

impl core::error::Error for KeyProblem {}

/// The keys of one issuer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeySet {
    keys: Vec<Key>,
    skipped: usize,
}

/// Why one JWK gives no key.
enum Unusable {
    /// Not for us: another key type, curve, use or algorithm. Common in the sets of identity providers.
    Foreign,
    /// Meant for us, and wrong.
    Wrong(&'static str, String),
}

impl KeySet {
    /// A set without keys.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Reads a set from configuration: every mistake is an error, all are reported at once. Keys of unknown types and of
    /// other uses are skipped and counted; a set that leaves no key is an error. Secrets (`oct`) only if `symmetric_ok`.
    ///
    /// # Errors
    /// The mistakes, with their paths.
    pub fn from_config(jwks: &str, allowed: &[Alg], symmetric_ok: bool) -> Result<Self, Vec<KeyProblem>> {
        let document = parse_set(jwks).map_err(|problem| alloc::vec![problem])?;
        let mut problems = Vec::new();
        let mut set = Self::default();
        for (at, jwk) in set_members(&document).enumerate() {
            match read_key(jwk, allowed, symmetric_ok) {
                Ok(key) => set.keys.push(key),
                Err(Unusable::Foreign) => set.skipped = set.skipped.saturating_add(1),
                Err(Unusable::Wrong(member, message)) => {
                    problems.push(KeyProblem::new(member_path(at, member), message));
                }
            }
        }
        problems.extend(set.duplicate_kid());
        if problems.is_empty() && set.keys.is_empty() {
            problems.push(KeyProblem::new(
                "keys",
                "no key here can verify an allowed algorithm; add one or allow its algorithm",
            ));
        }
        if problems.is_empty() { Ok(set) } else { Err(problems) }
    }

    /// Reads a set that a provider published: what cannot be used is skipped and counted.
    ///
    /// # Errors
    /// A set that is not one, is too big, or has a `kid` twice: then the last good set stays in force.
    pub fn from_provider(jwks: &str, allowed: &[Alg]) -> Result<Self, KeyProblem> {
        let document = parse_set(jwks)?;
        let mut set = Self::default();
        for jwk in set_members(&document) {
            match read_key(jwk, allowed, false) {
                Ok(key) => set.keys.push(key),
                Err(_) => set.skipped = set.skipped.saturating_add(1),
            }
        }
        match set.duplicate_kid() {
            Some(problem) => Err(problem),
            None => Ok(set),
        }
    }

    fn duplicate_kid(&self) -> Option<KeyProblem> {
        let kids: Vec<&str> = self.keys.iter().filter_map(Key::kid).collect();
        let twice = kids.iter().enumerate().find(|(at, kid)| kids.iter().take(*at).any(|other| other == *kid))?;
        Some(KeyProblem::new("keys", format!("kid `{}` is given twice; a kid names one key", twice.1.escape_debug())))
    }

    /// The key that a token names, and the algorithm it must be for.
    ///
    /// # Errors
    /// [`Rejection::KeyUnknown`], [`Rejection::KeyAmbiguous`], [`Rejection::AlgorithmMismatch`].
    pub fn find(&self, kid: Option<&str>, alg: Alg) -> Result<&Key, Rejection> {
        let Some(kid) = kid else { return self.only_key_for(alg) };
        let key = self.keys.iter().find(|key| key.kid() == Some(kid)).ok_or(Rejection::KeyUnknown)?;
        if key.alg == alg { Ok(key) } else { Err(Rejection::AlgorithmMismatch) }
    }

    fn only_key_for(&self, alg: Alg) -> Result<&Key, Rejection> {
        let mut fitting = self.keys.iter().filter(|key| key.alg == alg);
        let key = fitting.next().ok_or(Rejection::KeyUnknown)?;
        if fitting.next().is_some() { Err(Rejection::KeyAmbiguous) } else { Ok(key) }
    }

    /// The keys.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }

    /// The key ids; `None` for a key without one.
    pub fn kids(&self) -> impl Iterator<Item = Option<&str>> {
        self.keys.iter().map(Key::kid)
    }

    /// How many keys can be used.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key can be used.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many keys were passed over.
    #[must_use]
    pub fn skipped(&self) -> usize {
        self.skipped
    }
}

fn parse_set(jwks: &str) -> Result<Document<'_>, KeyProblem> {
    if jwks.len() > limits::MAX_JWKS_BYTES {
        return Err(KeyProblem::new("", format!("larger than {} bytes", limits::MAX_JWKS_BYTES)));
    }
    let document = Document::lent(jwks, Budget::JWKS)
        .map_err(|error| KeyProblem::new("", format!("{error}; a JSON Web Key Set is {{\"keys\":[…]}}")))?;
    match document.root().get("keys") {
        Some(keys) if keys.kind() == Kind::Array && keys.items().count() <= limits::MAX_KEYS => Ok(document),
        Some(keys) if keys.kind() == Kind::Array => {
            Err(KeyProblem::new("keys", format!("more than {} keys", limits::MAX_KEYS)))
        }
        _ => Err(KeyProblem::new("keys", "missing or not a list; a JSON Web Key Set is {\"keys\":[…]}")),
    }
}

fn set_members<'d>(document: &'d Document<'d>) -> impl Iterator<Item = Value<'d>> {
    document.root().get("keys").into_iter().flat_map(Value::items)
}

fn member_path(at: usize, member: &str) -> String {
    if member.is_empty() { format!("keys[{at}]") } else { format!("keys[{at}].{member}") }
}

fn wrong(member: &'static str, message: impl Into<String>) -> Unusable {
    Unusable::Wrong(member, message.into())
}

fn read_key(jwk: Value<'_>, allowed: &[Alg], symmetric_ok: bool) -> Result<Key, Unusable> {
    if jwk.kind() != Kind::Object {
        return Err(wrong("", "not an object"));
    }
    let family = family(jwk)?;
    check_use(jwk)?;
    check_no_private_members(jwk, family, symmetric_ok)?;
    let alg = bound_alg(jwk, family, allowed)?;
    let public = match family {
        Family::Rsa => read_rsa(jwk)?,
        Family::P256 => PublicKey::P256(point(jwk, 32, EcKey::new)?),
        Family::P384 => PublicKey::P384(point(jwk, 48, EcKey::new)?),
        Family::P521 => PublicKey::P521(point(jwk, 66, EcKey::new)?),
        Family::Ed25519 => read_ed25519(jwk)?,
        Family::Oct => read_secret(jwk, alg)?,
    };
    let parts = parameters(jwk, family)?;
    let spki = match parts.as_slice() {
        [one, two] => der::subject_public_key_info(family, one, two).map(Into::into),
        _ => None,
    };
    Ok(Key { id: KeyId::of(alg, &parts), kid: read_kid(jwk)?, alg, public, spki })
}

fn family(jwk: Value<'_>) -> Result<Family, Unusable> {
    let kty = jwk.get("kty").and_then(Value::as_str).ok_or_else(|| wrong("kty", "missing; RSA, EC, OKP or oct"))?;
    let crv = jwk.get("crv").and_then(Value::as_str);
    match (kty, crv) {
        ("RSA", _) => Ok(Family::Rsa),
        ("oct", _) => Ok(Family::Oct),
        ("EC", Some("P-256")) => Ok(Family::P256),
        ("EC", Some("P-384")) => Ok(Family::P384),
        ("EC", Some("P-521")) => Ok(Family::P521),
        ("OKP", Some("Ed25519")) => Ok(Family::Ed25519),
        ("EC" | "OKP", None) => Err(wrong("crv", "missing")),
        _ => Err(Unusable::Foreign),
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
    members.iter().map(|member| bytes(jwk, member)).collect()
}

/// RFC 7517 §4.2, §4.3: a key for another use is none of ours.
fn check_use(jwk: Value<'_>) -> Result<(), Unusable> {
    if let Some(usage) = jwk.get("use") {
        let usage = usage.as_str().ok_or_else(|| wrong("use", "not a string"))?;
        if usage != "sig" {
            return Err(Unusable::Foreign);
        }
    }
    if let Some(operations) = jwk.get("key_ops") {
        if operations.kind() != Kind::Array {
            return Err(wrong("key_ops", "not a list"));
        }
        if !operations.items().any(|operation| operation.as_str() == Some("verify")) {
            return Err(Unusable::Foreign);
        }
    }
    Ok(())
}

fn check_no_private_members(jwk: Value<'_>, family: Family, symmetric_ok: bool) -> Result<(), Unusable> {
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
    match private.into_iter().find(|member| jwk.get(member).is_some()) {
        Some(member) => {
            Err(wrong(member, "a private member in a public key set; whoever read it can sign, so replace the key"))
        }
        None => Ok(()),
    }
}

/// V5: the algorithm that the key names, else the one its family is bound to.
fn bound_alg(jwk: Value<'_>, family: Family, allowed: &[Alg]) -> Result<Alg, Unusable> {
    let Some(named) = jwk.get("alg") else {
        let of_family = allowed.iter().any(|alg| alg.family() == family);
        return family.bind(allowed).ok_or_else(|| {
            if of_family {
                wrong("alg", "missing, and the rule allows several algorithms for this key; name one")
            } else {
                Unusable::Foreign
            }
        });
    };
    let named = named.as_str().ok_or_else(|| wrong("alg", "not a string"))?;
    let Some(alg) = Alg::parse(named) else { return Err(Unusable::Foreign) };
    if alg.family() != family {
        return Err(wrong("alg", format!("{named} does not go with this kty and crv")));
    }
    if allowed.contains(&alg) { Ok(alg) } else { Err(Unusable::Foreign) }
}

fn read_kid(jwk: Value<'_>) -> Result<Option<Box<str>>, Unusable> {
    let Some(kid) = jwk.get("kid") else { return Ok(None) };
    match kid.as_str() {
        Some(kid) if !kid.is_empty() && kid.len() <= limits::MAX_KID_BYTES => Ok(Some(kid.into())),
        Some(_) => Err(wrong("kid", format!("empty or longer than {} bytes", limits::MAX_KID_BYTES))),
        None => Err(wrong("kid", "not a string")),
    }
}

fn bytes(jwk: Value<'_>, member: &'static str) -> Result<Vec<u8>, Unusable> {
    let text = jwk.get(member).and_then(Value::as_str).ok_or_else(|| wrong(member, "missing or not a string"))?;
    base64url::decode(text).ok_or_else(|| wrong(member, "not base64url without padding"))
}

fn read_rsa(jwk: Value<'_>) -> Result<PublicKey, Unusable> {
    let key = RsaKey::new(&bytes(jwk, "n")?, &bytes(jwk, "e")?).map_err(|problem| match problem {
        RsaProblem::Size(bits) => {
            wrong("n", format!("{bits} bits; RSA keys have 2048 to {} (RFC 7518 §3.3)", limits::MAX_RSA_BITS))
        }
        RsaProblem::Exponent => wrong("e", "not an odd public exponent of at least 3 for an odd modulus"),
    })?;
    Ok(PublicKey::Rsa(key))
}

/// A point in affine coordinates, and on the curve.
fn point<K>(jwk: Value<'_>, length: usize, read: fn(&[u8], &[u8]) -> Option<K>) -> Result<K, Unusable> {
    let coordinate = |member: &'static str| {
        let bytes = bytes(jwk, member)?;
        if bytes.len() == length {
            return Ok(bytes);
        }
        let told = format!("{} bytes; this curve's coordinates have {length} (RFC 7518 §6.2.1.2)", bytes.len());
        Err(wrong(member, told))
    };
    read(&coordinate("x")?, &coordinate("y")?).ok_or_else(|| wrong("x", "not a point on the curve"))
}

fn read_ed25519(jwk: Value<'_>) -> Result<PublicKey, Unusable> {
    let x: [u8; 32] = bytes(jwk, "x")?.try_into().map_err(|_| wrong("x", "not 32 bytes (RFC 8037 §2)"))?;
    EdKey::new(&x).map(PublicKey::Ed25519).map_err(|problem| match problem {
        EdProblem::NoPoint => wrong("x", "not the encoding of a point on the curve"),
        EdProblem::SmallOrder => wrong("x", "a point of small order; such a key verifies signatures that nobody made"),
    })
}

fn read_secret(jwk: Value<'_>, alg: Alg) -> Result<PublicKey, Unusable> {
    let secret = bytes(jwk, "k")?;
    #[expect(clippy::wildcard_enum_match_arm, reason = "the family is oct: only HS256 is left")]
    let least = match alg {
        Alg::Hs512 => 64,
        Alg::Hs384 => 48,
        _ => 32,
    };
    if secret.len() < least {
        return Err(wrong(
            "k",
            format!("{} bytes; {} needs at least {least} (RFC 7518 §3.2)", secret.len(), alg.name()),
        ));
    }
    Ok(PublicKey::Secret(Secret(secret)))
}

/// The RFC 7638 SHA-256 thumbprint of a JWK's public part, in base64url; `None` for what is not a JWK.
#[must_use]
pub fn thumbprint(jwk: &str) -> Option<String> {
    let jwk: JsonWebKey<'_> = serde_json::from_str(jwk).ok()?;
    let public = if jwk.is_signing_key() { jwk.to_verifying_key() } else { jwk };
    // Written out it is the canonical form of RFC 7638 §3.2.
    Some(base64url::encode(&Sha256::digest(public.to_string().as_bytes())))
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
