//! Counts the heap allocations of a request: zero for a repeated token and a few for a new one.
//!
//! The block that the proxy allocates in the module for the headers is not counted; it is one block
//! for any headers. Memory kept between requests counts when it grows. Therefore the first tokens,
//! which let it grow, are not measured.

#![expect(clippy::panic, reason = "helpers of a test: a surprise must stop it")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::time::Duration;

use meshseal_core::testing::{ISSUER, TestKey, claims_at};
use meshseal_filter::engine::{Engine, Flow};
use meshseal_filter::headers::{self, ProxyRequest};
use meshseal_filter::host::{
    CallRefused, Host, HostSignature, HttpCall, Level, MetricId, MetricKind, Reply, foreign,
};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const NOW: u64 = 1_735_689_600;

/// Keys of the other algorithms (public keys and one shared secret), each with a token that it has
/// signed for [`NOW`].
const OTHERS: &str = include_str!("allocations.json");

/// Maximum number of allocations for a new token: its text, header, payload and their values, and
/// the cached verdict.
const MOST_FOR_A_NEW_TOKEN: u64 = 8;

/// Number of new tokens after which the verdict cache has the capacity for the next fifteen.
const FIRST_TOKENS: usize = 17;

/// Number of ticks that builds all tables; each tick builds one row.
const MOST_TICKS: usize = 1_000;

/// Tick period of an idle engine. The period is shorter while tables are being built.
const AT_REST: Duration = Duration::from_secs(1);

/// A fake proxy that provides headers, counts outputs and optionally verifies signatures.
#[derive(Default)]
struct Proxy {
    configuration: RefCell<String>,
    headers: RefCell<Vec<u8>>,
    outputs: Cell<usize>,
    /// True if this proxy verifies signatures.
    verifies: bool,
    /// Hashes and keys of the signatures that it was asked to verify.
    asked: RefCell<BTreeSet<Vec<u8>>>,
    judged: Cell<usize>,
    tick: Cell<Duration>,
    /// Number of blocks that the fake itself allocated.
    own: Cell<u64>,
}

fn allocations() -> u64 {
    dhat::HeapStats::get().total_blocks
}

impl Host for &Proxy {
    fn now(&self) -> Duration {
        Duration::from_secs(NOW)
    }
    fn steady(&self) -> Duration {
        Duration::ZERO
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
    fn set_tick_period(&self, period: Duration) {
        self.tick.set(period);
    }
    /// Accepts the first signature of each hash and key. This is right, because the engine sends
    /// the valid known answer first, and each token has its own key.
    fn verify_signature(&self, signature: &HostSignature<'_>) -> Option<bool> {
        // Encodes the arguments as in the module. A native build has no proxy, so no answer comes.
        assert_eq!(foreign::verify_signature(signature), None);
        let before = allocations();
        let first = self
            .asked
            .borrow_mut()
            .insert([signature.hash.as_bytes(), signature.spki].concat());
        self.own.set(self.own.get() + allocations() - before);
        self.judged.set(self.judged.get() + 1);
        self.verifies.then_some(first)
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
    fn request_headers(&self) -> ProxyRequest {
        let before = allocations();
        let headers = headers::request(self.headers.borrow().clone());
        self.own.set(self.own.get() + allocations() - before);
        headers
    }
    fn add_request_header(&self, _name: &str, _value: &str) -> bool {
        self.outputs.set(self.outputs.get() + 1);
        true
    }
    fn set_request_header(&self, _name: &str, _value: &[u8]) -> bool {
        true
    }
    fn remove_request_header(&self, _name: &str) -> bool {
        true
    }
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

    /// Returns the number of blocks that the engine allocates for one request.
    fn request(&self, engine: &mut Engine<&Self>) -> u64 {
        self.own.set(0);
        let before = allocations();
        let flow = engine.on_request(100);
        let after = allocations();
        assert!(matches!(flow, Flow::Continue));
        assert_eq!(self.outputs.replace(0), 3);
        after - before - self.own.get()
    }
}

/// Returns an engine with the keys of all algorithms, and rules on principal, scope, host and path.
fn engine<'p>(proxy: &'p Proxy, key: &TestKey, others: &[Value]) -> Engine<&'p Proxy> {
    let keys: Vec<Value> = others
        .iter()
        .map(|other| other["jwk"].clone())
        .chain([key.jwk()])
        .collect();
    let config = json!({
        "jwtRules": [{
            "issuer": ISSUER, "audiences": ["orders"], "jwks": { "keys": keys },
            "algorithms": [
                "EdDSA", "ES256", "ES384", "ES512", "RS256", "RS512", "PS256", "PS512", "HS256",
            ],
            "outputPayloadToHeader": "x-payload",
            "outputClaimToHeaders": [
                { "header": "x-sub", "claim": "sub" },
                { "header": "x-level", "claim": "level" },
            ],
        }],
        "rules": [
            {
                "to": [{ "operation": { "paths": ["/admin/{**}"] } }],
                "from": [{ "source": { "requestPrincipals": [format!("{ISSUER}/admin")] } }],
            },
            {
                "to": [{ "operation": { "paths": ["/orders/{*}"], "hosts": ["*.example"] } }],
                "scopes": ["orders.read"],
                "when": [{ "key": "request.auth.principal", "values": [format!("{ISSUER}/*")] }],
            },
        ],
    });
    let size = config.to_string().len();
    *proxy.configuration.borrow_mut() = config.to_string();
    let mut engine = Engine::new(proxy, 1);
    assert!(engine.configure(size));
    engine
}

#[test]
fn repeated_tokens_allocate_nothing_new_ones_little() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let key = TestKey::new("k1", 1);
    let others: Vec<Value> = serde_json::from_str(OTHERS).unwrap();
    // Three ways to verify: the proxy, which is probed at the first tick; the module alone; the
    // module with tables of all keys. The last must come last, because tables stay for good.
    for (verifies, ticks) in [(true, 1), (false, 0), (false, MOST_TICKS)] {
        let proxy = Proxy {
            verifies,
            ..Proxy::default()
        };
        let mut engine = engine(&proxy, &key, &others);
        let used = (0..ticks)
            .take_while(|_| {
                engine.on_tick();
                proxy.tick.get() < AT_REST
            })
            .count();
        assert_eq!(used < ticks, ticks == MOST_TICKS, "{used} ticks");
        let asked = proxy.judged.get();
        for number in 0..FIRST_TOKENS {
            proxy.bring(&key.token(&claims_at(NOW, json!({ "level": 7, "request": number }))));
            proxy.request(&mut engine);
        }
        let own = [key.token(&claims_at(NOW, json!({ "level": 7, "request": "last" })))];
        let tokens = own
            .iter()
            .map(String::as_str)
            .chain(others.iter().filter_map(|other| other["token"].as_str()));
        let names = ["EdDSA"].into_iter().chain(
            others
                .iter()
                .filter_map(|other| other["jwk"]["alg"].as_str()),
        );
        for (alg, token) in names.zip(tokens) {
            proxy.bring(token);
            let new = proxy.request(&mut engine);
            assert!(
                new > 0 && new <= MOST_FOR_A_NEW_TOKEN,
                "{new} for a new token of {alg} ({verifies}, {ticks})"
            );
            assert_eq!(
                proxy.request(&mut engine),
                0,
                "for a token of {alg} seen before"
            );
        }
        // Envoy verifies ES256, ES384, ES512, RS256 and RS512.
        assert_eq!(proxy.judged.get() - asked, if verifies { 5 } else { 0 });
    }
}
