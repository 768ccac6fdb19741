//! The load generator: closed loops over keep-alive connections, with as little work of its own as
//! can be, since it shares the machine with what it measures.
//!
//! The request is built once and written as bytes. Of the answer only the status and the length
//! are read. A general HTTP client would take more processor time than the server under test.

use crate::Error;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// How long one answer may take before the exchange counts as failed.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Pause after an answer that is no acknowledgement, so that a refusing server is not hammered.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);

/// What one measurement saw.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Requests answered 201.
    pub acknowledged: u64,
    /// Requests answered otherwise.
    pub refused: u64,
    /// Exchanges that broke; nobody knows what became of them.
    pub broken: u64,
    /// Seconds by the wall clock.
    pub seconds: f64,
    /// Latencies of the acknowledged ones, microseconds, ascending.
    pub latencies_us: Vec<u32>,
    /// What was answered first instead of 201.
    pub first_refusal: Option<String>,
}

impl Sample {
    /// Acknowledged requests a second, by the wall clock.
    pub fn per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.acknowledged as f64 / self.seconds } else { 0.0 }
    }

    /// The latency that `part` (0 to 1) of the requests did not exceed, milliseconds.
    pub fn percentile_ms(&self, part: f64) -> f64 {
        let last = self.latencies_us.len().saturating_sub(1);
        let place = (last as f64 * part).round() as usize;
        self.latencies_us.get(place).map_or(0.0, |us| f64::from(*us) / 1000.0)
    }

    fn add(&mut self, other: Sample) {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.broken += other.broken;
        self.latencies_us.extend(other.latencies_us);
        self.first_refusal = self.first_refusal.take().or(other.first_refusal);
    }
}

/// The bytes of a POST of `body`.
pub fn post_bytes(address: &str, path: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Lets `clients` connections send `request` to `address`, each the next one as soon as it has its
/// answer, for `duration`.
pub async fn load(
    address: &str,
    request: &[u8],
    clients: usize,
    duration: Duration,
) -> Result<Sample, Error> {
    let mut connections = Vec::with_capacity(clients);
    for _ in 0..clients {
        connections.push(Connection::open(address).await?);
    }
    let began = Instant::now();
    let deadline = began + duration;
    let mut loops = Vec::with_capacity(clients);
    for connection in connections {
        let request = request.to_vec();
        loops.push(tokio::spawn(closed_loop(connection, request, deadline)));
    }
    let mut sample = Sample::default();
    for one in loops {
        sample.add(one.await.map_err(|e| Error::Http { address: address.into(), why: e.to_string() })?);
    }
    sample.seconds = began.elapsed().as_secs_f64();
    sample.latencies_us.sort_unstable();
    Ok(sample)
}

async fn closed_loop(mut connection: Connection, request: Vec<u8>, deadline: Instant) -> Sample {
    let mut sample = Sample::default();
    loop {
        let began = Instant::now();
        if began >= deadline {
            return sample;
        }
        let exchange = tokio::time::timeout(ANSWER_LIMIT, connection.exchange(&request)).await;
        match exchange {
            Ok(Ok(201)) => {
                sample.acknowledged += 1;
                sample.latencies_us.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
            Ok(Ok(status)) => {
                sample.refused += 1;
                if sample.first_refusal.is_none() {
                    sample.first_refusal = Some(format!("{status}: {}", connection.excerpt()));
                }
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
            Ok(Err(_)) | Err(_) => {
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
struct Connection {
    address: String,
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

impl Connection {
    async fn open(address: &str) -> Result<Connection, Error> {
        let stream = TcpStream::connect(address).await.map_err(Error::io(format!("connect to {address}")))?;
        stream.set_nodelay(true).map_err(Error::io("set TCP_NODELAY"))?;
        Ok(Connection { address: address.to_owned(), stream, buffer: vec![0; 4096], filled: 0 })
    }

    /// Sends `request` and reads one whole answer; gives its status.
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

    fn excerpt(&self) -> String {
        let text = String::from_utf8_lossy(&self.buffer[..self.filled]);
        text.split("\r\n\r\n").nth(1).unwrap_or_default().chars().take(300).collect()
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
    fn percentiles_of_a_known_series() {
        let sample = Sample {
            acknowledged: 101,
            seconds: 2.0,
            latencies_us: (0..=100).map(|i| i * 1000).collect(),
            ..Sample::default()
        };
        assert_eq!((sample.percentile_ms(0.5), sample.percentile_ms(0.99)), (50.0, 99.0));
        assert_eq!(sample.per_second(), 50.5);
        assert_eq!(Sample::default().percentile_ms(0.99), 0.0);
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
        let request = post_bytes(&address, "/api/tasks", "{}");
        let sample = load(&address, &request, 1, Duration::from_millis(300)).await.unwrap();
        assert!(sample.acknowledged > 0 && sample.acknowledged.abs_diff(sample.refused) <= 1, "{sample:?}");
        assert_eq!(sample.broken, 0);
        assert_eq!(sample.first_refusal.as_deref(), Some("503: {}"));
        assert_eq!(sample.latencies_us.len() as u64, sample.acknowledged);
    }
}
