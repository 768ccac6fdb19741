//! Peers prove to each other that they know the cluster secret, without ever sending it.
//!
//! A request without a proof is answered with a challenge; sent again with a proof
//! over the challenge, a number of its own and what is asked (the handshake of an upgrade included),
//! it is served, and the answer proves that the other side knows the secret as well. No proof is
//! taken twice. A challenge is good for [`CHALLENGE_LIFE`] by
//! this process's monotonic clock, so clocks that differ between hosts do no harm.
//!
//! A proof says who speaks at the beginning. What travels afterwards is protected by TLS or by
//! nothing.

use super::AccessError;
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Header of a 401 to a peer: prove that you know the secret over this.
pub const CHALLENGE: &str = "x-holdfast-challenge";
/// Header of a request that proves it: challenge, own number, proof.
pub const PROOF: &str = "x-holdfast-proof";
/// Header of the answer to such a request.
pub const ANSWER_PROOF: &str = "x-holdfast-answer-proof";
/// How long a challenge can be answered.
pub const CHALLENGE_LIFE: Duration = Duration::from_secs(30);

/// Proofs that are remembered; only those of peers are.
const MAX_USED: usize = 8192;

/// The cluster secret, and a key that lives as long as the process.
pub struct PeerSecret {
    key: Vec<u8>,
    boot_key: [u8; 32],
    origin: Instant,
    used: Mutex<VecDeque<(Instant, String)>>,
}

impl PeerSecret {
    /// Round a secret.
    pub fn new(secret: &str) -> Result<PeerSecret, AccessError> {
        // The secret of tokens may serve for peers too; the keys are different ones all the same.
        let key = tag(secret.as_bytes(), &[b"holdfast cluster secret 1"]).to_vec();
        Ok(PeerSecret { key, boot_key: random()?, origin: Instant::now(), used: Mutex::default() })
    }

    /// A fresh challenge.
    pub fn challenge(&self) -> Result<String, AccessError> {
        let issued = (self.origin.elapsed().as_millis() as u64).to_be_bytes();
        let number: [u8; 8] = random()?;
        let seal = tag(&self.boot_key, &[&issued, &number]);
        Ok(format!("{}{}{}", hex(&issued), hex(&number), hex(&seal[..16])))
    }

    /// The header value that answers a challenge for this request.
    pub fn prove(
        &self,
        challenge: &str,
        method: &str,
        path: &str,
        signed: &[&[u8]],
    ) -> Result<(String, String), AccessError> {
        let number = hex(&random::<16>()?);
        let proof = hex(&self.over_request(challenge, &number, method, path, signed));
        Ok((format!("{challenge} {number} {proof}"), number))
    }

    /// Checks a request's proof; gives what the answer has to prove.
    pub fn verify(
        &self,
        header: &str,
        method: &str,
        path: &str,
        signed: &[&[u8]],
    ) -> Result<String, &'static str> {
        let mut parts = header.split(' ');
        let (Some(challenge), Some(number), Some(proof), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("the proof can't be read");
        };
        self.is_fresh(challenge)?;
        if number.len() != 32 || !same(&self.over_request(challenge, number, method, path, signed), proof) {
            return Err("the proof is wrong: the cluster secrets differ");
        }
        self.use_up(number)?;
        Ok(self.answer(challenge, number))
    }

    /// The proof of an answer, as the asking side expects it.
    pub fn answer(&self, challenge: &str, number: &str) -> String {
        hex(&tag(&self.key, &[b"answer", challenge.as_bytes(), number.as_bytes()]))
    }

    /// True where the answer was made by somebody who knows the secret.
    pub fn is_answer(&self, challenge: &str, number: &str, proof: &str) -> bool {
        same(&tag(&self.key, &[b"answer", challenge.as_bytes(), number.as_bytes()]), proof)
    }

    /// Remembers a number until no challenge that it was used with is fresh.
    fn use_up(&self, number: &str) -> Result<(), &'static str> {
        let now = Instant::now();
        let mut used = self.used.lock();
        while used.front().is_some_and(|(at, _)| now.duration_since(*at) > CHALLENGE_LIFE) {
            used.pop_front();
        }
        if used.iter().any(|(_, had)| had == number) {
            return Err("the proof was used before");
        }
        if used.len() >= MAX_USED {
            return Err("too many proofs in a short time; try again");
        }
        used.push_back((now, number.to_owned()));
        Ok(())
    }

    fn over_request(
        &self,
        challenge: &str,
        number: &str,
        method: &str,
        path: &str,
        signed: &[&[u8]],
    ) -> [u8; 32] {
        let mut digest = Sha256::new();
        for part in signed {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        let body = digest.finalize();
        tag(
            &self.key,
            &[b"request", challenge.as_bytes(), number.as_bytes(), method.as_bytes(), path.as_bytes(), &body],
        )
    }

    fn is_fresh(&self, challenge: &str) -> Result<(), &'static str> {
        const STALE: &str = "the challenge is not one of this process, or too old; ask for another";
        if challenge.len() != 64 || !challenge.is_ascii() {
            return Err(STALE);
        }
        let (plain, seal) = challenge.split_at(32);
        let bytes = unhex(plain).ok_or(STALE)?;
        let expected = tag(&self.boot_key, &[&bytes[..8], &bytes[8..]]);
        if !same(&expected[..16], seal) {
            return Err(STALE);
        }
        let issued = u64::from_be_bytes(bytes[..8].try_into().map_err(|_| STALE)?);
        let age = (self.origin.elapsed().as_millis() as u64).saturating_sub(issued);
        if u128::from(age) > CHALLENGE_LIFE.as_millis() { Err(STALE) } else { Ok(()) }
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

fn random<const N: usize>() -> Result<[u8; N], AccessError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| AccessError::Random(e.to_string()))?;
    Ok(bytes)
}

/// HMAC-SHA-256 over parts, each with its length before it, so that no two lists of parts are one
/// text.
fn tag(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // A key of any length is taken.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Compares in a time that does not tell where they differ.
fn same(expected: &[u8], given: &str) -> bool {
    let Some(given) = unhex(given) else { return false };
    given.len() == expected.len()
        && expected.iter().zip(&given).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (PeerSecret, PeerSecret) {
        let secret = || PeerSecret::new("a secret that both of them know").unwrap();
        (secret(), secret())
    }

    #[test]
    fn a_proof_is_good_for_one_request_and_its_answer_proves_the_other_side() {
        let (asked, asking) = pair();
        let challenge = asked.challenge().unwrap();
        let (proof, number) = asking.prove(&challenge, "POST", "/raft/found", &[b"{}"]).unwrap();
        let answer = asked.verify(&proof, "POST", "/raft/found", &[b"{}"]).unwrap();
        assert!(asking.is_answer(&challenge, &number, &answer));
        assert!(!asking.is_answer(&challenge, &hex(&random::<16>().unwrap()), &answer));
        for (method, path, body) in [
            ("GET", "/raft/found", &b"{}"[..]),
            ("POST", "/raft/other", b"{}"),
            ("POST", "/raft/found", b"{ }"),
        ] {
            assert!(asked.verify(&proof, method, path, &[body]).is_err(), "{method} {path}");
        }
    }

    #[test]
    fn another_secret_or_process_proves_nothing() {
        let (asked, asking) = pair();
        let stranger = PeerSecret::new("a secret that nobody else knows").unwrap();
        let challenge = asked.challenge().unwrap();
        let (proof, _) = stranger.prove(&challenge, "GET", "/x", &[]).unwrap();
        assert!(asked.verify(&proof, "GET", "/x", &[]).unwrap_err().contains("secrets differ"));
        let (proof, _) = asking.prove(&asking.challenge().unwrap(), "GET", "/x", &[]).unwrap();
        assert!(asked.verify(&proof, "GET", "/x", &[]).unwrap_err().contains("challenge"));
    }

    #[test]
    fn an_old_challenge_is_refused() {
        let (mut asked, asking) = pair();
        let challenge = asked.challenge().unwrap();
        let (proof, _) = asking.prove(&challenge, "GET", "/x", &[]).unwrap();
        let Some(earlier) = asked.origin.checked_sub(CHALLENGE_LIFE + Duration::from_secs(1)) else { return };
        asked.origin = earlier;
        assert!(asked.verify(&proof, "GET", "/x", &[]).unwrap_err().contains("too old"));
    }

    #[test]
    fn hostile_headers_are_refused() {
        let (asked, _) = pair();
        let long = "f".repeat(100_000);
        let wide = format!("{} {} {}", "ü".repeat(32), "0".repeat(32), "0".repeat(64));
        for header in [
            "",
            " ",
            "a b c",
            "a b c d",
            &long,
            &wide,
            &format!("{} {} {}", "0".repeat(64), "0".repeat(32), "zz"),
        ] {
            assert!(asked.verify(header, "GET", "/x", &[]).is_err());
        }
    }
}
