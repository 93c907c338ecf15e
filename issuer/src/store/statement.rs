//! Creation of statements that are not prepared by name on the server.

use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, SqlSafeStr};

/// Creates a statement with parameters. It has no name on the server: behind PgBouncer in
/// transaction mode, a statement of another client could have that name.
pub(super) fn query<'q>(sql: impl SqlSafeStr) -> Query<'q, Any, AnyArguments> {
    sqlx::query(sql).persistent(false)
}

#[cfg(test)]
mod tests {
    #[test]
    fn prepares_no_statement_by_name() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store");
        for file in std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().path())
        {
            let text = std::fs::read_to_string(&file).unwrap();
            let found: Vec<_> = text
                .lines()
                .filter(|line| is_prepared(line) && !line.contains(".persistent(false)"))
                .collect();
            let own = file.ends_with("statement.rs");
            assert!(
                own || found.is_empty(),
                "{}: use store::statement::query: {found:?}",
                file.display()
            );
        }
    }

    /// Returns whether a line creates a statement without [`super::query`], or imports sqlx's.
    fn is_prepared(line: &str) -> bool {
        let imported = line.starts_with("use sqlx::{")
            && (line.contains(" query,") || line.contains(" query}"));
        imported || line.contains("sqlx::query(")
    }
}
