use alloc::format;
use alloc::vec;
use core::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::authn::{Accepted, Moment, Trust, validate};
use crate::jose::Claims;
use crate::policy::Policy;
use crate::rejection::Rejection;
use crate::testing::{ISSUER, NOW, TestKey, bundle_policy, claims};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn pin() -> TestKey {
    TestKey::new("pin", 200)
}

fn policy() -> Policy {
    bundle_policy(&pin(), json!({}), Value::Null)
}

fn times(issued_at: u64) -> Times {
    Times {
        issuer: ISSUER.into(),
        issued_at,
        not_after: issued_at + 3600,
    }
}

fn snapshot(version: u64, keys: &[&TestKey]) -> Snapshot {
    let trust = IssuerTrust {
        keys: keys
            .iter()
            .map(|key: &&TestKey| {
                let Value::Object(jwk) = key.jwk() else {
                    panic!("an object")
                };
                PublishedKey {
                    jwk,
                    state: KeyState::Active,
                }
            })
            .collect(),
        ..IssuerTrust::default()
    };
    Snapshot {
        version,
        issuers: BTreeMap::from([(ISSUER.into(), trust)]),
    }
}

fn sealed(payload: &Payload, key: &TestKey) -> String {
    key.seal(payload.signing_input(key.kid))
}

fn accept(trust: &mut Trust, payload: &Payload) -> Result<Accepted, BundleError> {
    trust.accept_bundle(
        &sealed(payload, &pin()),
        &policy().authn().trust_bundle().unwrap().pins,
        NOW,
    )
}

fn verdict(trust: &Trust, token: &str) -> Option<Rejection> {
    validate(token, policy().authn(), trust, NOW).err()
}

#[test]
fn no_verdict_before_pushed_keys() {
    let key = TestKey::new("k1", 1);
    let token = key.token(&claims(json!({})));
    let mut trust = Trust::new();
    assert_eq!(verdict(&trust, &token), Some(Rejection::KeysUnavailable));
    assert_eq!(
        accept(&mut trust, &snapshot(5, &[&key]).full(times(NOW))),
        Ok(Accepted::NewVersion)
    );
    assert_eq!((trust.bundle_version(), trust.keys().count()), (Some(5), 1));
    assert_eq!(verdict(&trust, &token), None);
    assert_eq!(
        verdict(&trust, &TestKey::new("k2", 2).token(&claims(json!({})))),
        Some(Rejection::KeyUnknown)
    );
}

#[test]
fn delta_applies_to_its_base_only() {
    let (old, new) = (TestKey::new("k1", 1), TestKey::new("k2", 2));
    let (one, two) = (snapshot(1, &[&old]), snapshot(2, &[&old, &new]));
    let mut trust = Trust::new();
    let delta = two.delta_from(&one, times(NOW));
    assert_eq!(accept(&mut trust, &delta), Err(BundleError::WrongBase));
    accept(&mut trust, &one.full(times(NOW))).unwrap();
    assert_eq!(accept(&mut trust, &delta), Ok(Accepted::NewVersion));
    assert_eq!(verdict(&trust, &new.token(&claims(json!({})))), None);
    assert_eq!(
        accept(&mut trust, &delta),
        Err(BundleError::WrongBase),
        "not twice"
    );
}

#[test]
fn v17_rejects_rollback_and_changed_version() {
    let (old, new) = (TestKey::new("k1", 1), TestKey::new("k2", 2));
    let mut trust = Trust::new();
    accept(&mut trust, &snapshot(7, &[&new]).full(times(NOW))).unwrap();
    assert_eq!(
        accept(&mut trust, &snapshot(6, &[&old]).full(times(NOW + 1))),
        Err(BundleError::Rollback)
    );
    assert_eq!(
        accept(&mut trust, &snapshot(7, &[&old]).full(times(NOW + 1))),
        Err(BundleError::Rollback)
    );
    assert_eq!(
        accept(&mut trust, &snapshot(7, &[&new]).full(times(NOW - 1))),
        Err(BundleError::Rollback)
    );
    assert_eq!(
        accept(&mut trust, &snapshot(7, &[&new]).full(times(NOW + 1))),
        Ok(Accepted::Refreshed)
    );
    assert_eq!(
        verdict(&trust, &old.token(&claims(json!({})))),
        Some(Rejection::KeyUnknown)
    );
}

#[test]
fn heartbeat_refreshes_without_content() {
    let snapshot = snapshot(3, &[&TestKey::new("k1", 1)]);
    let mut trust = Trust::new();
    accept(&mut trust, &snapshot.full(times(NOW - 600))).unwrap();
    assert_eq!(trust.freshness(NOW).age, Some(600));
    let heartbeat = snapshot.delta_from(&snapshot, times(NOW));
    assert!(heartbeat.issuers.is_empty());
    assert_eq!(accept(&mut trust, &heartbeat), Ok(Accepted::Refreshed));
    assert_eq!(trust.freshness(NOW).age, Some(0));
    let smuggled = Payload {
        gone: vec![ISSUER.into()],
        ..heartbeat
    };
    assert_eq!(accept(&mut trust, &smuggled), Err(BundleError::BadContent));
}

#[test]
fn v17_accepts_pinned_key_only() {
    let payload = snapshot(1, &[&TestKey::new("k1", 1)]).full(times(NOW));
    let policy = policy();
    let pins = &policy.authn().trust_bundle().unwrap().pins;
    let mut trust = Trust::new();
    let impostor = TestKey::new("pin", 66);
    let stranger = TestKey::new("other", 67);
    for jws in [sealed(&payload, &impostor), sealed(&payload, &stranger)] {
        assert_eq!(
            trust.accept_bundle(&jws, pins, NOW),
            Err(BundleError::ForeignSignature)
        );
    }
    let good = sealed(&payload, &pin());
    assert_eq!(
        trust.accept_bundle(&good[..good.len() - 2], pins, NOW),
        Err(BundleError::ForeignSignature),
        "truncated"
    );
    assert_eq!(
        trust.accept_bundle(&good.replacen('.', "", 1), pins, NOW),
        Err(BundleError::Malformed)
    );
    let token = pin().token(&claims(json!({})));
    assert_eq!(
        trust.accept_bundle(&token, pins, NOW),
        Err(BundleError::Malformed),
        "a token is no bundle"
    );
    assert_eq!(trust.bundle_version(), None);
}

#[test]
fn times_and_sizes_are_bounded() {
    let snapshot = snapshot(1, &[&TestKey::new("k1", 1)]);
    let mut trust = Trust::new();
    assert_eq!(
        accept(&mut trust, &snapshot.full(times(NOW - 3600))),
        Err(BundleError::OutOfDate)
    );
    assert_eq!(
        accept(&mut trust, &snapshot.full(times(NOW + 61))),
        Err(BundleError::OutOfDate)
    );
    let policy = policy();
    let huge = "a".repeat(limits::MAX_BUNDLE_BYTES + 1);
    assert_eq!(
        trust.accept_bundle(&huge, &policy.authn().trust_bundle().unwrap().pins, NOW),
        Err(BundleError::TooLarge)
    );
}

#[test]
fn rejects_signed_content_without_bundle() {
    fn full(issuers: Value) -> String {
        json!({ "iss": ISSUER, "ver": 1, "iat": NOW, "exp": NOW + 60, "issuers": issuers })
            .to_string()
    }
    let policy = policy();
    let pins = &policy.authn().trust_bundle().unwrap().pins;
    let header = json!({ "alg": "EdDSA", "kid": "pin", "typ": BUNDLE_TYPE });
    let weak = json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "w",
        "x": base64url::encode(&[0; 32]) });
    let mut private = TestKey::new("k1", 1).jwk();
    private["d"] = json!("AAAA");
    for (content, expected) in [
        (String::from("{}"), BundleError::BadContent),
        (
            format!("{{\"ver\":1,{}", &full(json!({}))[1..]),
            BundleError::BadContent,
        ),
        (
            full(json!({ ISSUER: { "revoked": "gAA" } })),
            BundleError::BadContent,
        ),
        (
            full(json!({ ISSUER: { "unknown": 1 } })),
            BundleError::BadContent,
        ),
        (
            full(json!({ ISSUER: { "keys": [{ "jwk": weak, "state": "active" }] } })),
            BundleError::BadKey,
        ),
        (
            full(json!({ ISSUER: { "keys": [{ "jwk": private, "state": "active" }] } })),
            BundleError::BadKey,
        ),
    ] {
        assert_eq!(
            Trust::new().accept_bundle(&pin().sign(&header, &content), pins, NOW),
            Err(expected),
            "{content}"
        );
    }
}

#[test]
fn rejects_unknown_or_ill_typed_members() {
    fn read(content: &Value) -> Result<Payload, BundleError> {
        Payload::from_json(content.to_string().into_bytes())
    }
    let epochs = Epochs {
        all: Some(1),
        digest_key: Some("0123456789012345678901".into()),
        kid: BTreeMap::from([("k".into(), 2)]),
        sub: BTreeMap::from([("s".into(), 3)]),
        client: BTreeMap::from([("c".into(), 4)]),
        sid: BTreeMap::from([("i".into(), 5)]),
        grant: BTreeMap::from([("g".into(), 6)]),
    };
    let mut whole = snapshot(3, &[&TestKey::new("k1", 1)]);
    let trust = whole.issuers.get_mut(ISSUER).unwrap();
    (trust.revoked, trust.epochs) = ([7].into_iter().collect(), epochs);
    let mut payload = whole.full(times(NOW));
    (payload.base, payload.gone, payload.ack) = (
        Some(2),
        vec!["https://gone.example".into()],
        Some("value".into()),
    );
    let good = serde_json::to_value(&payload).unwrap();
    assert_eq!(read(&good), Ok(payload));
    let issuer = format!("/issuers/{}", ISSUER.replace('/', "~1"));
    let inside = [
        "",
        "/keys/0",
        "/keys/0/state",
        "/keys/0/jwk",
        "/keys",
        "/revoked",
        "/epochs",
        "/epochs/all",
        "/epochs/digest_key",
        "/epochs/sub/s",
    ];
    let members = [
        "/iss", "/ver", "/iat", "/exp", "/base", "/issuers", "/gone", "/gone/0", "/ack",
    ]
    .map(String::from);
    for place in members
        .into_iter()
        .chain(inside.map(|place| format!("{issuer}{place}")))
    {
        for wrong in [Value::Null, json!(-1), json!(1.5), json!(true)] {
            let mut bad = good.clone();
            *bad.pointer_mut(&place).unwrap() = wrong;
            assert_eq!(read(&bad), Err(BundleError::BadContent), "{bad}");
        }
    }
    for place in [
        "",
        &issuer,
        &format!("{issuer}/keys/0"),
        &format!("{issuer}/epochs"),
    ] {
        let mut bad = good.clone();
        bad.pointer_mut(place).unwrap()["surplus"] = json!(1);
        assert_eq!(read(&bad), Err(BundleError::BadContent), "{bad}");
    }
}

#[test]
fn readers_of_protocol_2_get_digests() {
    fn digested(epochs: Epochs) -> Epochs {
        epochs.with_digests("0123456789012345678901")
    }
    let mut whole = snapshot(3, &[]);
    whole
        .issuers
        .get_mut(ISSUER)
        .unwrap()
        .epochs
        .sub
        .insert("alice@shop.example".into(), NOW);
    let sent = |protocol| json(&whole.full(times(NOW)).for_protocol(protocol, digested));
    assert!(sent(1).contains("alice@shop.example") && !sent(1).contains("digest_key"));
    assert!(!sent(2).contains("alice") && sent(2).contains("digest_key"));
    let read = Payload::from_json(sent(2).into_bytes()).unwrap();
    let trust = Snapshot::default().apply(&read).unwrap();
    let claims = Claims::parse(br#"{"iat":1,"sub":"alice@shop.example"}"#.to_vec()).unwrap();
    assert_eq!(
        trust.issuers[ISSUER].epochs.revokes(&claims),
        Some(Rejection::SubjectRevoked)
    );
    for key in ["", "short", &"k".repeat(65)] {
        let bad = sent(2).replace("0123456789012345678901", key);
        assert_eq!(
            Payload::from_json(bad.into_bytes()),
            Err(BundleError::BadContent)
        );
    }
}

/// A proxy sends the value in a header.
#[test]
fn acknowledgement_value_fits_a_header() {
    fn read(ack: String) -> Result<Payload, BundleError> {
        let payload = Payload {
            ack: Some(ack),
            ..snapshot(1, &[]).full(times(NOW))
        };
        Payload::from_json(serde_json::to_vec(&payload).unwrap())
    }
    assert!(read("-_".repeat(32)).is_ok());
    for ack in ["", "a b", "a\r\nx: y", "é", &"a".repeat(65)] {
        assert_eq!(
            read(String::from(ack)),
            Err(BundleError::BadContent),
            "{ack:?}"
        );
    }
}

#[test]
fn acknowledgement_value_belongs_to_version_in_force() {
    fn with_ack(snapshot: &Snapshot, iat: u64, ack: Option<&str>) -> Payload {
        Payload {
            ack: ack.map(String::from),
            ..snapshot.full(times(iat))
        }
    }
    let (one, two) = (
        snapshot(1, &[&TestKey::new("k1", 1)]),
        snapshot(2, &[&TestKey::new("k1", 1)]),
    );
    let mut trust = Trust::new();
    accept(&mut trust, &with_ack(&one, NOW, None)).unwrap();
    assert_eq!(
        trust.bundle_ack(),
        None,
        "as from an issuer that does not know protocol 2"
    );
    accept(&mut trust, &with_ack(&one, NOW, Some("one"))).unwrap();
    assert_eq!(trust.bundle_ack(), Some("one"), "a heartbeat tells it too");
    accept(&mut trust, &with_ack(&two, NOW, Some("two"))).unwrap();
    accept(&mut trust, &with_ack(&one, NOW + 1, Some("one"))).unwrap_err();
    assert_eq!(trust.bundle_ack(), Some("two"));
}

#[test]
fn rejects_repeated_member_in_large_key() {
    fn with(jwk: String) -> Result<Payload, BundleError> {
        let issuers =
            format!("{{\"{ISSUER}\":{{\"keys\":[{{\"jwk\":{jwk},\"state\":\"active\"}}]}}}}");
        Payload::from_json(
            format!("{{\"iss\":\"i\",\"ver\":1,\"iat\":1,\"exp\":2,\"issuers\":{issuers}}}")
                .into_bytes(),
        )
    }
    fn jwk(last: &str) -> String {
        let surplus: String = (0..128).map(|number| format!("\"m{number}\":1,")).collect();
        format!("{{\"x\":\"AA\",{surplus}\"{last}\":\"AB\"}}")
    }
    assert!(with(jwk("y")).is_ok());
    assert_eq!(with(jwk("x")), Err(BundleError::BadContent));
    assert_eq!(
        with(format!("{{\"a\":[{}]}}", jwk("x"))),
        Err(BundleError::BadContent)
    );
}

/// Reads a bundle with these members in `epochs.sub`.
fn with_subjects(members: &str) -> Result<Payload, BundleError> {
    let issuers = format!("{{\"{ISSUER}\":{{\"epochs\":{{\"sub\":{{{members}}}}}}}}}");
    Payload::from_json(
        format!("{{\"iss\":\"i\",\"ver\":1,\"iat\":1,\"exp\":2,\"issuers\":{issuers}}}")
            .into_bytes(),
    )
}

#[test]
fn rejects_repeated_name_in_large_epochs() {
    let names: Vec<String> = (0..1_000)
        .map(|number| format!("\"user-{number}\":1"))
        .collect();
    assert_eq!(
        with_subjects(&names.join(",")).unwrap().issuers[ISSUER]
            .epochs
            .as_ref()
            .unwrap()
            .sub
            .len(),
        1_000
    );
    let repeated = format!("{},\"user-999\":2", names.join(","));
    assert_eq!(with_subjects(&repeated), Err(BundleError::BadContent));
}

#[test]
fn v15_revocation_reaches_tokens_keys_and_groups() {
    let key = TestKey::new("k1", 1);
    let token = key.token(&claims(json!({})));
    let good = snapshot(1, &[&key]);
    let with = |change: fn(&mut IssuerTrust)| {
        let mut snapshot = Snapshot {
            version: 2,
            ..good.clone()
        };
        change(snapshot.issuers.get_mut(ISSUER).unwrap());
        let mut trust = Trust::new();
        accept(&mut trust, &good.full(times(NOW))).unwrap();
        accept(&mut trust, &snapshot.delta_from(&good, times(NOW))).unwrap();
        verdict(&trust, &token)
    };
    assert_eq!(with(|_| {}), None);
    assert_eq!(
        with(|trust| {
            let _ = trust.revoked.insert(7);
        }),
        Some(Rejection::TokenRevoked)
    );
    assert_eq!(
        with(|trust| {
            let _ = trust.revoked.insert(8);
        }),
        None
    );
    assert_eq!(
        with(|trust| trust.epochs.all = Some(NOW)),
        Some(Rejection::IssuedBeforeEpoch)
    );
    assert_eq!(
        with(|trust| {
            let _ = trust.epochs.sub.insert("checkout".into(), NOW);
        }),
        Some(Rejection::SubjectRevoked)
    );
    assert_eq!(
        with(|trust| {
            let _ = trust.epochs.kid.insert("k1".into(), 0);
        }),
        Some(Rejection::KeyRevoked)
    );
    assert_eq!(
        with(|trust| trust.keys.clear()),
        Some(Rejection::KeyUnknown)
    );
}

#[test]
fn revoked_key_rejects_tokens_without_kid() {
    let key = TestKey::new("k1", 1);
    let nameless = key.sign(
        &json!({ "alg": "EdDSA", "typ": "at+jwt" }),
        &claims(json!({})).to_string(),
    );
    let mut snapshot = snapshot(1, &[&key]);
    let mut trust = Trust::new();
    accept(&mut trust, &snapshot.full(times(NOW))).unwrap();
    assert_eq!(verdict(&trust, &nameless), None);
    snapshot.version = 2;
    snapshot
        .issuers
        .get_mut(ISSUER)
        .unwrap()
        .epochs
        .kid
        .insert("k1".into(), NOW);
    accept(&mut trust, &snapshot.full(times(NOW))).unwrap();
    assert_eq!(verdict(&trust, &nameless), Some(Rejection::KeyRevoked));
}

#[test]
fn v15_rejects_token_without_index() {
    let key = TestKey::new("k1", 1);
    let mut trust = Trust::new();
    accept(&mut trust, &snapshot(1, &[&key]).full(times(NOW))).unwrap();
    assert_eq!(
        verdict(
            &trust,
            &key.token(&claims(json!({ "jti": "not-an-index" })))
        ),
        Some(Rejection::ClaimMissing)
    );
}

#[test]
fn removed_issuer_is_unknown() {
    let key = TestKey::new("k1", 1);
    let one = snapshot(1, &[&key]);
    let mut trust = Trust::new();
    accept(&mut trust, &one.full(times(NOW))).unwrap();
    let none = Snapshot {
        version: 2,
        issuers: BTreeMap::new(),
    };
    accept(&mut trust, &none.delta_from(&one, times(NOW))).unwrap();
    assert_eq!(
        verdict(&trust, &key.token(&claims(json!({})))),
        Some(Rejection::IssuerUnknown)
    );
}

#[test]
fn inherits_only_bundles_of_own_pins() {
    let mut old = Trust::new();
    accept(
        &mut old,
        &snapshot(4, &[&TestKey::new("k1", 1)]).full(times(NOW)),
    )
    .unwrap();
    let mut same = Trust::new();
    same.inherit(
        policy().authn(),
        &old,
        policy().authn(),
        policy().staleness_bound(),
    );
    assert_eq!(same.bundle_version(), Some(4));
    let repinned = bundle_policy(&TestKey::new("pin", 201), json!({}), Value::Null);
    let mut other = Trust::new();
    other.inherit(
        repinned.authn(),
        &old,
        policy().authn(),
        policy().staleness_bound(),
    );
    assert_eq!(other.bundle_version(), None);
}

fn any_trust() -> impl Strategy<Value = IssuerTrust> {
    let epochs = proptest::collection::btree_map("[a-c]", 0..5_u64, 0..3);
    let revoked = proptest::collection::btree_set(0..40_u64, 0..12);
    (0..3_usize, revoked, epochs, proptest::option::of(0..9_u64)).prop_map(
        |(keys, revoked, sub, all)| {
            let all_keys = [TestKey::new("k1", 1), TestKey::new("k2", 2)];
            let keys = all_keys.iter().take(keys).collect::<Vec<_>>();
            let mut trust = snapshot(0, &keys).issuers.remove(ISSUER).unwrap();
            trust.revoked = revoked.into_iter().collect();
            trust.epochs = Epochs {
                all,
                sub,
                ..Epochs::default()
            };
            trust
        },
    )
}

fn any_snapshot(version: u64) -> impl Strategy<Value = Snapshot> {
    proptest::collection::btree_map("https://[ab]", any_trust(), 0..3)
        .prop_map(move |issuers| Snapshot { version, issuers })
}

proptest! {
    #[test]
    fn delta_and_full_bundle_agree(before in any_snapshot(1), after in any_snapshot(2)) {
        let full = after.full(times(NOW));
        let delta = after.delta_from(&before, times(NOW));
        for payload in [&delta, &full] {
            prop_assert_eq!(&Payload::from_json(serde_json::to_vec(payload).unwrap()).unwrap(),
                payload);
        }
        prop_assert_eq!(&before.apply(&delta).unwrap(), &after);
        prop_assert_eq!(&Snapshot::default().apply(&full).unwrap(), &after);
        prop_assert_eq!(before.apply(&full).unwrap(), after);
    }
}

const DAY: u64 = 86_400;

/// Offsets of the wall clock from the issuer's time of day.
const SHIFTS: [i64; 6] = [0, -30, -86_400, -1_700_000_000, 30 * 60, 400 * 86_400];

/// Reads the clocks of a worker whose wall clock is shifted, `elapsed` seconds after [`NOW`].
fn moment(elapsed: u64, shift: i64) -> Moment {
    let wall_s = NOW.saturating_add(elapsed).saturating_add_signed(shift);
    Moment {
        wall_s,
        steady: Duration::from_secs(5_000 + elapsed),
    }
}

fn accept_at(trust: &mut Trust, payload: &Payload, now: Moment) -> Result<Accepted, BundleError> {
    trust.accept_bundle(
        &sealed(payload, &pin()),
        &policy().authn().trust_bundle().unwrap().pins,
        now,
    )
}

/// Returns the trust of a worker with version 1, issued and accepted at [`NOW`].
fn worker(key: &TestKey) -> Trust {
    let mut trust = Trust::since(moment(0, 0));
    accept_at(
        &mut trust,
        &snapshot(1, &[key]).full(times(NOW)),
        moment(0, 0),
    )
    .unwrap();
    trust
}

#[test]
fn bundle_ages_by_elapsed_time() {
    for shift in SHIFTS {
        let trust = worker(&TestKey::new("k1", 1));
        assert_eq!(
            trust.freshness(moment(600, shift)),
            Freshness {
                age: Some(600),
                ..Freshness::default()
            },
            "{shift}"
        );
        for (elapsed, expired) in [(3_599, false), (3_600, true)] {
            let freshness = trust.freshness(moment(elapsed, shift));
            assert_eq!(freshness.expired, expired, "{shift}");
        }
    }
}

#[test]
fn accepts_bundles_after_clock_steps() {
    let (old, new) = (TestKey::new("k1", 1), TestKey::new("k2", 2));
    for (shift, next) in SHIFTS
        .into_iter()
        .flat_map(|shift| SHIFTS.map(|next| (shift, next)))
    {
        let mut trust = worker(&old);
        let refresh = snapshot(1, &[&old]).full(times(NOW + 600));
        assert_eq!(
            accept_at(&mut trust, &refresh, moment(600, shift)),
            Ok(Accepted::Refreshed),
            "{shift}"
        );
        assert_eq!(trust.freshness(moment(660, shift)).age, Some(60), "{shift}");
        let withdrawn = snapshot(2, &[&new]).full(times(NOW + 900));
        assert_eq!(
            accept_at(&mut trust, &withdrawn, moment(900, next)),
            Ok(Accepted::NewVersion),
            "{shift} {next}"
        );
        assert_eq!(
            trust.freshness(moment(900, next)).age,
            Some(0),
            "{shift} {next}"
        );
    }
}

#[test]
fn accepts_first_bundle_after_clock_step() {
    let snapshot = snapshot(1, &[&TestKey::new("k1", 1)]);
    for (start, now) in SHIFTS
        .into_iter()
        .flat_map(|shift| [(0, shift), (shift, 0)])
    {
        let mut trust = Trust::since(moment(0, start));
        let accepted = accept_at(&mut trust, &snapshot.full(times(NOW + 10)), moment(10, now));
        assert_eq!(accepted, Ok(Accepted::NewVersion), "from {start} to {now}");
        assert_eq!(
            trust.freshness(moment(20, now)).age,
            Some(10),
            "from {start} to {now}"
        );
    }
}

#[test]
fn delayed_bundle_is_old_after_clock_step() {
    let key = TestKey::new("k1", 1);
    for shift in SHIFTS {
        let mut trust = worker(&key);
        let (delayed, now) = (
            snapshot(2, &[&key]).full(times(NOW + 600)),
            moment(2 * DAY, shift),
        );
        assert_eq!(
            accept_at(&mut trust, &delayed, now),
            Err(BundleError::OutOfDate),
            "{shift}"
        );
        assert_eq!(
            accept_at(&mut trust, &delayed, moment(1_800, shift)),
            Ok(Accepted::NewVersion),
            "{shift}"
        );
        assert_eq!(
            trust.freshness(moment(1_800, shift)).age,
            Some(1_200),
            "{shift}"
        );
        let ahead = snapshot(3, &[&key]).full(times(NOW + 1_800 + 500 * DAY));
        assert_eq!(
            accept_at(&mut trust, &ahead, moment(1_800, shift)),
            Err(BundleError::OutOfDate),
            "{shift}"
        );
    }
}

#[test]
fn adopted_bundle_lowers_no_proven_time() {
    let key = TestKey::new("k1", 1);
    let (mut ours, mut theirs) = (worker(&key), Trust::since(moment(600, 0)));
    let now = moment(600, -86_400);
    let refresh = snapshot(1, &[&key]).full(times(NOW + 600));
    accept_at(&mut ours, &refresh, now).unwrap();
    // By a replica whose clock is ten seconds behind.
    let newer = snapshot(2, &[&key]).full(times(NOW + 590));
    accept_at(&mut theirs, &newer, now).unwrap();
    ours.adopt(policy().authn(), &theirs, policy().staleness_bound());
    assert_eq!(ours.bundle_version(), Some(2));
    let expired = Times {
        not_after: NOW + 595,
        ..times(NOW + 590)
    };
    let expired = snapshot(3, &[&key]).full(expired);
    assert_eq!(
        accept_at(&mut ours, &expired, now),
        Err(BundleError::OutOfDate)
    );
}
