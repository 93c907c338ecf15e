//! Limits on the number of revocations: the capacity of proxies, and the quota of one client.

use meshseal_core::limits;

use super::EpochKind;

/// Bytes of a full bundle that revocations may take up: the size that proxies accept, less a
/// reserve for keys and the JWS envelope.
const BUDGET_BYTES: u64 = limits::MAX_BUNDLE_BYTES as u64 - 128 * 1024;

/// Length of the longest LEB128 of a token index, in bytes.
const INDEX_BYTES: u64 = 10;

/// Length of a digest that stands for a name, in base64url.
const DIGEST_BYTES: u64 = 22;

/// Limit that a change would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// Capacity of the proxies.
    #[error("proxies can take no more revocations")]
    Proxies,
    /// Quota of the client.
    #[error("the client has reached its limit of revoked tokens")]
    Client,
}

/// Client that revokes single tokens, with its quota.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoker {
    /// Id of the client.
    pub client: String,
    /// Largest number of revoked tokens at a time; `None` for an administrator, who may use the
    /// whole capacity.
    pub most: Option<u64>,
}

/// Size of the present revocations, as counted in the database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of tokens revoked one by one.
    pub tokens: u64,
    /// Difference between the highest and the lowest of their indices.
    pub span: u64,
    /// Kinds of epochs, each with the number of names and the sum of their lengths in bytes.
    pub names: Vec<(EpochKind, u64, u64)>,
}

impl Usage {
    /// Returns whether a change from `before` to this usage exceeds a limit. A change that adds
    /// nothing never does. Neither does a revocation of all tokens or of a key, since these must
    /// remain possible when nothing else fits.
    #[must_use]
    pub fn overflows(&self, before: &Self) -> bool {
        // Three limits: the number of tokens, the number of names of each kind, and the bytes.
        let more_tokens = self.tokens > before.tokens;
        let mut more_names = self.names.iter().filter(|(kind, count, _)| {
            !matches!(kind, EpochKind::All | EpochKind::Kid) && *count > before.count(*kind)
        });
        let too_many_tokens = more_tokens && self.tokens > limits::MAX_REVOKED as u64;
        let too_many_names = more_names
            .clone()
            .any(|(_, count, _)| *count > limits::MAX_EPOCHS as u64);
        let adds = more_tokens || more_names.next().is_some();
        too_many_tokens || too_many_names || (adds && self.bytes() > BUDGET_BYTES)
    }

    /// Returns the number of names of one kind.
    fn count(&self, kind: EpochKind) -> u64 {
        self.names
            .iter()
            .find(|(other, ..)| *other == kind)
            .map_or(0, |(_, count, _)| *count)
    }

    /// Returns an upper bound for the bytes that these revocations take in a bundle.
    fn bytes(&self) -> u64 {
        // Each name takes its own length or that of its digest, and 16 bytes for its time and the
        // punctuation of JSON. The base64 of the payload turns three bytes into four.
        let names: u64 = self
            .names
            .iter()
            .map(|&(_, count, bytes)| (bytes.max(DIGEST_BYTES * count) + 16 * count) * 4 / 3)
            .sum();
        // Gaps between indices are LEB128, with one byte for each seven bits. Since logarithms are
        // concave, equal gaps take the most bytes.
        let bits = self
            .span
            .checked_div(self.tokens)
            .and_then(u64::checked_ilog2)
            .map_or(0, |log| u64::from(log) + 1);
        let indices = INDEX_BYTES + self.tokens + self.tokens * bits / 7;
        // The set of indices is base64 inside the base64 of the payload: 4/3 squared.
        names + indices * 16 / 9
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshseal_core::revocation::IndexSet;

    fn tokens(tokens: u64, gap: u64) -> Usage {
        Usage {
            tokens,
            span: tokens * gap,
            names: Vec::new(),
        }
    }

    fn names(kind: EpochKind, count: u64, bytes: u64) -> Usage {
        Usage {
            names: vec![(kind, count, bytes)],
            ..Usage::default()
        }
    }

    #[test]
    fn number_of_tokens_is_limited() {
        let most = limits::MAX_REVOKED as u64;
        assert!(!tokens(most, 1_000_000).overflows(&tokens(most - 1, 1_000_000)));
        assert!(tokens(most + 1, 1).overflows(&tokens(most, 1)));
        assert!(
            !tokens(most + 1, 1).overflows(&tokens(most + 1, 1)),
            "adds nothing"
        );
    }

    #[test]
    fn estimated_bytes_bound_encoded_indices() {
        for gaps in [
            [1, 1, 1],
            [127, 128, 129],
            [1, 1, 10_000_000],
            [16_383, 16_384, 1],
            [1 << 40, 3, 1 << 20],
        ] {
            let gaps = gaps.iter().copied().cycle().take(999);
            let mut at = 1_u64 << 20;
            let set: IndexSet = gaps
                .map(|gap| {
                    at += gap;
                    at
                })
                .collect();
            let span = at - set.iter().next().unwrap();
            let needed = set.encode().len() as u64 * 16 / 9;
            let estimate = Usage {
                tokens: 999,
                span,
                names: Vec::new(),
            }
            .bytes();
            assert!(
                estimate >= needed && estimate < needed * 3 + 100,
                "{span}: {needed} {estimate}"
            );
        }
    }

    #[test]
    fn long_names_exhaust_the_byte_budget() {
        let usage = |count: u64| names(EpochKind::Subject, count, count * 256);
        assert!(!usage(5_000).overflows(&usage(4_999)));
        assert!(usage(10_000).overflows(&usage(9_999)));
    }

    #[test]
    fn limits_each_kind_except_keys_and_all() {
        let most = limits::MAX_EPOCHS as u64;
        let full = names(EpochKind::Subject, most, most);
        let one_more = names(EpochKind::Subject, most + 1, most + 1);
        assert!(one_more.overflows(&full));
        let with = |kind| Usage {
            names: [full.names.clone(), vec![(kind, 1, 0)]].concat(),
            ..Usage::default()
        };
        assert!(
            !with(EpochKind::Client).overflows(&full),
            "another kind has its own limit"
        );
        let stuffed = |more: &[_]| Usage {
            names: [&[(EpochKind::Grant, 9, 1 << 30)], more].concat(),
            ..Usage::default()
        };
        for kind in [EpochKind::All, EpochKind::Kid] {
            assert!(
                !stuffed(&[(kind, 1, 0)]).overflows(&stuffed(&[])),
                "{kind:?}"
            );
        }
        assert!(stuffed(&[(EpochKind::Client, 1, 0)]).overflows(&stuffed(&[])));
    }
}
