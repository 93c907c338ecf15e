//! How many revocations there may be: what proxies can take, and how much of that one client may
//! fill.

use meshseal_core::limits;

use super::EpochKind;

/// Bytes of a full bundle that revocations may take up: what proxies accept, less room for keys and
/// the envelope.
const BUDGET_BYTES: u64 = limits::MAX_BUNDLE_BYTES as u64 - 128 * 1024;

/// Longest LEB128 of a token's index, in bytes.
const INDEX_BYTES: u64 = 10;

/// Bytes of a digest that stands for a name, in base64url.
const DIGEST_BYTES: u64 = 22;

/// Which limit a change would break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// Proxies can take no more.
    #[error("proxies can take no more revocations")]
    Proxies,
    /// This client's own tokens fill its share.
    #[error("the client has as many revoked tokens as it may")]
    Client,
}

/// Who revokes single tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoker {
    /// The client.
    pub client: String,
    /// How many tokens it may have revoked at a time; `None` for an administrator, who may fill the
    /// set.
    pub most: Option<u64>,
}

/// What present revocations take up, as counted in the database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens revoked one by one.
    pub tokens: u64,
    /// From the lowest to the highest of their indices.
    pub span: u64,
    /// For each kind of epoch: how many names, and their bytes.
    pub names: Vec<(EpochKind, u64, u64)>,
}

impl Usage {
    /// Whether a change that leads from `before` to here is too much. What adds nothing never is,
    /// nor is revoking all or a key: that is the way out when nothing else fits.
    #[must_use]
    pub fn overflows(&self, before: &Self) -> bool {
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

    fn count(&self, kind: EpochKind) -> u64 {
        self.names
            .iter()
            .find(|(other, ..)| *other == kind)
            .map_or(0, |(_, count, _)| *count)
    }

    /// Bytes of a bundle with all of this, at most.
    fn bytes(&self) -> u64 {
        // A name, or the digest of one, its time and the punctuation of JSON. Base64 makes four
        // bytes of three.
        let of = |count: u64, bytes: u64| (bytes.max(DIGEST_BYTES * count) + 16 * count) * 4 / 3;
        let names: u64 = self
            .names
            .iter()
            .map(|(_, count, bytes)| of(*count, *bytes))
            .sum();
        // Gaps between indices are LEB128: a byte for each seven bits. As logarithms are concave,
        // equal gaps take the most.
        let bits = self
            .span
            .checked_div(self.tokens)
            .and_then(u64::checked_ilog2)
            .map_or(0, |log| u64::from(log) + 1);
        let indices = INDEX_BYTES + self.tokens + self.tokens * bits / 7;
        // In base64, and that in the base64 of the payload.
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
    fn there_is_room_for_as_many_scattered_tokens_as_proxies_hold_and_not_for_one_more() {
        let most = limits::MAX_REVOKED as u64;
        assert!(!tokens(most, 1_000_000).overflows(&tokens(most - 1, 1_000_000)));
        assert!(tokens(most + 1, 1).overflows(&tokens(most, 1)));
        assert!(
            !tokens(most + 1, 1).overflows(&tokens(most + 1, 1)),
            "adds nothing"
        );
    }

    #[test]
    fn the_estimate_of_bytes_is_never_below_what_it_takes() {
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
    fn long_names_fill_the_budget_before_their_number_does() {
        let usage = |count: u64| names(EpochKind::Subject, count, count * 256);
        assert!(!usage(5_000).overflows(&usage(4_999)));
        assert!(usage(10_000).overflows(&usage(9_999)));
    }

    #[test]
    fn each_kind_has_its_own_number_and_keys_and_all_always_fit() {
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
            "another kind has room"
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
