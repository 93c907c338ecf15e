//! Key sets (RFC 7517 §5) and their unusable keys.

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

/// A problem in a key set, with its location and remedy.
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

/// A key of a set that cannot be used, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    /// Location in the set and the reason.
    pub problem: KeyProblem,
    /// True if the key is faulty; false if it is valid but serves another purpose, such as
    /// encryption.
    pub faulty: bool,
}

/// The keys of one issuer.
///
/// INVARIANT: no two keys have the same `kid` and the same algorithm.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeySet {
    keys: Vec<Key>,
    /// `kid` and algorithm shared by different keys.
    ambiguous: Vec<(Box<str>, Alg)>,
    passed_over: Vec<PassedOver>,
}

impl KeySet {
    /// Returns a set without keys.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Reads a set from the configuration. Every mistake is an error, and all are reported at once.
    ///
    /// Keys of unknown types and of other uses are skipped; a set without any usable key is an
    /// error. Secrets (`oct`) are accepted only if `symmetric_ok` is true.
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
        // A rule without any key would reject every token.
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
    /// certificates or public keys in PEM, as Google publishes them. Unusable keys are skipped,
    /// each with its reason.
    ///
    /// # Errors
    /// [`KeyProblem`] for a document that is neither, or too large.
    pub fn from_provider(text: &str, allowed: &[Alg]) -> Result<Self, KeyProblem> {
        // Google's format first: only a document with PEM texts matches it.
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

    /// Separates keys from unusable entries. A key listed twice counts once; different keys with
    /// the same `kid` and algorithm are all skipped.
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
        // Repetitions are detected after reading, because the later key may be the different one.
        set.leave_out_ambiguous(&paths);
        set
    }

    /// Records that the keys beyond [`limits::MAX_KEYS`] were not read.
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

    /// Removes different keys with the same `kid` and algorithm; `paths` are the locations of the
    /// keys.
    fn leave_out_ambiguous(&mut self, paths: &[String]) {
        // All of them are removed: choosing one would depend on the order in the document.
        let mut ambiguous: Vec<(Box<str>, Alg)> = Vec::new();
        for (at, key) in self.keys.iter().enumerate() {
            let Some(kid) = key.kid() else { continue };
            let known = ambiguous
                .iter()
                .any(|(of, alg)| **of == *kid && *alg == key.alg);
            let mut later = self.keys.iter().skip(at.saturating_add(1));
            if known || later.any(|other| other.kid() == Some(kid) && other.alg == key.alg) {
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

    /// Returns the key that a token names for this algorithm. The algorithm distinguishes keys with
    /// the same `kid`.
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
        // A known `kid` with another algorithm has its own code: it may be an attack (V5).
        Err(if other_algorithm {
            Rejection::AlgorithmMismatch
        } else {
            Rejection::KeyUnknown
        })
    }

    /// Returns the only key for an algorithm, for a token without `kid`.
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
        // The same key may be listed under several key ids.
        if ambiguous || fitting.any(|other| other.id != key.id) {
            Err(Rejection::KeyAmbiguous)
        } else {
            Ok(key)
        }
    }

    /// Returns the keys.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }

    /// Returns the key ids; `None` for a key without one.
    pub fn kids(&self) -> impl Iterator<Item = Option<&str>> {
        self.keys.iter().map(Key::kid)
    }

    /// Returns the number of usable keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns whether the set has no usable key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the number of skipped keys.
    #[must_use]
    pub fn skipped(&self) -> usize {
        self.passed_over.len()
    }

    /// Returns the skipped keys with their reasons.
    #[must_use]
    pub fn passed_over(&self) -> &[PassedOver] {
        &self.passed_over
    }
}
