//! The config of a node that runs: read again on SIGHUP, with those who follow it.
//!
//! Whoever can take a new value while it works registers with [`Live::follow`] and is told the
//! whole config; the others keep what they were started with, and [`Live::reload`] names their
//! keys as waiting for a restart.
//!
//! Invariant: a config with a fault changes nothing.

use crate::config::{Config, Grade, Reading, reload};
use api::cluster::{ConfigReload, ConfigStanding};
use api::config::ConfigError;
use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use std::path::PathBuf;
use std::sync::Arc;

type Follower = Box<dyn Fn(&Config) + Send + Sync>;
type Environment = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The running config. Cheap to clone.
#[derive(Clone)]
pub struct Live {
    shared: Arc<Shared>,
}

struct Shared {
    path: Option<PathBuf>,
    env: Environment,
    config: RwLock<Arc<Config>>,
    followers: Mutex<Vec<Follower>>,
    standing: Mutex<ConfigStanding>,
}

impl Live {
    /// A config that came from this file and this environment.
    pub fn new(
        config: Config,
        path: Option<PathBuf>,
        env: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Live {
        let standing = ConfigStanding {
            file: path.as_ref().map(|path| path.display().to_string()),
            loaded_at: Some(Timestamp::now()),
            zone: config.zone.clone(),
            ..ConfigStanding::default()
        };
        Live {
            shared: Arc::new(Shared {
                path,
                env: Box::new(env),
                config: RwLock::new(Arc::new(config)),
                followers: Mutex::default(),
                standing: Mutex::new(standing),
            }),
        }
    }

    /// A config that never changes.
    pub fn fixed(config: Config) -> Live {
        Live::new(config, None, |_| None)
    }

    /// The config as it counts now.
    pub fn config(&self) -> Arc<Config> {
        self.shared.config.read().clone()
    }

    /// Tells `follower` every config that counts from now on.
    pub fn follow(&self, follower: impl Fn(&Config) + Send + Sync + 'static) {
        self.shared.followers.lock().push(Box::new(follower));
    }

    /// How the config stands, for the report.
    pub fn standing(&self) -> ConfigStanding {
        self.shared.standing.lock().clone()
    }

    /// Reads file and environment again, takes what can be taken, and says what came of it.
    pub fn reload(&self) -> ConfigReload {
        let Reading { config, faults, remarks } = Config::read(self.shared.path.as_deref(), &self.shared.env);
        let outcome = match config {
            Some(fresh) if faults.is_empty() => {
                let outcome = self.take(&fresh);
                let warnings = remarks.iter().filter(|remark| remark.grade == Grade::Warning);
                warnings.for_each(|remark| tracing::warn!("{remark}"));
                outcome
            }
            _ => refused(&faults),
        };
        let mut standing = self.shared.standing.lock();
        standing.reloads += 1;
        standing.zone = self.config().zone.clone();
        standing.last_reload = Some(outcome.clone());
        outcome
    }

    fn take(&self, fresh: &Config) -> ConfigReload {
        let (merged, changes) = reload::merge(&self.config(), fresh);
        *self.shared.config.write() = Arc::new(merged.clone());
        self.shared.followers.lock().iter().for_each(|follower| follower(&merged));
        if changes.live.is_empty() && changes.restart.is_empty() {
            tracing::info!("the config was read again; nothing in it has changed");
        } else {
            tracing::info!(applied = changes.live.join(", "), "the config was read again");
        }
        if !changes.restart.is_empty() {
            let keys = changes.restart.join(", ");
            tracing::warn!(keys, "these keys have changed, but count only after a restart");
        }
        let names = |keys: Vec<&str>| keys.into_iter().map(str::to_owned).collect();
        ConfigReload {
            at: Timestamp::now(),
            applied: names(changes.live),
            needs_restart: names(changes.restart),
            faults: Vec::new(),
        }
    }
}

fn refused(faults: &[ConfigError]) -> ConfigReload {
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    tracing::error!(
        faults = faults.join("; "),
        "the config was read again and has faults; nothing was changed"
    );
    ConfigReload { at: Timestamp::now(), applied: Vec::new(), needs_restart: Vec::new(), faults }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn a_reload_is_followed_and_a_faulty_one_changes_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |threshold: u64, port: u16| {
            let config = json!({"node_id": "n", "host": "127.0.0.1", "data_dir": "/d", "enable_redundancy": false,
                "snapshot_threshold": threshold, "port": port});
            std::fs::write(file.path(), config.to_string()).unwrap();
        };
        write(1000, 8080);
        let (config, _) = Config::load(Some(file.path()), |_| None).unwrap();
        let live = Live::new(config, Some(file.path().to_owned()), |_| None);
        let seen = Arc::new(AtomicU64::new(0));
        let follower = seen.clone();
        live.follow(move |config| follower.store(config.snapshot_threshold, Ordering::Relaxed));

        write(2000, 8081);
        let outcome = live.reload();
        assert_eq!(outcome.applied, ["snapshot_threshold"]);
        assert_eq!(outcome.needs_restart, ["port"]);
        assert_eq!((seen.load(Ordering::Relaxed), live.config().snapshot_threshold), (2000, 2000));
        assert_eq!(live.config().port, 8080);

        write(0, 8080);
        let outcome = live.reload();
        assert!(outcome.faults[0].contains("snapshot_threshold"), "{outcome:?}");
        assert_eq!(live.config().snapshot_threshold, 2000);
        assert_eq!(live.standing().reloads, 2);
        assert_eq!(live.standing().last_reload, Some(outcome));
    }
}
