//! Published state of one version: immutable, and built once from the database, with all keys
//! decrypted and parsed for the endpoints.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use meshseal_core::bundle::{IssuerTrust, PublishedKey, Snapshot, jwks_text};
use meshseal_core::jose::Alg;
use meshseal_core::keys::{Key, KeyId, KeySet, KeyTables};
use meshseal_core::revocation::Epochs;

use crate::keys::{Algorithm, KeyRecord, KeyState, MasterKey, Purpose, Signer};
use crate::revocation::{EpochKind, EpochRecord};
use crate::store::Persisted;

/// Decrypted keys and precomputed tables, which the next version reuses for unchanged keys.
#[derive(Default)]
pub(super) struct Opened {
    /// Signers by `kid`.
    signers: HashMap<String, Arc<Signer>>,
    /// Tables, and the keys that they were computed for.
    tables: (Vec<KeyId>, Arc<KeyTables>),
}

/// The JWK Set that `/jwks` serves.
#[derive(Clone, Debug)]
pub struct KeySetDocument {
    /// JSON text of the document.
    pub body: Bytes,
    /// Entity tag, in quotes (RFC 9110 §8.8.3).
    pub etag: String,
}

/// Published state of one version.
pub struct Published {
    /// Keys and revocations, as bundles carry them.
    pub snapshot: Arc<Snapshot>,
    /// Rows that the state was built from. This replica restores them if the database loses them
    /// (ADR 0019).
    pub(crate) memory: Arc<Persisted>,
    /// Keys in every state, retired ones included.
    pub keys: Vec<KeyRecord>,
    /// Earliest expiry of a revocation (Unix seconds).
    pub prune_due: Option<u64>,
    /// Signer of tokens.
    pub token_signer: Option<Arc<Signer>>,
    /// Signer of bundles.
    pub bundle_signer: Option<Arc<Signer>>,
    /// Keys that verify tokens of this issuer.
    pub verifiers: KeySet,
    /// Precomputed tables of `verifiers`.
    pub tables: Arc<KeyTables>,
    /// Document that `/jwks` serves.
    pub document: KeySetDocument,
    digested: OnceLock<Epochs>,
}

impl Published {
    /// Builds the state from the rows of the database. A key that cannot be decrypted is logged and
    /// does not sign.
    pub(super) fn build(
        issuer: &str,
        persisted: Persisted,
        master: &MasterKey,
        opened: &mut Opened,
    ) -> Self {
        let memory = Arc::new(persisted);
        let Persisted {
            version,
            keys,
            revoked,
            epochs,
            ..
        } = Persisted::clone(&memory);
        // Private keys: the active key of each purpose signs.
        opened.open(&keys, master);
        let signer = |purpose: Purpose| {
            keys.iter()
                .find(|key| key.purpose == purpose && key.state == KeyState::Active)
                .and_then(|key| opened.signers.get(&key.kid).cloned())
        };
        let (token_signer, bundle_signer) = (signer(Purpose::Token), signer(Purpose::Bundle));
        // Public keys: the same ones for `/jwks`, for bundles and for this issuer's own checks.
        let published: Vec<PublishedKey> = keys.iter().filter_map(published).collect();
        let text = jwks_text(&published);
        let algorithms: [Alg; 3] = Algorithm::ALL.map(Algorithm::core);
        let verifiers = KeySet::from_provider(&text, &algorithms).unwrap_or_default();
        let tables = opened.tables_of(&verifiers);
        let document = KeySetDocument::new(text);
        // Revocations.
        let due = revoked
            .iter()
            .map(|token| token.expires_at)
            .chain(epochs.iter().map(|epoch| epoch.expires_at))
            .min();
        let revoked = revoked.iter().map(|token| token.index).collect();
        let trust = IssuerTrust {
            keys: published,
            revoked,
            epochs: epochs_of(epochs),
        };
        let snapshot = Arc::new(Snapshot {
            version,
            issuers: BTreeMap::from([(issuer.to_owned(), trust)]),
        });
        let digested = OnceLock::new();
        Self {
            snapshot,
            memory,
            keys,
            prune_due: due,
            token_signer,
            bundle_signer,
            verifiers,
            tables,
            document,
            digested,
        }
    }

    /// Returns the version of the state.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.snapshot.version
    }

    /// Returns the epochs with digests in place of names. The digests are computed once for each
    /// version, because the number of names may reach thousands.
    pub(super) fn digested(&self, epochs: Epochs, key: &str) -> Epochs {
        self.digested
            .get_or_init(|| epochs.with_digests(key))
            .clone()
    }

    /// Returns this issuer's part of the snapshot.
    #[must_use]
    pub fn trust(&self, issuer: &str) -> Option<&IssuerTrust> {
        self.snapshot.issuers.get(issuer)
    }
}

impl KeySetDocument {
    fn new(text: String) -> Self {
        let etag = format!(
            "\"{}\"",
            URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes()))
        );
        Self {
            body: text.into(),
            etag,
        }
    }
}

impl Opened {
    /// Decrypts the private keys that are new, and drops those that were destroyed.
    fn open(&mut self, keys: &[KeyRecord], master: &MasterKey) {
        self.signers.retain(|kid, _| {
            keys.iter()
                .any(|key| key.kid == *kid && key.sealed.is_some())
        });
        for key in keys.iter().filter(|key| key.state.may_sign()) {
            if self.signers.contains_key(&key.kid) {
                continue;
            }
            match Signer::open(key, master) {
                Ok(signer) => {
                    self.signers.insert(key.kid.clone(), Arc::new(signer));
                }
                Err(error) => {
                    tracing::error!(kid = key.kid, %error, "could not load a signing key");
                }
            }
        }
    }

    /// Returns complete tables of these keys. A new key costs some milliseconds; a version with the
    /// same keys costs nothing.
    fn tables_of(&mut self, keys: &KeySet) -> Arc<KeyTables> {
        let ids: Vec<KeyId> = keys.iter().map(Key::id).collect();
        let (known, tables) = &mut self.tables;
        if *known != ids {
            let tables = Arc::make_mut(tables);
            tables.keep(keys.iter());
            while tables.advance(1) {}
            *known = ids;
        }
        Arc::clone(tables)
    }
}

/// Returns the public half of a key that verifies tokens; `None` for bundle keys and retired keys.
fn published(key: &KeyRecord) -> Option<PublishedKey> {
    let state = key
        .state
        .published()
        .filter(|_| key.purpose == Purpose::Token)?;
    let jwk = serde_json::from_str(&key.public_jwk).ok()?;
    Some(PublishedKey { jwk, state })
}

fn epochs_of(records: Vec<EpochRecord>) -> Epochs {
    let mut epochs = Epochs::default();
    for EpochRecord {
        kind, name, before, ..
    } in records
    {
        let map = match kind {
            EpochKind::All => {
                epochs.all = Some(before);
                continue;
            }
            EpochKind::Kid => &mut epochs.kid,
            EpochKind::Subject => &mut epochs.sub,
            EpochKind::Client => &mut epochs.client,
            EpochKind::Session => &mut epochs.sid,
            EpochKind::Grant => &mut epochs.grant,
        };
        map.insert(name, before);
    }
    epochs
}
