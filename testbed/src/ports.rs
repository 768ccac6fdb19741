//! Free ports for clusters in tests.
//!
//! A port from the system's ephemeral range may become the source port of anybody's connection
//! while the node that owned it is down, and then the node can't come back. Ports are therefore
//! taken from below that range, and a lock file a port keeps two test processes apart for as long
//! as the [`Ports`] live.

use crate::Error;
use rand::RngExt;
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::net::TcpListener;

const FROM: u16 = 12_000;
const TO: u16 = 32_000;
const TRIES: usize = 2_000;

/// Ports that nobody else who asks here gets while this lives.
#[derive(Debug)]
pub struct Ports {
    ports: Vec<u16>,
    _locks: Vec<File>,
}

impl Ports {
    /// Takes `count` free ports.
    pub fn take(count: usize) -> Result<Ports, Error> {
        let folder = std::env::temp_dir().join("holdfast-ports");
        std::fs::create_dir_all(&folder).map_err(Error::io(format!("create {}", folder.display())))?;
        let (mut ports, mut locks) = (Vec::new(), Vec::new());
        for _ in 0..TRIES {
            if ports.len() == count {
                break;
            }
            let port = rand::rng().random_range(FROM..TO);
            let path = folder.join(port.to_string());
            let Ok(lock) = OpenOptions::new().create(true).truncate(false).write(true).open(&path) else {
                continue;
            };
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err()
                || TcpListener::bind(("127.0.0.1", port)).is_err()
            {
                continue;
            }
            ports.push(port);
            locks.push(lock);
        }
        if ports.len() < count {
            return Err(Error::NoFreePorts { wanted: count, from: FROM, to: TO });
        }
        Ok(Ports { ports, _locks: locks })
    }

    /// The ports.
    pub fn as_slice(&self) -> &[u16] {
        &self.ports
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn nobody_gets_a_port_twice() {
        let all: Vec<Ports> = (0..20).map(|_| Ports::take(10).unwrap()).collect();
        let ports: BTreeSet<u16> = all.iter().flat_map(|p| p.as_slice()).copied().collect();
        assert_eq!(ports.len(), 200);
    }
}
