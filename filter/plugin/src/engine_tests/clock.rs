//! Steps of the wall clock. No deadline, rate or refresh follows them.

use super::*;

const STEPS: [Duration; 4] =
    [Duration::ZERO, Duration::from_secs(START - 86_400), Duration::from_secs(START + 400 * 86_400), Duration::MAX];

#[test]
fn a_held_request_waits_its_time() {
    for step in STEPS {
        let mut mesh = with_bundle();
        let (id, _flow) = mesh.send_with(&token(&TestKey::new("b", 2), json!({})));
        mesh.host.set_wall_clock(step);
        mesh.tick_after(100);
        assert!(mesh.host.stream(id).reply.is_none(), "released early at {step:?}");
        mesh.tick_after(100);
        assert!(mesh.host.stream(id).reply.is_some(), "held longer at {step:?}");
    }
}

#[test]
fn keys_are_fetched_when_they_are_due() {
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
        let verdict = |mesh: &mut Mesh| {
            // Tokens are judged by the right time; only in between the clock was wrong.
            mesh.host.set_wall_clock(Duration::from_secs(START));
            mesh.ask_with(&token(&key(), json!({}))).0
        };
        mesh.host.set_wall_clock(step);
        mesh.tick_after(899_000);
        assert_eq!(verdict(&mut mesh), 200, "{step:?}");
        mesh.host.set_wall_clock(step);
        mesh.tick_after(2_000);
        assert_eq!(verdict(&mut mesh), 503, "{step:?}");
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
