//! The streams of this VM: which configuration each belongs to, and who of them waits. An adapter between the proxy and the
//! engines, nothing more.
//!
//! Only of streams that wait is anything kept. Their end must be heard of: Envoy lets a context be entered for a while after its stream is
//! gone, and to answer it then is to act on what is no more.

use std::cell::RefCell;
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

/// The configurations of this VM, and which of them the latest streams belong to.
struct Streams<H> {
    engines: Vec<(u32, Shared<H>)>,
    /// The last streams that began, and their root contexts.
    latest: [(u32, u32); LATEST],
    begun: usize,
    /// Never read: dropped with its stream, a ticket tells the engine that nobody waits any more.
    waiting: Vec<(u32, Ticket)>,
}

/// Streams that may begin before the request of the first of them comes. Envoy announces a stream and its request in one go.
const LATEST: usize = 64;

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
        Self { engines: Vec::new(), latest: [(0, 0); LATEST], begun: 0, waiting: Vec::new() }
    }

    /// The engine of a stream's configuration. Where there is only one, that is it.
    fn engine_of(&self, stream: u32) -> Option<&Shared<H>> {
        if let [(_, only)] = &*self.engines {
            return Some(only);
        }
        let (older, newer) = self.latest.split_at_checked(self.begun % LATEST)?;
        let mut newest_first = older.iter().rev().chain(newer.iter().rev());
        let (_, root) = newest_first.find(|(begun, _)| *begun == stream)?;
        self.engines.iter().find(|(of, _)| of == root).map(|(_, engine)| engine)
    }
}

fn created<H>(streams: &RefCell<Streams<H>>, stream: u32, root: u32) {
    let Ok(mut streams) = streams.try_borrow_mut() else { return };
    let at = streams.begun % LATEST;
    if let Some(place) = streams.latest.get_mut(at) {
        *place = (stream, root);
    }
    streams.begun = streams.begun.wrapping_add(1);
}

/// Whether the request goes on. A stream that nobody knows, or whose engine is at work, is refused.
fn request_headers<H: Host>(streams: &RefCell<Streams<H>>, host: &H, stream: u32) -> bool {
    let engine = streams.try_borrow().ok().and_then(|streams| streams.engine_of(stream).map(Rc::clone));
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
            if let Ok(mut streams) = streams.try_borrow_mut() {
                streams.waiting.push((stream, ticket));
            }
            false
        }
    }
}

/// Whether it was a root context.
fn deleted<H: Host>(streams: &RefCell<Streams<H>>, context: u32) -> bool {
    let Ok(mut streams) = streams.try_borrow_mut() else { return false };
    streams.waiting.retain(|(stream, _)| *stream != context);
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
