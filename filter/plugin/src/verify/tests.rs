use super::*;
use crate::host::fake::FakeHost;
use meshseal_core::keys::Portable;

/// The known answers as the proxy sees them: (SPKI, signature), good ones only.
fn good_ones() -> Vec<(Vec<u8>, Vec<u8>)> {
    answers()
        .into_iter()
        .map(|(key, signature)| (key.spki().unwrap().to_vec(), as_asked(&key, &signature)))
        .collect()
}

fn answers() -> Vec<(Key, Vec<u8>)> {
    let known: serde_json::Value = serde_json::from_str(KNOWN_ANSWERS).unwrap();
    let answer = |answer: &serde_json::Value| {
        let jwks = serde_json::json!({ "keys": [answer["jwk"]] }).to_string();
        let set = KeySet::from_config(&jwks, &Alg::ALL, false).unwrap();
        (
            set.iter().next().unwrap().clone(),
            base64url::decode(answer["signature"].as_str().unwrap()).unwrap(),
        )
    };
    known["answers"]
        .as_array()
        .unwrap()
        .iter()
        .map(answer)
        .collect()
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
fn the_known_answers_are_right() {
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
fn a_host_that_tells_good_from_bad_is_trusted_with_what_it_has_shown() {
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
fn a_host_that_cannot_or_says_the_same_to_everything_is_not() {
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
fn the_host_decides_where_it_was_proven_and_the_module_where_it_was_not_or_has_no_answer() {
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
fn an_ecdsa_signature_of_another_length_is_not_even_asked_for() {
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

/// A proxy with this configuration, ticking.
fn root(host: FakeHost, config: &serde_json::Value) -> crate::engine::Engine<FakeHost> {
    let size = host.configure(&config.to_string());
    let mut engine = crate::engine::Engine::new(host, 1);
    assert!(engine.configure(size));
    engine
}

#[test]
fn the_host_helps_until_the_tables_of_a_key_are_built() {
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
    let rule = serde_json::json!({ "issuer": "https://i", "audiences": ["a"], "algorithms": ["ES256"], "jwks": { "keys": [jwk] } });
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
        "at the next turn of the event loop"
    );
    let ticks = (0..1_000)
        .take_while(|_| host.tick_period() < Some(std::time::Duration::from_secs(1)))
        .map(|_| engine.on_tick());
    assert!(ticks.count() > 5, "a little at every tick");
    assert_eq!(asked_of_the_host(), 0);
}

#[test]
fn tables_go_with_their_configuration() {
    crate::registry::forget();
    let config = |seed| {
        let jwk = crate::testing::TestKey::new("k", seed).jwk();
        serde_json::json!({ "jwtRules": [{ "issuer": "https://i", "audiences": ["a"], "jwks": { "keys": [jwk] } }] })
    };
    let key = |seed| {
        let jwks = serde_json::json!({ "keys": [crate::testing::TestKey::new("k", seed).jwk()] })
            .to_string();
        KeySet::from_config(&jwks, &Alg::ALL, false)
            .unwrap()
            .iter()
            .next()
            .unwrap()
            .clone()
    };
    let host = FakeHost::new();
    let mut engine = root(host.clone(), &config(1));
    let ready = |seed| tables::with(|tables| tables.is_ready(&key(seed)));
    (0..500).for_each(|_| engine.on_tick());
    assert!(ready(1) && !ready(2));
    let size = host.configure(&config(2).to_string());
    assert!(engine.configure(size));
    (0..500).for_each(|_| engine.on_tick());
    assert!(ready(2) && !ready(1));
}
