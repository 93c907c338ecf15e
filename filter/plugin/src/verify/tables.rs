//! Verification tables of the keys in use, shared by all configurations of this VM. Listeners often
//! share issuers, and statics survive a change of configuration.

use std::cell::RefCell;

use meshseal_core::keys::KeyTables;

use crate::registry;

/// Number of table rows built per tick. It takes less than a millisecond in V8, so no request is
/// delayed longer.
const ROWS_A_TICK: usize = 1;

thread_local! {
    static TABLES: RefCell<KeyTables> = RefCell::new(KeyTables::new());
}

/// Calls `use_them` with the tables, or with empty tables while the tables are being extended.
pub(crate) fn with<T>(use_them: impl FnOnce(&KeyTables) -> T) -> T {
    TABLES.with(|tables| match tables.try_borrow() {
        Ok(tables) => use_them(&tables),
        Err(_) => use_them(&KeyTables::new()),
    })
}

/// Keeps the tables of keys in use, drops all others and queues the missing ones.
pub(crate) fn keep() {
    TABLES.with(|tables| {
        let Ok(mut tables) = tables.try_borrow_mut() else {
            return;
        };
        registry::with_keys(|keys| tables.keep(keys));
    });
}

/// Builds the rows of one tick. Returns false when every table is complete.
pub(crate) fn grow() -> bool {
    TABLES.with(|tables| {
        tables
            .try_borrow_mut()
            .is_ok_and(|mut tables| tables.advance(ROWS_A_TICK))
    })
}
