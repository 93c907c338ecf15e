//! JWS signature algorithms (RFC 7518 §3.1, RFC 8037 §3.1, RFC 9864 §2.2).

/// Signature algorithm that Meshseal can verify. `none` has no variant, so it cannot be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Alg {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256, MGF1 with SHA-256 and a salt as long as the hash.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// ECDSA on P-521 with SHA-512.
    Es512,
    /// Ed25519, under its old name `EdDSA` and its fully specified name `Ed25519`.
    EdDsa,
    /// HMAC with SHA-256.
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
}

/// Key type that an algorithm requires: `kty`, and `crv` for curves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `kty: RSA`.
    Rsa,
    /// `kty: EC`, `crv: P-256`.
    P256,
    /// `kty: EC`, `crv: P-384`.
    P384,
    /// `kty: EC`, `crv: P-521`.
    P521,
    /// `kty: OKP`, `crv: Ed25519`.
    Ed25519,
    /// `kty: oct`.
    Oct,
}

impl Alg {
    /// Every algorithm, asymmetric ones first.
    pub const ALL: [Self; 13] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::EdDsa,
        Self::Hs256,
        Self::Hs384,
        Self::Hs512,
    ];

    /// Returns the algorithm of an `alg` value, which is compared case-sensitively (V4). `EdDSA`
    /// and `Ed25519` name the same algorithm.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        // RFC 9864 deprecates `EdDSA` in favour of `Ed25519`; both names are in use.
        if name == "Ed25519" {
            return Some(Self::EdDsa);
        }
        Self::ALL.into_iter().find(|alg| alg.name() == name)
    }

    /// Returns the name in the IANA registry of JOSE algorithms.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::EdDsa => "EdDSA",
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
        }
    }

    /// Returns the key type that this algorithm requires.
    #[must_use]
    pub const fn family(self) -> Family {
        match self {
            Self::Rs256 | Self::Rs384 | Self::Rs512 | Self::Ps256 | Self::Ps384 | Self::Ps512 => {
                Family::Rsa
            }
            Self::Es256 => Family::P256,
            Self::Es384 => Family::P384,
            Self::Es512 => Family::P521,
            Self::EdDsa => Family::Ed25519,
            Self::Hs256 | Self::Hs384 | Self::Hs512 => Family::Oct,
        }
    }

    /// Returns whether signer and verifier share one secret.
    #[must_use]
    pub const fn is_symmetric(self) -> bool {
        matches!(self.family(), Family::Oct)
    }
}

impl Family {
    /// Returns the algorithm that a key without `alg` most often serves.
    #[must_use]
    pub const fn usual(self) -> Alg {
        match self {
            Self::Rsa => Alg::Rs256,
            Self::P256 => Alg::Es256,
            Self::P384 => Alg::Es384,
            Self::P521 => Alg::Es512,
            Self::Ed25519 => Alg::EdDsa,
            Self::Oct => Alg::Hs256,
        }
    }

    /// Returns the one algorithm to which a key of this type is bound if the key states no `alg`
    /// (V5).
    ///
    /// It is the only algorithm of the type in `allowed`, else the usual one if `allowed` contains
    /// it. Returns `None` if neither exists: then the key must state `alg`.
    #[must_use]
    pub fn bind(self, allowed: &[Alg]) -> Option<Alg> {
        let mut of_family = allowed.iter().copied().filter(|alg| alg.family() == self);
        let first = of_family.next()?;
        if of_family.all(|alg| alg == first) {
            return Some(first);
        }
        allowed.contains(&self.usual()).then(|| self.usual())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn names_are_case_sensitive_without_none() {
        for alg in Alg::ALL {
            assert_eq!(Alg::parse(alg.name()), Some(alg));
            assert_eq!(Alg::parse(&alg.name().to_ascii_lowercase()), None);
        }
        assert_eq!(Alg::parse("Ed25519"), Some(Alg::EdDsa));
        for name in [
            "none", "None", "NONE", "nOnE", "", "ES256K", "Ed448", "RS256 ",
        ] {
            assert_eq!(Alg::parse(name), None, "{name}");
        }
    }

    #[test]
    fn key_without_alg_binds_one_algorithm() {
        assert_eq!(
            Family::Rsa.bind(&[Alg::Ps384, Alg::Es256]),
            Some(Alg::Ps384)
        );
        assert_eq!(Family::Rsa.bind(&Alg::ALL), Some(Alg::Rs256));
        assert_eq!(Family::Rsa.bind(&[Alg::Ps256, Alg::Ps384]), None);
        assert_eq!(Family::P256.bind(&[Alg::Rs256]), None);
    }
}
