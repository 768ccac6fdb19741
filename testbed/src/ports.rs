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
use std::path::{Path, PathBuf};

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
        let folder = lock_folder()?;
        let (mut ports, mut locks) = (Vec::new(), Vec::new());
        for _ in 0..TRIES {
            if ports.len() == count {
                break;
            }
            let port = rand::rng().random_range(FROM..TO);
            let Some(lock) = take_one(&folder, port) else { continue };
            ports.push(port);
            locks.push(lock);
        }
        if ports.len() < count {
            return Err(Error::NoFreePorts { wanted: count, from: FROM, to: TO });
        }
        Ok(Ports { ports, _locks: locks })
    }

    /// Takes ports that lie in a fixed order: all that follow from one base port, which it chooses.
    pub fn take_laid_out(layout: impl Fn(u16) -> Vec<u16>) -> Result<(u16, Ports), Error> {
        let folder = lock_folder()?;
        for _ in 0..TRIES {
            let base = rand::rng().random_range(FROM..TO);
            let ports = layout(base);
            let locks: Option<Vec<File>> = ports.iter().map(|port| take_one(&folder, *port)).collect();
            if let Some(locks) = locks {
                return Ok((base, Ports { ports, _locks: locks }));
            }
        }
        Err(Error::NoFreePorts { wanted: layout(FROM).len(), from: FROM, to: TO })
    }

    /// The ports.
    pub fn as_slice(&self) -> &[u16] {
        &self.ports
    }
}

fn lock_folder() -> Result<PathBuf, Error> {
    let folder = std::env::temp_dir().join("holdfast-ports");
    std::fs::create_dir_all(&folder).map_err(Error::io(format!("create {}", folder.display())))?;
    Ok(folder)
}

/// The lock of a port that nobody else has and nobody listens on.
fn take_one(folder: &Path, port: u16) -> Option<File> {
    let path = folder.join(port.to_string());
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path).ok()?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
    TcpListener::bind(("127.0.0.1", port)).ok()?;
    Some(lock)
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

    #[test]
    fn ports_in_a_fixed_order_are_all_taken_or_none() {
        let (base, ports) = Ports::take_laid_out(|base| vec![base, base + 10]).unwrap();
        assert_eq!(ports.as_slice(), [base, base + 10]);
        let folder = lock_folder().unwrap();
        assert!(take_one(&folder, base).is_none() && take_one(&folder, base + 10).is_none());
    }
}
