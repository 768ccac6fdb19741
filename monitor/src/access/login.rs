//! Passwords: argon2id, which is meant to be slow, and therefore rationed.
//!
//! A few verifications at once, a few that wait, and then a refusal. Who failed several times in a
//! row waits, longer each time. A name that nobody has takes as long as one that somebody has.

use argon2::Argon2;
use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::PasswordHash;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Verifications that run at once.
const PARALLEL: usize = 2;
/// Logins that run or wait.
const MAX_LOGINS: usize = 16;
/// Failures in a row that cost nothing.
const FREE_FAILURES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Names whose failures are remembered.
const MAX_NAMES: usize = 1_024;
/// The longest password that is hashed, bytes.
const MAX_PASSWORD_BYTES: usize = 1_024;

/// A user, ready for logins.
#[derive(Debug, Clone)]
pub struct User {
    /// The login name.
    pub username: String,
    /// The PHC string.
    pub password_hash: String,
}

/// Why nobody was logged in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// Name or password are wrong; which one is not said.
    #[error("The name or the password is wrong.")]
    Wrong,
    /// Too many failures.
    #[error("Too many failed logins; try again in {} s.", .wait.as_secs().max(1))]
    Paused {
        /// For how long.
        wait: Duration,
    },
    /// Too many logins at once.
    #[error("Too many logins at once; try again.")]
    Busy,
    /// The system gives no random bytes.
    #[error("No session can be made: {0}")]
    Random(String),
}

/// The users and their recent failures.
pub struct Logins {
    users: HashMap<String, String>,
    /// Verified in place of the hash of a user that does not exist.
    decoy: String,
    failures: Mutex<HashMap<String, (u32, Instant)>>,
    places: Semaphore,
    turns: Semaphore,
}

impl Logins {
    /// Of these users.
    pub fn new(users: Vec<User>) -> Logins {
        let decoy = users.first().map_or_else(String::new, |user| user.password_hash.clone());
        Logins {
            users: users.into_iter().map(|user| (user.username, user.password_hash)).collect(),
            decoy,
            failures: Mutex::default(),
            places: Semaphore::new(MAX_LOGINS),
            turns: Semaphore::new(PARALLEL),
        }
    }

    /// Is that the user's password?
    pub async fn check(&self, username: &str, password: String) -> Result<(), LoginError> {
        if let Some(wait) = pause_of(self.failures.lock().get(username).copied(), Instant::now()) {
            return Err(LoginError::Paused { wait });
        }
        let _place = self.places.try_acquire().map_err(|_| LoginError::Busy)?;
        let known = self.users.get(username).cloned();
        let is_known = known.is_some();
        let hash = known.unwrap_or_else(|| self.decoy.clone());
        let _turn = self.turns.acquire().await.map_err(|_| LoginError::Busy)?;
        let verified = tokio::task::spawn_blocking(move || verify(&hash, &password)).await.unwrap_or(false);
        let mut failures = self.failures.lock();
        if verified && is_known {
            failures.remove(username);
            return Ok(());
        }
        if failures.len() >= MAX_NAMES && !failures.contains_key(username) {
            let oldest = failures.iter().min_by_key(|(_, (_, at))| *at).map(|(name, _)| name.clone());
            if let Some(name) = oldest {
                failures.remove(&name);
            }
        }
        let now = Instant::now();
        let entry = failures.entry(username.to_owned()).or_insert((0, now));
        *entry = (entry.0.saturating_add(1), now);
        Err(LoginError::Wrong)
    }
}

/// How long who failed so often still has to wait.
fn pause_of(failures: Option<(u32, Instant)>, now: Instant) -> Option<Duration> {
    let (count, last) = failures?;
    let over = count.checked_sub(FREE_FAILURES)?;
    let pause = FIRST_PAUSE.saturating_mul(1 << over.min(10)).min(LONGEST_PAUSE);
    pause.checked_sub(now.saturating_duration_since(last)).filter(|left| !left.is_zero())
}

fn verify(hash: &str, password: &str) -> bool {
    password.len() <= MAX_PASSWORD_BYTES
        && PasswordHash::new(hash)
            .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

/// What is wrong with a hash, if anything is.
pub fn fault_of(password_hash: &str) -> Option<String> {
    let is_ours = password_hash.starts_with("$argon2id$") && PasswordHash::new(password_hash).is_ok();
    (!is_ours)
        .then(|| "`password_hash` is no argon2id hash; `coordinator hash-password` makes one".to_owned())
}

#[cfg(test)]
pub(crate) fn hash_for_test(password: &str) -> String {
    use argon2::password_hash::PasswordHasher;
    Argon2::default().hash_password(password.as_bytes()).unwrap().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_of_a_known_name_counts() {
        let user = User { username: "ann".into(), password_hash: hash_for_test("right") };
        let logins = Logins::new(vec![user]);
        assert_eq!(logins.check("ann", "right".into()).await, Ok(()));
        for (name, password) in [("ann", "wrong"), ("bob", "right"), ("ann", ""), ("", "")] {
            assert_eq!(logins.check(name, password.into()).await, Err(LoginError::Wrong), "{name}");
        }
        assert_eq!(logins.check("ann", "x".repeat(2_000)).await, Err(LoginError::Wrong));
        assert_eq!(Logins::new(vec![]).check("", String::new()).await, Err(LoginError::Wrong));
    }

    #[test]
    fn failures_in_a_row_cost_time() {
        let begin = Instant::now();
        assert_eq!(pause_of(None, begin), None);
        assert_eq!(pause_of(Some((FREE_FAILURES - 1, begin)), begin), None);
        assert_eq!(pause_of(Some((FREE_FAILURES, begin)), begin), Some(FIRST_PAUSE));
        assert_eq!(pause_of(Some((FREE_FAILURES, begin)), begin + FIRST_PAUSE), None);
        assert_eq!(pause_of(Some((100, begin)), begin), Some(LONGEST_PAUSE));
    }
}
