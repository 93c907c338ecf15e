//! The tables, step by step. A step that was released is never edited; the next one is added below it.

/// Marks a SQLite file as ours (`PRAGMA application_id`): the letters MESH.
pub(super) const APPLICATION_ID: u32 = 0x4d45_5348;

/// The newest schema that this program knows.
pub(super) const NEWEST: u32 = 2;

/// The statements that lead to each schema version, from 1. `{blob}` is the dialect's type for bytes.
pub(super) const STEPS: [&[&str]; NEWEST as usize] = [FIRST, SECOND];

const FIRST: &[&str] = &[
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
];

/// Step 2. Replicas of schema 1 may still run and write to `meshseal_proxies`, so a later step drops that table.
const SECOND: &[&str] = &[
    "CREATE TABLE meshseal_workers (
        worker TEXT PRIMARY KEY, node TEXT NOT NULL, version BIGINT NOT NULL, seen_at BIGINT NOT NULL,
        protocol BIGINT NOT NULL, pins TEXT NOT NULL, accepts_until BIGINT NOT NULL, replica TEXT NOT NULL)",
    // Workers of the last hour. Schema 1 has no time until which they accept: a day is longer than any usual not-after.
    "INSERT INTO meshseal_workers
        SELECT worker, node, version, seen_at, 1, '', seen_at + 86400, '' FROM meshseal_proxies",
    "ALTER TABLE meshseal_keys ADD COLUMN ready_at BIGINT NOT NULL DEFAULT 0",
    // A day and the largest leeway: under schema 1 it was not known what life the tokens of a key had.
    "ALTER TABLE meshseal_keys ADD COLUMN drain_s BIGINT NOT NULL DEFAULT 86465",
];

/// Every table, for the rights of roles.
pub(super) const TABLES: [&str; 7] = [
    "meshseal_meta",
    "meshseal_state",
    "meshseal_keys",
    "meshseal_revoked",
    "meshseal_epochs",
    "meshseal_proxies",
    "meshseal_workers",
];

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
