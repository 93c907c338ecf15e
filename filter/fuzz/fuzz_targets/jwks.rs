//! Any text as a key set, as a provider might send it and as a configuration might hold it.
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
