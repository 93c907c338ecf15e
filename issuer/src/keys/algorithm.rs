//! What the issuer signs with.

use meshseal_core::jose::Alg;

/// A signature algorithm of the issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519: the default, cheapest to verify in a proxy.
    EdDsa,
    /// ECDSA on P-256, for peers without Ed25519.
    Es256,
    /// RSA PKCS#1 v1.5 of 2048 bits: what every RFC 9068 party must know (I2).
    Rs256,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 3] = [Self::EdDsa, Self::Es256, Self::Rs256];

    /// By its JOSE name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }

    /// The JOSE name, as in a token's `alg`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }

    /// As core knows it.
    #[must_use]
    pub const fn core(self) -> Alg {
        match self {
            Self::EdDsa => Alg::EdDsa,
            Self::Es256 => Alg::Es256,
            Self::Rs256 => Alg::Rs256,
        }
    }
}
