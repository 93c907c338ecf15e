//! Key sets (RFC 7517 §5), and what they passed over.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::Key;
use super::read::{Unusable, no_set, parse_set, read_key, read_pem, set_members, set_size, shown};
use crate::jose::Alg;
use crate::json::{Budget, Document, JsonError};
use crate::rejection::Rejection;
use crate::{limits, pem};

/// What is wrong with a key set, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyProblem {
    /// JSON path inside the set, such as `keys[2].e`; empty for the set itself.
    pub path: String,
    /// The mistake and its remedy.
    pub message: String,
}

impl KeyProblem {
    pub(super) fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
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
