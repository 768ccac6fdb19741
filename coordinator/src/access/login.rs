//! Passwords: verified by argon2id, which is meant to be slow, and therefore rationed.
//!
//! At most [`PARALLEL`] verifications run at once, on threads of their own, and [`WAITING`] wait;
//! beyond that a login is refused at once, so that a flood of them costs the node no thread that
//! it needs. A name that failed [`FREE_FAILURES`] times in a row is refused for a while that
//! doubles with each further failure, without looking at the password.
//!
//! A name that nobody has takes as long as one that somebody has.

use super::Caller;
use super::settings::User;
use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Verifications that run at once.
pub const PARALLEL: usize = 2;
/// Logins that may wait for their turn.
pub const WAITING: usize = 16;
/// Failures in a row that cost nothing.
pub const FREE_FAILURES: u32 = 5;
/// The first pause after them; doubled for each further failure.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Names whose failures are remembered.
const MAX_NAMES: usize = 1024;
/// The longest password that is hashed.
pub const MAX_PASSWORD_BYTES: usize = 1024;

/// Why nobody was logged in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// Name or password are wrong; which one is not said.
    #[error("the name or the password is wrong")]
    Wrong,
    /// Too many failures.
    #[error("too many failed logins as `{username}`; try again in {} s", .wait.as_secs().max(1))]
    Paused {
        /// The name.
        username: String,
        /// For how long.
        wait: Duration,
    },
    /// Too many logins at once.
    #[error("too many logins at once; try again")]
    Busy,
}

/// The users and their recent failures.
pub struct Logins {
    users: HashMap<String, User>,
    failures: Mutex<Failures>,
    turns: Semaphore,
    waiting: AtomicUsize,
    /// Verified in place of the hash of a user that does not exist.
    decoy: String,
}

impl Logins {
    /// Of these users.
    pub fn new(users: Vec<User>) -> Logins {
        let users: HashMap<_, _> = users.into_iter().map(|user| (user.username.clone(), user)).collect();
        // As dear as a real one, so that the time of the answer tells nothing.
        let decoy = users.values().next().map_or_else(String::new, |user| user.password_hash.clone());
        Logins {
            users,
            failures: Mutex::default(),
            turns: Semaphore::new(PARALLEL),
            waiting: AtomicUsize::new(0),
            decoy,
        }
    }

    /// Who that is.
    pub async fn login(self: &Arc<Self>, username: &str, password: String) -> Result<Caller, LoginError> {
        let wait = self.failures.lock().pause_of(username, Instant::now());
        if let Some(wait) = wait {
            return Err(LoginError::Paused { username: username.to_owned(), wait });
        }
        let user = self.users.get(username).cloned();
        let known = user.is_some();
        let hash = user.as_ref().map_or_else(|| self.decoy.clone(), |user| user.password_hash.clone());
        if self.waiting.fetch_add(1, Ordering::AcqRel) >= WAITING + PARALLEL {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            return Err(LoginError::Busy);
        }
        let place = Place(Arc::clone(self));
        let turn = self.turns.acquire().await;
        let verified = tokio::task::spawn_blocking(move || verify(&hash, &password)).await.unwrap_or(false);
        drop(turn);
        drop(place);
        match user {
            Some(user) if verified && known => {
                self.failures.lock().forget(username);
                Ok(Caller { subject: user.username, role: user.role, worker_id: None })
            }
            _ => {
                self.failures.lock().note(username, Instant::now());
                Err(LoginError::Wrong)
            }
        }
    }
}

/// A place in the queue, given back also when the client goes away.
struct Place(Arc<Logins>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

fn verify(hash: &str, password: &str) -> bool {
    if password.len() > MAX_PASSWORD_BYTES {
        return false;
    }
    PasswordHash::new(hash)
        .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

/// The argon2id hash of a password, with a salt of its own.
pub fn hash(password: &str) -> Result<String, String> {
    if password.is_empty() {
        return Err("the password is empty".into());
    }
    if password.len() > MAX_PASSWORD_BYTES {
        return Err(format!("the password is longer than {MAX_PASSWORD_BYTES} bytes"));
    }
    Argon2::default()
        .hash_password(password.as_bytes())
        .map(|hash| hash.to_string())
        .map_err(|e| e.to_string())
}

/// Failures in a row, by name.
#[derive(Debug, Default)]
struct Failures {
    names: HashMap<String, (u32, Instant)>,
}

impl Failures {
    /// How long that name still has to wait.
    fn pause_of(&self, username: &str, now: Instant) -> Option<Duration> {
        let (count, last) = *self.names.get(username)?;
        let over = count.checked_sub(FREE_FAILURES)?;
        let pause = FIRST_PAUSE.saturating_mul(1 << over.min(10)).min(LONGEST_PAUSE);
        pause.checked_sub(now.saturating_duration_since(last)).filter(|left| !left.is_zero())
    }

    fn note(&mut self, username: &str, now: Instant) {
        if self.names.len() >= MAX_NAMES && !self.names.contains_key(username) {
            let oldest = self.names.iter().min_by_key(|(_, (_, at))| *at).map(|(name, _)| name.clone());
            if let Some(oldest) = oldest {
                self.names.remove(&oldest);
            }
        }
        let entry = self.names.entry(username.to_owned()).or_insert((0, now));
        *entry = (entry.0.saturating_add(1), now);
    }

    fn forget(&mut self, username: &str) {
        self.names.remove(username);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::access::Role;

    fn logins() -> Arc<Logins> {
        let user =
            User { username: "ann".into(), password_hash: hash("right").unwrap(), role: Role::Operator };
        Arc::new(Logins::new(vec![user]))
    }

    #[tokio::test]
    async fn the_right_password_gives_the_users_role() {
        let logins = logins();
        let caller = logins.login("ann", "right".into()).await.unwrap();
        assert_eq!((caller.subject.as_str(), caller.role), ("ann", Role::Operator));
        assert_eq!(logins.login("ann", "wrong".into()).await, Err(LoginError::Wrong));
        assert_eq!(logins.login("bob", "right".into()).await, Err(LoginError::Wrong), "nobody has that name");
        assert_eq!(logins.login("ann", "x".repeat(2000)).await, Err(LoginError::Wrong));
    }

    #[test]
    fn failures_in_a_row_cost_time_and_a_success_forgets_them() {
        let mut failures = Failures::default();
        let begin = Instant::now();
        for _ in 0..FREE_FAILURES - 1 {
            failures.note("ann", begin);
        }
        assert_eq!(failures.pause_of("ann", begin), None);
        failures.note("ann", begin);
        assert_eq!(failures.pause_of("ann", begin), Some(FIRST_PAUSE));
        assert_eq!(failures.pause_of("bob", begin), None, "another name");
        assert_eq!(failures.pause_of("ann", begin + FIRST_PAUSE), None, "the pause is over");
        for _ in 0..20 {
            failures.note("ann", begin);
        }
        assert_eq!(failures.pause_of("ann", begin), Some(LONGEST_PAUSE));
        failures.forget("ann");
        assert_eq!(failures.pause_of("ann", begin), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut failures = Failures::default();
        let begin = Instant::now();
        for i in 0..3 * MAX_NAMES {
            failures.note(&format!("name-{i}"), begin + Duration::from_millis(i as u64));
        }
        assert_eq!(failures.names.len(), MAX_NAMES);
        assert!(failures.names.contains_key(&format!("name-{}", 3 * MAX_NAMES - 1)));
    }

    #[test]
    fn a_hash_is_argon2id_and_differs_each_time() {
        let (one, two) = (hash("secret").unwrap(), hash("secret").unwrap());
        assert!(one.starts_with("$argon2id$") && one != two);
        assert!(verify(&one, "secret") && !verify(&one, "Secret") && !verify("", "secret"));
        assert!(hash("").is_err());
    }
}
