//! The HTTP server, and request handling that endpoints share: strict forms, caller addresses and
//! client authentication.

mod connection;
mod descriptors;
mod endpoint;
mod form;
mod host;
mod places;
mod server;

pub use connection::{Peer, Waiting, Waits};
pub use descriptors::{affordable_connections, raise_descriptor_limit};
pub(crate) use endpoint::{Caller, OAuthRequest, authenticate, etagged};
pub use form::{Form, FormError};
pub use places::Places;
pub use server::{Site, serve};
