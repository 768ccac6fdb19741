//! Frames between peers: a length (4 bytes, big-endian), a kind, and its payload.
//!
//! What is read is hostile until it is checked: lengths are bounded, and every message must come
//! from the peer that shook hands.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use protobuf::Message as _;
use raft::eraftpb::Message;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

/// Raft messages, many in one frame.
pub(super) const KIND_MESSAGES: u8 = 1;
/// How the sender stands, with its clock.
pub(super) const KIND_PULSE: u8 = 2;
/// A pulse's echo.
pub(super) const KIND_ECHO: u8 = 3;
/// The sender's process ends on purpose; without a payload.
pub(super) const KIND_GOODBYE: u8 = 4;
/// The largest frame taken from a peer.
const MAX_FRAME_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of messages gathered into one write.
const WRITE_BYTES: usize = 1024 * 1024;

pub(super) fn invalid(why: impl std::fmt::Display) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, why.to_string())
}

pub(super) fn frame(kind: u8, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(payload.len() + 5);
    out.put_u32(payload.len() as u32 + 1);
    out.put_u8(kind);
    out.put_slice(payload);
    out.freeze()
}

/// Packs a message and those that wait behind it into one frame; gives their number.
pub(super) fn pack(
    buffer: &mut BytesMut,
    first: Message,
    queue: &mut mpsc::Receiver<Message>,
) -> std::io::Result<usize> {
    buffer.clear();
    buffer.put_u32(0);
    buffer.put_u8(KIND_MESSAGES);
    let mut count = 0;
    let mut next = Some(first);
    while let Some(message) = next.take() {
        buffer.put_u32(message.compute_size());
        let bytes = message.write_to_bytes().map_err(invalid)?;
        buffer.put_slice(&bytes);
        count += 1;
        if buffer.len() < WRITE_BYTES {
            next = queue.try_recv().ok();
        }
    }
    let length = buffer.len() as u32 - 4;
    buffer[..4].copy_from_slice(&length.to_be_bytes());
    Ok(count)
}

/// Takes the messages of a frame; each must come from the peer that shook hands.
pub(super) fn unpack(mut payload: Bytes, from: u64) -> std::io::Result<Vec<Message>> {
    let mut messages = Vec::new();
    while payload.has_remaining() {
        if payload.remaining() < 4 {
            return Err(invalid("a message's length is cut off"));
        }
        let length = payload.get_u32() as usize;
        if payload.remaining() < length {
            return Err(invalid("a message is cut off"));
        }
        let message = Message::parse_from_bytes(&payload.split_to(length)).map_err(invalid)?;
        // A forwarded read or proposal keeps its first sender; everything else is its own.
        if message.from != from {
            return Err(invalid(format!(
                "a message of member {} came over the connection of {from}",
                message.from
            )));
        }
        messages.push(message);
    }
    Ok(messages)
}

/// Reads frames; keeps what was read of the next one when a read is given up half-way.
pub(super) struct Frames<R> {
    reader: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(super) fn new(reader: R) -> Self {
        Frames { reader, buffer: BytesMut::with_capacity(64 * 1024) }
    }

    pub(super) async fn next(&mut self) -> std::io::Result<(u8, Bytes)> {
        loop {
            if self.buffer.len() >= 4 {
                let length =
                    u32::from_be_bytes([self.buffer[0], self.buffer[1], self.buffer[2], self.buffer[3]])
                        as usize;
                if length == 0 || length > MAX_FRAME_BYTES {
                    return Err(invalid(format!(
                        "a frame of {length} bytes; at most {MAX_FRAME_BYTES} are taken"
                    )));
                }
                if self.buffer.len() >= 4 + length {
                    self.buffer.advance(4);
                    let mut payload = self.buffer.split_to(length).freeze();
                    return Ok((payload.get_u8(), payload));
                }
                self.buffer.reserve(4 + length - self.buffer.len());
            }
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn frames_survive_being_cut_anywhere() {
        let (mut queue_in, mut queue) = mpsc::channel(8);
        let message = |term| Message { from: 7, term, ..Default::default() };
        queue_in.send(message(2)).await.unwrap();
        let _keep = &mut queue_in;
        let mut buffer = BytesMut::new();
        assert_eq!(pack(&mut buffer, message(1), &mut queue).unwrap(), 2);
        let (mut near, far) = tokio::io::duplex(3);
        let sent = tokio::spawn(async move { near.write_all(&buffer).await });
        let (kind, payload) = Frames::new(far).next().await.unwrap();
        sent.await.unwrap().unwrap();
        assert_eq!(kind, KIND_MESSAGES);
        let terms: Vec<_> = unpack(payload, 7).unwrap().iter().map(|m| m.term).collect();
        assert_eq!(terms, [1, 2]);
    }

    #[tokio::test]
    async fn hostile_frames_are_refused() {
        for bytes in [vec![0, 0, 0, 0], vec![0xff, 0xff, 0xff, 0xff, 1]] {
            let error = Frames::new(&bytes[..]).next().await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        }
        let stranger = Message { from: 8, ..Default::default() }.write_to_bytes().unwrap();
        let mut payload = (stranger.len() as u32).to_be_bytes().to_vec();
        payload.extend(&stranger);
        assert!(unpack(payload.clone().into(), 7).unwrap_err().to_string().contains("member 8"));
        assert!(unpack(payload[..5].to_vec().into(), 8).is_err());
    }

    proptest::proptest! {
        /// Every frame of any bytes is read or refused, and every message in it.
        #[test]
        fn no_bytes_end_the_reader(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300), short in 0_u8..40) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            // A length that fits, so that what follows is looked at, too.
            let framed = [&[0, 0, 0, short][..], &bytes].concat();
            for stream in [bytes, framed] {
                let mut frames = Frames::new(&stream[..]);
                let mut taken = 0;
                while let Ok((_, payload)) = runtime.block_on(frames.next()) {
                    taken += payload.len() + 5;
                    let _ = unpack(payload, 7);
                }
                proptest::prop_assert!(taken <= stream.len());
            }
        }
    }
}
