//! Any bytes as strict JSON: what is accepted, serde_json accepts too, and means the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meshseal_core::json::{Budget, Document};

fuzz_target!(|bytes: &[u8]| {
    let Ok(document) = Document::parse(bytes.to_vec(), Budget::TOKEN) else { return };
    let theirs: serde_json::Value = serde_json::from_slice(bytes).expect("accepted here, refused there");
    let ours: serde_json::Value = serde_json::from_str(&document.root().to_json()).expect("our own JSON");
    assert_eq!(ours, theirs);
});
