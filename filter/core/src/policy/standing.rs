//! What the rules make of one token, decided once: a rule's `from`, `when` and `scopes` look at
//! nothing of the request, so the next request with the same token needs none of its claims.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::rules::{Caller, Rule};
use crate::claims::Claims;
use crate::config::JwtRule;

/// Rules whose bits fit beside the token without a place of their own on the heap.
const INLINE_RULES: usize = 32;

/// Two bits for each rule: whether `from` and `when` match the token, and whether it has the rule's
/// scopes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    jwt_rule: Option<usize>,
    first: u64,
    more: Box<[u64]>,
}

impl Standing {
    /// Of a token accepted by `jwtRules[jwt_rule]`; or, without claims, of no token at all.
    pub(super) fn of(
        rules: &[Rule],
        token: Option<(&Claims, &JwtRule)>,
        jwt_rule: Option<usize>,
    ) -> Self {
        let caller = Caller::new(token);
        let word = |rules: &[Rule]| {
            let bits = rules
                .iter()
                .flat_map(|rule| [rule.matches_token(&caller), rule.has_scopes(&caller)]);
            bits.rev()
                .fold(0, |word: u64, bit| word << 1 | u64::from(bit))
        };
        let mut words = rules.chunks(INLINE_RULES).map(word);
        let first = words.next().unwrap_or(0);
        Self {
            jwt_rule,
            first,
            more: words.collect::<Vec<u64>>().into(),
        }
    }

    /// The index of the rule that accepted the token; none for no token.
    #[must_use]
    pub fn jwt_rule(&self) -> Option<usize> {
        self.jwt_rule
    }

    pub(super) fn matches(&self, rule: usize) -> bool {
        self.bit(rule, 0)
    }

    pub(super) fn has_scopes(&self, rule: usize) -> bool {
        self.bit(rule, 1)
    }

    fn bit(&self, rule: usize, which: usize) -> bool {
        let word = match rule / INLINE_RULES {
            0 => self.first,
            beyond => self
                .more
                .get(beyond.saturating_sub(1))
                .copied()
                .unwrap_or(0),
        };
        let shift = (rule % INLINE_RULES)
            .saturating_mul(2)
            .saturating_add(which);
        word >> shift & 1 == 1
    }

    /// Bytes on the heap, for memory budgets.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        size_of_val(&*self.more)
    }
}
