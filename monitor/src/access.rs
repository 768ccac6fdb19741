//! Who may look: users with passwords, sessions in a cookie, a token for programs, TLS.
//!
//! The monitor shows and never changes anything, so there is one right: to look. Where
//! `enable_auth` is set, everything but the login page and its style asks for it. Where it is not,
//! whoever reaches the port may look, and the start says so.
//!
//! Invariants:
//! - A password is verified by argon2id, rationed ([`login`]); a session is 256 random bits, kept
//!   as a hash, bounded in number and time, gone with the process.
//! - A page of another origin, or of a foreign name that leads to our address, gets nothing
//!   ([`guard`]).

pub mod guard;
pub mod login;
pub mod tls;

use api::AccessRole;
use login::{LoginError, Logins, User};
use parking_lot::Mutex;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// The cookie of a session.
pub const COOKIE: &str = "holdfast_session";
/// How long a session lasts after it was used last.
const IDLE_LIMIT: Duration = Duration::from_secs(12 * 3_600);
/// How long it lasts at all.
const SESSION_LIMIT: Duration = Duration::from_secs(7 * 86_400);
/// Sessions at once; the one that was used longest ago goes first.
const MAX_SESSIONS: usize = 1_000;
/// The most users.
const MAX_USERS: usize = 1_000;
/// The shortest and longest token for programs, bytes.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=4_096;

/// A user in the config file, as the coordinator's config has them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthUser {
    /// The login name.
    pub username: String,
    /// What `coordinator hash-password` printed.
    pub password_hash: String,
    /// Admin, operator or viewer; here all may do the same.
    #[serde(default)]
    pub role: Option<AccessRole>,
}

/// What the config says of access.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessConfig {
    /// True where whoever looks must be known.
    pub enable_auth: bool,
    /// Who may log in.
    pub auth_users: Vec<AuthUser>,
    /// File with a token that programs show (`Authorization: Bearer …`).
    pub access_token_file: Option<PathBuf>,
    /// True where pages are served by TLS.
    pub enable_tls: bool,
    /// The certificate, PEM, with those between it and the authority.
    pub cert_path: Option<PathBuf>,
    /// Its key.
    pub key_path: Option<PathBuf>,
    /// Names under which browsers reach this monitor, beside IP addresses, `localhost` and the name
    /// of this machine.
    pub host_names: Vec<String>,
}

impl AccessConfig {
    /// Everything that is wrong with it, each as key and reason.
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if self.enable_tls {
            for (key, path) in [("cert_path", &self.cert_path), ("key_path", &self.key_path)] {
                if path.is_none() {
                    faults.push((key, "is required with `enable_tls`".to_owned()));
                }
            }
        }
        if self.enable_auth && self.auth_users.is_empty() && self.access_token_file.is_none() {
            let why = "names nobody, so nobody could look; name users here, or `access_token_file`";
            faults.push(("auth_users", why.to_owned()));
        }
        if self.auth_users.len() > MAX_USERS {
            faults.push(("auth_users", format!("{} users, at most {MAX_USERS}", self.auth_users.len())));
        }
        let mut names = BTreeSet::new();
        for user in &self.auth_users {
            let fault = if user.username.is_empty() {
                Some("has a user without a name".to_owned())
            } else if !names.insert(&user.username) {
                Some(format!("names `{}` twice", user.username))
            } else if matches!(user.role, Some(AccessRole::Worker | AccessRole::Node)) {
                Some(format!(
                    "`{}`: workers and nodes don't look; give admin, operator or viewer",
                    user.username
                ))
            } else {
                login::fault_of(&user.password_hash).map(|why| format!("`{}`: {why}", user.username))
            };
            faults.extend(fault.map(|why| ("auth_users", why)));
        }
        faults
    }
}

/// Why access can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// A file can't be used.
    #[error("`{key}` {path}: {why}")]
    File {
        /// The key of the config.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(String),
}

struct Session {
    began: Instant,
    used: Instant,
    /// Fires when the session is gone.
    ended: CancellationToken,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

/// Decides who may look.
pub struct Gate {
    is_open: bool,
    secure: bool,
    logins: Logins,
    token: Option<[u8; 32]>,
    sessions: Mutex<HashMap<[u8; 32], Session>>,
    own_hosts: BTreeSet<String>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("is_open", &self.is_open).finish_non_exhaustive()
    }
}

impl Gate {
    /// A gate as the config wants it. Reads the token's file.
    pub fn new(config: &AccessConfig) -> Result<Gate, GateError> {
        let token = config.access_token_file.as_ref().map(|path| {
            let failed = |why: String| GateError::File { key: "access_token_file", path: path.clone(), why };
            let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
            let text = text.trim();
            match TOKEN_BYTES.contains(&text.len()) {
                true => Ok(digest(text)),
                false => Err(failed(format!(
                    "holds {} bytes; a token has {} to {}: `openssl rand -hex 32` makes one",
                    text.len(),
                    TOKEN_BYTES.start(),
                    TOKEN_BYTES.end()
                ))),
            }
        });
        let users = config
            .auth_users
            .iter()
            .map(|user| User { username: user.username.clone(), password_hash: user.password_hash.clone() });
        let machine =
            std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        let names = config.host_names.iter().cloned().chain([machine, "localhost".to_owned()]);
        Ok(Gate {
            is_open: !config.enable_auth,
            secure: config.enable_tls,
            logins: Logins::new(users.collect()),
            token: token.transpose()?,
            sessions: Mutex::default(),
            own_hosts: names.filter(|name| !name.is_empty()).map(|name| name.to_ascii_lowercase()).collect(),
        })
    }

    /// A gate that lets everybody look.
    pub fn open() -> Result<Gate, GateError> {
        Gate::new(&AccessConfig::default())
    }

    /// True where everybody may look.
    pub const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Names under which browsers may reach this monitor.
    pub const fn own_hosts(&self) -> &BTreeSet<String> {
        &self.own_hosts
    }

    /// May whoever shows this session or this token look?
    pub fn admits(&self, session: Option<&str>, bearer: Option<&str>) -> bool {
        // What is compared is a hash of what was shown: the time it takes tells nothing of it.
        self.is_open
            || bearer.is_some_and(|shown| self.token.is_some_and(|token| token == digest(shown)))
            || session.is_some_and(|shown| self.is_live(shown))
    }

    fn is_live(&self, shown: &str) -> bool {
        let mut sessions = self.sessions.lock();
        let key = digest(shown);
        let Some(session) = sessions.get_mut(&key) else { return false };
        if session.used.elapsed() > IDLE_LIMIT || session.began.elapsed() > SESSION_LIMIT {
            sessions.remove(&key);
            return false;
        }
        session.used = Instant::now();
        true
    }

    /// Waits until this session is over: logged out, pushed out by newer ones, or as old as a
    /// session gets. Never over for whoever needs none. An open stream is no use of its session, and
    /// goes on while nothing else is asked for: a screen on a wall.
    pub fn session_over(&self, session: Option<&str>) -> impl Future<Output = ()> + Send + use<> {
        let sessions = self.sessions.lock();
        let found = session.and_then(|shown| sessions.get(&digest(shown)));
        let end = found.map(|session| (session.ended.clone(), session.began + SESSION_LIMIT));
        async move {
            match end {
                Some((ended, limit)) => {
                    tokio::select! {
                        () = ended.cancelled() => {}
                        () = tokio::time::sleep_until(limit.into()) => {}
                    }
                }
                None => std::future::pending().await,
            }
        }
    }

    /// Checks a password; gives the cookie of a new session.
    pub async fn log_in(&self, username: &str, password: String) -> Result<String, LoginError> {
        self.logins.check(username, password).await?;
        let mut random = [0_u8; 32];
        getrandom::fill(&mut random).map_err(|e| LoginError::Random(e.to_string()))?;
        let secret: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut sessions = self.sessions.lock();
        if sessions.len() >= MAX_SESSIONS {
            let oldest = sessions.iter().min_by_key(|(_, session)| session.used).map(|(key, _)| *key);
            if let Some(key) = oldest {
                sessions.remove(&key);
            }
        }
        let now = Instant::now();
        sessions.insert(digest(&secret), Session { began: now, used: now, ended: CancellationToken::new() });
        Ok(self.cookie(&secret, SESSION_LIMIT.as_secs()))
    }

    /// Ends a session; gives the cookie that takes its place.
    pub fn log_out(&self, session: Option<&str>) -> String {
        if let Some(shown) = session {
            self.sessions.lock().remove(&digest(shown));
        }
        self.cookie("", 0)
    }

    fn cookie(&self, value: &str, seconds: u64) -> String {
        let secure = if self.secure { "; Secure" } else { "" };
        format!("{COOKIE}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// The session in a Cookie header.
pub fn session_of(cookies: &str) -> Option<&str> {
    let mut pairs = cookies.split(';').filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    fn config() -> AccessConfig {
        let user = AuthUser {
            username: "ann".into(),
            password_hash: login::hash_for_test("right"),
            role: Some(AccessRole::Viewer),
        };
        AccessConfig { enable_auth: true, auth_users: vec![user], ..AccessConfig::default() }
    }

    #[tokio::test]
    async fn a_session_begins_with_a_password_and_ends_with_a_logout() {
        let gate = Gate::new(&config()).unwrap();
        assert!(!gate.admits(None, None) && !gate.admits(Some(""), Some("")));
        assert_eq!(gate.log_in("ann", "wrong".into()).await, Err(LoginError::Wrong));
        let cookie = gate.log_in("ann", "right".into()).await.unwrap();
        assert!(cookie.ends_with("; HttpOnly; SameSite=Strict"), "{cookie}");
        let session = session_of(cookie.split(';').next().unwrap()).unwrap().to_owned();
        assert_eq!(session.len(), 64);
        assert!(gate.admits(Some(&session), None));
        assert!(!gate.admits(None, Some(&session)), "a session is no token");
        assert!(gate.log_out(Some(&session)).contains("Max-Age=0"));
        assert!(!gate.admits(Some(&session), None));
        let secure = AccessConfig { enable_tls: true, ..config() };
        let cookie = Gate::new(&secure).unwrap().log_in("ann", "right".into()).await.unwrap();
        assert!(cookie.ends_with("; Secure"), "{cookie}");
    }

    #[tokio::test]
    async fn what_a_session_opened_ends_with_it() {
        let gate = Gate::new(&config()).unwrap();
        let mut shown = Vec::new();
        for _ in 0..2 {
            let cookie = gate.log_in("ann", "right".into()).await.unwrap();
            shown.push(session_of(cookie.split(';').next().unwrap()).unwrap().to_owned());
        }
        let over = gate.session_over(Some(&shown[0]));
        let other = gate.session_over(Some(&shown[1]));
        let open = gate.session_over(None);
        tokio::pin!(over, other, open);
        assert!(over.as_mut().now_or_never().is_none());
        gate.log_out(Some(&shown[0]));
        assert!(over.as_mut().now_or_never().is_some());
        assert!(other.now_or_never().is_none() && open.now_or_never().is_none());
    }

    #[test]
    fn programs_show_a_token() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = Some(file.path().to_owned());
        let config = AccessConfig { enable_auth: true, access_token_file: path, ..AccessConfig::default() };
        assert!(Gate::new(&config).unwrap_err().to_string().contains("holds 0 bytes"));
        std::fs::write(file.path(), "0123456789abcdef\n").unwrap();
        let gate = Gate::new(&config).unwrap();
        assert!(gate.admits(None, Some("0123456789abcdef")));
        assert!(!gate.admits(None, Some("0123456789abcdeg")) && !gate.admits(None, None));
        assert!(Gate::open().unwrap().admits(None, None));
    }

    #[test]
    fn what_can_not_work_is_named() {
        assert!(config().faults().is_empty());
        let keys = |config: AccessConfig| config.faults().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        let nobody = AccessConfig { enable_auth: true, enable_tls: true, ..AccessConfig::default() };
        assert_eq!(keys(nobody), ["cert_path", "key_path", "auth_users"]);
        let mut twice = config();
        twice.auth_users.push(twice.auth_users[0].clone());
        assert_eq!(keys(twice), ["auth_users"]);
        let mut plain = config();
        plain.auth_users[0].password_hash = "right".into();
        assert!(plain.faults()[0].1.contains("hash-password"));
        let mut worker = config();
        worker.auth_users[0].role = Some(AccessRole::Worker);
        assert_eq!(keys(worker), ["auth_users"]);
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        assert_eq!(session_of("a=b; holdfast_session=xyz; c=d"), Some("xyz"));
        assert_eq!(session_of("xholdfast_session=xyz"), None);
        assert_eq!(session_of("holdfast_session="), None);
    }
}
