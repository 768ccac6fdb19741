//! The load generator: closed loops over keep-alive connections, with as little work of its own as
//! can be, since it shares the machine with what it measures.
//!
//! The request is built once and written as bytes; where every request has to name something of
//! its own, sixteen digits in it are counted up. Of the answer only the status and the length are
//! read. A general HTTP client would take more processor time than the server under test.

use super::sample::Sample;
use crate::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// How long one answer may take before the exchange counts as failed.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Pause after an answer that is no acknowledgement, so that a refusing server is not hammered.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);
/// Stands in a request where a number of its own goes.
pub const NUMBER: &str = "0000000000000000";

/// Numbers for requests; never the same twice in one process.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// What is sent, and where.
#[derive(Debug, Clone)]
pub struct Request {
    /// `host:port`.
    pub address: String,
    bytes: Vec<u8>,
    numbers_at: Vec<usize>,
}

impl Request {
    /// A POST of this JSON; every [`NUMBER`] in it is replaced by one of its own.
    pub fn post(address: &str, path: &str, body: &str) -> Request {
        Request::of(
            address,
            format!(
                "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            ),
        )
    }

    /// A GET.
    pub fn get(address: &str, path: &str) -> Request {
        Request::of(address, format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n"))
    }

    fn of(address: &str, text: String) -> Request {
        let numbers_at = text.match_indices(NUMBER).map(|(at, _)| at).collect();
        Request { address: address.to_owned(), bytes: text.into_bytes(), numbers_at }
    }

    fn renumber(&mut self) {
        for at in &self.numbers_at {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            self.bytes[*at..*at + NUMBER.len()].copy_from_slice(format!("{number:016}").as_bytes());
        }
    }
}

/// Lets `clients` connections send these requests (spread over them evenly), each the next one as
/// soon as it has its answer, for `duration`. What is answered with `expected` counts.
pub async fn load(
    requests: &[Request],
    expected: u16,
    clients: usize,
    duration: Duration,
) -> Result<Sample, Error> {
    let mut connections = Vec::with_capacity(clients);
    for client in 0..clients {
        let request = requests[client % requests.len()].clone();
        connections.push((Connection::open(&request.address).await?, request));
    }
    let began = Instant::now();
    let deadline = began + duration;
    let mut loops = Vec::with_capacity(clients);
    for (connection, request) in connections {
        loops.push(tokio::spawn(closed_loop(connection, request, expected, deadline)));
    }
    Sample::gather(loops, began).await
}

async fn closed_loop(
    mut connection: Connection,
    mut request: Request,
    expected: u16,
    deadline: Instant,
) -> Sample {
    let mut sample = Sample::default();
    loop {
        let began = Instant::now();
        if began >= deadline {
            return sample;
        }
        request.renumber();
        match connection.ask(&request).await {
            Ok(status) if status == expected => sample.acknowledge(began),
            Ok(status) => {
                sample.refuse(|| format!("{status}: {}", connection.excerpt()));
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
            Err(_) => {
                sample.broken += 1;
                match Connection::open(&connection.address).await {
                    Ok(fresh) => connection = fresh,
                    Err(_) => return sample,
                }
            }
        }
    }
}

/// One keep-alive connection.
pub struct Connection {
    address: String,
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

impl Connection {
    /// Connects.
    pub async fn open(address: &str) -> Result<Connection, Error> {
        let stream = TcpStream::connect(address).await.map_err(Error::io(format!("connect to {address}")))?;
        stream.set_nodelay(true).map_err(Error::io("set TCP_NODELAY"))?;
        Ok(Connection { address: address.to_owned(), stream, buffer: vec![0; 4096], filled: 0 })
    }

    /// Where it goes.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends a request and reads its whole answer, within a limit; gives its status.
    pub async fn ask(&mut self, request: &Request) -> Result<u16, Error> {
        match tokio::time::timeout(ANSWER_LIMIT, self.exchange(&request.bytes)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::Http { address: self.address.clone(), why: "no answer in time".into() }),
        }
    }

    /// Posts this body; gives the status.
    pub async fn post(&mut self, path: &str, body: &str) -> Result<u16, Error> {
        let request = Request::post(&self.address, path, body);
        self.exchange(&request.bytes).await
    }

    /// The body of the last answer.
    pub fn body(&self) -> &[u8] {
        let answer = &self.buffer[..self.filled];
        answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(&[], |head| &answer[head + 4..])
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<u16, Error> {
        let fault = |why: &str| Error::Http { address: self.address.clone(), why: why.to_owned() };
        let broken = fault("the connection was closed in the middle of an answer");
        let too_long = fault("the answer is too long");
        self.stream.write_all(request).await.map_err(Error::io("send a request"))?;
        self.filled = 0;
        loop {
            if self.filled == self.buffer.len() {
                if self.filled >= MAX_ANSWER_BYTES {
                    return Err(too_long);
                }
                self.buffer.resize(self.filled * 2, 0);
            }
            let read = self.stream.read(&mut self.buffer[self.filled..]).await;
            match read.map_err(Error::io("read an answer"))? {
                0 => return Err(broken),
                count => self.filled += count,
            }
            if let Some((status, length)) = parse_answer(&self.buffer[..self.filled]) {
                if self.filled > length {
                    return Err(fault("more than one answer came"));
                }
                if self.filled == length {
                    return Ok(status);
                }
            }
        }
    }

    /// The beginning of the last answer's body, for people.
    pub fn excerpt(&self) -> String {
        String::from_utf8_lossy(self.body()).chars().take(300).collect()
    }
}

/// Status and whole length of the answer that begins `bytes`; none while its head is not there.
fn parse_answer(bytes: &[u8]) -> Option<(u16, usize)> {
    let head = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let text = std::str::from_utf8(&bytes[..head]).ok()?;
    let mut lines = text.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let body: usize = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(Some(0), |(_, value)| value.trim().parse().ok())?;
    Some((status, head + 4 + body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_measured_by_its_head() {
        let whole = b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\nx: y\r\n\r\nhello";
        assert_eq!(parse_answer(whole), Some((201, whole.len())));
        assert_eq!(parse_answer(&whole[..30]), None);
        assert_eq!(parse_answer(b"HTTP/1.1 503 No\r\n\r\n"), Some((503, 19)));
    }

    #[test]
    fn every_request_has_a_number_of_its_own() {
        let mut request = Request::post("h:1", "/p", &format!("{{\"a\":\"{NUMBER}\",\"b\":\"{NUMBER}\"}}"));
        let mut bodies = std::collections::BTreeSet::new();
        for _ in 0..3 {
            request.renumber();
            bodies.insert(request.bytes.clone());
            assert!(!request.bytes.windows(16).any(|w| w == NUMBER.as_bytes()));
        }
        assert_eq!(bodies.len(), 3);
    }

    #[tokio::test]
    async fn only_acknowledgements_count() {
        // A server that answers 201 and 503 in turn, in two pieces.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4096];
            for turn in 0.. {
                if stream.read(&mut buffer).await.unwrap_or(0) == 0 {
                    return;
                }
                let status = if turn % 2 == 0 { "201 Created" } else { "503 No" };
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
                stream.write_all(b"{}").await.unwrap();
            }
        });
        let request = Request::post(&address, "/api/tasks", "{}");
        let sample = load(&[request], 201, 1, Duration::from_millis(300)).await.unwrap();
        assert!(sample.acknowledged > 0 && sample.acknowledged.abs_diff(sample.refused) <= 1, "{sample:?}");
        assert_eq!(sample.broken, 0);
        assert_eq!(sample.first_refusal.as_deref(), Some("503: {}"));
        assert_eq!(sample.latencies_us.len() as u64, sample.acknowledged);
    }
}
