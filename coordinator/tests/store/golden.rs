//! The tables as this version writes them: a change of any column is another version of the schema.

use crate::history::{mixed, open};
use coordinator::store::SCHEMA_VERSION;
use std::path::Path;

const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

#[test]
fn the_tables_are_as_ever() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db.duckdb");
    let (store, _) = open(&path);
    let history = mixed();
    history.feed(&store, 0);
    store.wait_for(history.index(), LIMIT).unwrap();
    drop(store);
    let connection = duckdb::Connection::open(&path).unwrap();
    let sql = "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns
               WHERE table_schema = 'main' ORDER BY table_name, ordinal_position";
    let mut query = connection.prepare(sql).unwrap();
    let row = |row: &duckdb::Row| -> duckdb::Result<String> {
        let text = |at: usize| row.get::<_, String>(at);
        Ok(format!(
            "{}.{} {} {}",
            text(0)?,
            text(1)?,
            text(2)?,
            if text(3)? == "NO" { "always" } else { "or none" }
        ))
    };
    let found: Vec<String> = query.query_map([], row).unwrap().map(Result::unwrap).collect();
    let version: u32 = connection.query_row("SELECT schema_version FROM meta", [], |r| r.get(0)).unwrap();
    assert_eq!(version, SCHEMA_VERSION);
    let file = format!("tests/store/schema-{SCHEMA_VERSION}.txt");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(&file);
    let found = found.join("\n") + "\n";
    if std::env::var_os("HOLDFAST_REWRITE_GOLDEN").is_some() {
        std::fs::write(&golden, &found).unwrap();
    }
    let kept = std::fs::read_to_string(&golden).unwrap_or_default();
    assert_eq!(found, kept, "the tables are not those of {file}: raise SCHEMA_VERSION and keep the old file");
}
