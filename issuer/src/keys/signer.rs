//! Private key in memory. The cryptography library wipes it when it is dropped.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meshseal_core::authn::signature_only;
use meshseal_core::keys::KeySet;

use super::{Algorithm, KeyRecord, MasterKey};

/// Error that prevents a key from signing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignerError {
    /// The private half is destroyed.
    #[error("the private half of the key is destroyed")]
    Destroyed,
    /// The master key does not open it, or the row was changed.
    #[error("the private half of the key cannot be decrypted")]
    Sealed,
    /// The private half is not a key of its algorithm.
    #[error("the private half is not a key of its algorithm")]
    Malformed,
    /// Its signatures do not verify under its public half.
    #[error("the key failed its self-test")]
    SelfTest,
    /// The library refused to sign.
    #[error("signing failed")]
    Signing,
}

enum Private {
    EdDsa(Ed25519KeyPair),
    Es256(EcdsaKeyPair),
    Rs256(RsaKeyPair),
}

/// Key that signs.
pub struct Signer {
    kid: String,
    algorithm: Algorithm,
    private: Private,
    random: SystemRandom,
    /// Encoded header of an access token, followed by a dot.
    token_header: String,
}

impl Signer {
    /// Opens a stored key and verifies that its signatures match the published public half (I27).
    ///
    /// # Errors
    /// [`SignerError`].
    pub fn open(record: &KeyRecord, master: &MasterKey) -> Result<Self, SignerError> {
        let sealed = record.sealed.as_ref().ok_or(SignerError::Destroyed)?;
        let pkcs8 = master
            .open(&KeyRecord::seal_name(&record.kid), sealed)
            .ok_or(SignerError::Sealed)?;
        // Parsing fails for a key of another algorithm.
        let private = match record.algorithm {
            Algorithm::EdDsa => Ed25519KeyPair::from_pkcs8(&pkcs8).map(Private::EdDsa),
            Algorithm::Es256 => {
                EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8)
                    .map(Private::Es256)
            }
            Algorithm::Rs256 => RsaKeyPair::from_pkcs8(&pkcs8).map(Private::Rs256),
        };
        let (kid, algorithm) = (record.kid.clone(), record.algorithm);
        // All tokens of a key share one header, so it is encoded once.
        let header = format!(
            r#"{{"alg":"{}","kid":"{kid}","typ":"at+jwt"}}"#,
            algorithm.name()
        );
        let token_header = URL_SAFE_NO_PAD.encode(header) + ".";
        let private = private.map_err(|_| SignerError::Malformed)?;
        let signer = Self {
            kid,
            algorithm,
            private,
            random: SystemRandom::new(),
            token_header,
        };
        signer.self_test(&record.public_jwk)?;
        Ok(signer)
    }

    fn self_test(&self, public_jwk: &str) -> Result<(), SignerError> {
        // A public half that does not match would make every proxy reject the new tokens.
        let token = self.token(b"{}")?;
        let keys = KeySet::from_config(
            &format!(r#"{{"keys":[{public_jwk}]}}"#),
            &[self.algorithm.core()],
            false,
        );
        let verified = keys.is_ok_and(|keys| signature_only(&token, &keys).is_ok());
        if verified {
            Ok(())
        } else {
            Err(SignerError::SelfTest)
        }
    }

    /// Returns the key id.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Returns the algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns the signature in the form of JOSE (RFC 7518 §3, RFC 8037 §3.1).
    ///
    /// # Errors
    /// [`SignerError::Signing`].
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        match &self.private {
            Private::EdDsa(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Private::Es256(pair) => pair
                .sign(&self.random, message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| SignerError::Signing),
            Private::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(
                    &signature::RSA_PKCS1_SHA256,
                    &self.random,
                    message,
                    &mut signature,
                )
                .map_err(|_| SignerError::Signing)?;
                Ok(signature)
            }
        }
    }

    /// Returns an access token with these claims (JSON), as of RFC 9068 §2.1.
    ///
    /// # Errors
    /// [`SignerError::Signing`].
    pub fn token(&self, claims: &[u8]) -> Result<String, SignerError> {
        let mut token = self.token_header.clone();
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let signature = self.sign(token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}
