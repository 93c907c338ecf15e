use super::*;
use crate::host::fake::FakeHost;
use crate::testing::{START, TestKey, bundle, bundle_config, full, pin, snapshot, times};
use meshseal_core::bundle::Payload;
use serde_json::{Value, json};

const PREFIX: &str = "meshseal.bundle.";

struct Poll {
    host: FakeHost,
    sync: BundleSync,
    policy: Policy,
    trust: Trust,
    metrics: Metrics,
    me: Identity,
}

impl Poll {
    fn new(host: FakeHost, changes: Value) -> Self {
        let policy =
            meshseal_core::config::read_policy(&bundle_config(changes, json!({}))).unwrap();
        let metrics = Metrics::define(&host, "");
        let me = Identity {
            worker: "0123456789abcdef".to_owned(),
            ..Identity::new(&host, &policy)
        };
        Self {
            host,
            sync: BundleSync::new(),
            policy,
            trust: Trust::new(),
            metrics,
            me,
        }
    }

    fn tick(&mut self) {
        self.sync.tick(
            &self.host,
            self.policy.authn().trust_bundle().unwrap(),
            &self.me,
            &self.trust,
            &self.metrics,
        );
    }

    fn tick_after(&mut self, millis: u64) {
        self.host.advance(Duration::from_millis(millis));
        self.tick();
    }

    fn respond(&mut self, token: u32, status: u16, body: &[u8]) -> Option<CallOutcome> {
        self.host.answer(status, body);
        let finished = Finished {
            token,
            size: body.len(),
        };
        let config = self.policy.authn().trust_bundle().unwrap();
        self.sync
            .finished(&self.host, finished, config, &mut self.trust, &self.metrics)
    }

    /// Answers the last call.
    fn answer(&mut self, status: u16, body: &str) -> CallOutcome {
        self.respond(self.host.last_call().token, status, body.as_bytes())
            .unwrap()
    }

    fn count(&self, name: &str) -> u64 {
        self.metrics.tell(&self.host);
        self.host.metric(&format!("{PREFIX}{name}"))
    }
}

fn poll() -> Poll {
    Poll::new(FakeHost::new(), json!({}))
}

/// Returns a poll that has accepted version 1 and waits for the next version.
fn poll_with_version_1() -> Poll {
    let mut poll = poll();
    poll.tick();
    assert_eq!(
        poll.answer(200, &full(1, &[&TestKey::new("a", 1)])),
        CallOutcome::News
    );
    poll.tick();
    poll
}

#[test]
fn first_poll_identifies_worker_without_version() {
    let mut poll = poll();
    poll.tick();
    let call = poll.host.last_call();
    assert_eq!(
        (call.cluster.as_str(), call.path()),
        ("issuer", "/bundle?wait=0")
    );
    assert_eq!(call.headers[":authority"], "issuer.local");
    assert_eq!(call.headers["x-meshseal-worker"], "0123456789abcdef");
    assert_eq!(call.headers["x-meshseal-node"], "node-1");
    assert_eq!(call.headers["x-meshseal-protocol"], "2");
    assert_eq!(call.headers["x-meshseal-staleness"], "not-after");
    assert_eq!(call.headers["x-meshseal-pins"], "pin");
    assert!(
        !call.headers.contains_key("authorization")
            && !call.headers.contains_key("x-meshseal-proof")
    );
    assert_eq!(call.timeout, Duration::from_secs(5));
}

#[test]
fn poll_uses_configured_path_wait_and_token() {
    let mut poll = Poll::new(
        FakeHost::new(),
        json!({ "path": "/b", "wait": "10s", "pollToken": "secret" }),
    );
    poll.tick();
    poll.answer(200, &full(1, &[]));
    poll.tick();
    let call = poll.host.last_call();
    assert_eq!(
        (call.path(), call.headers["authorization"].as_str()),
        ("/b?have=1&wait=10", "Bearer secret")
    );
    assert_eq!(call.timeout, Duration::from_secs(15));
}

#[test]
fn runs_one_poll_at_a_time() {
    let mut poll = poll();
    poll.tick();
    poll.tick_after(9_000);
    assert_eq!(poll.host.calls().len(), 1);
    assert_eq!(poll.sync.due(), None);
}

#[test]
fn acknowledges_version_with_next_poll_at_once() {
    let poll = poll_with_version_1();
    assert_eq!(poll.host.last_call().path(), "/bundle?have=1&wait=25");
    assert_eq!(poll.count("accepted"), 1);
}

fn bundle_with_ack(version: u64, ack: Option<&str>) -> String {
    let payload = Payload {
        ack: ack.map(String::from),
        ..snapshot(version, &[]).full(times(START))
    };
    bundle(&pin(), &payload)
}

#[test]
fn poll_carries_proof_of_its_version() {
    let mut poll = poll();
    for (version, ack) in [(1, Some("first")), (2, Some("second")), (3, None)] {
        poll.tick();
        assert_eq!(
            poll.answer(200, &bundle_with_ack(version, ack)),
            CallOutcome::News
        );
        poll.tick();
        let call = poll.host.last_call();
        assert_eq!(call.path(), format!("/bundle?have={version}&wait=25"));
        assert_eq!(
            call.headers.get("x-meshseal-proof").map(String::as_str),
            ack
        );
    }
}

/// Returns the pins that a worker sends if keys with these ids are pinned.
fn sent_pins(kids: [&'static str; 2]) -> String {
    let keys: Value = kids
        .into_iter()
        .zip(1..)
        .map(|(kid, seed)| TestKey::new(kid, seed).jwk())
        .collect();
    let config = bundle_config(json!({ "keys": keys }), json!({}));
    let policy = meshseal_core::config::read_policy(&config).unwrap();
    Identity::new(&FakeHost::new(), &policy).pins
}

#[test]
fn omits_pins_that_headers_cannot_carry() {
    assert_eq!(sent_pins(["old", "new"]), "old,new");
    assert_eq!(sent_pins(["a,b", "a b"]), "");
}

#[test]
fn applies_delta() {
    let mut poll = poll_with_version_1();
    let (one, both) = (
        snapshot(1, &[&TestKey::new("a", 1)]),
        snapshot(2, &[&TestKey::new("a", 1), &TestKey::new("b", 2)]),
    );
    let delta = bundle(&pin(), &both.delta_from(&one, times(START)));
    assert_eq!(poll.answer(200, &delta), CallOutcome::News);
    assert_eq!(
        (poll.trust.bundle_version(), poll.trust.keys().count()),
        (Some(2), 2)
    );
}

#[test]
fn heartbeat_refreshes_without_news() {
    let mut poll = poll_with_version_1();
    poll.host.advance(Duration::from_secs(25));
    let same = snapshot(1, &[]);
    let heartbeat = bundle(&pin(), &same.delta_from(&same, times(START + 25)));
    assert_eq!(poll.answer(200, &heartbeat), CallOutcome::Nothing);
    assert_eq!(poll.trust.bundle_issued_at(), Some(START + 25));
    assert_eq!((poll.count("accepted"), poll.count("refused")), (1, 0));
    assert_eq!(
        poll.sync.due(),
        Some(poll.host.steady()),
        "the long-poll has run its full time: poll again at once"
    );
}

#[test]
fn polls_once_a_second_without_long_polling() {
    let mut poll = poll_with_version_1();
    let same = snapshot(1, &[]);
    poll.answer(200, &bundle(&pin(), &same.delta_from(&same, times(START))));
    poll.tick_after(999);
    assert_eq!(poll.host.calls().len(), 2);
    poll.tick_after(1);
    assert_eq!(poll.host.calls().len(), 3);
}

#[test]
fn counts_failures_and_backs_off() {
    let mut poll = poll();
    poll.host.set_random(250_000);
    for (failures, status) in [(1, 500), (2, 409), (3, 504)] {
        poll.tick();
        poll.answer(status, "no");
        assert_eq!(poll.count("poll_failed"), failures);
        assert!(poll.sync.due() > Some(poll.host.steady()));
        poll.host.advance(Duration::from_secs(10));
    }
}

#[test]
fn confirms_bundle_at_once_after_failure() {
    let mut poll = poll_with_version_1();
    poll.answer(504, "");
    poll.tick_after(10_000);
    assert_eq!(poll.host.last_call().path(), "/bundle?have=1&wait=0");
    let same = snapshot(1, &[]);
    poll.answer(
        200,
        &bundle(&pin(), &same.delta_from(&same, times(START + 10))),
    );
    poll.tick();
    assert_eq!(poll.host.last_call().path(), "/bundle?have=1&wait=25");
}

#[test]
fn confirms_bundle_at_once_after_long_silence() {
    let mut poll = poll_with_version_1();
    let delta = bundle(
        &pin(),
        &snapshot(2, &[]).delta_from(&snapshot(1, &[&TestKey::new("a", 1)]), times(START)),
    );
    poll.answer(200, &delta);
    poll.tick_after(26_000);
    assert_eq!(poll.host.last_call().path(), "/bundle?have=2&wait=0");
}

#[test]
fn counts_poll_without_response_as_failure() {
    let mut poll = poll();
    poll.tick();
    poll.host.answer_nothing();
    let finished = Finished {
        token: poll.host.last_call().token,
        size: 0,
    };
    let config = poll.policy.authn().trust_bundle().unwrap();
    poll.sync
        .finished(&poll.host, finished, config, &mut poll.trust, &poll.metrics);
    assert_eq!(poll.count("poll_failed"), 1);
}

#[test]
fn retries_unreachable_cluster_and_logs_once() {
    let mut poll = Poll::new(FakeHost::new().with_unreachable("issuer"), json!({}));
    for _ in 0..3 {
        poll.tick_after(10_000);
    }
    assert_eq!(poll.count("poll_failed"), 3);
    assert_eq!(poll.host.lines(crate::host::Level::Warn).len(), 1);
    poll.host.reachable("issuer");
    poll.tick_after(10_000);
    poll.answer(200, &full(1, &[]));
    assert_eq!(
        poll.host.lines(crate::host::Level::Info).len(),
        1,
        "works again"
    );
}

#[test]
fn rejects_oversized_response_before_copying() {
    let mut poll = poll();
    poll.tick();
    poll.host.answer(200, b"");
    let finished = Finished {
        token: poll.host.last_call().token,
        size: limits::MAX_BUNDLE_BYTES + 1,
    };
    let config = poll.policy.authn().trust_bundle().unwrap();
    poll.sync
        .finished(&poll.host, finished, config, &mut poll.trust, &poll.metrics);
    assert_eq!((poll.host.bytes_copied(), poll.count("refused")), (0, 1));
}

#[test]
fn rejects_foreign_signature_and_keeps_old_bundle() {
    let mut poll = poll_with_version_1();
    let foreign = bundle(
        &TestKey::new("pin", 98),
        &snapshot(2, &[]).full(times(START)),
    );
    assert_eq!(poll.answer(200, &foreign), CallOutcome::Nothing);
    assert_eq!(
        (poll.trust.bundle_version(), poll.count("refused")),
        (Some(1), 1)
    );
}

#[test]
fn rejects_older_version() {
    let mut poll = poll_with_version_1();
    assert_eq!(poll.answer(200, &full(0, &[])), CallOutcome::Nothing);
    assert_eq!(
        (poll.trust.bundle_version(), poll.count("refused")),
        (Some(1), 1)
    );
}

#[test]
fn rejects_truncated_and_non_utf8_responses() {
    let mut poll = poll();
    let bundle = full(1, &[]);
    for body in [&bundle.as_bytes()[..bundle.len() - 1], b"\xff\xfe", b""] {
        poll.tick_after(10_000);
        assert_eq!(
            poll.respond(poll.host.last_call().token, 200, body),
            Some(CallOutcome::Nothing)
        );
    }
    assert_eq!(poll.trust.bundle_version(), None);
}

#[test]
fn requests_full_bundle_after_mismatched_delta() {
    let mut poll = poll_with_version_1();
    let (three, four) = (snapshot(3, &[]), snapshot(4, &[]));
    poll.answer(200, &bundle(&pin(), &four.delta_from(&three, times(START))));
    poll.tick_after(10_000);
    assert_eq!(poll.host.last_call().path(), "/bundle?wait=0");
    assert_eq!(poll.answer(200, &full(4, &[])), CallOutcome::News);
    poll.tick();
    assert_eq!(poll.host.last_call().path(), "/bundle?have=4&wait=25");
}

#[test]
fn urgent_poll_is_short_and_shared() {
    let mut poll = poll_with_version_1();
    let now = poll.host.steady();
    assert!(poll.sync.request_refresh(now) && poll.sync.request_refresh(now));
    assert_eq!(poll.sync.due(), Some(Duration::ZERO));
    poll.tick();
    assert!(poll.sync.request_refresh(now));
    poll.tick();
    assert_eq!(
        poll.host.calls().len(),
        3,
        "two long-polls and one urgent poll"
    );
    let call = poll.host.last_call();
    assert_eq!(
        (call.path(), call.timeout),
        ("/bundle?have=1&wait=0", waiters::MAX_WAIT)
    );
}

#[test]
fn urgent_polls_stay_within_budget() {
    let mut poll = poll_with_version_1();
    let mut asked = 0;
    for _ in 0..1_000 {
        if poll.sync.request_refresh(poll.host.steady()) {
            poll.tick();
            poll.answer(500, "");
            asked += 1;
        }
        poll.host.advance(Duration::from_millis(1));
    }
    assert_eq!(asked, 4);
}

#[test]
fn drops_overtaken_response_without_counting_failure() {
    let mut poll = poll_with_version_1();
    let regular = poll.host.last_call().token;
    poll.sync.request_refresh(poll.host.steady());
    poll.tick();
    let delta = bundle(
        &pin(),
        &snapshot(2, &[]).delta_from(&snapshot(1, &[&TestKey::new("a", 1)]), times(START)),
    );
    assert_eq!(poll.answer(200, &delta), CallOutcome::News);
    assert_eq!(
        poll.respond(regular, 200, delta.as_bytes()),
        Some(CallOutcome::Nothing)
    );
    assert_eq!(poll.count("refused"), 0);
    poll.tick();
    assert_eq!(poll.host.last_call().path(), "/bundle?have=2&wait=25");
}

#[test]
fn failed_urgent_poll_leaves_long_poll_running() {
    let mut poll = poll_with_version_1();
    poll.sync.request_refresh(poll.host.steady());
    poll.tick();
    poll.answer(504, "");
    assert_eq!(poll.sync.due(), None, "the long-poll is still under way");
}

#[test]
fn ignores_responses_to_other_calls() {
    let mut poll = poll_with_version_1();
    assert_eq!(poll.respond(77, 200, b""), None);
}

#[test]
fn gives_up_poll_without_response() {
    let mut poll = poll_with_version_1();
    let calls = poll.host.calls().len();
    poll.tick_after(34_000);
    assert_eq!(poll.host.calls().len(), calls);
    poll.tick_after(1_000);
    poll.tick_after(1_000);
    assert_eq!(
        (poll.host.calls().len(), poll.count("poll_failed")),
        (calls + 1, 1)
    );
}
