//! Budgets for every size that an outside party controls, each with its reason.

/// Maximum length of a compact token in bytes, checked before anything is decoded. Envoy's default
/// for all request headers together is 60 KiB; tokens with large group lists reach 8 KiB in
/// practice.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Maximum length of the base64url header segment in bytes. A header needs `alg`, `kid` and `typ`;
/// 2 KiB also fits an `x5c` stub, which is ignored.
pub const MAX_HEADER_SEGMENT_BYTES: usize = 2 * 1024;

/// Maximum nesting of JSON, because the reader is recursive. Keycloak's `resource_access` has three
/// levels; `act` chains have one level for each hop.
pub const MAX_JSON_DEPTH: u8 = 32;

/// Maximum number of JSON values and member names in one token part (24 bytes each while the token
/// is read). A token of [`MAX_TOKEN_BYTES`] cannot reach it, so only the token's size limits its
/// structure.
pub const MAX_TOKEN_NODES: usize = MAX_TOKEN_BYTES / 2;

/// Maximum length of `kid` in bytes (V7). A thumbprint has 43 bytes, a URL-shaped `kid` of an
/// identity provider about 100.
pub const MAX_KID_BYTES: usize = 256;

/// Maximum length of `typ` in bytes. The longest accepted value is
/// `application/client-authentication+jwt`.
pub const MAX_TYP_BYTES: usize = 64;

/// Maximum RSA modulus in bits. The cost of a verification grows with the square of the size, and
/// no known provider publishes a larger key.
pub const MAX_RSA_BITS: usize = 8192;

/// Minimum RSA modulus in bits (RFC 7518 §3.3, V6).
pub const MIN_RSA_BITS: usize = 2048;

/// Maximum length of a signature in bytes: that of the largest RSA key.
pub const MAX_SIGNATURE_BYTES: usize = MAX_RSA_BITS / 8;

/// Maximum number of keys in one set. AWS accepts 100; more indicate a malfunctioning publisher
/// (spire #4699).
pub const MAX_KEYS: usize = 100;

/// Maximum size of a key set document in bytes. 100 RSA-4096 keys with certificates need less.
pub const MAX_JWKS_BYTES: usize = 512 * 1024;

/// Maximum number of JSON nodes of a key set: `MAX_KEYS` keys of about 20 members, and the same
/// number again for `x5c` chains.
pub const MAX_JWKS_NODES: usize = 8 * 1024;

/// Maximum size of a trust bundle in bytes, as delivered. 100 000 revoked tokens take about 300 KiB
/// in base64url.
pub const MAX_BUNDLE_BYTES: usize = 2 * 1024 * 1024;

/// Maximum number of individually revoked tokens that a filter holds (8 bytes each). Beyond this
/// number, an operator should revoke by epoch.
pub const MAX_REVOKED: usize = 250_000;

/// Maximum number of epochs ("issued before") of one kind that a filter holds. An epoch takes about
/// 60 bytes, so all of one kind fit into a bundle of [`MAX_BUNDLE_BYTES`]. An issuer that revokes
/// more subjects than this within a token's lifetime revokes all tokens instead.
pub const MAX_EPOCHS: usize = 20_000;

/// Maximum number of JSON nodes of a trust bundle: a name and a time for each of [`MAX_EPOCHS`] of
/// five kinds, and half as many for the rest.
pub const MAX_BUNDLE_NODES: usize = 300_000;

/// Maximum size of a plugin configuration in bytes: the Kubernetes API server rejects objects of
/// more than about 1.5 MB.
pub const MAX_CONFIG_BYTES: usize = 1_500_000;

/// Maximum number of JSON nodes of a plugin configuration.
pub const MAX_CONFIG_NODES: usize = 200_000;

/// Default limit for one claim's header value in bytes: half of what nginx and Tomcat accept for
/// all headers of a request.
pub const OUTPUT_VALUE_BYTES: usize = 4 * 1024;

/// Default limit for all output headers of a request in bytes, names included: what Node.js accepts
/// for all headers.
pub const OUTPUT_TOTAL_BYTES: usize = 16 * 1024;

/// Maximum value of either setting: Envoy's default for all request headers together.
pub const MAX_OUTPUT_BYTES: u64 = 60 * 1024;

/// Maximum clock skew for `exp`, `nbf` and `iat` in seconds (V12).
pub const MAX_CLOCK_SKEW_S: u64 = 60;

/// Maximum length in bytes of a request path that is matched against rules. Envoy's default for all
/// headers is 60 KiB.
pub const MAX_PATH_BYTES: usize = 8 * 1024;

/// Maximum length of a host in bytes (RFC 1035 §3.1: 255 octets on the wire).
pub const MAX_HOST_BYTES: usize = 253;

/// Maximum number of good tokens in a worker's cache.
pub const MAX_CACHED_TOKENS: usize = 10_000;

/// Maximum size in bytes of a worker's cache of good tokens: 10 000 tokens of about 800 bytes.
pub const MAX_CACHED_BYTES: usize = 8 * 1024 * 1024;

/// Maximum number of tokens with an invalid signature in a worker's cache: enough for clients that
/// keep retrying, at a negligible cost.
pub const MAX_CACHED_REFUSALS: usize = 256;

/// Maximum size in bytes of the cache of tokens with an invalid signature.
pub const MAX_CACHED_REFUSAL_BYTES: usize = 512 * 1024;

/// Maximum size in bytes of the precomputed tables for a worker's keys: one table for the generator
/// and ten for keys at full size ([`MAX_TABLE_BYTES`]). This is about a quarter of the memory that
/// a worker may take. More keys share it with smaller tables.
pub const MAX_TABLES_BYTES: usize = 11 * MAX_TABLE_BYTES;

/// Maximum size of one table in bytes. P-256 with the widest windows takes 289 KiB, Ed25519 with
/// the second-widest 278 KiB. Twice the size would save a tenth of a verification.
pub const MAX_TABLE_BYTES: usize = 300 * 1024;
