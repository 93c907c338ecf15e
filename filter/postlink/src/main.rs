//! Post-link step.
fn main() {}
