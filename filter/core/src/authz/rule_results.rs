//! Results of the route rules for one token, evaluated once. `from`, `when` and `scopes` of a rule
//! do not depend on the request, so the next request with the same token needs no claims.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::rules::{Caller, Rule};
use crate::authn::{JwtRule, KeySource};
use crate::jose::Claims;

/// Number of rules whose bits are stored inline, without a heap allocation.
const INLINE_RULES: usize = 32;

/// Two bits for each rule: whether `from` and `when` match the token, and whether the token has the
/// rule's scopes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleResults {
    /// Index of the rule that accepted the token; `None` without a token.
    jwt_rule: Option<usize>,
    /// True if the keys of the token's issuer come from the trust bundle.
    uses_bundle: bool,
    /// Bits of the first [`INLINE_RULES`] rules.
    first: u64,
    /// Bits of all further rules.
    more: Box<[u64]>,
}

impl RuleResults {
    /// Evaluates the rules for a token that `jwtRules[index]` accepted.
    pub(super) fn of(rules: &[Rule], claims: &Claims, rule: &JwtRule, index: usize) -> Self {
        Self {
            jwt_rule: Some(index),
            uses_bundle: matches!(rule.keys, KeySource::Bundle),
            ..Self::evaluate(rules, &Caller::new(Some((claims, rule))))
        }
    }

    /// Evaluates the rules for a request without a token.
    pub(super) fn anonymous(rules: &[Rule]) -> Self {
        Self::evaluate(rules, &Caller::new(None))
    }

    fn evaluate(rules: &[Rule], caller: &Caller<'_>) -> Self {
        let mut words = rules.chunks(INLINE_RULES).map(|rules| {
            // Two bits a rule, the lowest for the first rule: `bit` reads them in this order.
            let bits = rules
                .iter()
                .flat_map(|rule| [rule.matches_token(caller), rule.has_scopes(caller)]);
            bits.rev()
                .fold(0, |word: u64, bit| word << 1 | u64::from(bit))
        });
        let first = words.next().unwrap_or(0);
        Self {
            jwt_rule: None,
            uses_bundle: false,
            first,
            more: words.collect::<Vec<u64>>().into(),
        }
    }

    /// Returns the index of the rule that accepted the token; `None` without a token.
    #[must_use]
    pub fn jwt_rule(&self) -> Option<usize> {
        self.jwt_rule
    }

    /// Returns whether the keys of the token's issuer come from the trust bundle.
    pub(super) fn uses_bundle(&self) -> bool {
        self.uses_bundle
    }

    /// Returns whether `from` and `when` of a rule match the token.
    pub(super) fn matches(&self, rule: usize) -> bool {
        self.bit(rule, 0)
    }

    /// Returns whether the token has the scopes of a rule.
    pub(super) fn has_scopes(&self, rule: usize) -> bool {
        self.bit(rule, 1)
    }

    /// Returns one bit of a rule; an unknown rule never matches.
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

    /// Returns the number of bytes on the heap, for memory budgets.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        size_of_val(&*self.more)
    }
}
