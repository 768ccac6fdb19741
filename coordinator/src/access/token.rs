//! Tokens: who, as what, until when; signed with the secret that all nodes share.
//!
//! The algorithm is pinned to HS256: what a token's own header asks for is not asked. A clock
//! that differs from the signer's by [`LEEWAY_SECONDS`] does no harm.

use super::Caller;
use api::access::Role;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Clocks may differ by this much.
pub const LEEWAY_SECONDS: u64 = 60;
/// How long a login lasts.
pub const LOGIN_LIFE: Duration = Duration::from_secs(12 * 3600);
/// The longest life of a token.
pub const MAX_LIFE: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
/// The longest token that is looked at.
const MAX_TOKEN_BYTES: usize = 4096;
const ISSUER: &str = "holdfast";

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    role: Role,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    worker_id: Option<String>,
    iat: u64,
    exp: u64,
    jti: String,
}

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Its time is over.
    #[error("the token has expired; log in again or make a new one with `coordinator token`")]
    Expired,
    /// It is not signed with this cluster's secret.
    #[error("the token is not signed with this cluster's secret (jwt_secret must be the same on all nodes)")]
    Signature,
    /// It is something else.
    #[error("the token can't be read: {0}")]
    Malformed(String),
}

/// Signs and reads tokens.
pub struct Tokens {
    signing: EncodingKey,
    reading: DecodingKey,
    rules: Validation,
}

impl Tokens {
    /// With a secret.
    pub fn new(secret: &[u8]) -> Tokens {
        let mut rules = Validation::new(Algorithm::HS256);
        rules.leeway = LEEWAY_SECONDS;
        rules.set_issuer(&[ISSUER]);
        rules.set_required_spec_claims(&["exp", "iss", "sub"]);
        rules.validate_aud = false;
        Tokens { signing: EncodingKey::from_secret(secret), reading: DecodingKey::from_secret(secret), rules }
    }

    /// A token of `caller` for `life`, and the second (Unix time) at which it ends.
    pub fn issue(
        &self,
        caller: &Caller,
        life: Duration,
        now_s: u64,
        id: String,
    ) -> Result<(String, u64), TokenError> {
        let exp = now_s + life.min(MAX_LIFE).as_secs();
        let claims = Claims {
            iss: ISSUER.into(),
            sub: caller.subject.clone(),
            role: caller.role,
            worker_id: caller.worker_id.clone(),
            iat: now_s,
            exp,
            jti: id,
        };
        let text = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.signing)
            .map_err(|e| TokenError::Malformed(e.to_string()))?;
        Ok((text, exp))
    }

    /// Who shows this token.
    pub fn read(&self, token: &str) -> Result<Caller, TokenError> {
        use jsonwebtoken::errors::ErrorKind;
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Malformed(format!("it is longer than {MAX_TOKEN_BYTES} bytes")));
        }
        let read = jsonwebtoken::decode::<Claims>(token, &self.reading, &self.rules);
        let claims = read.map(|data| data.claims).map_err(|e| match e.kind() {
            ErrorKind::ExpiredSignature => TokenError::Expired,
            ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => TokenError::Signature,
            _ => TokenError::Malformed(e.to_string()),
        })?;
        if claims.role == Role::Node {
            return Err(TokenError::Malformed(
                "no token makes a node; nodes prove themselves otherwise".into(),
            ));
        }
        Ok(Caller { subject: claims.sub, role: claims.role, worker_id: claims.worker_id })
    }
}

/// Seconds since 1970, by the wall clock, as tokens count.
pub fn now_s() -> u64 {
    jiff::Timestamp::now().as_second().max(0).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn caller(role: Role, worker_id: Option<&str>) -> Caller {
        Caller { subject: "ann".into(), role, worker_id: worker_id.map(str::to_owned) }
    }

    fn issue(caller: &Caller, now_s: u64) -> String {
        Tokens::new(SECRET).issue(caller, Duration::from_secs(100), now_s, "1".into()).unwrap().0
    }

    #[test]
    fn a_token_says_who_and_what() {
        let tokens = Tokens::new(SECRET);
        for who in [caller(Role::Admin, None), caller(Role::Worker, Some("w1"))] {
            assert_eq!(tokens.read(&issue(&who, now_s())).unwrap(), who);
        }
    }

    #[test]
    fn an_old_one_and_a_foreign_one_are_refused() {
        let tokens = Tokens::new(SECRET);
        let who = caller(Role::Admin, None);
        let (now, life) = (now_s(), 100);
        assert_eq!(tokens.read(&issue(&who, now - life - LEEWAY_SECONDS - 5)), Err(TokenError::Expired));
        assert!(tokens.read(&issue(&who, now - life - LEEWAY_SECONDS + 30)).is_ok(), "within the leeway");
        let other = Tokens::new(b"another secret of the same length");
        assert_eq!(other.read(&issue(&who, now)), Err(TokenError::Signature));
    }

    #[test]
    fn the_algorithm_is_not_the_tokens_to_choose() {
        let tokens = Tokens::new(SECRET);
        let token = issue(&caller(Role::Viewer, None), now_s());
        let parts: Vec<&str> = token.split('.').collect();
        // {"alg":"none","typ":"JWT"}
        let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
        for forged in [format!("{none}.{}.", parts[1]), format!("{none}.{}.{}", parts[1], parts[2])] {
            assert!(tokens.read(&forged).is_err(), "{forged}");
        }
        let claims = Claims {
            iss: ISSUER.into(),
            sub: "ann".into(),
            role: Role::Admin,
            worker_id: None,
            iat: now_s(),
            exp: now_s() + 100,
            jti: "1".into(),
        };
        let key = EncodingKey::from_secret(SECRET);
        let other = jsonwebtoken::encode(&Header::new(Algorithm::HS512), &claims, &key).unwrap();
        assert_eq!(tokens.read(&other), Err(TokenError::Signature), "another algorithm, right secret");
    }

    #[test]
    fn a_changed_role_breaks_the_signature() {
        let token = issue(&caller(Role::Viewer, None), now_s());
        let admin = issue(&caller(Role::Admin, None), now_s());
        let (t, a): (Vec<&str>, Vec<&str>) = (token.split('.').collect(), admin.split('.').collect());
        let forged = format!("{}.{}.{}", t[0], a[1], t[2]);
        assert_eq!(Tokens::new(SECRET).read(&forged), Err(TokenError::Signature));
    }

    #[test]
    fn garbage_and_node_tokens_are_refused() {
        let tokens = Tokens::new(SECRET);
        for text in ["", ".", "..", "a.b.c", "ünicode", &"x".repeat(10_000)] {
            assert!(matches!(tokens.read(text), Err(TokenError::Malformed(_))), "{text}");
        }
        assert!(tokens.read(&issue(&caller(Role::Node, None), now_s())).is_err());
    }
}
