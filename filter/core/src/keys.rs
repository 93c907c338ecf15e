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
use crate::json::{Budget, Document, JsonError, Kind, Value};
use crate::rejection::Rejection;
use crate::{base64url, der, limits, pem};

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
        Self {
            path: path.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for KeyProblem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            out.write_str(&self.message)
        } else {
            write!(out, "{}: {}", self.path, self.message)
        }
    }
}

impl core::error::Error for KeyProblem {}

/// A key of a set that verifies nothing, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    /// The place in the set and the reason.
    pub problem: KeyProblem,
    /// Whether the key is faulty. The other keys are sound and serve another purpose, such as
    /// encryption.
    pub faulty: bool,
}

/// The keys of one issuer.
///
/// INVARIANT: no two keys have the same `kid` and the same algorithm.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeySet {
    keys: Vec<Key>,
    /// `kid` and algorithm of different keys that nothing tells apart.
    ambiguous: Vec<(Box<str>, Alg)>,
    passed_over: Vec<PassedOver>,
}

/// Reason why a JWK gives no key.
enum Unusable {
    /// Another key type, curve, use or algorithm. Common in the sets of identity providers.
    Foreign(&'static str, String),
    /// A mistake in a key that is meant for us.
    Wrong(&'static str, String),
}

impl KeySet {
    /// A set without keys.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Reads a set from configuration: every mistake is an error, all are reported at once. Keys of
    /// unknown types and of other uses are passed over; a set that leaves no key is an error.
    /// Secrets (`oct`) only if `symmetric_ok`.
    ///
    /// # Errors
    /// The mistakes, with their paths.
    pub fn from_config(
        jwks: &str,
        allowed: &[Alg],
        symmetric_ok: bool,
    ) -> Result<Self, Vec<KeyProblem>> {
        let document = parse_set(jwks).map_err(|problem| alloc::vec![problem])?;
        let mut set = Self::of(
            set_members(&document).map(|(path, jwk)| (path, read_key(jwk, allowed, symmetric_ok))),
        );
        set.leave_out_surplus(set_size(&document));
        let faulty = set.passed_over.iter().filter(|passed| passed.faulty);
        let mut problems: Vec<KeyProblem> = faulty.map(|passed| passed.problem.clone()).collect();
        if problems.is_empty() && set.keys.is_empty() {
            problems.push(KeyProblem::new(
                "keys",
                "no key here can verify an allowed algorithm; add one or allow its algorithm",
            ));
        }
        if problems.is_empty() {
            Ok(set)
        } else {
            Err(problems)
        }
    }

    /// Reads a set that a provider published: a JWK Set (RFC 7517 §5), or a map from key ids to
    /// certificates or public keys in PEM, as Google publishes them. Each key that cannot be used
    /// is passed over, with its reason.
    ///
    /// # Errors
    /// A document that is neither, or too big.
    pub fn from_provider(text: &str, allowed: &[Alg]) -> Result<Self, KeyProblem> {
        if text.len() <= limits::MAX_JWKS_BYTES
            && let Ok(document) = Document::lent(text, Budget::JWKS)
            && let Some(map) = pem::members(document.root())
        {
            if document.root().repeats_name() {
                return Err(no_set(JsonError::DuplicateName));
            }
            let first = map.take(limits::MAX_KEYS);
            let mut set =
                Self::of(first.map(|(kid, pem)| (shown(kid), read_pem(kid, pem, allowed))));
            set.leave_out_surplus(document.root().members().count());
            return Ok(set);
        }
        let document = parse_set(text)?;
        let mut set = Self::of(
            set_members(&document).map(|(path, jwk)| (path, read_key(jwk, allowed, false))),
        );
        set.leave_out_surplus(set_size(&document));
        Ok(set)
    }

    /// Sorts keys from what gives none. A key that is listed twice counts once; different keys with
    /// one `kid` and one algorithm are all passed over.
    fn of(read: impl Iterator<Item = (String, Result<Key, Unusable>)>) -> Self {
        let mut set = Self::default();
        let mut paths: Vec<String> = Vec::new();
        for (path, key) in read {
            match key {
                Ok(key)
                    if set
                        .keys
                        .iter()
                        .any(|known| known.id == key.id && known.kid == key.kid) => {}
                Ok(key) => {
                    set.keys.push(key);
                    paths.push(path);
                }
                Err(unusable) => set.passed_over.push(unusable.passed_over(&path)),
            }
        }
        set.leave_out_ambiguous(&paths);
        set
    }

    /// Notes the keys beyond [`limits::MAX_KEYS`], which were not read.
    fn leave_out_surplus(&mut self, listed: usize) {
        let surplus = listed.saturating_sub(limits::MAX_KEYS);
        if surplus > 0 {
            let message = format!(
                "{surplus} keys after the first {} are not read",
                limits::MAX_KEYS
            );
            self.passed_over.push(PassedOver {
                problem: KeyProblem::new("keys", message),
                faulty: true,
            });
        }
    }

    /// `paths` are the places of the keys.
    fn leave_out_ambiguous(&mut self, paths: &[String]) {
        let mut ambiguous: Vec<(Box<str>, Alg)> = Vec::new();
        for (at, key) in self.keys.iter().enumerate() {
            let Some(kid) = key.kid() else { continue };
            let is_same = |other: &Key| other.kid() == Some(kid) && other.alg == key.alg;
            let known = ambiguous
                .iter()
                .any(|(of, alg)| **of == *kid && *alg == key.alg);
            if known
                || self
                    .keys
                    .iter()
                    .enumerate()
                    .any(|(other_at, other)| other_at > at && is_same(other))
            {
                let message = format!(
                    "kid {} names different keys for {}; the provider must give each its own kid",
                    shown(kid),
                    key.alg.name()
                );
                let path = paths.get(at).cloned().unwrap_or_default();
                self.passed_over.push(PassedOver {
                    problem: KeyProblem { path, message },
                    faulty: true,
                });
                if !known {
                    ambiguous.push((kid.into(), key.alg));
                }
            }
        }
        if !ambiguous.is_empty() {
            self.keys.retain(|key| {
                !ambiguous
                    .iter()
                    .any(|(kid, alg)| key.kid() == Some(kid) && key.alg == *alg)
            });
            self.ambiguous = ambiguous;
        }
    }

    /// The key that a token names, and the algorithm it must be for. The algorithm tells keys with
    /// the same `kid` apart.
    ///
    /// # Errors
    /// [`Rejection::KeyUnknown`], [`Rejection::KeyAmbiguous`], [`Rejection::AlgorithmMismatch`].
    pub fn find(&self, kid: Option<&str>, alg: Alg) -> Result<&Key, Rejection> {
        let Some(kid) = kid else {
            return self.only_key_for(alg);
        };
        let mut other_algorithm = false;
        for key in self.keys.iter().filter(|key| key.kid() == Some(kid)) {
            if key.alg == alg {
                return Ok(key);
            }
            other_algorithm = true;
        }
        if self
            .ambiguous
            .iter()
            .any(|(of, of_alg)| **of == *kid && *of_alg == alg)
        {
            return Err(Rejection::KeyAmbiguous);
        }
        Err(if other_algorithm {
            Rejection::AlgorithmMismatch
        } else {
            Rejection::KeyUnknown
        })
    }

    fn only_key_for(&self, alg: Alg) -> Result<&Key, Rejection> {
        let mut fitting = self.keys.iter().filter(|key| key.alg == alg);
        let ambiguous = self.ambiguous.iter().any(|(_, of)| *of == alg);
        let Some(key) = fitting.next() else {
            return Err(if ambiguous {
                Rejection::KeyAmbiguous
            } else {
                Rejection::KeyUnknown
            });
        };
        // One key may have several names.
        if ambiguous || fitting.any(|other| other.id != key.id) {
            Err(Rejection::KeyAmbiguous)
        } else {
            Ok(key)
        }
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
        self.passed_over.len()
    }

    /// The keys that were passed over, with their reasons.
    #[must_use]
    pub fn passed_over(&self) -> &[PassedOver] {
        &self.passed_over
    }
}

impl Unusable {
    fn passed_over(self, path: &str) -> PassedOver {
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
fn shown(text: &str) -> String {
    let cut = text.char_indices().nth(MAX_SHOWN_CHARS);
    match cut.and_then(|(end, _)| text.get(..end)) {
        Some(start) => format!("\"{}…\"", start.escape_debug()),
        None => format!("\"{}\"", text.escape_debug()),
    }
}

fn parse_set(jwks: &str) -> Result<Document<'_>, KeyProblem> {
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

fn no_set(error: JsonError) -> KeyProblem {
    KeyProblem::new(
        "",
        format!("{error}; a JSON Web Key Set is {{\"keys\":[…]}}"),
    )
}

/// The keys that are read, each with its place.
fn set_members<'d>(document: &'d Document<'d>) -> impl Iterator<Item = (String, Value<'d>)> {
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
fn set_size(document: &Document<'_>) -> usize {
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

fn read_key(jwk: Value<'_>, allowed: &[Alg], symmetric_ok: bool) -> Result<Key, Unusable> {
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

impl Key {
    /// A key without a name, of its JWK parameters in the order of [`parameters`].
    fn of(family: Family, alg: Alg, public: PublicKey, parts: &[Vec<u8>]) -> Self {
        let spki = match parts {
            [one, two] => der::subject_public_key_info(family, one, two).map(Into::into),
            _ => None,
        };
        Self {
            id: KeyId::of(alg, parts),
            kid: None,
            alg,
            public,
            spki,
        }
    }
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
fn read_pem(kid: &str, text: Value<'_>, allowed: &[Alg]) -> Result<Key, Unusable> {
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

/// The RFC 7638 SHA-256 thumbprint of a JWK's public part, in base64url; `None` for what is not a
/// JWK.
#[must_use]
pub fn thumbprint(jwk: &str) -> Option<String> {
    let jwk: JsonWebKey<'_> = serde_json::from_str(jwk).ok()?;
    let public = if jwk.is_signing_key() {
        jwk.to_verifying_key()
    } else {
        jwk
    };
    // Written out it is the canonical form of RFC 7638 §3.2.
    Some(base64url::encode(&Sha256::digest(
        public.to_string().as_bytes(),
    )))
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
