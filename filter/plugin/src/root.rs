//! The root context: configuration, ticks, answers to calls. An adapter between the SDK and the engine, nothing more.

use std::cell::RefCell;
use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;

use crate::engine::Engine;
use crate::host::proxy::Proxy;
use crate::http::Filter;

/// The engine, shared by the root context and its requests. Each callback borrows it once, for as long as it runs; a host that
/// calls back inside a callback finds it borrowed, and the adapters then do the safe thing instead of panicking.
pub(crate) type Shared = Rc<RefCell<Engine<Proxy>>>;

/// One plugin configuration in one worker.
pub(crate) struct Root {
    engine: Shared,
}

impl Root {
    pub(crate) fn new(context_id: u32) -> Self {
        Self { engine: Rc::new(RefCell::new(Engine::new(Proxy, context_id))) }
    }
}

impl Context for Root {
    fn on_http_call_response(&mut self, token: u32, _headers: usize, body_size: usize, _trailers: usize) {
        if let Ok(mut engine) = self.engine.try_borrow_mut() {
            engine.on_call_finished(token, body_size);
        }
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        self.engine.try_borrow_mut().is_ok_and(|mut engine| engine.configure(size))
    }

    fn on_tick(&mut self) {
        if let Ok(mut engine) = self.engine.try_borrow_mut() {
            engine.on_tick();
        }
    }

    fn create_http_context(&self, context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Filter::new(context_id, Rc::clone(&self.engine))))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}
