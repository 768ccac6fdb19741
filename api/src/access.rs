//! Who may do what: roles, and the login that gives a token of one.

use serde::{Deserialize, Serialize};

/// What a caller is. The JSON form is snake_case.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything, membership and settings included.
    Admin,
    /// Tasks, maintenance, leadership and repairs; everything a viewer sees.
    Operator,
    /// The worker protocol, nothing else.
    Worker,
    /// Looks, changes nothing.
    Viewer,
    /// Another node of the cluster.
    Node,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 5] = [Role::Admin, Role::Operator, Role::Worker, Role::Viewer, Role::Node];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Operator => "operator",
            Role::Worker => "worker",
            Role::Viewer => "viewer",
            Role::Node => "node",
        }
    }

    /// The role of that name.
    pub fn named(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.as_str() == name)
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `POST /api/auth/login`.
#[derive(Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The user's name.
    pub username: String,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Answer to a login.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LoggedIn {
    /// The token: send it as `Authorization: Bearer …`.
    pub token: String,
    /// What it allows.
    pub role: Role,
    /// Until when.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: jiff::Timestamp,
}
