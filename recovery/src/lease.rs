//! The named lease `recovery` in the cluster's own log.
//!
//! Destructive repairs may only be made under it, and carry its epoch. The restart of a dead
//! process needs none; it is taken anyway, as well as the cluster can give it, so that the audit
//! names the epoch. A cluster without a leader gives no lease, and that stops no restart.

use api::Client;
use api::client::Repeat;
use api::cluster::{NamedLease, NamedLeaseRequest};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long a grant lasts.
const TTL: Duration = Duration::from_secs(15);
/// How long one request for it may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(2);
/// Pause after a refusal.
const RETRY: Duration = Duration::from_secs(1);
/// How long giving it back may take at the end.
const RELEASE_LIMIT: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy)]
struct Held {
    epoch: u64,
    until: Instant,
}

/// Takes the lease while it is wanted, renews it, and gives it back.
#[derive(Debug)]
pub struct LeaseKeeper {
    wanted: watch::Sender<bool>,
    held: Arc<Mutex<Option<Held>>>,
    task: tokio::task::JoinHandle<()>,
}

impl LeaseKeeper {
    /// A keeper that asks `client`'s cluster in the name of `holder`.
    pub fn start(client: Client, holder: String) -> Self {
        let (wanted, watching) = watch::channel(false);
        let held = Arc::new(Mutex::new(None));
        let task = tokio::spawn(keep(client.with_deadline(REQUEST_LIMIT), holder, watching, held.clone()));
        LeaseKeeper { wanted, held, task }
    }

    /// Says whether the lease is wanted.
    pub fn want(&self, wanted: bool) {
        self.wanted.send_if_modified(|present| std::mem::replace(present, wanted) != wanted);
    }

    /// The epoch, while the lease is held.
    pub fn epoch(&self) -> Option<u64> {
        self.held.lock().filter(|held| Instant::now() < held.until).map(|held| held.epoch)
    }

    /// Gives the lease back and ends.
    pub async fn end(self) {
        drop(self.wanted);
        let _ = tokio::time::timeout(RELEASE_LIMIT, self.task).await;
    }
}

async fn keep(
    client: Client,
    holder: String,
    mut wanted: watch::Receiver<bool>,
    held: Arc<Mutex<Option<Held>>>,
) {
    loop {
        if !*wanted.borrow_and_update() {
            if held.lock().take().is_some()
                && let Err(e) = ask(&client, &holder, Duration::ZERO).await
            {
                tracing::debug!(error = %e, "the recovery lease could not be given back; it ends by itself");
            }
            if wanted.changed().await.is_err() {
                return;
            }
            continue;
        }
        let asked = Instant::now();
        let pause = match ask(&client, &holder, TTL).await {
            Ok(lease) => {
                // Counted from the question: the grant can't be older than that.
                *held.lock() = Some(Held { epoch: lease.epoch, until: asked + TTL });
                TTL / 3
            }
            Err(e) => {
                tracing::debug!(error = %e, "no recovery lease");
                RETRY
            }
        };
        if let Ok(Err(_)) = tokio::time::timeout(pause, wanted.changed()).await {
            if held.lock().take().is_some() {
                let _ = ask(&client, &holder, Duration::ZERO).await;
            }
            return;
        }
    }
}

async fn ask(client: &Client, holder: &str, ttl: Duration) -> Result<NamedLease, api::ClientError> {
    let request = NamedLeaseRequest { holder: holder.to_owned(), ttl_ms: ttl.as_millis() as u64 };
    client.post("/api/leases/recovery", &request, Repeat::Idempotent).await
}
