use super::*;
use crate::host::fake::FakeHost;
use crate::testing::{ISSUER, TestKey, jwks, remote_config};
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
        let policy = Policy::from_json(config).unwrap();
        let metrics = Metrics::define(&host, "");
        Self { sync: JwksSync::new(&policy), host, policy, trust: Trust::new(), metrics }
    }

    fn tick_after(&mut self, by: Duration) {
        self.host.advance(by);
        self.sync.tick(&self.host, &self.policy, &self.metrics);
    }

    fn answer(&mut self, status: u16, body: &str) -> Heard {
        self.host.answer(status, body.as_bytes());
        let finished = Finished { token: self.host.last_call().token, size: body.len() };
        self.sync.finished(&self.host, finished, &self.policy, &mut self.trust, &self.metrics).unwrap().1
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
fn keys_are_fetched_on_the_first_tick_from_where_the_uri_says() {
    let fetcher = fetcher();
    let call = fetcher.host.last_call();
    assert_eq!((call.cluster.as_str(), call.path()), ("idp", "/keys?v=2"));
    assert_eq!((call.headers[":authority"].as_str(), call.headers[":scheme"].as_str()), ("idp.example", "https"));
}

#[test]
fn a_set_is_taken_over_and_asked_for_again_somewhat_before_it_is_old() {
    let mut fetcher = fetcher();
    fetcher.host.set_random(60_000_000);
    assert_eq!(fetcher.answer(200, &jwks(&[&TestKey::new("a", 1)])), Heard::News);
    assert!(fetcher.trust.has_jwks(ISSUER));
    let refresh = refresh(fetcher.sync.0[0].config(&fetcher.policy).unwrap());
    let due = fetcher.sync.due().unwrap().checked_sub(fetcher.host.now()).unwrap();
    assert!(due < refresh && due >= refresh * 9 / 10, "{due:?} of {refresh:?}");
    assert_eq!(fetcher.count("fetched"), 1);
}

#[test]
fn keys_that_cannot_be_used_are_counted() {
    let mut fetcher = fetcher();
    let set = json!({ "keys": [TestKey::new("a", 1).jwk(), { "kty": "unheard-of", "kid": "b" }] });
    assert_eq!(fetcher.answer(200, &set.to_string()), Heard::News);
    assert_eq!(fetcher.count("skipped_keys"), 1);
}

#[test]
fn after_a_failure_the_last_good_keys_stay_and_it_is_tried_again_soon() {
    let mut fetcher = fetcher();
    fetcher.answer(200, &jwks(&[&TestKey::new("a", 1)]));
    for body in ["not json", r#"{"keys":[]}"#] {
        fetcher.tick_after(Duration::from_secs(24 * 3_600));
        assert_eq!(fetcher.answer(200, body), Heard::Nothing);
        assert!(fetcher.sync.due().unwrap() <= fetcher.host.now() + Duration::from_secs(60));
    }
    assert_eq!((fetcher.trust.keys().count(), fetcher.count("failed")), (1, 2));
}

#[test]
fn too_large_a_set_is_refused_before_it_is_copied() {
    let mut fetcher = fetcher();
    fetcher.host.answer(200, b"");
    let finished = Finished { token: fetcher.host.last_call().token, size: limits::MAX_JWKS_BYTES + 1 };
    let heard = fetcher.sync.finished(&fetcher.host, finished, &fetcher.policy, &mut fetcher.trust, &fetcher.metrics);
    assert_eq!((heard, fetcher.host.bytes_copied()), (Some((0, Heard::Nothing)), 0));
}

#[test]
fn a_cluster_that_cannot_be_reached_is_tried_again() {
    let mut fetcher = Fetcher::new(FakeHost::new().with_unreachable("idp"), &remote_config(json!({})));
    fetcher.tick_after(Duration::ZERO);
    fetcher.tick_after(Duration::from_secs(60));
    assert_eq!(fetcher.count("failed"), 2);
}

#[test]
fn rules_with_the_same_place_share_one_fetch() {
    let rule = |issuer: &str| json!({ "issuer": issuer, "audiences": ["o"], "jwksUri": "https://idp.example/keys", "jwksCluster": "idp" });
    let config = json!({ "jwtRules": [rule("https://a.example"), rule("https://b.example")] });
    let mut fetcher = Fetcher::new(FakeHost::new(), &config.to_string());
    fetcher.tick_after(Duration::ZERO);
    assert_eq!(fetcher.host.calls().len(), 1);
    fetcher.answer(200, &jwks(&[&TestKey::new("a", 1)]));
    assert!(fetcher.trust.has_jwks("https://a.example") && fetcher.trust.has_jwks("https://b.example"));
}

#[test]
fn urging_fetches_once_for_all_and_within_its_budget() {
    let mut fetcher = fetcher();
    assert!(fetcher.sync.urge(0, fetcher.host.now()), "the first fetch is under way");
    fetcher.answer(200, &jwks(&[&TestKey::new("a", 1)]));
    let mut asked = 0;
    for _ in 0..900 {
        if fetcher.sync.urge(0, fetcher.host.now()) {
            assert!(fetcher.sync.urge(0, fetcher.host.now()));
            fetcher.tick_after(Duration::ZERO);
            fetcher.answer(200, &jwks(&[&TestKey::new("a", 1)]));
            asked += 1;
        }
        fetcher.host.advance(Duration::from_millis(10));
    }
    assert_eq!((asked, fetcher.host.calls().len()), (2, 3));
}

#[test]
fn an_unknown_source_cannot_be_urged() {
    assert!(!fetcher().sync.urge(9, Duration::ZERO));
}
