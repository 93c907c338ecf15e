//! Every size that somebody outside can make big, with the reason for its budget.

/// Longest compact token in bytes. Envoy's default for all request headers together is 60 KiB;
/// tokens with large group lists reach 8 KiB in the wild. Checked before anything is decoded.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Longest base64url header segment in bytes. A header needs `alg`, `kid` and `typ`; 2 KiB leaves
/// room for an ignored `x5c` stub.
pub const MAX_HEADER_SEGMENT_BYTES: usize = 2 * 1024;

/// Deepest nesting of JSON: reading is recursive. Keycloak's `resource_access` is three deep; `act`
/// chains are one level a hop.
pub const MAX_JSON_DEPTH: u8 = 32;

/// Most JSON values and member names in one token part (24 bytes each while the token is read). A
/// token of [`MAX_TOKEN_BYTES`] cannot reach it, so the size of a token is all that bounds its
/// shape.
pub const MAX_TOKEN_NODES: usize = MAX_TOKEN_BYTES / 2;

/// Longest `kid` in bytes (V7). A thumbprint is 43 bytes, a URL-shaped kid of an identity provider
/// around 100.
pub const MAX_KID_BYTES: usize = 256;

/// Longest `typ` in bytes. The longest that is accepted anywhere is
/// `application/client-authentication+jwt`.
pub const MAX_TYP_BYTES: usize = 64;

/// Largest RSA modulus in bits. Cost grows with the square; nobody publishes JWKs above this.
pub const MAX_RSA_BITS: usize = 8192;

/// Smallest RSA modulus in bits (RFC 7518 §3.3, V6).
pub const MIN_RSA_BITS: usize = 2048;

/// Longest signature in bytes: that of the largest RSA key.
pub const MAX_SIGNATURE_BYTES: usize = MAX_RSA_BITS / 8;

/// Most keys of one set. AWS accepts 100; more means a runaway publisher (spire #4699).
pub const MAX_KEYS: usize = 100;

/// Largest key set document in bytes. 100 RSA-4096 keys with certificates stay below.
pub const MAX_JWKS_BYTES: usize = 512 * 1024;

/// Most JSON nodes of a key set: `MAX_KEYS` keys of some 20 members, and as much again for `x5c`
/// chains.
pub const MAX_JWKS_NODES: usize = 8 * 1024;

/// Largest trust bundle in bytes, as delivered. 100 000 revoked tokens take some 300 KiB in
/// base64url.
pub const MAX_BUNDLE_BYTES: usize = 2 * 1024 * 1024;

/// Most revoked single tokens a filter holds (8 bytes each). Above this an operator wants an epoch,
/// not a list.
pub const MAX_REVOKED: usize = 250_000;

/// Most epochs ("issued before") of one kind that a filter holds. Some 60 bytes each, so that all
/// of a kind fit into a bundle of [`MAX_BUNDLE_BYTES`]; an issuer that revokes more subjects than
/// this within a token's life revokes all.
pub const MAX_EPOCHS: usize = 20_000;

/// Most JSON nodes of a trust bundle: a name and a time for each of [`MAX_EPOCHS`] of five kinds,
/// and half as much for the rest.
pub const MAX_BUNDLE_NODES: usize = 300_000;

/// Largest plugin configuration in bytes: the Kubernetes API server refuses objects of more than
/// about 1.5 MB.
pub const MAX_CONFIG_BYTES: usize = 1_500_000;

/// Most JSON nodes of a plugin configuration.
pub const MAX_CONFIG_NODES: usize = 200_000;

/// Default for the longest value of a claim's header in bytes: half of what nginx and Tomcat accept
/// as all headers of a request.
pub const OUTPUT_VALUE_BYTES: usize = 4 * 1024;

/// Default for all output headers of a request in bytes, names included: what Node.js accepts as
/// all headers.
pub const OUTPUT_TOTAL_BYTES: usize = 16 * 1024;

/// Largest value of either setting: Envoy's default for all request headers together.
pub const MAX_OUTPUT_BYTES: u64 = 60 * 1024;

/// Largest leeway for `exp`, `nbf` and `iat` in seconds (V12).
pub const MAX_CLOCK_SKEW_S: u64 = 60;

/// Longest request path that is matched against rules, in bytes. Envoy's default for all headers is
/// 60 KiB.
pub const MAX_PATH_BYTES: usize = 8 * 1024;

/// Longest host in bytes (RFC 1035 §3.1: 255 octets on the wire).
pub const MAX_HOST_BYTES: usize = 253;

/// Most good tokens remembered by a worker.
pub const MAX_CACHED_TOKENS: usize = 10_000;

/// Most bytes held for good tokens remembered by a worker: 10 000 of some 800 bytes.
pub const MAX_CACHED_BYTES: usize = 8 * 1024 * 1024;

/// Most tokens with a bad signature remembered by a worker: enough for a client that keeps trying,
/// too few to matter.
pub const MAX_CACHED_REFUSALS: usize = 256;

/// Most bytes held for tokens with a bad signature.
pub const MAX_CACHED_REFUSAL_BYTES: usize = 512 * 1024;

/// Most bytes of tables for the keys of a worker: a generator's and ten keys' at full size
/// ([`MAX_TABLE_BYTES`]), about a quarter of the memory that a worker may take. More keys share it,
/// in smaller tables.
pub const MAX_TABLES_BYTES: usize = 11 * MAX_TABLE_BYTES;

/// Most bytes of one table: P-256 with the widest windows takes 289 KiB, Ed25519 with the next 278
/// KiB. Twice as much would save a tenth of a verification.
pub const MAX_TABLE_BYTES: usize = 300 * 1024;
