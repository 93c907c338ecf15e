//! Any pattern against any path: never a panic, and what covers another matches whatever that
//! matches.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meshseal_core::policy::EscapedSlashes;
use meshseal_core::policy::host::{Authority, Host};
use meshseal_core::policy::matching::{Path, Pattern as _, Word};

fuzz_target!(|input: (&str, &str, &str)| {
    let (one, other, text) = input;
    if let (Ok(one), Ok(other)) = (
        Path::parse(one, EscapedSlashes::Keep),
        Path::parse(other, EscapedSlashes::Keep),
    ) {
        assert!(!(one.covers(&other) && other.matches(text)) || one.matches(text));
    }
    if let (Ok(one), Ok(other)) = (Word::parse(one), Word::parse(other)) {
        assert!(!(one.covers(&other) && other.matches(text)) || one.matches(text));
    }
    if let (Ok(one), Ok(other), Some(authority)) =
        (Host::parse(one), Host::parse(other), Authority::parse(text))
    {
        assert!(!(one.covers(&other) && other.matches(&authority)) || one.matches(&authority));
    }
});
