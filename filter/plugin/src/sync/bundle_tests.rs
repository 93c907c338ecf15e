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

    fn hear(&mut self, token: u32, status: u16, body: &[u8]) -> Option<Heard> {
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
    fn answer(&mut self, status: u16, body: &str) -> Heard {
        self.hear(self.host.last_call().token, status, body.as_bytes())
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

/// Has taken over version 1 and asks for the next.
fn poll_with_version_1() -> Poll {
    let mut poll = poll();
    poll.tick();
    assert_eq!(
        poll.answer(200, &full(1, &[&TestKey::new("a", 1)])),
        Heard::News
    );
    poll.tick();
    poll
}

#[test]
fn the_first_poll_says_who_asks_and_that_it_has_nothing() {
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
fn path_wait_and_credential_are_those_of_the_configuration() {
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
fn one_poll_is_under_way_at_a_time() {
    let mut poll = poll();
    poll.tick();
    poll.tick_after(9_000);
    assert_eq!(poll.host.calls().len(), 1);
    assert_eq!(poll.sync.due(), None);
}

#[test]
fn a_version_is_acknowledged_at_once_by_asking_for_the_next() {
    let poll = poll_with_version_1();
    assert_eq!(poll.host.last_call().path(), "/bundle?have=1&wait=25");
    assert_eq!(poll.count("accepted"), 1);
}

#[test]
fn poll_proves_version_by_its_value() {
    let mut poll = poll();
    let with_ack = |version, ack: Option<&str>| {
        bundle(
            &pin(),
            &Payload {
                ack: ack.map(String::from),
                ..snapshot(version, &[]).full(times(START))
            },
        )
    };
    for (version, ack) in [(1, Some("first")), (2, Some("second")), (3, None)] {
        poll.tick();
        assert_eq!(poll.answer(200, &with_ack(version, ack)), Heard::News);
        poll.tick();
        let call = poll.host.last_call();
        assert_eq!(call.path(), format!("/bundle?have={version}&wait=25"));
        assert_eq!(
            call.headers.get("x-meshseal-proof").map(String::as_str),
            ack
        );
    }
}

#[test]
fn pins_that_no_header_can_carry_are_omitted() {
    let pins = |kids: [&'static str; 2]| {
        let keys: Value = kids
            .into_iter()
            .zip(1..)
            .map(|(kid, seed)| TestKey::new(kid, seed).jwk())
            .collect();
        let policy =
            meshseal_core::config::read_policy(&bundle_config(json!({ "keys": keys }), json!({})))
                .unwrap();
        Identity::new(&FakeHost::new(), &policy).pins
    };
    assert_eq!(pins(["old", "new"]), "old,new");
    assert_eq!(pins(["a,b", "a b"]), "");
}

#[test]
fn a_delta_is_applied() {
    let mut poll = poll_with_version_1();
    let (one, both) = (
        snapshot(1, &[&TestKey::new("a", 1)]),
        snapshot(2, &[&TestKey::new("a", 1), &TestKey::new("b", 2)]),
    );
    let delta = bundle(&pin(), &both.delta_from(&one, times(START)));
    assert_eq!(poll.answer(200, &delta), Heard::News);
    assert_eq!(
        (poll.trust.bundle_version(), poll.trust.keys().count()),
        (Some(2), 2)
    );
}

#[test]
fn a_heartbeat_is_no_news_and_refreshes() {
    let mut poll = poll_with_version_1();
    poll.host.advance(Duration::from_secs(25));
    let same = snapshot(1, &[]);
    let heartbeat = bundle(&pin(), &same.delta_from(&same, times(START + 25)));
    assert_eq!(poll.answer(200, &heartbeat), Heard::Nothing);
    assert_eq!(poll.trust.bundle_issued_at(), Some(START + 25));
    assert_eq!((poll.count("accepted"), poll.count("refused")), (1, 0));
    assert_eq!(
        poll.sync.due(),
        Some(poll.host.steady()),
        "a full round has passed: ask again at once"
    );
}

#[test]
fn an_issuer_that_does_not_hold_polls_is_asked_once_a_second() {
    let mut poll = poll_with_version_1();
    let same = snapshot(1, &[]);
    poll.answer(200, &bundle(&pin(), &same.delta_from(&same, times(START))));
    poll.tick_after(999);
    assert_eq!(poll.host.calls().len(), 2);
    poll.tick_after(1);
    assert_eq!(poll.host.calls().len(), 3);
}

#[test]
fn failures_are_counted_and_backed_off_from() {
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
fn after_a_failure_what_is_known_is_confirmed_at_once_and_then_the_rounds_go_on() {
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
fn after_a_long_silence_what_is_known_is_confirmed_at_once() {
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
fn a_poll_without_any_answer_is_a_failure() {
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
fn a_cluster_that_cannot_be_reached_is_tried_again_and_told_once() {
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
fn too_large_an_answer_is_refused_before_it_is_copied() {
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
fn what_no_pinned_key_signed_is_refused_and_the_old_stays() {
    let mut poll = poll_with_version_1();
    let foreign = bundle(
        &TestKey::new("pin", 98),
        &snapshot(2, &[]).full(times(START)),
    );
    assert_eq!(poll.answer(200, &foreign), Heard::Nothing);
    assert_eq!(
        (poll.trust.bundle_version(), poll.count("refused")),
        (Some(1), 1)
    );
}

#[test]
fn an_older_version_is_refused() {
    let mut poll = poll_with_version_1();
    assert_eq!(poll.answer(200, &full(0, &[])), Heard::Nothing);
    assert_eq!(
        (poll.trust.bundle_version(), poll.count("refused")),
        (Some(1), 1)
    );
}

#[test]
fn a_truncated_answer_and_one_that_is_not_text_are_refused() {
    let mut poll = poll();
    let bundle = full(1, &[]);
    for body in [&bundle.as_bytes()[..bundle.len() - 1], b"\xff\xfe", b""] {
        poll.tick_after(10_000);
        assert_eq!(
            poll.hear(poll.host.last_call().token, 200, body),
            Some(Heard::Nothing)
        );
    }
    assert_eq!(poll.trust.bundle_version(), None);
}

#[test]
fn after_a_delta_that_does_not_fit_a_full_bundle_is_asked_for() {
    let mut poll = poll_with_version_1();
    let (three, four) = (snapshot(3, &[]), snapshot(4, &[]));
    poll.answer(200, &bundle(&pin(), &four.delta_from(&three, times(START))));
    poll.tick_after(10_000);
    assert_eq!(poll.host.last_call().path(), "/bundle?wait=0");
    assert_eq!(poll.answer(200, &full(4, &[])), Heard::News);
    poll.tick();
    assert_eq!(poll.host.last_call().path(), "/bundle?have=4&wait=25");
}

#[test]
fn an_urgent_question_is_short_and_serves_all_who_want_one() {
    let mut poll = poll_with_version_1();
    let now = poll.host.steady();
    assert!(poll.sync.urge(now) && poll.sync.urge(now));
    assert_eq!(poll.sync.due(), Some(Duration::ZERO));
    poll.tick();
    assert!(poll.sync.urge(now));
    poll.tick();
    assert_eq!(
        poll.host.calls().len(),
        3,
        "two polls and one urgent question"
    );
    let call = poll.host.last_call();
    assert_eq!(
        (call.path(), call.timeout),
        ("/bundle?have=1&wait=0", waiters::MAX_WAIT)
    );
}

#[test]
fn a_flood_that_urges_gets_the_budget_and_no_more() {
    let mut poll = poll_with_version_1();
    let mut asked = 0;
    for _ in 0..1_000 {
        if poll.sync.urge(poll.host.steady()) {
            poll.tick();
            poll.answer(500, "");
            asked += 1;
        }
        poll.host.advance(Duration::from_millis(1));
    }
    assert_eq!(asked, 4);
}

#[test]
fn an_answer_to_what_has_been_overtaken_is_dropped_without_blame() {
    let mut poll = poll_with_version_1();
    let regular = poll.host.last_call().token;
    poll.sync.urge(poll.host.steady());
    poll.tick();
    let delta = bundle(
        &pin(),
        &snapshot(2, &[]).delta_from(&snapshot(1, &[&TestKey::new("a", 1)]), times(START)),
    );
    assert_eq!(poll.answer(200, &delta), Heard::News);
    assert_eq!(
        poll.hear(regular, 200, delta.as_bytes()),
        Some(Heard::Nothing)
    );
    assert_eq!(poll.count("refused"), 0);
    poll.tick();
    assert_eq!(poll.host.last_call().path(), "/bundle?have=2&wait=25");
}

#[test]
fn an_urgent_question_that_fails_leaves_the_poll_alone() {
    let mut poll = poll_with_version_1();
    poll.sync.urge(poll.host.steady());
    poll.tick();
    poll.answer(504, "");
    assert_eq!(poll.sync.due(), None, "the long-poll is still under way");
}

#[test]
fn answers_to_other_questions_are_left_to_others() {
    let mut poll = poll_with_version_1();
    assert_eq!(poll.hear(77, 200, b""), None);
}

#[test]
fn a_poll_without_an_answer_is_given_up() {
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
