//! One request: an adapter between the SDK and the engine, nothing more.

use meshseal_core::rejection::Rejection;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use crate::engine::Flow;
use crate::host::Host as _;
use crate::host::proxy::Proxy;
use crate::response;
use crate::root::Shared;
use crate::waiters::Ticket;

/// The context of one request.
pub(crate) struct Filter {
    context_id: u32,
    engine: Shared,
    /// Dropped with this context, which tells the engine that nobody waits any more.
    ticket: Option<Ticket>,
}

impl Filter {
    pub(crate) fn new(context_id: u32, engine: Shared) -> Self {
        Self { context_id, engine, ticket: None }
    }
}

impl Context for Filter {}

impl HttpContext for Filter {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let flow = match self.engine.try_borrow_mut() {
            Ok(mut engine) => engine.on_request(self.context_id),
            Err(_) => {
                Proxy.respond(&response::reply(&Rejection::KeysUnavailable.into(), false));
                Flow::Answered
            }
        };
        match flow {
            Flow::Continue => Action::Continue,
            Flow::Answered => Action::Pause,
            Flow::Held(ticket) => {
                self.ticket = Some(ticket);
                Action::Pause
            }
        }
    }
}
