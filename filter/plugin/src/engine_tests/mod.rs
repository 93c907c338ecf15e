mod clock;
mod configuration;
mod remembered;
mod trust;
mod verdicts;
mod waiting;

use super::*;
use crate::host::fake::{FakeHost, Stream};
use crate::registry;
use crate::testing::{
    ISSUER, START, TestKey, bundle, bundle_config, full, inline_config, jwks, pin, remote_config,
    snapshot, times, token,
};
use meshseal_core::testing::{claims_at, merge};
use serde_json::{Value, json};

const ROOT: u32 = 1;

/// A fake proxy with one root context. Its requests have stream ids from 100.
struct Mesh {
    host: FakeHost,
    engine: Engine<FakeHost>,
    next: u32,
}

impl Mesh {
    fn unconfigured(host: FakeHost) -> Self {
        registry::forget();
        host.enter(ROOT);
        Self {
            engine: Engine::new(host.clone(), ROOT),
            host,
            next: 100,
        }
    }

    fn new(config: &str) -> Self {
        Self::on(FakeHost::new(), config)
    }

    fn on(host: FakeHost, config: &str) -> Self {
        let mut mesh = Self::unconfigured(host);
        assert!(
            mesh.configure(config),
            "{:?}",
            mesh.host.lines(Level::Error)
        );
        mesh
    }

    fn configure(&mut self, config: &str) -> bool {
        self.host.enter(ROOT);
        self.engine.configure(self.host.configure(config))
    }

    fn tick_after(&mut self, millis: u64) {
        self.host.advance(Duration::from_millis(millis));
        self.host.enter(ROOT);
        self.engine.on_tick();
    }

    /// Answers the call `token`.
    fn answer(&mut self, token: u32, status: u16, body: &str) {
        self.host.enter(ROOT);
        self.host.answer(status, body.as_bytes());
        self.engine.on_call_finished(token, body.len());
    }

    /// Runs the first tick and answers its call.
    fn first_answer(&mut self, body: &str) {
        self.tick_after(1);
        self.answer(self.host.last_call().token, 200, body);
    }

    fn send(&mut self, headers: &[(&str, &str)]) -> (u32, Flow) {
        let id = self.next;
        self.next += 1;
        let mut all = vec![
            (":method", "GET"),
            (":authority", "orders"),
            (":path", "/orders/1"),
        ];
        all.retain(|(name, _)| headers.iter().all(|(other, _)| other != name));
        all.extend(headers);
        self.host.request(id, &all);
        (id, self.engine.on_request(id))
    }

    /// Sends a request. Returns the status of its response, or 200 if it continued to the upstream,
    /// and the request as the proxy then holds it.
    fn ask(&mut self, headers: &[(&str, &str)]) -> (u16, Stream) {
        let (id, flow) = self.send(headers);
        let stream = self.host.stream(id);
        match flow {
            Flow::Continue => (200, stream),
            Flow::Answered => (stream.reply.as_ref().unwrap().status, stream),
            Flow::Held => panic!("held"),
        }
    }

    fn ask_with(&mut self, token: &str) -> (u16, Stream) {
        self.ask(&[("authorization", &format!("Bearer {token}"))])
    }

    fn send_with(&mut self, token: &str) -> (u32, Flow) {
        self.send(&[("authorization", &format!("Bearer {token}"))])
    }

    /// Flushes metrics and returns a counter, or the last value of a gauge.
    fn count(&self, name: &str) -> u64 {
        self.engine.end();
        self.host.metric(&format!("meshseal.{name}"))
    }
}

fn key() -> TestKey {
    TestKey::new("a", 1)
}

fn sub_to_header() -> Value {
    json!({
        "outputClaimToHeaders": [{ "header": "x-sub", "claim": "sub" }],
        "outputPayloadToHeader": "x-payload",
    })
}

fn value<'s>(stream: &'s Stream, name: &str) -> Option<&'s str> {
    let found = stream.headers.iter().find(|(key, _)| key == name);
    found.map(|(_, value)| std::str::from_utf8(value).unwrap())
}

fn code(stream: &Stream) -> String {
    let body: Value = serde_json::from_str(&stream.reply.as_ref().unwrap().body).unwrap();
    body["code"].as_str().unwrap().to_owned()
}

fn with_bundle() -> Mesh {
    let mut mesh = Mesh::new(&bundle_config(json!({}), json!({})));
    mesh.first_answer(&full(7, &[&key()]));
    mesh
}
