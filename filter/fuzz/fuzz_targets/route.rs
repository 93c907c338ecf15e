//! Matches any patterns against any path: no panic, and a pattern that covers another matches
//! everything that the other matches.
#![no_main]

use libfuzzer_sys::fuzz_target;
use meshseal_core::authz::EscapedSlashes;
use meshseal_core::authz::host::{Authority, HostMatcher};
use meshseal_core::authz::matching::PathMatcher;
use meshseal_core::matcher::{Matcher as _, StringMatcher};

fuzz_target!(|input: (&str, &str, &str)| {
    let (one, other, text) = input;
    if let (Ok(one), Ok(other)) = (
        PathMatcher::parse(one, EscapedSlashes::Keep),
        PathMatcher::parse(other, EscapedSlashes::Keep),
    ) {
        assert!(!(one.covers(&other) && other.matches(text)) || one.matches(text));
    }
    if let (Ok(one), Ok(other)) = (StringMatcher::parse(one), StringMatcher::parse(other)) {
        assert!(!(one.covers(&other) && other.matches(text)) || one.matches(text));
    }
    if let (Ok(one), Ok(other), Some(authority)) = (
        HostMatcher::parse(one),
        HostMatcher::parse(other),
        Authority::parse(text),
    ) {
        assert!(!(one.covers(&other) && other.matches(&authority)) || one.matches(&authority));
    }
});
