//! The streams of this VM: which configuration each belongs to. An adapter between the proxy and
//! the engines, nothing more.
//!
//! Nothing is kept of a stream, and its end is not heard of: an export for that would cost every
//! request. Nor is, then, the end of a configuration; what has ended is looked for when another
//! begins, and every now and then.

use std::cell::RefCell;
use std::rc::Rc;

use meshseal_abi::streams::Callbacks;

use crate::engine::{Engine, Flow};
use crate::host::Host;
use crate::host::proxy::Proxy;
use crate::response;

/// The engine, shared by the root context and its streams. Each callback borrows it once, for as
/// long as it runs; a host that calls back inside a callback finds it borrowed, and the adapters
/// then do the safe thing instead of panicking.
pub(crate) type Shared<H> = Rc<RefCell<Engine<H>>>;

/// The configurations of this VM, and which of them the latest streams belong to.
struct Streams<H> {
    engines: Vec<(u32, Shared<H>)>,
    /// The last streams that began, and their root contexts.
    latest: [(u32, u32); LATEST],
    begun: usize,
}

/// Streams that may begin before the request of the first of them comes. Envoy announces a stream
/// and its request in one go.
const LATEST: usize = 64;

/// How many streams begin between two looks for configurations that have ended.
const BETWEEN_LOOKS: usize = 1024;

thread_local! {
    static STREAMS: RefCell<Streams<Proxy>> = RefCell::new(Streams::new());
}

/// Hears of streams from now on.
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
        Self {
            engines: Vec::new(),
            latest: [(0, 0); LATEST],
            begun: 0,
        }
    }

    /// The engine of a stream's configuration. Where there is only one, that is it.
    fn engine_of(&self, stream: u32) -> Option<&Shared<H>> {
        if let [(_, only)] = &*self.engines {
            return Some(only);
        }
        let (older, newer) = self.latest.split_at_checked(self.begun % LATEST)?;
        let mut newest_first = older.iter().rev().chain(newer.iter().rev());
        let (_, root) = newest_first.find(|(begun, _)| *begun == stream)?;
        self.engines
            .iter()
            .find(|(of, _)| of == root)
            .map(|(_, engine)| engine)
    }
}

impl<H: Host> Streams<H> {
    /// Drops the engines of root contexts that have ended, while `context` is the one that the
    /// proxy is in. Not now, if an engine is at work: then the SDK is, too, and cannot be told.
    fn take_ended(&mut self, host: &H, context: u32) -> Vec<u32> {
        let at_work = self
            .engines
            .iter()
            .any(|(_, engine)| engine.try_borrow_mut().is_err());
        if at_work || self.engines.is_empty() {
            return Vec::new();
        }
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

/// A context has begun. Returns the root contexts that turn out to have ended.
fn created<H: Host>(streams: &RefCell<Streams<H>>, host: &H, context: u32, root: u32) -> Vec<u32> {
    let Ok(mut streams) = streams.try_borrow_mut() else {
        return Vec::new();
    };
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

/// Whether the request goes on. A stream that nobody knows, or whose engine is at work, is refused.
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

/// Hands the answer to a call to the configuration that made it. An answer to a configuration that
/// has ended is of no use.
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
