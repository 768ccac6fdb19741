//! Load over gRPC, for etcd: unary calls on HTTP/2 streams, the two messages that are needed
//! encoded by hand, so that neither protoc nor a general client stands between.

use super::sample::Sample;
use crate::Error;
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Clients that share one connection.
const CLIENTS_A_CONNECTION: usize = 16;
/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

static NEXT: AtomicU64 = AtomicU64::new(1);

/// What is asked of etcd.
#[derive(Debug, Clone)]
pub enum Call {
    /// Put this many bytes under a new key.
    Put {
        /// The value's length.
        value_bytes: usize,
    },
    /// Read one key that is there.
    Range {
        /// True for a read that any node answers from what it has.
        serializable: bool,
    },
}

impl Call {
    fn path(&self) -> &'static str {
        match self {
            Call::Put { .. } => "/etcdserverpb.KV/Put",
            Call::Range { .. } => "/etcdserverpb.KV/Range",
        }
    }

    /// A gRPC frame round the message.
    fn frame(&self) -> Bytes {
        let mut message = BytesMut::with_capacity(512);
        match self {
            Call::Put { value_bytes } => {
                let key = format!("{:016}", NEXT.fetch_add(1, Ordering::Relaxed));
                field(&mut message, 1, key.as_bytes());
                field(&mut message, 2, &vec![b'x'; *value_bytes]);
            }
            Call::Range { serializable } => {
                field(&mut message, 1, KNOWN_KEY.as_bytes());
                if *serializable {
                    message.put_slice(&[7 << 3, 1]);
                }
            }
        }
        let mut frame = BytesMut::with_capacity(message.len() + 5);
        frame.put_u8(0);
        frame.put_u32(message.len() as u32);
        frame.put_slice(&message);
        frame.freeze()
    }
}

/// The key that reads ask for; the first put writes it.
const KNOWN_KEY: &str = "0000000000000001";

/// A length-delimited field with a number below 16.
fn field(out: &mut BytesMut, number: u8, bytes: &[u8]) {
    out.put_u8(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.put_u8(length as u8 | 0x80);
        length >>= 7;
    }
    out.put_u8(length as u8);
    out.put_slice(bytes);
}

/// Lets `clients` closed loops make this call of these nodes for `duration`.
pub async fn load(
    addresses: &[String],
    call: &Call,
    clients: usize,
    duration: Duration,
) -> Result<Sample, Error> {
    let connections = clients.div_ceil(CLIENTS_A_CONNECTION).max(addresses.len().min(clients));
    let mut senders = Vec::new();
    for connection in 0..connections {
        senders.push(connect(&addresses[connection % addresses.len()]).await?);
    }
    let began = Instant::now();
    let call = Arc::new(call.clone());
    let loops = (0..clients)
        .map(|client| {
            let sender = senders[client % connections].clone();
            tokio::spawn(closed_loop(sender, call.clone(), began + duration))
        })
        .collect();
    Sample::gather(loops, began).await
}

async fn connect(address: &str) -> Result<SendRequest<Bytes>, Error> {
    let stream = TcpStream::connect(address).await.map_err(Error::io(format!("connect to {address}")))?;
    stream.set_nodelay(true).map_err(Error::io("set TCP_NODELAY"))?;
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 24)
        .handshake(stream)
        .await
        .map_err(|e| Error::Http { address: address.into(), why: e.to_string() })?;
    tokio::spawn(async move {
        // It ends with the last sender; what breaks it shows in the calls.
        let _ = connection.await;
    });
    Ok(sender)
}

async fn closed_loop(mut sender: SendRequest<Bytes>, call: Arc<Call>, deadline: Instant) -> Sample {
    let mut sample = Sample::default();
    loop {
        let began = Instant::now();
        if began >= deadline {
            return sample;
        }
        match tokio::time::timeout(ANSWER_LIMIT, one(&mut sender, &call)).await {
            Ok(Ok(None)) => sample.acknowledge(began),
            Ok(Ok(Some(why))) => sample.refuse(|| why),
            Ok(Err(_)) | Err(_) => {
                sample.broken += 1;
                if sender.clone().ready().await.is_err() {
                    return sample;
                }
            }
        }
    }
}

/// One call; gives what was answered instead of success.
async fn one(sender: &mut SendRequest<Bytes>, call: &Call) -> Result<Option<String>, h2::Error> {
    let request = http::Request::post(format!("http://etcd{}", call.path()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(());
    let Ok(request) = request else { return Ok(Some("the request can't be made".into())) };
    let mut ready = sender.clone().ready().await?;
    let (answer, mut body) = ready.send_request(request, false)?;
    body.send_data(call.frame(), true)?;
    let answer = answer.await?;
    let early = answer.headers().get("grpc-status").cloned();
    let mut body = answer.into_body();
    while let Some(chunk) = body.data().await {
        let length = chunk?.len();
        body.flow_control().release_capacity(length)?;
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    let status = trailers.get("grpc-status").or(early.as_ref()).map_or("", |v| v.to_str().unwrap_or("?"));
    if status == "0" {
        return Ok(None);
    }
    let why = trailers.get("grpc-message").map_or("", |v| v.to_str().unwrap_or("?"));
    Ok(Some(format!("grpc-status {status}: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_is_encoded_as_protobuf_says() {
        let frame = Call::Put { value_bytes: 256 }.frame();
        assert_eq!(frame[..5], [0, 0, 0, 1, 21]);
        assert_eq!((frame[5], frame[6]), (0x0a, 16));
        assert_eq!(frame[23..26], [0x12, 0x80, 0x02]);
        assert_eq!(frame.len(), 5 + 18 + 3 + 256);
        let read = Call::Range { serializable: true }.frame();
        assert_eq!(read[read.len() - 2..], [0x38, 1]);
    }
}
