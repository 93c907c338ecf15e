//! Reads any text as a key set of a provider and of a configuration.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meshseal_core::jose::Alg;
use meshseal_core::keys::KeySet;

fuzz_target!(|text: &str| {
    if let Ok(set) = KeySet::from_config(text, &Alg::ALL, true) {
        assert!(!set.is_empty());
    }
    let _ = KeySet::from_provider(text, &Alg::ALL);
});
