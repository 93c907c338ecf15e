//! Registry of the configurations of this VM and of the trust each one has.
//!
//! A change of `pluginConfig` creates a new root context in the same VM, and statics survive it. So
//! a new configuration can inherit bundles and fetched keys. [`Trust::inherit`] in core decides
//! which: the pins or the key source must be the same.

use std::cell::{Cell, Ref, RefCell};
use std::rc::Rc;

use meshseal_core::authn::{Moment, Trust};
use meshseal_core::keys::Key;
use meshseal_core::policy::Policy;

use crate::host::Host;

/// Maximum number of replaced configurations kept beside those in use.
const MOST: usize = 8;

struct Known {
    policy: Rc<Policy>,
    trust: Rc<RefCell<Trust>>,
}

impl Known {
    /// Returns true while an engine holds this configuration.
    fn is_in_use(&self) -> bool {
        // The registry itself has one reference.
        Rc::strong_count(&self.trust) > 1
    }
}

thread_local! {
    static KNOWN: RefCell<Vec<Known>> = const { RefCell::new(Vec::new()) };
    static START: Cell<Option<Moment>> = const { Cell::new(None) };
}

/// Returns the clock readings at this VM's first configuration. A later configuration starts from
/// them and not from a wall clock that may have been changed meanwhile.
pub(crate) fn start(host: &impl Host) -> Moment {
    let start = START.get().unwrap_or_else(|| host.moment());
    START.set(Some(start));
    start
}

/// Copies into `trust` the bundles and keys of older configurations that `policy` may use.
pub(crate) fn hand_down(policy: &Policy, trust: &mut Trust) {
    KNOWN.with(|known| {
        let Ok(known) = known.try_borrow() else {
            return;
        };
        // Newest first.
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

/// Passes a bundle that this configuration has accepted to all others in the VM. This happens
/// before the next poll acknowledges the bundle: a receipt of the issuer would not list another
/// configuration of this VM that still uses an older bundle.
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

/// Registers a configuration that becomes active.
pub(crate) fn remember(policy: &Rc<Policy>, trust: &Rc<RefCell<Trust>>) {
    KNOWN.with(|known| {
        let Ok(mut known) = known.try_borrow_mut() else {
            return;
        };
        // INVARIANT: configurations in use are never evicted, because they must get newer bundles.
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

/// Calls `look` with every key that verifies tokens under a configuration in use. Does not call it
/// while a configuration's trust is mutably borrowed, because the list would be incomplete.
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

/// Resets the registry, so that a test begins like a fresh VM on whichever thread it runs.
#[cfg(test)]
pub(crate) fn forget() {
    KNOWN.with(|known| known.borrow_mut().clear());
    START.set(None);
}
