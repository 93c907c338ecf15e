//! Clients: who may ask for tokens, and how they prove who they are.

mod assertion;
mod authenticate;
mod failures;
mod limiter;
mod registry;
mod replay;
mod secret;
mod settings;
mod single_use;

pub use assertion::ASSERTION_TYPE;
pub use authenticate::{AuthError, Authorization, Checks, Credentials, credentials_of};
pub use failures::{Failure, Failures};
pub use limiter::{Limiter, Rate};
pub use registry::Registry;
pub use replay::{Replay, Replays};
pub use secret::{NewSecret, Presented, SecretHash, SecretHasher};
pub(crate) use settings::read;
pub use single_use::SingleUse;

use meshseal_core::keys::KeySet;

/// A client, as configured. It cannot choose its id: the operator does (I8), and `sub` of its
/// tokens is that id.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its `client_id`.
    pub id: String,
    /// How it proves who it is: exactly one way.
    pub auth: ClientAuth,
    /// Services it may ask tokens for, with its scopes at each.
    pub access: Vec<Access>,
    /// Whether it may administer keys and revoke what is not its own.
    pub admin: bool,
}

/// One service that a client may ask tokens for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The service.
    pub audience: String,
    /// The client's scopes there.
    pub scopes: Vec<String>,
}

impl Client {
    fn keys(&self) -> Option<&KeySet> {
        match &self.auth {
            ClientAuth::Keys(keys) => Some(keys),
            ClientAuth::Secrets(_) => None,
        }
    }
}

/// How a client proves who it is.
#[derive(Clone, Debug)]
pub enum ClientAuth {
    /// A shared secret; two while it is being replaced.
    Secrets(Vec<SecretHash>),
    /// A signed assertion (`private_key_jwt`) under one of these keys.
    Keys(KeySet),
}
