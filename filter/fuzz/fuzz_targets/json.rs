//! Reads any bytes as strict JSON: serde_json accepts every accepted text, with the same meaning.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meshseal_core::json::{Budget, Document};

fuzz_target!(|bytes: &[u8]| {
    let Ok(document) = Document::parse(bytes.to_vec(), Budget::TOKEN) else {
        return;
    };
    let theirs: serde_json::Value = match serde_json::from_slice(bytes) {
        Ok(theirs) => theirs,
        // JSON bounds no number; serde_json bounds those that it keeps as `f64`.
        Err(error) if error.to_string().starts_with("number out of range") => return,
        Err(error) => panic!("accepted here, refused there: {error}"),
    };
    // Numbers are written with the digits that were read, so that both texts read as the same
    // value.
    let ours: serde_json::Value =
        serde_json::from_str(&document.root().to_string()).expect("our own JSON");
    assert_eq!(ours, theirs);
});
