use super::*;
use crate::host::fake::FakeHost;
use crate::testing::{TestKey, jwks, remote_config};
use serde_json::json;

struct Fetcher {
    host: FakeHost,
    sync: JwksSync,
    policy: Policy,
    trust: Trust,
    metrics: Metrics,
}

impl Fetcher {
    fn new(host: FakeHost, config: &str) -> Self {
        let policy = meshseal_core::config::read_policy(config).unwrap();
        let metrics = Metrics::define(&host, "");
        Self {
            sync: JwksSync::new(&policy),
            host,
            policy,
            trust: Trust::new(),
            metrics,
        }
    }

    fn tick_after(&mut self, by: Duration) {
        self.host.advance(by);
        self.sync.tick(&self.host, &self.policy, &self.metrics);
    }

    fn answer(&mut self, status: u16, body: &str) -> CallOutcome {
        self.host.answer(status, body.as_bytes());
        let finished = Finished {
            token: self.host.last_call().token,
            size: body.len(),
        };
        self.sync
            .finished(
                &self.host,
                finished,
                &self.policy,
                &mut self.trust,
                &self.metrics,
            )
            .unwrap()
            .1
    }

    fn count(&self, name: &str) -> u64 {
        self.metrics.tell(&self.host);
        self.host.metric(&format!("meshseal.jwks.{name}"))
    }
}

fn fetcher() -> Fetcher {
    let mut fetcher = Fetcher::new(FakeHost::new(), &remote_config(json!({})));
    fetcher.tick_after(Duration::ZERO);
    fetcher
}

#[test]
fn first_tick_fetches_from_configured_uri() {
    let fetcher = fetcher();
    let call = fetcher.host.last_call();
    assert_eq!((call.cluster.as_str(), call.path()), ("idp", "/keys?v=2"));
    assert_eq!(
        (
            call.headers[":authority"].as_str(),
            call.headers[":scheme"].as_str()
        ),
        ("idp.example", "https")
    );
    let accepted: Vec<&str> = call.headers["accept"].split(", ").collect();
    assert_eq!(
        accepted,
        ["application/jwk-set+json", "application/json", "*/*"]
    );
}

#[test]
fn accepts_key_set_and_refreshes_it_early() {
    let mut fetcher = fetcher();
    fetcher.host.set_random(60_000_000);
    assert_eq!(
        fetcher.answer(200, &jwks(&[&TestKey::new("a", 1)])),
        CallOutcome::News
    );
    assert!(fetcher.trust.has_jwks(0));
    let refresh = refresh(fetcher.sync.0[0].config(&fetcher.policy).unwrap());
    let due = fetcher
        .sync
        .due()
        .unwrap()
        .checked_sub(fetcher.host.steady())
        .unwrap();
    assert!(
        due < refresh && due >= refresh * 9 / 10,
        "{due:?} of {refresh:?}"
    );
    assert_eq!(fetcher.count("fetched"), 1);
}

#[test]
fn counts_unusable_keys() {
    let mut fetcher = fetcher();
    let set = json!({ "keys": [TestKey::new("a", 1).jwk(), { "kty": "unheard-of", "kid": "b" }] });
    assert_eq!(fetcher.answer(200, &set.to_string()), CallOutcome::News);
    assert_eq!(fetcher.count("skipped_keys"), 1);
}

#[test]
fn failed_fetch_keeps_keys_and_retries_soon() {
    let mut fetcher = fetcher();
    fetcher.answer(200, &jwks(&[&TestKey::new("a", 1)]));
    for body in ["not json", r#"{"keys":[]}"#] {
        fetcher.tick_after(Duration::from_secs(24 * 3_600));
        assert_eq!(fetcher.answer(200, body), CallOutcome::Nothing);
        assert!(fetcher.sync.due().unwrap() <= fetcher.host.steady() + Duration::from_secs(60));
    }
    assert_eq!(
        (fetcher.trust.keys().count(), fetcher.count("failed")),
        (1, 2)
    );
}

#[test]
fn rejects_oversized_key_set_before_copying() {
    let mut fetcher = fetcher();
    fetcher.host.answer(200, b"");
    let finished = Finished {
        token: fetcher.host.last_call().token,
        size: limits::MAX_JWKS_BYTES + 1,
    };
    let outcome = fetcher.sync.finished(
        &fetcher.host,
        finished,
        &fetcher.policy,
        &mut fetcher.trust,
        &fetcher.metrics,
    );
    assert_eq!(
        (outcome, fetcher.host.bytes_copied()),
        (Some((0, CallOutcome::Nothing)), 0)
    );
}

#[test]
fn retries_unreachable_cluster() {
    let mut fetcher = Fetcher::new(
        FakeHost::new().with_unreachable("idp"),
        &remote_config(json!({})),
    );
    fetcher.tick_after(Duration::ZERO);
    fetcher.tick_after(Duration::from_secs(60));
    assert_eq!(fetcher.count("failed"), 2);
}

/// Returns a JWT rule whose keys come from the same source for every issuer.
fn rule(issuer: &str, alg: &str) -> serde_json::Value {
    json!({
        "issuer": issuer, "audiences": ["o"], "algorithms": [alg],
        "jwksUri": "https://idp.example/keys", "jwksCluster": "idp",
    })
}

#[test]
fn rules_with_same_source_share_one_fetch() {
    let config = json!({
        "jwtRules": [rule("https://a.example", "EdDSA"), rule("https://b.example", "EdDSA")],
    });
    let mut fetcher = Fetcher::new(FakeHost::new(), &config.to_string());
    fetcher.tick_after(Duration::ZERO);
    assert_eq!(fetcher.host.calls().len(), 1);
    fetcher.answer(200, &jwks(&[&TestKey::new("a", 1)]));
    assert!(fetcher.trust.has_jwks(0) && fetcher.trust.has_jwks(1));
}

#[test]
fn requested_refreshes_are_shared_and_limited() {
    let mut fetcher = fetcher();
    assert!(
        fetcher
            .sync
            .request_refresh(0, RefreshReason::UnknownKey, fetcher.host.steady()),
        "the first fetch is under way"
    );
    fetcher.answer(200, &jwks(&[&TestKey::new("a", 1)]));
    let mut asked = 0;
    for _ in 0..900 {
        if fetcher
            .sync
            .request_refresh(0, RefreshReason::UnknownKey, fetcher.host.steady())
        {
            assert!(fetcher.sync.request_refresh(
                0,
                RefreshReason::UnknownKey,
                fetcher.host.steady()
            ));
            fetcher.tick_after(Duration::ZERO);
            fetcher.answer(200, &jwks(&[&TestKey::new("a", 1)]));
            asked += 1;
        }
        fetcher.host.advance(Duration::from_millis(10));
    }
    assert_eq!((asked, fetcher.host.calls().len()), (2, 3));
}

#[test]
fn refuses_refresh_of_unknown_source() {
    assert!(
        !fetcher()
            .sync
            .request_refresh(9, RefreshReason::UnknownKey, Duration::ZERO)
    );
}

#[test]
fn logs_skipped_key_once_per_change() {
    let mut fetcher = fetcher();
    for (usage, logged) in [("enc", 1), ("enc", 1), ("tls", 2), ("tls", 2), ("enc", 3)] {
        let foreign = json!({ "kty": "RSA", "use": usage, "kid": "b" });
        let set = json!({ "keys": [TestKey::new("a", 1).jwk(), foreign] });
        fetcher.answer(200, &set.to_string());
        let mut lines = fetcher.host.lines(Level::Info);
        lines.retain(|line| line.contains("skipped"));
        assert_eq!(lines.len(), logged, "{usage}");
        fetcher.tick_after(Duration::from_secs(300));
    }
    assert!(fetcher.host.lines(Level::Info)[0].contains("keys[1].use: \"enc\", not \"sig\""));
}

#[test]
fn logs_why_key_set_is_unusable() {
    let mut fetcher = fetcher();
    let private = json!({
        "keys": [{ "kty": "RSA", "use": "enc" }, { "kty": "OKP", "crv": "Ed25519", "d": "AA" }],
    });
    assert_eq!(
        fetcher.answer(200, &private.to_string()),
        CallOutcome::Nothing
    );
    let told = fetcher.host.lines(Level::Warn);
    assert!(
        told[0].contains("keys[0].use: \"enc\", not \"sig\"; keys[1].d: a private member"),
        "{told:?}"
    );
    for (body, logged) in [
        (private.to_string(), 1),
        ("{}".to_owned(), 2),
        ("{}".to_owned(), 2),
    ] {
        fetcher.tick_after(Duration::from_secs(60));
        fetcher.answer(200, &body);
        assert_eq!(
            fetcher.host.lines(Level::Warn).len(),
            logged,
            "once for each reason"
        );
    }
}

#[test]
fn rule_without_usable_key_spares_other_rules() {
    let config = json!({
        "jwtRules": [rule("https://a.example", "RS256"), rule("https://b.example", "EdDSA")],
    });
    let mut fetcher = Fetcher::new(FakeHost::new(), &config.to_string());
    fetcher.tick_after(Duration::ZERO);
    assert_eq!(
        fetcher.answer(200, &jwks(&[&TestKey::new("a", 1)])),
        CallOutcome::News
    );
    assert_eq!(
        (
            fetcher.trust.has_jwks(0),
            fetcher.trust.has_jwks(1),
            fetcher.count("failed")
        ),
        (false, true, 1)
    );
}

#[test]
fn gives_up_fetch_without_response() {
    let mut fetcher = fetcher();
    fetcher.tick_after(Duration::from_secs(14));
    assert_eq!((fetcher.host.calls().len(), fetcher.sync.due()), (1, None));
    fetcher.tick_after(Duration::from_secs(1));
    fetcher.tick_after(Duration::from_secs(1));
    assert_eq!(
        (fetcher.host.calls().len(), fetcher.count("failed")),
        (2, 1)
    );
}

#[test]
fn bad_signatures_spare_budget_for_unknown_keys() {
    let mut fetcher = fetcher();
    fetcher.answer(200, &jwks(&[&TestKey::new("a", 1)]));
    let mut fetches = |why: RefreshReason| {
        let mut granted = 0;
        for _ in 0..100 {
            granted += usize::from(fetcher.sync.request_refresh(0, why, fetcher.host.steady()));
            fetcher.tick_after(Duration::ZERO);
            if granted > 0 && fetcher.sync.due().is_none() {
                fetcher.answer(200, &jwks(&[&TestKey::new("a", 1)]));
            }
        }
        granted
    };
    assert_eq!(
        [
            fetches(RefreshReason::OtherKey),
            fetches(RefreshReason::UnknownKey),
            fetches(RefreshReason::OtherKey)
        ],
        [1, 2, 0]
    );
}
