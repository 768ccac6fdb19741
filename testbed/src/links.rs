//! The ways between nodes, so that one of them can be cut or made long: a proxy for each ordered pair.
//!
//! A cut way behaves like a network that drops packets: connections stay, new ones are taken, and
//! nothing comes through in either direction until it is mended. On a long way everything comes,
//! later.

use crate::Error;
use crate::ports::Ports;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Bytes of one piece, and pieces that are on their way at once in one direction.
const PIECE_BYTES: usize = 16 * 1024;
const MOST_PIECES: usize = 256;

/// How a way is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// As fast as the machine.
    Open,
    /// Nothing comes through.
    Cut,
    /// Everything takes this long.
    Long(Duration),
}

/// Proxies for every ordered pair of nodes. They end with this.
#[derive(Debug)]
pub struct Links {
    ways: BTreeMap<(usize, usize), Way>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    _ports: Ports,
}

#[derive(Debug)]
struct Way {
    port: u16,
    state: watch::Sender<State>,
}

impl Links {
    /// Proxies to the nodes that listen on these ports of this machine.
    pub async fn to(ports: &[u16]) -> Result<Links, Error> {
        let count = ports.len();
        let own = Ports::take(count * count.saturating_sub(1))?;
        let mut free = own.as_slice().iter().copied();
        let (mut ways, mut tasks) = (BTreeMap::new(), Vec::new());
        for from in 0..count {
            for to in (0..count).filter(|to| *to != from) {
                let Some(port) = free.next() else { continue };
                let listener = TcpListener::bind(("127.0.0.1", port)).await;
                let listener = listener.map_err(Error::io(format!("listen on port {port}")))?;
                let (sender, state) = watch::channel(State::Open);
                tasks.push(tokio::spawn(serve(listener, ports[to], state)));
                ways.insert((from, to), Way { port, state: sender });
            }
        }
        Ok(Links { ways, tasks, _ports: own })
    }

    /// The port on which node `from` reaches node `to`.
    pub fn port(&self, from: usize, to: usize) -> Option<u16> {
        self.ways.get(&(from, to)).map(|way| way.port)
    }

    /// Changes both ways between two nodes.
    pub fn set(&self, one: usize, other: usize, state: State) {
        for pair in [(one, other), (other, one)] {
            if let Some(way) = self.ways.get(&pair) {
                way.state.send_replace(state);
            }
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn serve(listener: TcpListener, to: u16, state: watch::Receiver<State>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((near, _)) = listener.accept().await else { continue };
        connections.spawn(pass(near, to, state.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn pass(near: TcpStream, to: u16, mut state: watch::Receiver<State>) {
    if state.wait_for(|state| *state != State::Cut).await.is_err() {
        return;
    }
    let Ok(far) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    // Either end that closes ends both directions, as a reset would.
    tokio::select! {
        () = carry(near_in, far_out, state.clone()) => {}
        () = carry(far_in, near_out, state) => {}
    }
}

/// One direction: what is read leaves when its time has come.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: watch::Receiver<State>) {
    let (sender, mut on_the_way) = mpsc::channel::<(Instant, Vec<u8>)>(MOST_PIECES);
    let mut seen = state.clone();
    let take = async move {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let Ok(read @ 1..) = from.read(&mut piece).await else { return };
            let delay = match *state.borrow() {
                State::Long(delay) => delay,
                State::Open | State::Cut => Duration::ZERO,
            };
            if sender.send((Instant::now() + delay, piece[..read].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let give = async move {
        while let Some((due, piece)) = on_the_way.recv().await {
            tokio::time::sleep_until(due).await;
            if seen.wait_for(|state| *state != State::Cut).await.is_err()
                || to.write_all(&piece).await.is_err()
            {
                return;
            }
        }
    };
    tokio::join!(take, give);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_way_lets_nothing_through_until_it_is_mended_and_a_long_one_is_late() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let echo = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let port = echo.local_addr().unwrap().port();
            tokio::spawn(async move {
                let (mut stream, _) = echo.accept().await.unwrap();
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
            let links = Links::to(&[port, port]).await.unwrap();
            let mut stream = TcpStream::connect(("127.0.0.1", links.port(0, 1).unwrap())).await.unwrap();
            let mut answer = [0; 1];
            stream.write_all(b"a").await.unwrap();
            stream.read_exact(&mut answer).await.unwrap();
            links.set(0, 1, State::Cut);
            stream.write_all(b"b").await.unwrap();
            let early =
                tokio::time::timeout(Duration::from_millis(100), stream.read_exact(&mut answer)).await;
            assert!(early.is_err(), "it came through a cut");
            links.set(0, 1, State::Long(Duration::from_millis(50)));
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"b");
            let sent = Instant::now();
            stream.write_all(b"c").await.unwrap();
            stream.read_exact(&mut answer).await.unwrap();
            assert!(&answer == b"c" && sent.elapsed() >= Duration::from_millis(100), "there and back");
        });
    }
}
