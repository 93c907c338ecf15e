//! What is trusted at one version, ready for use: everything that endpoints read, built once and
//! never changed.

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

/// What was made of keys so far, so that a new version makes only what is new.
#[derive(Default)]
pub(super) struct Opened {
    /// By kid.
    signers: HashMap<String, Arc<Signer>>,
    /// For these keys.
    tables: (Vec<KeyId>, Arc<KeyTables>),
}

/// The public keys as `/jwks` serves them.
#[derive(Clone, Debug)]
pub struct KeySetDocument {
    /// The document.
    pub body: Bytes,
    /// Its entity tag, in quotes (RFC 9110 §8.8.3).
    pub etag: String,
}

/// What is trusted at one version.
pub struct Published {
    /// As proxies get it.
    pub snapshot: Arc<Snapshot>,
    /// Rows that it was built from: what this replica can prove should the database lose them (ADR
    /// 0019).
    pub(crate) memory: Arc<Persisted>,
    /// Every key, retired ones too.
    pub keys: Vec<KeyRecord>,
    /// The earliest time at which a revocation can be forgotten.
    pub prune_due: Option<u64>,
    /// Signs tokens.
    pub token_signer: Option<Arc<Signer>>,
    /// Signs bundles.
    pub bundle_signer: Option<Arc<Signer>>,
    /// Keys of our own tokens.
    pub verifiers: KeySet,
    /// Verifies with them.
    pub tables: Arc<KeyTables>,
    /// For `/jwks`.
    pub document: KeySetDocument,
    digested: OnceLock<Epochs>,
}

impl Published {
    /// Builds it from what is kept. A key that cannot be opened is logged and does not sign.
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
        opened.open(&keys, master);
        let signer = |purpose: Purpose| {
            let signs = |key: &&KeyRecord| key.purpose == purpose && key.state == KeyState::Active;
            keys.iter()
                .find(signs)
                .and_then(|key| opened.signers.get(&key.kid).cloned())
        };
        let (token_signer, bundle_signer) = (signer(Purpose::Token), signer(Purpose::Bundle));
        let published: Vec<PublishedKey> = keys.iter().filter_map(published).collect();
        let text = jwks_text(&published);
        let algorithms: [Alg; 3] = Algorithm::ALL.map(Algorithm::core);
        let verifiers = KeySet::from_provider(&text, &algorithms).unwrap_or_default();
        let tables = opened.tables_of(&verifiers);
        let document = KeySetDocument::new(text);
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

    /// The version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.snapshot.version
    }

    /// Returns our epochs with digests in place of names, made once for each version: there may be
    /// thousands of names.
    pub(super) fn digested(&self, epochs: Epochs, key: &str) -> Epochs {
        self.digested
            .get_or_init(|| epochs.with_digests(key))
            .clone()
    }

    /// Our own part of the snapshot.
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
                    tracing::error!(kid = key.kid, %error, "a signing key cannot be used");
                }
            }
        }
    }

    /// Tables for these keys, whole: some milliseconds for a new key, nothing for a version with
    /// the same keys.
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
