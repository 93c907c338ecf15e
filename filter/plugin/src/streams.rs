//! Routes the callbacks of streams to the engine of their configuration.
//!
//! No per-stream state is kept, except the root contexts of the latest streams. `proxy_on_done` is
//! not exported, because Envoy would then call it for every request. Without it, the filter does
//! not learn when a root context ends either. It looks for ended root contexts whenever a new one
//! begins, and every [`BETWEEN_LOOKS`] streams.

use std::cell::RefCell;
use std::rc::Rc;

use meshseal_abi::streams::Callbacks;

use crate::engine::{Engine, Flow};
use crate::host::Host;
use crate::host::proxy::Proxy;
use crate::response;

/// The engine, shared by the root context and its streams. Each callback borrows it while it runs.
/// If a host calls back inside a callback, the borrow fails and the adapters reject the request
/// instead of panicking.
pub(crate) type Shared<H> = Rc<RefCell<Engine<H>>>;

/// The engines of this VM by root context, and the root contexts of the latest streams.
struct Streams<H> {
    engines: Vec<(u32, Shared<H>)>,
    /// Ring buffer of the latest streams with their root contexts.
    latest: [(u32, u32); LATEST],
    /// Number of streams begun. Modulo [`LATEST`] it is the next position in the ring buffer.
    begun: usize,
}

/// Maximum number of streams that may begin before the first one's request headers arrive. Envoy
/// announces a stream and its headers back to back, so one would be enough there.
const LATEST: usize = 64;

/// Number of streams that begin between two searches for ended root contexts.
const BETWEEN_LOOKS: usize = 1024;

thread_local! {
    static STREAMS: RefCell<Streams<Proxy>> = RefCell::new(Streams::new());
}

/// Registers the callbacks for streams and call responses.
pub(crate) fn listen() {
    meshseal_abi::streams::pass_on(Callbacks {
        created: |context, root| {
            for ended in on(|streams| created(streams, &Proxy, context, root)) {
                meshseal_abi::streams::forget_root(ended);
            }
        },
        request_headers: |stream| on(|streams| request_headers(streams, &Proxy, stream)),
        call_finished: |root, token, size| {
            on(|streams| call_finished(streams, &Proxy, root, token, size));
        },
    });
}

/// Registers the engine of a root context for its streams.
pub(crate) fn serve(root: u32, engine: Shared<Proxy>) {
    on(|streams| {
        if let Ok(mut streams) = streams.try_borrow_mut() {
            streams.engines.push((root, engine));
        }
    });
}

/// Runs `act` on the streams of this VM.
fn on<T>(act: impl FnOnce(&RefCell<Streams<Proxy>>) -> T) -> T {
    STREAMS.with(act)
}

impl<H> Streams<H> {
    fn new() -> Self {
        Self {
            engines: Vec::new(),
            latest: [(0, 0); LATEST],
            begun: 0,
        }
    }

    /// Returns the engine of a stream's configuration.
    fn engine_of(&self, stream: u32) -> Option<&Shared<H>> {
        // The usual case of a single configuration needs no search.
        if let [(_, only)] = &*self.engines {
            return Some(only);
        }
        // Newest first: hosts reuse stream ids, and only the latest use of an id is current.
        let (newer, older) = self.latest.split_at_checked(self.begun % LATEST)?;
        let mut newest_first = newer.iter().rev().chain(older.iter().rev());
        let (_, root) = newest_first.find(|(begun, _)| *begun == stream)?;
        self.engines
            .iter()
            .find(|(of, _)| of == root)
            .map(|(_, engine)| engine)
    }
}

impl<H: Host> Streams<H> {
    /// Drops the engines of ended root contexts, re-enters `context` and returns the ended ones.
    /// Does nothing while an engine is borrowed: the SDK is then inside a callback too, and the
    /// caller could not make it forget a root context.
    fn take_ended(&mut self, host: &H, context: u32) -> Vec<u32> {
        let at_work = self
            .engines
            .iter()
            .any(|(_, engine)| engine.try_borrow_mut().is_err());
        if at_work || self.engines.is_empty() {
            return Vec::new();
        }
        // Entering a root context fails exactly if it has ended.
        let ended: Vec<_> = self
            .engines
            .extract_if(.., |(root, _)| !host.enter(*root))
            .collect();
        host.enter(context);
        for (_, engine) in &ended {
            if let Ok(engine) = engine.try_borrow() {
                engine.end();
            }
        }
        ended.into_iter().map(|(root, _)| root).collect()
    }
}

/// Records a new context. Returns the root contexts that are found to have ended.
fn created<H: Host>(streams: &RefCell<Streams<H>>, host: &H, context: u32, root: u32) -> Vec<u32> {
    let Ok(mut streams) = streams.try_borrow_mut() else {
        return Vec::new();
    };
    // The ABI announces a root context with parent 0.
    if root == 0 {
        return streams.take_ended(host, context);
    }
    let at = streams.begun % LATEST;
    if let Some(place) = streams.latest.get_mut(at) {
        *place = (context, root);
    }
    streams.begun = streams.begun.wrapping_add(1);
    let time_to_look = streams.begun % BETWEEN_LOOKS == 0 && streams.engines.len() > 1;
    if time_to_look {
        streams.take_ended(host, context)
    } else {
        Vec::new()
    }
}

/// Decides a request and returns true if it continues to the upstream. Rejects a request if its
/// stream belongs to no known configuration or if the engine is borrowed.
fn request_headers<H: Host>(streams: &RefCell<Streams<H>>, host: &H, stream: u32) -> bool {
    let engine = streams
        .try_borrow()
        .ok()
        .and_then(|streams| streams.engine_of(stream).map(Rc::clone));
    match engine.as_ref().map(|engine| engine.try_borrow_mut()) {
        Some(Ok(mut engine)) => matches!(engine.on_request(stream), Flow::Continue),
        Some(Err(_)) | None => {
            host.respond(&response::unavailable(false));
            false
        }
    }
}

/// Passes the response to a call to the engine that made the call. A response for an ended root
/// context is dropped.
fn call_finished<H: Host>(
    streams: &RefCell<Streams<H>>,
    host: &H,
    root: u32,
    token: u32,
    size: usize,
) {
    let engine = streams.try_borrow().ok().and_then(|streams| {
        streams
            .engines
            .iter()
            .find(|(of, _)| *of == root)
            .map(|(_, engine)| Rc::clone(engine))
    });
    if let Some(Ok(mut engine)) = engine.as_ref().map(|engine| engine.try_borrow_mut())
        && host.enter(root)
    {
        engine.on_call_finished(token, size);
    }
}

#[cfg(test)]
#[path = "streams_tests.rs"]
mod tests;
