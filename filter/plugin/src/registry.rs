//! What the configurations of this VM know. A change of `pluginConfig` makes a new root context in
//! the same VM, and statics survive it; what they hand down is decided in core
//! ([`Trust::inherit`]), by pins and places.

use std::cell::{Cell, Ref, RefCell};
use std::rc::Rc;

use meshseal_core::authn::{Moment, Trust};
use meshseal_core::keys::Key;
use meshseal_core::policy::Policy;

use crate::host::Host;

/// Replaced configurations that are remembered beside those in use.
const MOST: usize = 8;

struct Known {
    policy: Rc<Policy>,
    trust: Rc<RefCell<Trust>>,
}

impl Known {
    fn is_in_use(&self) -> bool {
        Rc::strong_count(&self.trust) > 1
    }
}

thread_local! {
    static KNOWN: RefCell<Vec<Known>> = const { RefCell::new(Vec::new()) };
    static START: Cell<Option<Moment>> = const { Cell::new(None) };
}

/// Returns the clocks at this VM's first configuration, so that a later one does not start from a
/// wall clock that was changed.
pub(crate) fn start(host: &impl Host) -> Moment {
    let start = START.get().unwrap_or_else(|| host.moment());
    START.set(Some(start));
    start
}

/// Takes over what older configurations know and this one may believe.
pub(crate) fn hand_down(policy: &Policy, trust: &mut Trust) {
    KNOWN.with(|known| {
        let Ok(known) = known.try_borrow() else {
            return;
        };
        for older in known.iter().rev() {
            if let Ok(theirs) = older.trust.try_borrow() {
                trust.inherit(
                    policy.authn(),
                    &theirs,
                    older.policy.authn(),
                    older.policy.staleness_bound(),
                );
            }
        }
    });
}

/// Gives a bundle that this configuration accepted to all others, before the issuer learns that
/// this one has it. An older bundle in the same VM is unknown to the issuer: no receipt would list
/// it.
pub(crate) fn share(policy: &Policy, trust: &Rc<RefCell<Trust>>) {
    KNOWN.with(|known| {
        let (Ok(known), Ok(newer)) = (known.try_borrow(), trust.try_borrow()) else {
            return;
        };
        for other in known
            .iter()
            .filter(|other| !Rc::ptr_eq(&other.trust, trust))
        {
            if let Ok(mut theirs) = other.trust.try_borrow_mut() {
                theirs.adopt(other.policy.authn(), &newer, policy.staleness_bound());
            }
        }
    });
}

/// Remembers a configuration that is in force from now on.
pub(crate) fn remember(policy: &Rc<Policy>, trust: &Rc<RefCell<Trust>>) {
    KNOWN.with(|known| {
        let Ok(mut known) = known.try_borrow_mut() else {
            return;
        };
        // One in use stays, however many there are: it must hear of newer bundles.
        if known.iter().filter(|entry| !entry.is_in_use()).count() >= MOST
            && let Some(oldest) = known.iter().position(|entry| !entry.is_in_use())
        {
            known.remove(oldest);
        }
        known.push(Known {
            policy: Rc::clone(policy),
            trust: Rc::clone(trust),
        });
    });
}

/// Shows every key that verifies tokens under a configuration in use. Nothing, if one of them is
/// being changed at the moment.
pub(crate) fn with_keys(look: impl FnOnce(&mut dyn Iterator<Item = &Key>)) {
    KNOWN.with(|known| {
        let Ok(known) = known.try_borrow() else {
            return;
        };
        let in_use = || known.iter().filter(|entry| entry.is_in_use());
        let trusts: Result<Vec<Ref<'_, Trust>>, _> =
            in_use().map(|entry| entry.trust.try_borrow()).collect();
        let Ok(trusts) = trusts else { return };
        let inline = in_use().flat_map(|entry| entry.policy.authn().inline_keys());
        look(&mut inline.chain(trusts.iter().flat_map(|trust| trust.keys())));
    });
}

/// A test begins as a fresh VM does, on whatever thread it runs.
#[cfg(test)]
pub(crate) fn forget() {
    KNOWN.with(|known| known.borrow_mut().clear());
    START.set(None);
}
