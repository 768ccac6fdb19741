//! When this node last sent a backup whole: kept beside the data, so that a restart does not make
//! a cluster look as if nobody had ever backed it up.
//!
//! It says what left this node, not what lies safely elsewhere: `coordinator backup` verifies what
//! it received.

use crate::telemetry::Telemetry;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;

const FILE: &str = "last_backup.json";

#[derive(Serialize, Deserialize)]
struct LastBackup {
    created_at: Timestamp,
}

/// Tells the metrics what an earlier run wrote down.
pub fn recall(data_dir: &Path, telemetry: &Telemetry) {
    let path = data_dir.join(FILE);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "when the last backup was sent can't be read");
            return;
        }
    };
    match serde_json::from_slice::<LastBackup>(&text) {
        Ok(last) => telemetry.backup_known(unix_ms(last.created_at)),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "when the last backup was sent can't be read");
        }
    }
}

/// A backup of the state at `created_at` went out whole.
pub fn note(data_dir: &Path, created_at: Timestamp, telemetry: &Telemetry) {
    telemetry.backup_sent(unix_ms(created_at));
    if let Err(error) = write(data_dir, created_at) {
        tracing::warn!(%error, "a backup was sent; that it was will be forgotten at the next restart");
    }
}

fn unix_ms(at: Timestamp) -> u64 {
    u64::try_from(at.as_millisecond()).unwrap_or(0)
}

fn write(data_dir: &Path, created_at: Timestamp) -> std::io::Result<()> {
    // Two backups may end at once; one after the other, so that no half file gets the name.
    static WRITING: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
    let _alone = WRITING.lock();
    let (path, draft) = (data_dir.join(FILE), data_dir.join("last_backup.new"));
    let mut file = std::fs::File::create(&draft)?;
    file.write_all(&serde_json::to_vec(&LastBackup { created_at })?)?;
    file.sync_all()?;
    std::fs::rename(&draft, &path)?;
    std::fs::File::open(data_dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(telemetry: &Telemetry) -> String {
        let text = telemetry.render().unwrap();
        let line = text.lines().find(|line| line.starts_with("holdfast_backup_last_timestamp_seconds"));
        line.unwrap().to_owned()
    }

    #[test]
    fn the_last_backup_outlives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let telemetry = Telemetry::new("n1").unwrap();
        recall(folder.path(), &telemetry);
        assert!(shown(&telemetry).ends_with(" 0"), "{}", shown(&telemetry));
        let at = Timestamp::from_millisecond(1_700_000_000_500).unwrap();
        note(folder.path(), at, &telemetry);
        let restarted = Telemetry::new("n1").unwrap();
        recall(folder.path(), &restarted);
        assert!(shown(&restarted).ends_with(" 1700000000.5"), "{}", shown(&restarted));
        assert_eq!(shown(&telemetry), shown(&restarted));
    }

    #[test]
    fn a_file_that_is_none_of_ours_is_no_backup() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        let telemetry = Telemetry::new("n1").unwrap();
        recall(folder.path(), &telemetry);
        assert!(shown(&telemetry).ends_with(" 0"));
    }
}
