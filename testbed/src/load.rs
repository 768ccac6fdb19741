//! Writers that remember what they were told.
//!
//! Each submission ends in one of three ways, and a test may expect different things of each:
//! acknowledged (must be there for ever), refused (must not be there), unknown (either).

use api::client::Repeat;
use api::task::{NewTask, Submitted};
use api::{Client, ClientError, ErrorCode};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Tasks that one writer submits at most.
const MAX_TASKS_PER_WRITER: u64 = 100_000;

/// What the writers were told.
#[derive(Debug, Default)]
pub struct Told {
    /// Acknowledged: the id, and the log index that the answer named.
    pub acknowledged: Vec<(String, u64)>,
    /// Nobody knows whether they happened.
    pub unknown: Vec<String>,
    /// Refused, with the reason.
    pub refused: Vec<(String, String)>,
}

/// Writers at work.
pub struct Writers {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    moments: Arc<Mutex<Vec<Instant>>>,
    tasks: Vec<JoinHandle<Told>>,
}

impl Writers {
    /// Starts `count` writers that each submit at most one task every `pace`.
    ///
    /// `make` gives the task of an id; the id is set by the writer. Each writer has a client of its
    /// own, so that one that waits for a dead leader holds up no other.
    pub fn start(
        addresses: &[String],
        count: usize,
        pace: Duration,
        make: impl Fn(u64) -> NewTask + Send + Sync + 'static,
    ) -> Result<Writers, ClientError> {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let moments = Arc::new(Mutex::new(Vec::new()));
        let make = Arc::new(make);
        let mut tasks = Vec::new();
        for writer in 0..count {
            let client = Client::new(addresses.to_vec())?.with_deadline(Duration::from_secs(5));
            let (stop, acknowledged, make) = (stop.clone(), acknowledged.clone(), make.clone());
            let moments = moments.clone();
            tasks.push(tokio::spawn(async move {
                let mut told = Told::default();
                let mut tick = tokio::time::interval(pace);
                tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                for number in 0..MAX_TASKS_PER_WRITER {
                    tick.tick().await;
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let id = format!("w{writer}-{number}");
                    let task = NewTask { task_id: Some(id.clone()), ..make(number) };
                    if told.hear(id, client.post("/api/tasks", &task, Repeat::Never).await) {
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                        if let Ok(mut moments) = moments.lock() {
                            moments.push(Instant::now());
                        }
                    }
                }
                told
            }));
        }
        Ok(Writers { stop, acknowledged, moments, tasks })
    }

    /// How many submissions were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// When each acknowledgement came, in order.
    pub fn moments(&self) -> Vec<Instant> {
        let mut moments = self.moments.lock().map(|m| m.clone()).unwrap_or_default();
        moments.sort();
        moments
    }

    /// Counts what was acknowledged, for whoever watches from elsewhere.
    pub fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.acknowledged)
    }

    /// Lets the writers finish what they are at, and gives what they were told.
    pub async fn finish(self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Told::default();
        for task in self.tasks {
            if let Ok(told) = task.await {
                all.acknowledged.extend(told.acknowledged);
                all.unknown.extend(told.unknown);
                all.refused.extend(told.refused);
            }
        }
        all
    }
}

impl Told {
    /// Sorts an answer in; true where it was an acknowledgement.
    fn hear(&mut self, id: String, answer: Result<Submitted, ClientError>) -> bool {
        match answer {
            Ok(submitted) => {
                self.acknowledged.push((id, submitted.index));
                return true;
            }
            Err(ClientError::Problem(problem))
                if problem.code != ErrorCode::UnknownOutcome && problem.code != ErrorCode::Internal =>
            {
                self.refused.push((id, problem.to_string()));
            }
            Err(error @ (ClientError::Unreachable { .. } | ClientError::NoAddress)) => {
                self.refused.push((id, error.to_string()));
            }
            // A broken connection, an unreadable answer, a fault: it may have happened.
            Err(_) => self.unknown.push(id),
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Problem;

    #[test]
    fn every_answer_is_sorted_by_what_may_have_happened() {
        let mut told = Told::default();
        let problem = |code| Err(ClientError::Problem(Problem::new(code, "")));
        assert!(told.hear("a".into(), Ok(Submitted { task_id: "a".into(), index: 7 })));
        for (id, answer) in [
            ("b", problem(ErrorCode::NoLeader)),
            ("c", problem(ErrorCode::UnknownOutcome)),
            ("d", Err(ClientError::UnknownOutcome { address: "x".into(), why: "reset".into() })),
            ("e", Err(ClientError::Malformed { address: "x".into(), why: "cut".into() })),
            ("f", problem(ErrorCode::Internal)),
        ] {
            assert!(!told.hear(id.into(), answer));
        }
        assert_eq!(told.acknowledged, [("a".to_owned(), 7)]);
        assert_eq!(told.refused.len(), 1);
        assert_eq!(told.unknown, ["c", "d", "e", "f"]);
    }
}
