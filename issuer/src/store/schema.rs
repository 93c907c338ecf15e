//! Schema of the database as a list of steps. A released step is never edited; changes are added
//! as new steps.

use std::fmt;

/// Mark of our SQLite files (`PRAGMA application_id`): the letters MESH.
pub(super) const APPLICATION_ID: u32 = 0x4d45_5348;

/// Newest schema that this program supports.
pub(super) const NEWEST: u32 = 4;

/// Step from one schema to the next.
pub(super) struct Step {
    /// SQL statements; `{blob}` stands for the dialect's type for bytes.
    pub(super) statements: &'static [&'static str],
    /// Oldest schema whose programs may still use the tables after the step. Such a step only adds
    /// columns or tables that these programs can ignore, with defaults, and nothing under a MAC.
    usable_since: u32,
}

/// Steps that lead to each schema, from 1.
pub(super) const STEPS: [Step; NEWEST as usize] = [
    Step {
        statements: FIRST,
        usable_since: 1,
    },
    Step {
        statements: SECOND,
        usable_since: 2,
    },
    Step {
        statements: THIRD,
        usable_since: 2,
    },
    Step {
        statements: FOURTH,
        usable_since: 2,
    },
];

/// Statement of a database about its tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Schema of the tables; 0 without tables.
    pub(super) schema: u32,
    /// Oldest schema whose programs may use the tables.
    pub(super) usable_since: u32,
}

impl Mark {
    /// Returns the mark after the last step.
    pub(super) fn newest() -> Self {
        Self {
            schema: NEWEST,
            usable_since: STEPS.last().map_or(NEWEST, |step| step.usable_since),
        }
    }

    /// Returns whether this program may use the tables once they are up to date.
    pub(super) const fn is_usable(self) -> bool {
        self.schema <= NEWEST || self.usable_since <= NEWEST
    }

    /// Returns the reason why this program must not use the tables, and the remedy.
    pub(super) fn refusal(self) -> String {
        format!(
            "made by a newer meshseal (schema {}, known here {NEWEST}); upgrade this one",
            self.schema
        )
    }

    /// Decodes SQLite's `user_version`: the schema in the low 16 bits, and above them the oldest
    /// usable schema if it differs.
    pub(super) const fn from_number(number: u32) -> Self {
        let (schema, usable_since) = (number & 0xffff, number >> 16);
        Self {
            schema,
            usable_since: if usable_since == 0 {
                schema
            } else {
                usable_since
            },
        }
    }

    /// Encodes the mark as `user_version`.
    pub(super) const fn number(self) -> u32 {
        if self.usable_since == self.schema {
            self.schema
        } else {
            (self.usable_since << 16) | self.schema
        }
    }

    /// Parses the text form: the schema, then a space and the oldest usable schema if it differs.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (schema, usable_since) = text.split_once(' ').unwrap_or((text, text));
        Some(Self {
            schema: schema.parse().ok()?,
            usable_since: usable_since.parse().ok()?,
        })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            schema,
            usable_since,
        } = self;
        if schema == usable_since {
            write!(out, "{schema}")
        } else {
            write!(out, "{schema} {usable_since}")
        }
    }
}

/// The tables of schema 1.
const FIRST: &[&str] = &[
    "CREATE TABLE meshseal_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    // This table has one row: the lock that all changes of keys and revocations take first.
    "CREATE TABLE meshseal_state (
        id BIGINT PRIMARY KEY CHECK (id = 1), version BIGINT NOT NULL, next_index BIGINT NOT NULL,
        rotation_requested BIGINT, leader TEXT NOT NULL, leader_until BIGINT NOT NULL)",
    "INSERT INTO meshseal_state VALUES (1, 0, 0, NULL, '', 0)",
    "CREATE TABLE meshseal_keys (
        kid TEXT PRIMARY KEY, purpose TEXT NOT NULL, algorithm TEXT NOT NULL,
        state TEXT NOT NULL, since BIGINT NOT NULL,
        published BIGINT NOT NULL, public_jwk TEXT NOT NULL, sealed {blob})",
    // INVARIANT: exactly one key of each purpose signs, even if replicas disagree.
    "CREATE UNIQUE INDEX meshseal_one_active ON meshseal_keys (purpose) WHERE state = 'active'",
    "CREATE TABLE meshseal_revoked (
        token_index BIGINT PRIMARY KEY, expires_at BIGINT NOT NULL, revoked_by TEXT NOT NULL)",
    "CREATE INDEX meshseal_revoked_by ON meshseal_revoked (revoked_by)",
    "CREATE TABLE meshseal_epochs (
        kind TEXT NOT NULL, name TEXT NOT NULL, before BIGINT NOT NULL,
        expires_at BIGINT NOT NULL, PRIMARY KEY (kind, name))",
    "CREATE TABLE meshseal_proxies (
        worker TEXT PRIMARY KEY, node TEXT NOT NULL, version BIGINT NOT NULL,
        seen_at BIGINT NOT NULL)",
];

/// Workers instead of proxies (ADR 23), times of keys (ADR 20 and 21), and MACs (ADR 18). All
/// replicas stop for this step. The state row gets another id, so that every statement of a program
/// that supports only schema 1 fails; such a program would write rows without a MAC.
const SECOND: &[&str] = &[
    "CREATE TABLE meshseal_workers (
        worker TEXT PRIMARY KEY, node TEXT NOT NULL, version BIGINT NOT NULL,
        seen_at BIGINT NOT NULL,
        protocol BIGINT NOT NULL, pins TEXT NOT NULL, accepts_until BIGINT NOT NULL,
        replica TEXT NOT NULL)",
    // Workers of the last hour. Schema 1 does not store until when they accept tokens: a day is
    // longer than any usual not-after.
    "INSERT INTO meshseal_workers
        SELECT worker, node, version, seen_at, 1, '', seen_at + 86400, '' FROM meshseal_proxies",
    "DROP TABLE meshseal_proxies",
    "ALTER TABLE meshseal_keys ADD COLUMN ready_at BIGINT NOT NULL DEFAULT 0",
    // A day and the largest clock skew: schema 1 does not store how long the tokens of a key live.
    "ALTER TABLE meshseal_keys ADD COLUMN drain_s BIGINT NOT NULL DEFAULT 86465",
    "ALTER TABLE meshseal_state RENAME TO meshseal_state_1",
    "CREATE TABLE meshseal_state (
        id BIGINT PRIMARY KEY CHECK (id = 2), version BIGINT NOT NULL, next_index BIGINT NOT NULL,
        rotation_requested BIGINT, leader TEXT NOT NULL, leader_until BIGINT NOT NULL,
        incident_since BIGINT, incident TEXT, recent TEXT NOT NULL, rows_used TEXT NOT NULL,
        digest TEXT NOT NULL,
        mac TEXT, records TEXT NOT NULL)",
    "INSERT INTO meshseal_state
        SELECT 2, version, next_index, rotation_requested, leader, leader_until, NULL, NULL,
            '', '', '', NULL, ''
        FROM meshseal_state_1",
    "DROP TABLE meshseal_state_1",
    "ALTER TABLE meshseal_keys ADD COLUMN mac TEXT",
    "ALTER TABLE meshseal_revoked ADD COLUMN mac TEXT",
    "ALTER TABLE meshseal_epochs ADD COLUMN mac TEXT",
];

/// Version in which a revocation changed last, so that a new version can be read without older
/// revocations. This hint is not under the MAC. Programs of schema 2 leave it at 0, which the
/// digest reveals.
const THIRD: &[&str] = &[
    "ALTER TABLE meshseal_revoked ADD COLUMN changed_in BIGINT NOT NULL DEFAULT 0",
    "CREATE INDEX meshseal_revoked_changed ON meshseal_revoked (changed_in)",
];

/// Uses of client assertions (ADR 29). Programs of schemas 2 and 3 remember their uses only in
/// memory. `process` is the random number of the process that wrote the row.
const FOURTH: &[&str] = &[
    "CREATE TABLE meshseal_assertions (
        id {blob} PRIMARY KEY, expires_at BIGINT NOT NULL, process BIGINT NOT NULL)",
    "CREATE INDEX meshseal_assertions_expiry ON meshseal_assertions (expires_at)",
];

/// All tables, for granting rights to roles.
pub(super) const TABLES: [&str; 7] = [
    "meshseal_assertions",
    "meshseal_epochs",
    "meshseal_keys",
    "meshseal_meta",
    "meshseal_revoked",
    "meshseal_state",
    "meshseal_workers",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(schema: u32, usable_since: u32) -> Mark {
        Mark {
            schema,
            usable_since,
        }
    }
    #[test]
    fn lists_every_table() {
        let mut names = std::collections::BTreeSet::new();
        for statement in STEPS.iter().flat_map(|step| step.statements) {
            match statement.split_whitespace().collect::<Vec<_>>().as_slice() {
                ["CREATE", "TABLE", name, ..] => assert!(names.insert(*name), "{statement}"),
                ["DROP", "TABLE", name] => assert!(names.remove(name), "{statement}"),
                ["ALTER", "TABLE", old, "RENAME", "TO", new] => {
                    assert!(names.remove(old) && names.insert(new), "{statement}");
                }
                _ => {}
            }
        }
        assert_eq!(TABLES.as_slice(), names.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn mark_names_programs_that_stay_usable() {
        for (mark, number, text, usable) in [
            (mark(0, 0), 0, "0", true),
            (mark(2, 2), 2, "2", true),
            (mark(3, 2), 0x2_0003, "3 2", true),
            (mark(4, 2), 0x2_0004, "4 2", true),
            (mark(5, 5), 5, "5", false),
            (mark(9, 3), 0x3_0009, "9 3", true),
            (mark(9, 5), 0x5_0009, "9 5", false),
        ] {
            assert_eq!(
                (mark.number(), mark.to_string().as_str(), mark.is_usable()),
                (number, text, usable)
            );
            assert_eq!(
                (Mark::from_number(number), Mark::parse(text)),
                (mark, Some(mark))
            );
        }
        for text in ["", " ", "2 ", "x", "2 2 2", "-1"] {
            assert_eq!(Mark::parse(text), None, "{text:?}");
        }
    }
}
