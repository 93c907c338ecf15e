//! Signature algorithms of the issuer.

use meshseal_core::jose::Alg;

/// Signature algorithm of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519: the default, cheapest to verify in a proxy.
    EdDsa,
    /// ECDSA on P-256, for peers without Ed25519.
    Es256,
    /// RSA PKCS#1 v1.5 with 2048 bits, which RFC 9068 requires of every party (I2).
    Rs256,
}

impl Algorithm {
    /// All algorithms.
    pub const ALL: [Self; 3] = [Self::EdDsa, Self::Es256, Self::Rs256];

    /// Returns the algorithm with this JOSE name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }

    /// Returns the JOSE name, as in the `alg` of a token.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }

    /// Returns the algorithm as a type of the core.
    #[must_use]
    pub const fn core(self) -> Alg {
        match self {
            Self::EdDsa => Alg::EdDsa,
            Self::Es256 => Alg::Es256,
            Self::Rs256 => Alg::Rs256,
        }
    }
}
