//! OAuth clients: registration, authentication and rate limits.

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

/// A configured client. The operator chooses its id, never the client itself (I8), because the id
/// becomes the `sub` of its tokens.
#[derive(Clone, Debug)]
pub struct Client {
    /// The `client_id`.
    pub id: String,
    /// The only authentication method of the client.
    pub auth: ClientAuth,
    /// Services for which the client may request tokens.
    pub access: Vec<Access>,
    /// True if the client may administer keys and revoke other clients' tokens.
    pub admin: bool,
}

/// One service for which a client may request tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Audience of the service.
    pub audience: String,
    /// Scopes that the client may request there.
    pub scopes: Vec<String>,
}

impl Client {
    /// Returns the public keys of a client that authenticates by assertions.
    fn keys(&self) -> Option<&KeySet> {
        match &self.auth {
            ClientAuth::Keys(keys) => Some(keys),
            ClientAuth::Secrets(_) => None,
        }
    }
}

/// Authentication method of a client.
#[derive(Clone, Debug)]
pub enum ClientAuth {
    /// A shared secret; two secrets during a replacement.
    Secrets(Vec<SecretHash>),
    /// An assertion (`private_key_jwt`) signed by one of these keys.
    Keys(KeySet),
}
