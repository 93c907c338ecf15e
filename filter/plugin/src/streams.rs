//! The streams of this VM: which configuration each belongs to, and who of them waits. An adapter between the proxy and the
//! engines, nothing more.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use meshseal_abi::streams::Callbacks;
use meshseal_core::rejection::Rejection;

use crate::engine::{Engine, Flow};
use crate::host::Host;
use crate::host::proxy::Proxy;
use crate::response;
use crate::waiters::Ticket;

/// The engine, shared by the root context and its streams. Each callback borrows it once, for as long as it runs; a host that
/// calls back inside a callback finds it borrowed, and the adapters then do the safe thing instead of panicking.
pub(crate) type Shared<H> = Rc<RefCell<Engine<H>>>;

/// All streams, and the configurations that they may belong to.
struct Streams<H> {
    engines: Vec<(u32, Shared<H>)>,
    live: HashMap<u32, Stream<H>, BuildHasherDefault<Spread>>,
}

struct Stream<H> {
    engine: Shared<H>,
    /// Held, never read: dropped with the stream, it tells the engine that nobody waits any more.
    ticket: Option<Ticket>,
}

/// The proxy counts its contexts: their numbers need no secret, but their upper bits must differ.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        // 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming, volume 3, 6.4).
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |number, byte| number << 8 | u64::from(*byte));
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = u64::from(number);
    }
}

thread_local! {
    static STREAMS: RefCell<Streams<Proxy>> = RefCell::new(Streams::new());
}

/// Hears of streams from now on.
pub(crate) fn listen() {
    meshseal_abi::streams::pass_on(Callbacks {
        created: |stream, root| on(|streams| created(streams, stream, root)),
        request_headers: |stream| on(|streams| request_headers(streams, &Proxy, stream)),
        deleted: |context| on(|streams| deleted(streams, context)),
    });
}

/// Makes the engine of a root context known to its streams.
pub(crate) fn serve(root: u32, engine: Shared<Proxy>) {
    on(|streams| {
        if let Ok(mut streams) = streams.try_borrow_mut() {
            streams.engines.push((root, engine));
        }
    });
}

fn on<T>(act: impl FnOnce(&RefCell<Streams<Proxy>>) -> T) -> T {
    STREAMS.with(act)
}

impl<H> Streams<H> {
    fn new() -> Self {
        Self { engines: Vec::new(), live: HashMap::default() }
    }
}

fn created<H>(streams: &RefCell<Streams<H>>, stream: u32, root: u32) {
    let Ok(mut streams) = streams.try_borrow_mut() else { return };
    let engine = streams.engines.iter().find(|(of, _)| *of == root).map(|(_, engine)| Rc::clone(engine));
    if let Some(engine) = engine {
        streams.live.insert(stream, Stream { engine, ticket: None });
    }
}

/// Whether the request goes on. A stream that nobody knows, or whose engine is at work, is refused.
fn request_headers<H: Host>(streams: &RefCell<Streams<H>>, host: &H, stream: u32) -> bool {
    let engine = streams.try_borrow().ok().and_then(|streams| Some(Rc::clone(&streams.live.get(&stream)?.engine)));
    let flow = match engine.as_ref().map(|engine| engine.try_borrow_mut()) {
        Some(Ok(mut engine)) => engine.on_request(stream),
        Some(Err(_)) | None => {
            host.respond(&response::reply(&Rejection::KeysUnavailable.into(), false));
            Flow::Answered
        }
    };
    match flow {
        Flow::Continue => true,
        Flow::Answered => false,
        Flow::Held(ticket) => {
            if let Ok(mut streams) = streams.try_borrow_mut()
                && let Some(held) = streams.live.get_mut(&stream)
            {
                held.ticket = Some(ticket);
            }
            false
        }
    }
}

/// Whether it was a root context.
fn deleted<H: Host>(streams: &RefCell<Streams<H>>, context: u32) -> bool {
    let Ok(mut streams) = streams.try_borrow_mut() else { return false };
    if streams.live.remove(&context).is_some() {
        return false;
    }
    let root = streams.engines.iter().position(|(root, _)| *root == context);
    let Some((_, engine)) = root.map(|at| streams.engines.swap_remove(at)) else { return false };
    if let Ok(engine) = engine.try_borrow() {
        engine.end();
    }
    true
}

#[cfg(test)]
#[path = "streams_tests.rs"]
mod tests;
