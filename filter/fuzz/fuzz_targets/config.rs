//! Any text as a plugin configuration: refused with at least one mistake, or accepted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meshseal_core::policy::Policy;

fuzz_target!(|text: &str| {
    if let Err(errors) = Policy::from_json(text) {
        assert!(errors.iter().next().is_some());
    }
});
