//! Limits on the age of a bundle.

use core::fmt;

/// Behaviour when keys and revocations are too old (V16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staleness {
    /// Maximum age in seconds of the last confirmation; `None` leaves only the bundle's own
    /// not-after.
    pub max_age: Option<u64>,
    /// True if an old bundle stays in effect.
    pub serve: bool,
}

impl Staleness {
    /// Default: reject requests once the bundle's not-after has passed.
    pub const DEFAULT: Self = Self {
        max_age: None,
        serve: false,
    };

    /// Returns whether this serves whenever `other` does.
    pub(crate) fn is_as_patient_as(self, other: Self) -> bool {
        let longer = self
            .max_age
            .is_none_or(|ours| other.max_age.is_some_and(|theirs| ours >= theirs));
        // A finite `maxAge` never outlasts `serve`, and the not-after ends both.
        self.serve || (!other.serve && longer)
    }
}

/// Age of keys and revocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Freshness {
    /// Seconds since the issuer last confirmed the bundle; `None` without a bundle.
    pub age: Option<u64>,
    /// True if the bundle is past its not-after.
    pub expired: bool,
    /// True if the configuration to which the issuer gave the bundle would no longer use it. It
    /// applies whatever the rules of this configuration allow.
    pub overdue: bool,
}

/// Maximum time for which a policy accepts tokens on the basis of one bundle. A poll states it
/// (`x-meshseal-staleness`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StalenessBound {
    /// The given number of seconds after the bundle's issue, but not past its not-after.
    Seconds(u64),
    /// The time until the bundle's not-after.
    NotAfter,
    /// No limit: a rule has `action: SERVE`.
    Unbounded,
}

impl StalenessBound {
    /// Returns the bound of a rule.
    pub(crate) fn of(staleness: Staleness) -> Self {
        match staleness {
            Staleness { serve: true, .. } => Self::Unbounded,
            Staleness { max_age: None, .. } => Self::NotAfter,
            Staleness {
                max_age: Some(seconds),
                ..
            } => Self::Seconds(seconds),
        }
    }

    /// Returns the longer of two bounds.
    #[must_use]
    pub fn longer(self, other: Self) -> Self {
        // Seconds end at the not-after at the latest, so `NotAfter` is the longer bound.
        match (self, other) {
            (Self::Unbounded, _) | (_, Self::Unbounded) => Self::Unbounded,
            (Self::NotAfter, _) | (_, Self::NotAfter) => Self::NotAfter,
            (Self::Seconds(one), Self::Seconds(two)) => Self::Seconds(one.max(two)),
        }
    }

    /// Parses the form that [`Display`](fmt::Display) writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "not-after" => Some(Self::NotAfter),
            "unbounded" => Some(Self::Unbounded),
            _ if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().ok().map(Self::Seconds)
            }
            _ => None,
        }
    }
}

impl fmt::Display for StalenessBound {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seconds(seconds) => write!(out, "{seconds}"),
            Self::NotAfter => out.write_str("not-after"),
            Self::Unbounded => out.write_str("unbounded"),
        }
    }
}
