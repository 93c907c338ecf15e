//! What a request costs in heap allocations, counted: none for a token seen before, few for a new one. What the proxy itself
//! allocates in the module to hand over the headers is not counted; it is one block, whatever they are.

#![expect(clippy::panic, reason = "helpers of a test: a surprise must stop it")]

use std::cell::{Cell, RefCell};
use std::time::Duration;

use meshseal_core::testing::{ISSUER, TestKey, claims_at};
use meshseal_filter::engine::{Engine, Flow};
use meshseal_filter::headers::RequestHeaders;
use meshseal_filter::host::{CallRefused, Host, HostSignature, HttpCall, Level, MetricId, MetricKind, Reply};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const NOW: u64 = 1_735_689_600;

/// Public keys of other algorithms, each with a token that it has signed for [`NOW`].
const OTHERS: &str = include_str!("allocations.json");

/// Most allocations for a token that was never seen: its text, header, payload and their values, and what is remembered.
const MOST_FOR_A_NEW_TOKEN: u64 = 8;

/// What RSA's arithmetic in the module allocates beside: more than it should (docs/performance.md, what is missed).
const MOST_MORE_FOR_RSA: u64 = 7;

/// More than the rows of the tables of one key and its curve, each of which is one tick's work.
const TICKS_FOR_TABLES: usize = 200;

/// A proxy that only hands over headers and counts what it is asked to set.
#[derive(Default)]
struct Proxy {
    configuration: RefCell<String>,
    headers: RefCell<Vec<u8>>,
    outputs: Cell<usize>,
    handed_over: Cell<u64>,
}

fn allocations() -> u64 {
    dhat::HeapStats::get().total_blocks
}

impl Host for &Proxy {
    fn now(&self) -> Duration {
        Duration::from_secs(NOW)
    }
    fn random(&self) -> u64 {
        0
    }
    fn log(&self, _level: Level, message: &str) {
        panic!("{message}");
    }
    fn log_level(&self) -> Level {
        Level::Info
    }
    fn configuration(&self, _size: usize) -> Option<Vec<u8>> {
        Some(self.configuration.borrow().clone().into_bytes())
    }
    fn property(&self, _path: &[&str]) -> Option<Vec<u8>> {
        None
    }
    fn set_tick_period(&self, _period: Duration) {}
    fn verify_signature(&self, _signature: &HostSignature<'_>) -> Option<bool> {
        None
    }
    fn define_metric(&self, _kind: MetricKind, _name: &str) -> Option<MetricId> {
        Some(MetricId(1))
    }
    fn increment_metric(&self, _metric: MetricId, _by: u32) {}
    fn record_metric(&self, _metric: MetricId, _value: u64) {}
    fn enter(&self, _context: u32) -> bool {
        true
    }
    fn request_has_ended(&self) -> bool {
        false
    }
    fn request_headers(&self) -> RequestHeaders {
        let before = allocations();
        let headers = RequestHeaders::new(self.headers.borrow().clone());
        self.handed_over.set(self.handed_over.get() + allocations() - before);
        headers
    }
    fn add_request_header(&self, _name: &str, _value: &str) {
        self.outputs.set(self.outputs.get() + 1);
    }
    fn set_request_header(&self, _name: &str, _value: &str) {}
    fn remove_request_header(&self, _name: &str) {}
    fn respond(&self, reply: &Reply) {
        panic!("refused: {}", reply.body);
    }
    fn resume(&self) {}
    fn call(&self, _call: &HttpCall<'_>) -> Result<u32, CallRefused> {
        Err(CallRefused)
    }
    fn call_header(&self, _name: &str) -> Option<Vec<u8>> {
        None
    }
    fn call_body(&self, _size: usize) -> Option<Vec<u8>> {
        None
    }
}

impl Proxy {
    fn bring(&self, token: &str) {
        let bearer = format!("Bearer {token}");
        let pairs = [
            (":method", "GET"),
            (":authority", "orders.example"),
            (":path", "/orders/1"),
            ("user-agent", "test"),
            ("authorization", &bearer),
        ];
        *self.headers.borrow_mut() = meshseal_abi::header_map(&pairs);
    }

    /// How many blocks the engine allocates for one request.
    fn request(&self, engine: &mut Engine<&Self>) -> u64 {
        self.handed_over.set(0);
        let before = allocations();
        let flow = engine.on_request(100);
        let after = allocations();
        assert!(matches!(flow, Flow::Continue));
        assert_eq!(self.outputs.replace(0), 3);
        after - before - self.handed_over.get()
    }
}

#[test]
fn a_token_seen_before_costs_no_allocation_and_a_new_one_few() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let key = TestKey::new("k1", 1);
    let others: Value = serde_json::from_str(OTHERS).unwrap();
    let proxy = Proxy::default();
    let config = json!({
        "jwtRules": [{
            "issuer": ISSUER, "audiences": ["orders"], "jwks": { "keys": [key.jwk(), others[0]["jwk"], others[1]["jwk"]] }, "outputPayloadToHeader": "x-payload",
            "outputClaimToHeaders": [{ "header": "x-sub", "claim": "sub" }, { "header": "x-client", "claim": "client_id" }],
        }],
        "rules": [{ "to": [{ "operation": { "paths": ["/orders/{*}"], "hosts": ["*.example"] } }], "scopes": ["orders.read"],
            "when": [{ "key": "request.auth.principal", "values": [format!("{ISSUER}/*")] }] }],
    });
    let size = config.to_string().len();
    *proxy.configuration.borrow_mut() = config.to_string();
    let mut engine = Engine::new(&proxy, 1);
    assert!(engine.configure(size));

    // Without its tables, in its first milliseconds, a key's verification has some twenty blocks of its own.
    for _ in 0..TICKS_FOR_TABLES {
        engine.on_tick();
    }
    // The tables of the memory itself grow now and then; the sixth new token finds room, and so do two more.
    let mut new = 0;
    for number in 0..6 {
        proxy.bring(&key.token(&claims_at(NOW, json!({ "request": number }))));
        new = proxy.request(&mut engine);
    }
    assert!(new > 0 && new <= MOST_FOR_A_NEW_TOKEN, "{new} for a new token");
    assert_eq!(proxy.request(&mut engine), 0, "for a token seen before");
    for other in others.as_array().unwrap() {
        proxy.bring(other["token"].as_str().unwrap());
        let new = proxy.request(&mut engine);
        let more = if other["jwk"]["kty"] == "RSA" { MOST_MORE_FOR_RSA } else { 0 };
        assert!(new > 0 && new <= MOST_FOR_A_NEW_TOKEN + more, "{new} for a new token of {}", other["jwk"]["alg"]);
        assert_eq!(proxy.request(&mut engine), 0, "for a token seen before");
    }
}
