use super::*;
use crate::host::fake::FakeHost;
use meshseal_core::keys::Portable;

/// Returns SPKI and signature of each known answer, in the form in which the proxy gets them.
fn good_ones() -> Vec<(Vec<u8>, Vec<u8>)> {
    answers()
        .into_iter()
        .map(|(key, signature)| (key.spki().unwrap().to_vec(), as_asked(&key, &signature)))
        .collect()
}

fn answers() -> Vec<(Key, Vec<u8>)> {
    let known: serde_json::Value = serde_json::from_str(KNOWN_ANSWERS).unwrap();
    let mut answers = Vec::new();
    for answer in known["answers"].as_array().unwrap() {
        let signature = base64url::decode(answer["signature"].as_str().unwrap()).unwrap();
        answers.push((only_key(&answer["jwk"]), signature));
    }
    answers
}

/// Reads a JWK as the configuration does.
fn only_key(jwk: &serde_json::Value) -> Key {
    let jwks = serde_json::json!({ "keys": [jwk] }).to_string();
    let set = KeySet::from_config(&jwks, &Alg::ALL, false).unwrap();
    set.iter().next().unwrap().clone()
}

fn as_asked(key: &Key, signature: &[u8]) -> Vec<u8> {
    let ecdsa = matches!(key.alg(), Alg::Es256 | Alg::Es384 | Alg::Es512);
    if ecdsa {
        der::ecdsa_signature(signature).unwrap()
    } else {
        signature.to_vec()
    }
}

fn honest() -> FakeHost {
    let good = good_ones();
    FakeHost::new().with_judge(move |asked| {
        Some(
            good.iter()
                .any(|(spki, signature)| asked.spki == spki && asked.signature == signature),
        )
    })
}

const HOSTED: [Alg; 6] = [
    Alg::Rs256,
    Alg::Rs384,
    Alg::Rs512,
    Alg::Es256,
    Alg::Es384,
    Alg::Es512,
];

#[test]
fn known_answers_are_correct() {
    let known: serde_json::Value = serde_json::from_str(KNOWN_ANSWERS).unwrap();
    let text = known["text"].as_str().unwrap().as_bytes();
    for (key, mut signature) in answers() {
        assert!(
            Portable.verify(&key, text, &signature),
            "{}",
            key.alg().name()
        );
        *signature.last_mut().unwrap() ^= 1;
        assert!(
            !Portable.verify(&key, text, &signature),
            "{}",
            key.alg().name()
        );
    }
}

#[test]
fn host_verifies_algorithms_that_it_has_proven() {
    assert_eq!(Hosted::proven(&honest()), Hosted(HOSTED.to_vec()));
    let good = good_ones();
    let no_sha512 = FakeHost::new().with_judge(move |asked| {
        let known = good
            .iter()
            .any(|(spki, signature)| asked.spki == spki && asked.signature == signature);
        (asked.hash != "sha512").then_some(known)
    });
    assert_eq!(
        Hosted::proven(&no_sha512),
        Hosted(vec![Alg::Rs256, Alg::Rs384, Alg::Es256, Alg::Es384])
    );
}

#[test]
fn constant_answers_prove_no_algorithm() {
    for says in [None, Some(true), Some(false)] {
        assert_eq!(
            Hosted::proven(&FakeHost::new().with_judge(move |_| says)),
            Hosted::default(),
            "{says:?}"
        );
    }
    assert_eq!(Hosted::proven(&FakeHost::new()), Hosted::default());
}

#[test]
fn uses_proven_host_or_else_module() {
    let (key, signature) = answers().swap_remove(0);
    let verify = |host: FakeHost, hosted: &Hosted| {
        let known: serde_json::Value = serde_json::from_str(KNOWN_ANSWERS).unwrap();
        let text = known["text"].as_str().unwrap().as_bytes();
        let verdict = Verifier {
            host: &host,
            hosted: Some(hosted),
        }
        .verify(&key, text, &signature);
        (verdict, host.judged())
    };
    let proven = Hosted(vec![Alg::Rs256]);
    assert_eq!(
        verify(FakeHost::new().with_judge(|_| Some(false)), &proven),
        (false, 1)
    );
    assert_eq!(
        verify(FakeHost::new().with_judge(|_| None), &proven),
        (true, 1)
    );
    assert_eq!(
        verify(
            FakeHost::new().with_judge(|_| Some(false)),
            &Hosted(vec![Alg::Rs384])
        ),
        (true, 0)
    );
}

#[test]
fn rejects_ecdsa_of_wrong_length_without_host() {
    let (key, signature) = answers()
        .into_iter()
        .find(|(key, _)| key.alg() == Alg::Es256)
        .unwrap();
    let host = FakeHost::new().with_judge(|_| Some(true));
    let verifier = Verifier {
        host: &host,
        hosted: Some(&Hosted(HOSTED.to_vec())),
    };
    for signature in [&signature[1..], &[&[0], &*signature, &[0]].concat()] {
        assert!(!verifier.verify(&key, b"text", signature));
    }
    assert_eq!(host.judged(), 0);
}

/// Returns an engine with this configuration.
fn root(host: FakeHost, config: &serde_json::Value) -> crate::engine::Engine<FakeHost> {
    let size = host.configure(&config.to_string());
    let mut engine = crate::engine::Engine::new(host, 1);
    assert!(engine.configure(size));
    engine
}

#[test]
fn host_verifies_until_tables_are_built() {
    crate::registry::forget();
    let known: serde_json::Value = serde_json::from_str(KNOWN_ANSWERS).unwrap();
    let (key, signature) = answers()
        .into_iter()
        .find(|(key, _)| key.alg() == Alg::Es256)
        .unwrap();
    let jwk = known["answers"]
        .as_array()
        .unwrap()
        .iter()
        .find(|answer| answer["jwk"]["alg"] == "ES256")
        .unwrap()["jwk"]
        .clone();
    let rule = serde_json::json!({
        "issuer": "https://i", "audiences": ["a"], "algorithms": ["ES256"],
        "jwks": { "keys": [jwk] },
    });
    let host = honest();
    let mut engine = root(host.clone(), &serde_json::json!({ "jwtRules": [rule] }));
    let asked_of_the_host = || {
        let before = host.judged();
        let verifier = Verifier {
            host: &host,
            hosted: Some(&Hosted(HOSTED.to_vec())),
        };
        assert!(verifier.verify(&key, known["text"].as_str().unwrap().as_bytes(), &signature));
        host.judged() - before
    };
    engine.on_tick();
    assert_eq!(asked_of_the_host(), 1);
    assert_eq!(
        host.tick_period(),
        Some(std::time::Duration::from_millis(1)),
        "at the next iteration of the event loop"
    );
    let ticks = (0..1_000)
        .take_while(|_| host.tick_period() < Some(std::time::Duration::from_secs(1)))
        .map(|_| engine.on_tick());
    assert!(ticks.count() > 5, "a little at every tick");
    assert_eq!(asked_of_the_host(), 0);
}

#[test]
fn tables_follow_configured_keys() {
    crate::registry::forget();
    let [old, new] = [1, 2].map(|seed| crate::testing::TestKey::new("k", seed).jwk());
    let [first, second] = [&old, &new].map(|jwk| {
        serde_json::json!({
            "jwtRules": [{ "issuer": "https://i", "audiences": ["a"], "jwks": { "keys": [jwk] } }],
        })
    });
    let host = FakeHost::new();
    let mut engine = root(host.clone(), &first);
    (0..500).for_each(|_| engine.on_tick());
    assert!(has_tables(&old) && !has_tables(&new));
    let size = host.configure(&second.to_string());
    assert!(engine.configure(size));
    (0..500).for_each(|_| engine.on_tick());
    assert!(has_tables(&new) && !has_tables(&old));
}

fn has_tables(jwk: &serde_json::Value) -> bool {
    tables::with(|tables| tables.is_ready(&only_key(jwk)))
}
