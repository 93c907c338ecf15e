use super::*;
use crate::host::fake::FakeHost;
use crate::testing::{TestKey, inline_config, token};
use serde_json::json;

const ROOT: u32 = 1;

/// A VM with one root context per configuration, with ids from [`ROOT`].
struct Vm {
    host: FakeHost,
    streams: RefCell<Streams<FakeHost>>,
}

impl Vm {
    fn new(configurations: &[String]) -> Self {
        crate::registry::forget();
        let vm = Self {
            host: FakeHost::new(),
            streams: RefCell::new(Streams::new()),
        };
        for (root, configuration) in (ROOT..).zip(configurations) {
            vm.host.enter(root);
            let mut engine = Engine::new(vm.host.clone(), root);
            assert!(engine.configure(vm.host.configure(configuration)));
            vm.streams
                .borrow_mut()
                .engines
                .push((root, Rc::new(RefCell::new(engine))));
        }
        vm
    }

    /// Begins a stream, or a root context if `root` is 0. Returns the root contexts that are found
    /// to have ended.
    fn begin(&self, context: u32, root: u32) -> Vec<u32> {
        self.host.enter(context);
        let ended = created(&self.streams, &self.host, context, root);
        assert_eq!(
            self.host.context(),
            context,
            "the proxy is in the context that begins"
        );
        ended
    }

    fn roots(&self) -> Vec<u32> {
        self.streams
            .borrow()
            .engines
            .iter()
            .map(|(root, _)| *root)
            .collect()
    }

    /// Sends a request, with a token if one is given, on a stream that the VM may not know.
    fn ask(&self, stream: u32, token: Option<&str>) -> bool {
        let authorization = token.map(|token| format!("Bearer {token}"));
        let mut headers = vec![
            (":method", "GET"),
            (":authority", "orders"),
            (":path", "/orders/1"),
        ];
        headers.extend(
            authorization
                .as_deref()
                .map(|value| ("authorization", value)),
        );
        self.host.request(stream, &headers);
        request_headers(&self.streams, &self.host, stream)
    }

    fn status(&self, stream: u32) -> u16 {
        self.host.stream(stream).reply.unwrap().status
    }
}

fn key() -> TestKey {
    TestKey::new("a", 1)
}

/// Returns a configuration that passes requests without a token if `public` is true.
fn policy(public: bool) -> String {
    inline_config(
        &[&key()],
        json!({}),
        json!({ "rules": [{ "allowMissing": public }] }),
    )
}

#[test]
fn stream_uses_its_own_configuration() {
    let vm = Vm::new(&[policy(false), policy(true)]);
    vm.begin(100, ROOT);
    vm.begin(101, ROOT + 1);
    assert!(!vm.ask(100, None) && vm.ask(101, None));
    assert_eq!(vm.status(100), 401);
}

#[test]
fn rejects_stream_without_configuration() {
    let vm = Vm::new(&[]);
    vm.begin(100, ROOT);
    assert!(!vm.ask(100, None));
    assert_eq!(vm.status(100), 503);
}

#[test]
fn rejects_unannounced_stream_among_several_configurations() {
    let vm = Vm::new(&[policy(true), policy(true)]);
    vm.begin(100, ROOT + 7);
    for stream in [100, 101] {
        assert!(!vm.ask(stream, None));
        assert_eq!(vm.status(stream), 503);
    }
}

#[test]
fn many_streams_may_begin_before_first_request() {
    let vm = Vm::new(&[policy(false), policy(true)]);
    let streams = (100..)
        .zip([ROOT, ROOT + 1].into_iter().cycle())
        .take(LATEST);
    for (stream, root) in streams.clone() {
        vm.begin(stream, root);
    }
    for (stream, root) in streams {
        assert_eq!(vm.ask(stream, None), root == ROOT + 1);
    }
}

#[test]
fn latest_stream_with_same_id_wins() {
    let vm = Vm::new(&[policy(false), policy(true)]);
    vm.begin(100, ROOT);
    vm.begin(100, ROOT + 1);
    assert!(vm.ask(100, None));
}

#[test]
fn new_configuration_drops_ended_ones() {
    let vm = Vm::new(&[policy(true), policy(true)]);
    vm.begin(99, ROOT);
    assert!(vm.ask(99, Some(&token(&key(), json!({})))));
    assert_eq!(vm.begin(ROOT + 2, 0), [0; 0]);
    vm.host.end(ROOT);
    assert_eq!(vm.begin(ROOT + 3, 0), [ROOT]);
    assert_eq!(vm.host.metric("meshseal.accepted"), 1, "flushed at the end");
    assert_eq!(
        vm.begin(ROOT + 4, 0),
        [0; 0],
        "the SDK must be told only once"
    );
    assert_eq!(vm.roots(), [ROOT + 1]);
}

#[test]
fn drops_nothing_while_engine_is_borrowed() {
    let vm = Vm::new(&[policy(true), policy(true)]);
    vm.host.end(ROOT);
    let engine = Rc::clone(&vm.streams.borrow().engines[1].1);
    let busy = engine.borrow_mut();
    assert_eq!(vm.begin(ROOT + 2, 0), [0; 0]);
    drop(busy);
    assert_eq!(vm.begin(ROOT + 3, 0), [ROOT]);
}

#[test]
fn drops_ended_configurations_after_many_streams() {
    let vm = Vm::new(&[policy(true), policy(true)]);
    vm.host.end(ROOT);
    let ended = (100..)
        .take(BETWEEN_LOOKS)
        .flat_map(|stream| vm.begin(stream, ROOT + 1));
    assert_eq!(
        (ended.collect::<Vec<_>>(), vm.roots()),
        (vec![ROOT], vec![ROOT + 1])
    );
}

#[test]
fn rejects_callback_inside_callback() {
    let vm = Vm::new(&[policy(true)]);
    vm.begin(100, ROOT);
    let engine = Rc::clone(&vm.streams.borrow().engines[0].1);
    let busy = engine.borrow_mut();
    assert!(!vm.ask(100, None));
    assert_eq!(vm.status(100), 503);
    drop(busy);
    assert!(vm.ask(100, None));
}
