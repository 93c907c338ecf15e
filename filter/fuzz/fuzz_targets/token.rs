//! Validates any text as a token: no panic, and no acceptance, because the fuzzer has no key.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use meshseal_core::authn::{Trust, hints, validate};
use meshseal_core::policy::Policy;

const CONFIG: &str = r#"{"jwtRules":[{"issuer":"i","audiences":["a"],"jwks":{"keys":[
    {"kty":"OKP","crv":"Ed25519","alg":"EdDSA","kid":"k",
     "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}}]}"#;

static POLICY: OnceLock<Policy> = OnceLock::new();

fuzz_target!(|token: &str| {
    let policy = POLICY
        .get_or_init(|| meshseal_core::config::read_policy(CONFIG).expect("a good configuration"));
    assert!(validate(token, policy.authn(), &Trust::new(), 1_700_000_000).is_err());
    let _ = hints(token);
});
