//! Authentication: the accepted issuers, the keys currently trusted, and the validation of a token.

mod cache;
mod jwt_rule;
mod token_source;
mod trust;
mod validate;

pub use cache::Verdicts;
pub use jwt_rule::{
    ClaimToHeader, FromHeader, JwtRule, KeySource, OnUnsafe, RemoteJwks, RequestAuthentication,
    SubjectType, TokenType, TrustBundleConfig,
};
pub use token_source::TokenSources;
pub(crate) use token_source::{SourceEntry, TokenSource};
pub use trust::{Accepted, Moment, Trust};
pub use validate::{
    Checked, Hints, Proof, Verified, check, hints, signature_only, validate, validate_with,
};
