//! Steps of the wall clock. Deadlines, rates and refreshes do not depend on them.

use super::*;

const STEPS: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_secs(START - 86_400),
    Duration::from_secs(START + 400 * 86_400),
    Duration::MAX,
];

#[test]
fn held_request_ignores_clock_steps() {
    for step in STEPS {
        let mut mesh = with_bundle();
        let (id, _flow) = mesh.send_with(&token(&TestKey::new("b", 2), json!({})));
        mesh.host.set_wall_clock(step);
        mesh.tick_after(100);
        assert!(
            mesh.host.stream(id).reply.is_none(),
            "released early at {step:?}"
        );
        mesh.tick_after(100);
        assert!(
            mesh.host.stream(id).reply.is_some(),
            "held longer at {step:?}"
        );
    }
}

#[test]
fn fetches_keys_on_time_despite_clock_steps() {
    for step in STEPS {
        let mut mesh = Mesh::new(&remote_config(json!({})));
        mesh.first_answer(&jwks(&[&key()]));
        let calls = mesh.host.calls().len();
        mesh.host.set_wall_clock(step);
        mesh.tick_after(200_000);
        assert_eq!(mesh.host.calls().len(), calls, "early at {step:?}");
        mesh.tick_after(100_001);
        assert_eq!(mesh.host.calls().len(), calls + 1, "late at {step:?}");
    }
}

#[test]
fn fetched_keys_age_by_elapsed_time() {
    for step in STEPS {
        let mut mesh = Mesh::new(&remote_config(json!({})));
        mesh.first_answer(&jwks(&[&key()]));
        for (elapsed_ms, status) in [(899_000, 200), (2_000, 503)] {
            mesh.host.set_wall_clock(step);
            mesh.tick_after(elapsed_ms);
            // The clock is right when a token is validated; it is wrong only in between.
            mesh.host.set_wall_clock(Duration::from_secs(START));
            let answer = mesh.ask_with(&token(&key(), json!({})));
            assert_eq!(answer.0, status, "{step:?}");
        }
    }
}

#[test]
fn rates_recover_by_elapsed_time() {
    for step in STEPS {
        let mut mesh = with_bundle();
        let unknown = TestKey::new("b", 2);
        for round in 0..5_u32 {
            let (id, _flow) = mesh.send_with(&token(&unknown, json!({ "sub": round.to_string() })));
            let refused_at_once = mesh.host.stream(id).reply.is_some();
            assert_eq!(refused_at_once, round == 4, "round {round} at {step:?}");
            mesh.tick_after(1);
            mesh.answer(mesh.host.last_call().token, 500, "");
            mesh.host.set_wall_clock(step);
        }
        mesh.tick_after(1_000);
        let (id, _flow) = mesh.send_with(&token(&unknown, json!({ "sub": "late" })));
        assert!(mesh.host.stream(id).reply.is_none(), "{step:?}");
    }
}

/// Returns the heartbeat of version 7 that the issuer sends `after` seconds after [`START`].
fn heartbeat(after: u64) -> String {
    let snapshot = snapshot(7, &[&key()]);
    bundle(
        &pin(),
        &snapshot.delta_from(&snapshot, times(START + after)),
    )
}

fn with_stale_bundles_refused() -> Mesh {
    let mut mesh = Mesh::new(&bundle_config(
        json!({ "staleness": { "maxAge": "300s" } }),
        json!({}),
    ));
    mesh.first_answer(&full(7, &[&key()]));
    mesh.tick_after(1);
    mesh
}

/// Returns the status for a token that is valid by the wall clock.
fn verdict_by_wall_clock(mesh: &mut Mesh, key: &TestKey) -> u16 {
    let now = mesh.host.now().as_secs();
    // No token is valid at the minimum or maximum of the clock.
    if !(START - 400 * 86_400..=START + 500 * 86_400).contains(&now) {
        mesh.host.set_wall_clock(Duration::from_secs(START));
    }
    let now = mesh.host.now().as_secs();
    mesh.ask_with(&key.token(&claims_at(now, json!({})))).0
}

#[test]
fn bundle_ages_by_elapsed_time() {
    for step in STEPS {
        let mut mesh = with_stale_bundles_refused();
        mesh.host.set_wall_clock(step);
        assert_eq!(
            verdict_by_wall_clock(&mut mesh, &key()),
            200,
            "at once after {step:?}"
        );
        mesh.host.set_wall_clock(step);
        mesh.tick_after(298_000);
        assert_eq!(
            verdict_by_wall_clock(&mut mesh, &key()),
            200,
            "early after {step:?}"
        );
        mesh.host.set_wall_clock(step);
        mesh.tick_after(3_000);
        assert_eq!(
            verdict_by_wall_clock(&mut mesh, &key()),
            503,
            "late after {step:?}"
        );
        assert_eq!(mesh.count("bundle.age_s"), 301, "{step:?}");
    }
}

#[test]
fn withdrawn_key_is_refused_after_a_step() {
    for step in STEPS {
        let mut mesh = with_stale_bundles_refused();
        mesh.host.set_wall_clock(step);
        mesh.tick_after(60_000);
        mesh.answer(mesh.host.last_call().token, 200, &heartbeat(60));
        mesh.tick_after(1_000);
        let new = TestKey::new("b", 2);
        let next = bundle(&pin(), &snapshot(8, &[&new]).full(times(START + 61)));
        mesh.answer(mesh.host.last_call().token, 200, &next);
        assert_eq!(
            (mesh.count("bundle.version"), mesh.count("bundle.refused")),
            (8, 0),
            "{step:?}"
        );
        assert_eq!(verdict_by_wall_clock(&mut mesh, &new), 200, "{step:?}");
        mesh.host.set_wall_clock(Duration::from_secs(START));
        let withdrawn = mesh.send_with(&token(&key(), json!({}))).1;
        assert!(!matches!(withdrawn, Flow::Continue), "{step:?}");
    }
}

#[test]
fn new_configuration_keeps_bundle_age() {
    for step in STEPS {
        let mut mesh = with_stale_bundles_refused();
        mesh.host.set_wall_clock(step);
        mesh.tick_after(298_000);
        assert!(mesh.configure(&bundle_config(
            json!({ "staleness": { "maxAge": "301s" } }),
            json!({})
        )));
        mesh.tick_after(2_000);
        assert_eq!(verdict_by_wall_clock(&mut mesh, &key()), 200, "{step:?}");
        mesh.host.set_wall_clock(step);
        mesh.tick_after(2_000);
        assert_eq!(verdict_by_wall_clock(&mut mesh, &key()), 503, "{step:?}");
        // The age of another issuer's bundle starts from this VM's first reading of the clocks, not
        // from the stepped one.
        let other = TestKey::new("other", 97);
        assert!(mesh.configure(&bundle_config(json!({ "keys": [other.jwk()] }), json!({}))));
        mesh.tick_after(1);
        let first = bundle(&other, &snapshot(1, &[&key()]).full(times(START + 302)));
        mesh.answer(mesh.host.last_call().token, 200, &first);
        assert_eq!(verdict_by_wall_clock(&mut mesh, &key()), 200, "{step:?}");
    }
}

#[test]
fn forward_clock_jump_confirms_bundle_at_once() {
    let mut mesh = with_stale_bundles_refused();
    let calls = mesh.host.calls().len();
    mesh.tick_after(1_000);
    mesh.host
        .set_wall_clock(mesh.host.now() + Duration::from_secs(1));
    mesh.tick_after(1_000);
    assert_eq!(mesh.host.calls().len(), calls, "a poll is under way");
    mesh.host
        .set_wall_clock(mesh.host.now() + Duration::from_secs(600));
    mesh.tick_after(1_000);
    assert_eq!(mesh.host.calls().len(), calls + 1);
    assert_eq!(mesh.host.last_call().path(), "/bundle?have=7&wait=0");
}

#[test]
fn validation_is_timed_by_elapsed_time() {
    let host = FakeHost::new().with_hurried_wall_clock();
    let mut mesh = Mesh::on(host, &inline_config(&[&key()], json!({}), json!({})));
    let now = mesh.host.now().as_secs() + 3_600;
    assert_eq!(
        mesh.ask_with(&key().token(&claims_at(now, json!({})))).0,
        200
    );
    assert_eq!(
        (
            mesh.host.records("meshseal.validation_us"),
            mesh.count("validation_us")
        ),
        (1, 0)
    );
}

#[test]
fn omission_lines_are_limited_by_elapsed_time() {
    let config = inline_config(&[&key()], sub_to_header(), json!({}));
    let mut mesh = Mesh::new(&config);
    let mut ask = |after: u64, wall: u64| {
        mesh.host.advance(Duration::from_secs(after));
        mesh.host.set_wall_clock(Duration::from_secs(wall));
        assert_eq!(
            mesh.ask_with(&token(&key(), json!({ "sub": "x\ny", "wall": wall })))
                .0,
            200
        );
        mesh.host.lines(Level::Warn).len()
    };
    assert_eq!(
        [
            ask(0, START),
            ask(1, START + 60),
            ask(1, START - 5),
            ask(9, START - 4)
        ],
        [1, 1, 1, 2]
    );
}
