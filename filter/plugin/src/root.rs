//! The root context: passes configuration and ticks from the proxy-wasm SDK to the engine.

use std::cell::RefCell;
use std::rc::Rc;

use proxy_wasm::traits::{Context, RootContext};

use crate::engine::Engine;
use crate::host::proxy::Proxy;
use crate::streams::{self, Shared};

/// One plugin configuration in one worker.
pub(crate) struct Root {
    engine: Shared<Proxy>,
}

impl Root {
    /// Creates a root context and registers its engine for the streams.
    pub(crate) fn new(context_id: u32) -> Self {
        let engine = Rc::new(RefCell::new(Engine::new(Proxy, context_id)));
        streams::serve(context_id, Rc::clone(&engine));
        Self { engine }
    }
}

impl Context for Root {}

// A nested callback finds the engine borrowed. It is then ignored instead of panicking.
impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        self.engine
            .try_borrow_mut()
            .is_ok_and(|mut engine| engine.configure(size))
    }

    fn on_tick(&mut self) {
        if let Ok(mut engine) = self.engine.try_borrow_mut() {
            engine.on_tick();
        }
    }
}
