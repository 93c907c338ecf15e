//! The tables of the keys in force, for all configurations of this VM: listeners share issuers, and
//! statics survive a change of configuration.

use std::cell::RefCell;

use meshseal_core::keys::KeyTables;

use crate::registry;

/// Rows of a table that one tick builds: below a millisecond in V8, so that no request waits
/// longer.
const ROWS_A_TICK: usize = 1;

thread_local! {
    static TABLES: RefCell<KeyTables> = RefCell::new(KeyTables::new());
}

/// Lends the tables out; none of them, should they be growing at the moment.
pub(crate) fn with<T>(use_them: impl FnOnce(&KeyTables) -> T) -> T {
    TABLES.with(|tables| match tables.try_borrow() {
        Ok(tables) => use_them(&tables),
        Err(_) => use_them(&KeyTables::new()),
    })
}

/// Keeps the tables of the keys that are in force now, and queues what is missing.
pub(crate) fn keep() {
    TABLES.with(|tables| {
        let Ok(mut tables) = tables.try_borrow_mut() else {
            return;
        };
        registry::with_keys(|keys| tables.keep(keys));
    });
}

/// Builds on for a tick; false when there is nothing left to build.
pub(crate) fn grow() -> bool {
    TABLES.with(|tables| {
        tables
            .try_borrow_mut()
            .is_ok_and(|mut tables| tables.advance(ROWS_A_TICK))
    })
}
