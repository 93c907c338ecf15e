//! The tables, step by step. A step that was released is never edited; the next one is added below it.

/// Marks a SQLite file as ours (`PRAGMA application_id`): the letters MESH.
pub(super) const APPLICATION_ID: u32 = 0x4d45_5348;

/// The newest schema that this program knows.
pub(super) const NEWEST: u32 = 1;

/// The statements that lead to each schema version, from 1. `{blob}` is the dialect's type for bytes.
pub(super) const STEPS: [&[&str]; NEWEST as usize] = [&[
    "CREATE TABLE meshseal_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    // One row: the lock that all changes of keys and revocations take first.
    "CREATE TABLE meshseal_state (
        id BIGINT PRIMARY KEY CHECK (id = 1), version BIGINT NOT NULL, next_index BIGINT NOT NULL,
        rotation_requested BIGINT, leader TEXT NOT NULL, leader_until BIGINT NOT NULL)",
    "INSERT INTO meshseal_state VALUES (1, 0, 0, NULL, '', 0)",
    "CREATE TABLE meshseal_keys (
        kid TEXT PRIMARY KEY, purpose TEXT NOT NULL, algorithm TEXT NOT NULL, state TEXT NOT NULL, since BIGINT NOT NULL,
        published BIGINT NOT NULL, public_jwk TEXT NOT NULL, sealed {blob})",
    // Exactly one key signs for each purpose, whatever replicas think.
    "CREATE UNIQUE INDEX meshseal_one_active ON meshseal_keys (purpose) WHERE state = 'active'",
    "CREATE TABLE meshseal_revoked (
        token_index BIGINT PRIMARY KEY, expires_at BIGINT NOT NULL, revoked_by TEXT NOT NULL)",
    "CREATE INDEX meshseal_revoked_by ON meshseal_revoked (revoked_by)",
    "CREATE TABLE meshseal_epochs (
        kind TEXT NOT NULL, name TEXT NOT NULL, before BIGINT NOT NULL, expires_at BIGINT NOT NULL, PRIMARY KEY (kind, name))",
    "CREATE TABLE meshseal_proxies (
        worker TEXT PRIMARY KEY, node TEXT NOT NULL, version BIGINT NOT NULL, seen_at BIGINT NOT NULL)",
]];

/// Every table, for the rights of roles.
pub(super) const TABLES: [&str; 6] =
    ["meshseal_meta", "meshseal_state", "meshseal_keys", "meshseal_revoked", "meshseal_epochs", "meshseal_proxies"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_every_table() {
        let created = STEPS.iter().copied().flatten().filter_map(|step| step.strip_prefix("CREATE TABLE "));
        let names: Vec<_> = created.filter_map(|rest| rest.split_whitespace().next()).collect();
        assert_eq!(TABLES.as_slice(), names);
    }
}
