//! Reads any text as a plugin configuration: it is accepted, or rejected with at least one mistake.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meshseal_core::config::read_policy;

fuzz_target!(|text: &str| {
    if let Err(errors) = read_policy(text) {
        assert!(errors.iter().next().is_some());
    }
});
