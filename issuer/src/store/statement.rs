//! Statements that leave nothing behind on the server.

use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, SqlSafeStr};

/// A statement with parameters. It is not kept under a name: behind PgBouncer in transaction mode
/// another client's statement could have that name.
pub(super) fn query<'q>(sql: impl SqlSafeStr) -> Query<'q, Any, AnyArguments> {
    sqlx::query(sql).persistent(false)
}

#[cfg(test)]
mod tests {
    #[test]
    fn keeps_no_statement_by_name() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store");
        for file in std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().path())
        {
            let text = std::fs::read_to_string(&file).unwrap();
            let named = |line: &str| {
                let imported = line.starts_with("use sqlx::{")
                    && (line.contains(" query,") || line.contains(" query}"));
                imported || line.contains("sqlx::query(")
            };
            let found: Vec<_> = text
                .lines()
                .filter(|line| named(line) && !line.contains(".persistent(false)"))
                .collect();
            let own = file.ends_with("statement.rs");
            assert!(
                own || found.is_empty(),
                "{}: use store::statement::query: {found:?}",
                file.display()
            );
        }
    }
}
