//! Meshseal issuer.
