//! What the config says about access, checked, and its secrets read.
//!
//! A secret may stand in the config, in the environment or in a file; files win nothing but are
//! what should be used. [`check`] needs no file and belongs to the config's own check;
//! [`Settings::read`] opens the files and runs when the node starts.

use super::AccessError;
use crate::config::check::Findings;
use crate::config::{AuthUser, Config};
use api::access::Role;
use argon2::password_hash::phc::PasswordHash;
use std::path::Path;

/// The shortest secret that is taken.
pub const MIN_SECRET_BYTES: usize = 16;
/// A shorter secret is warned of.
pub const GOOD_SECRET_BYTES: usize = 32;
/// The largest file with a secret.
const MAX_SECRET_FILE_BYTES: u64 = 64 * 1024;
/// The most users.
pub const MAX_USERS: usize = 1000;
/// What the guide writes where a secret belongs. Everybody knows it.
const EXAMPLE_SECRET: &str = "your-strong-secret-here";

/// A user, ready for logins.
#[derive(Debug, Clone)]
pub struct User {
    /// The login name.
    pub username: String,
    /// The PHC string.
    pub password_hash: String,
    /// What the user may do.
    pub role: Role,
}

/// What was asked for.
pub struct Settings {
    /// Signs tokens; none without `enable_auth`.
    pub jwt_secret: Option<String>,
    /// Who may log in.
    pub users: Vec<User>,
    /// What peers share; none where peers prove nothing.
    pub cluster_secret: Option<String>,
}

impl Settings {
    /// Reads the secrets.
    pub fn read(config: &Config) -> Result<Settings, AccessError> {
        let jwt_secret = match config.enable_auth {
            true => Some(jwt_secret(config)?),
            false => None,
        };
        let cluster_secret = match &config.cluster_secret_file {
            Some(path) => Some(secret_file("cluster_secret_file", path)?),
            // Nodes that share the secret of tokens need no second one.
            None => jwt_secret.clone(),
        };
        let users = config
            .auth_users
            .iter()
            .map(|user| User {
                username: user.username.clone(),
                password_hash: user.password_hash.clone(),
                role: role_of(user),
            })
            .collect();
        Ok(Settings { jwt_secret, users, cluster_secret })
    }
}

/// The secret that signs tokens, from the config or its file.
pub fn jwt_secret(config: &Config) -> Result<String, AccessError> {
    let (key, secret) = match (&config.jwt_secret_file, &config.jwt_secret) {
        (Some(path), _) => ("jwt_secret_file", secret_file("jwt_secret_file", path)?),
        (None, Some(secret)) => ("jwt_secret", secret.clone()),
        (None, None) => {
            let why = "is required with `enable_auth`: set it or name a file in `jwt_secret_file`".into();
            return Err(AccessError::Setting { key: "jwt_secret", why });
        }
    };
    fault_of_secret(&secret).map_or(Ok(secret), |why| Err(AccessError::Setting { key, why }))
}

/// A secret from its file: one line, without the white space round it.
pub fn secret_file(key: &'static str, path: &Path) -> Result<String, AccessError> {
    use std::io::Read;
    let failed = |why: String| AccessError::Secret { key, path: path.to_owned(), why };
    let file = std::fs::File::open(path).map_err(|e| failed(e.to_string()))?;
    let mut text = String::new();
    file.take(MAX_SECRET_FILE_BYTES).read_to_string(&mut text).map_err(|e| failed(e.to_string()))?;
    let secret = text.trim().to_owned();
    fault_of_secret(&secret).map_or(Ok(secret), |why| Err(failed(why)))
}

fn fault_of_secret(secret: &str) -> Option<String> {
    if secret == EXAMPLE_SECRET {
        return Some("is the example of the documentation, which everybody knows; make one with `openssl rand -hex 32`".into());
    }
    (secret.len() < MIN_SECRET_BYTES).then(|| {
        format!(
            "has {} bytes; must have at least {MIN_SECRET_BYTES}, better {GOOD_SECRET_BYTES}: `openssl rand -hex 32` makes one",
            secret.len()
        )
    })
}

/// PURE. The role of a user: the one that is named; else the one the user is called after; else
/// `viewer`, which changes nothing.
pub fn role_of(user: &AuthUser) -> Role {
    user.role
        .or_else(|| Role::named(&user.username).filter(|role| *role != Role::Node))
        .unwrap_or(Role::Viewer)
}

/// PURE. Everything that can be said of the config without opening a file.
pub fn check(config: &Config, found: &mut Findings) {
    check_tls(config, found);
    if config.enable_redundancy
        && config.cluster_secret_file.is_none()
        && !config.enable_auth
        && !(config.enable_tls && config.ca_path.is_some())
        && !config.allow_insecure_network
    {
        found.warn(
            "cluster_secret_file",
            "is missing: whoever names the right cluster and node is taken for a peer; a secret (or ca_path with enable_tls) keeps others out",
        );
    }
    match config.auth_type.as_deref() {
        None | Some("jwt") => {}
        Some(other) => found.fault("auth_type", format!("is `{other}`; this version knows `jwt`")),
    }
    if !config.enable_auth {
        let unused = [
            ("auth_users", !config.auth_users.is_empty()),
            ("jwt_secret", config.jwt_secret.is_some()),
            ("jwt_secret_file", config.jwt_secret_file.is_some()),
        ];
        for (key, _) in unused.into_iter().filter(|(_, set)| *set) {
            found.warn(key, "does nothing: `enable_auth` is not true, so nobody is asked for a token");
        }
        return;
    }
    match (&config.jwt_secret, &config.jwt_secret_file) {
        (None, None) => found.fault(
            "jwt_secret",
            "is required with `enable_auth`: set it or name a file in `jwt_secret_file`",
        ),
        (Some(_), Some(_)) => found.warn("jwt_secret", "is ignored: `jwt_secret_file` names a file with it"),
        (Some(secret), None) => match fault_of_secret(secret) {
            Some(why) => found.fault("jwt_secret", why),
            None if secret.len() < GOOD_SECRET_BYTES => {
                found.warn(
                    "jwt_secret",
                    format!("has {} bytes; {GOOD_SECRET_BYTES} are advised", secret.len()),
                );
            }
            None => {}
        },
        (None, Some(_)) => {}
    }
    check_users(&config.auth_users, found);
}

fn check_tls(config: &Config, found: &mut Findings) {
    let files =
        [("cert_path", &config.cert_path), ("key_path", &config.key_path), ("ca_path", &config.ca_path)];
    if !config.enable_tls {
        for (key, _) in files.into_iter().filter(|(_, path)| path.is_some()) {
            found.warn(key, "does nothing: `enable_tls` is not true");
        }
        return;
    }
    for (key, _) in files.into_iter().take(2).filter(|(_, path)| path.is_none()) {
        found.fault(key, "is required with `enable_tls`");
    }
    if config.ca_path.is_none() && config.enable_redundancy {
        found.note(
            "ca_path",
            "is missing: the system's authorities are trusted for the other nodes' certificates, and nodes are not known by theirs",
        );
    }
}

fn check_users(users: &[AuthUser], found: &mut Findings) {
    if users.is_empty() {
        found.warn("auth_users", "is empty: nobody can log in, only tokens of `coordinator token` work");
    }
    if users.len() > MAX_USERS {
        found.fault("auth_users", format!("names {} users; at most {MAX_USERS} are taken", users.len()));
    }
    for (at, user) in users.iter().enumerate().take(MAX_USERS) {
        let key = format!("auth_users[{at}]");
        let name = &user.username;
        if let Some(why) = crate::name::fault(name, 128) {
            found.fault(&format!("{key}.username"), why);
        }
        if users[..at].iter().any(|other| other.username == *name) {
            found.fault(&format!("{key}.username"), format!("`{name}` is named twice"));
        }
        if user.role == Some(Role::Node) {
            found.fault(&format!("{key}.role"), "`node` is for nodes, which prove themselves otherwise");
        }
        if user.role.is_none() && Role::named(name).is_none() {
            found.warn(
                "auth_users",
                format!("gives `{name}` no role, so it gets `viewer`; others are admin, operator, worker"),
            );
        }
        let readable = PasswordHash::new(&user.password_hash).is_ok();
        if !readable || !user.password_hash.starts_with("$argon2id$") {
            found.fault(
                &format!("{key}.password_hash"),
                "is no argon2id hash; `coordinator hash-password` makes one",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const HASH: &str =
        "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$vsa1FzdXGT4/ZzJ6bmLqkGkJrzYj1jPKoJW6MY2o0bM";

    fn checked(extra: Value) -> (Vec<String>, Vec<String>) {
        let mut whole = json!({"node_id": "n1", "host": "h", "data_dir": "/d", "enable_auth": true});
        whole.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let Value::Object(whole) = whole else { panic!() };
        let config = Config::try_from(whole).unwrap();
        let mut found = Findings::default();
        check(&config, &mut found);
        let faults = found.faults.iter().map(ToString::to_string).collect();
        (faults, found.remarks.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_whole_setting_has_no_fault() {
        let secret = "0123456789abcdef0123456789abcdef";
        let users = json!([{"username": "admin", "password_hash": HASH}]);
        let (faults, warnings) =
            checked(json!({"auth_type": "jwt", "jwt_secret": secret, "auth_users": users}));
        assert_eq!((faults, warnings), (vec![], vec![]));
    }

    #[test]
    fn every_fault_is_named() {
        let users = json!([
            {"username": "admin", "password_hash": "..."},
            {"username": "admin", "password_hash": HASH, "role": "node"},
            {"username": "", "password_hash": "$argon2i$v=19$m=16,t=2,p=1$c29tZXNhbHQ$x"},
        ]);
        let (faults, _) = checked(json!({"auth_type": "basic", "jwt_secret": "short", "auth_users": users}));
        let text = faults.join("\n");
        for part in [
            "`auth_type`: is `basic`",
            "`jwt_secret`: has 5 bytes",
            "`auth_users[0].password_hash`: is no argon2id",
            "`auth_users[1].username`: `admin` is named twice",
            "`auth_users[1].role`: `node`",
            "auth_users[2].username",
            "auth_users[2].password_hash",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        let (faults, _) = checked(json!({"jwt_secret": EXAMPLE_SECRET}));
        assert!(faults[0].contains("everybody knows"), "{faults:?}");
        assert!(checked(json!({})).0[0].contains("required"));
    }

    #[test]
    fn another_type_of_authentication_is_refused_whether_it_is_on_or_not() {
        for (kind, enabled) in
            [("basic", true), ("basic", false), ("JWT", false), ("", false), ("jwt ", false), ("none", false)]
        {
            let (faults, _) = checked(json!({"auth_type": kind, "enable_auth": enabled}));
            let named = format!("`auth_type`: is `{kind}`");
            assert!(faults.iter().any(|fault| fault.contains(&named)), "{named}: {faults:?}");
        }
        assert_eq!(checked(json!({"auth_type": "jwt", "enable_auth": false})).0, [""; 0]);
    }

    #[test]
    fn a_user_without_a_role_is_called_after_one_or_only_looks() {
        let role = |name: &str| {
            role_of(&AuthUser { username: name.into(), password_hash: String::new(), role: None })
        };
        assert_eq!(role("admin"), Role::Admin);
        assert_eq!(role("worker"), Role::Worker);
        assert_eq!(role("operator"), Role::Operator);
        assert_eq!(role("alice"), Role::Viewer);
        assert_eq!(role("node"), Role::Viewer, "nobody becomes a node by a name");
        let named =
            AuthUser { username: "worker".into(), password_hash: String::new(), role: Some(Role::Admin) };
        assert_eq!(role_of(&named), Role::Admin);
    }

    #[test]
    fn a_secret_file_is_trimmed_and_checked() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0123456789abcdef0123456789abcdef\n").unwrap();
        assert_eq!(secret_file("k", file.path()).unwrap(), "0123456789abcdef0123456789abcdef");
        std::fs::write(file.path(), "\n").unwrap();
        assert!(secret_file("k", file.path()).unwrap_err().to_string().contains("has 0 bytes"));
        assert!(secret_file("k", Path::new("/nowhere")).unwrap_err().to_string().contains("/nowhere"));
    }
}
