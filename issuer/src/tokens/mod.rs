//! Access tokens (RFC 9068): requests, grants, minting, recognition and introspection.

mod endpoint;
mod grant;
mod indices;
mod introspection;
mod introspection_endpoint;
mod mint;
mod own;

pub(crate) use endpoint::routes;
pub use grant::{Grant, GrantRequest, grant};
pub use indices::{Indices, MAX_BLOCK_AGE_MS, index_floor};
pub(crate) use introspection_endpoint::routes as introspection_routes;
pub use mint::{earliest_issue, mint};
pub use own::{own_token, signed_by_us};
