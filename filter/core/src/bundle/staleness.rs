//! How long a bundle may be acted on.

use core::fmt;

/// What to do when keys and revocations are too old (V16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staleness {
    /// Oldest acceptable confirmation in seconds; `None`: only the bundle's own not-after counts.
    pub max_age: Option<u64>,
    /// Whether to go on with what there is.
    pub serve: bool,
}

impl Staleness {
    /// Refuse once the bundle's not-after has passed.
    pub const DEFAULT: Self = Self {
        max_age: None,
        serve: false,
    };

    /// Whether this serves whenever `other` does.
    pub(crate) fn is_as_patient_as(self, other: Self) -> bool {
        let longer = self
            .max_age
            .is_none_or(|ours| other.max_age.is_some_and(|theirs| ours >= theirs));
        self.serve || (!other.serve && longer)
    }
}

/// How old keys and revocations are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Freshness {
    /// Seconds since the issuer last confirmed them; `None` without a bundle.
    pub age: Option<u64>,
    /// Whether the bundle is past its not-after.
    pub expired: bool,
    /// Whether the configuration to which the issuer gave the bundle would not act on it any more,
    /// whatever this one's rules say.
    pub overdue: bool,
}

/// Longest time for which a policy goes on accepting tokens by one bundle. A poll states it
/// (`x-meshseal-staleness`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StalenessBound {
    /// Until this many seconds after the bundle's issue, but not past its not-after.
    Seconds(u64),
    /// Until the bundle's not-after.
    NotAfter,
    /// Without limit: some rule says `action: SERVE`.
    Unbounded,
}

impl StalenessBound {
    /// The bound of a rule.
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

    /// The longer of two bounds.
    #[must_use]
    pub fn longer(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unbounded, _) | (_, Self::Unbounded) => Self::Unbounded,
            (Self::NotAfter, _) | (_, Self::NotAfter) => Self::NotAfter,
            (Self::Seconds(one), Self::Seconds(two)) => Self::Seconds(one.max(two)),
        }
    }

    /// Reads the form that [`Display`](fmt::Display) writes.
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
