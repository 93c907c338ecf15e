//! JWT and JWS in compact serialization: algorithm, token, header and claims (RFC 7515, RFC 7519).

pub mod alg;
pub mod claims;
pub mod header;
pub mod token;

pub use alg::{Alg, Family};
pub use claims::Claims;
