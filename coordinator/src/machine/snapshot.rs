//! The machine as bytes, and back.
//!
//! Layout: magic (8 bytes) and version (u16), then blocks of about 1 MiB: length of the content
//! and of what it is packed to (u32 each), xxh3-64 of the packed bytes, the bytes packed by LZ4. A
//! block holds whole records in postcard: the head first, workers, then demands and tasks, each
//! demand before the first task that has it, and at last the end, with the number of tasks. Equal
//! machines write equal bytes.
//!
//! Writing needs no more memory than a block, and no lock on the machine: it is fed from a
//! [`Cut`], and adds the hashes of its tasks up as it goes. If they don't give the checksum that
//! was taken with the cut, memory is damaged and no snapshot comes of it.
//!
//! Reading trusts nothing: magic, version, lengths and hashes first, then every number against
//! its bounds, and at last the checksum that the writer named against the one that the records
//! give. Hostile bytes end in a [`SnapshotError`], never in a panic.

use super::Machine;
use super::cut::{Cut, CutSum, CutTasks};
use super::queue::Demand;
use super::records::{Builder, Head, Item, ItemRef, TaskRef, WorkerBody};
use super::version::MACHINE_VERSION;
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: &[u8; 8] = b"HOLDFAST";
/// The version this program writes and the only one it reads.
pub const SNAPSHOT_VERSION: u16 = 2;
const BLOCK_HEAD_BYTES: usize = 4 + 4 + 8;
/// A block ends behind the record that reaches this.
const BLOCK_BYTES: usize = 1024 * 1024;
/// No block is larger: the largest record has a config, a result and the errors of its attempts,
/// and the head has the named leases.
const BLOCK_BOUND_BYTES: usize = 64 * 1024 * 1024;

/// Why bytes make no machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The bytes don't begin as a snapshot does.
    #[error("the bytes are no snapshot of a machine")]
    Foreign,
    /// A newer program wrote it.
    #[error("the snapshot has version {found}, this program reads version {SNAPSHOT_VERSION}: update it")]
    Newer {
        /// Its version.
        found: u16,
    },
    /// Its machine has a version that this program does not know.
    #[error(
        "the snapshot is of machine version {found}, this program knows up to {MACHINE_VERSION}: update it"
    )]
    Machine {
        /// The machine's version.
        found: u32,
    },
    /// An older program wrote it.
    #[error(
        "the snapshot has version {found}, this program reads version {SNAPSHOT_VERSION}: use the program that wrote it"
    )]
    Older {
        /// Its version.
        found: u16,
    },
    /// It is cut short.
    #[error("the snapshot is cut short behind byte {at}")]
    Short {
        /// Where the last whole part ends.
        at: u64,
    },
    /// Something stands behind its end.
    #[error("the snapshot has bytes behind its end at byte {at}")]
    Long {
        /// Where it should end.
        at: u64,
    },
    /// A bit is wrong.
    #[error("the snapshot is damaged in the block at byte {at}: its hash does not match")]
    Damaged {
        /// Where the block begins.
        at: u64,
    },
    /// A block can't be read.
    #[error("the snapshot can't be decoded: {0}")]
    Malformed(String),
    /// The records contradict each other.
    #[error("the snapshot contradicts itself: {0}")]
    Inconsistent(String),
    /// The bytes can't be had.
    #[error("the snapshot can't be read: {0}")]
    Unreadable(String),
}

/// Turns a [`Cut`] into bytes, block by block.
#[derive(Debug)]
pub struct SnapshotEncoder {
    out: Vec<u8>,
    block: Vec<u8>,
    places: BTreeMap<Arc<Demand>, u32>,
    tasks: u64,
    sum: CutSum,
}

impl SnapshotEncoder {
    /// Begins with what was taken at the moment of the cut.
    pub fn new(cut: &Cut) -> Self {
        let mut out = Vec::with_capacity(BLOCK_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&SNAPSHOT_VERSION.to_le_bytes());
        let (block, places, sum) = (Vec::with_capacity(BLOCK_BYTES * 2), BTreeMap::new(), CutSum::new(cut));
        let mut encoder = SnapshotEncoder { out, block, places, tasks: 0, sum };
        encoder.put(&ItemRef::Head(&cut.head));
        for worker in &cut.workers {
            encoder.put(&ItemRef::Worker(WorkerBody::of(worker)));
        }
        encoder
    }

    /// Adds tasks of the cut, in its order.
    pub fn add(&mut self, tasks: &CutTasks) {
        self.sum.add(tasks);
        for task in &tasks.0 {
            let next = self.places.len() as u32;
            let place = match self.places.get(&task.spec.demand) {
                Some(place) => *place,
                None => {
                    self.put(&ItemRef::Demand(&task.spec.demand));
                    self.places.insert(Arc::clone(&task.spec.demand), next);
                    next
                }
            };
            self.put(&ItemRef::Task(TaskRef::of(task, place)));
            self.tasks += 1;
        }
    }

    /// The blocks that are whole.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// The last bytes; refused where the records do not give the checksum of the cut.
    pub fn finish(mut self) -> Result<Vec<u8>, SnapshotError> {
        self.put(&ItemRef::End { tasks: self.tasks });
        self.seal();
        self.sum.finish().map_err(SnapshotError::Inconsistent)?;
        Ok(self.out)
    }

    fn put(&mut self, item: &ItemRef) {
        let block = std::mem::take(&mut self.block);
        // Serialising plain structs into memory has no failure.
        self.block = postcard::to_extend(item, block).unwrap_or_default();
        if self.block.len() >= BLOCK_BYTES {
            self.seal();
        }
    }

    fn seal(&mut self) {
        let packed = lz4_flex::block::compress(&self.block);
        self.out.extend_from_slice(&(self.block.len() as u32).to_le_bytes());
        self.out.extend_from_slice(&(packed.len() as u32).to_le_bytes());
        self.out.extend_from_slice(&xxh3_64(&packed).to_le_bytes());
        self.out.extend_from_slice(&packed);
        self.block.clear();
    }
}

impl Machine {
    /// The machine as bytes, all at once.
    pub fn encode_snapshot(&self) -> Vec<u8> {
        let cut = Cut { id: 0, head: Head::of(self), workers: self.workers.values().cloned().collect() };
        let mut encoder = SnapshotEncoder::new(&cut);
        for task in self.tasks.all() {
            encoder.add(&CutTasks(vec![task.clone()]));
        }
        let mut bytes = encoder.take();
        // A sum that is not that of the cut is told to whoever reads it.
        bytes.extend(encoder.finish().unwrap_or_default());
        bytes
    }

    /// The machine that [`Machine::encode_snapshot`] wrote.
    pub fn decode_snapshot(bytes: &[u8]) -> Result<Machine, SnapshotError> {
        Machine::read_snapshot(bytes)
    }

    /// The machine that a [`SnapshotEncoder`] wrote.
    pub fn read_snapshot(from: impl Read) -> Result<Machine, SnapshotError> {
        let mut blocks = Blocks::open(from)?;
        let mut builder: Option<Builder> = None;
        while let Some(block) = blocks.next()? {
            let mut rest = block.as_slice();
            while !rest.is_empty() {
                let (item, after) = postcard::take_from_bytes::<Item>(rest)
                    .map_err(|error| SnapshotError::Malformed(error.to_string()))?;
                rest = after;
                if let Item::End { tasks } = item {
                    let Some(builder) = builder else {
                        return Err(SnapshotError::Inconsistent("it has no head".into()));
                    };
                    if !rest.is_empty() {
                        return Err(SnapshotError::Malformed(format!("{} bytes behind the end", rest.len())));
                    }
                    blocks.end()?;
                    return builder.finish(tasks);
                }
                if let Item::Head(head) = &item
                    && head.version > MACHINE_VERSION
                {
                    return Err(SnapshotError::Machine { found: head.version });
                }
                take(&mut builder, item).map_err(SnapshotError::Inconsistent)?;
            }
        }
        Err(SnapshotError::Short { at: blocks.at })
    }
}

fn take(builder: &mut Option<Builder>, item: Item) -> Result<(), String> {
    match (builder, item) {
        (builder @ None, Item::Head(head)) => {
            *builder = Some(Builder::new(Head::clone(&head))?);
            Ok(())
        }
        (Some(_), Item::Head(_)) => Err("it has two heads".into()),
        (None, _) => Err("it does not begin with its head".into()),
        (Some(builder), Item::Worker(worker)) => builder.worker(worker),
        (Some(builder), Item::Demand(demand)) => {
            builder.demand(demand);
            Ok(())
        }
        (Some(builder), Item::Task(task)) => builder.task(task),
        (Some(_), Item::End { .. }) => Ok(()),
    }
}

/// Reads block after block.
struct Blocks<R> {
    from: R,
    at: u64,
}

impl<R: Read> Blocks<R> {
    fn open(mut from: R) -> Result<Self, SnapshotError> {
        let mut head = [0; 10];
        let count = read_full(&mut from, &mut head)?;
        if count < 10 || &head[..8] != MAGIC {
            return Err(SnapshotError::Foreign);
        }
        let found = u16::from_le_bytes([head[8], head[9]]);
        match found.cmp(&SNAPSHOT_VERSION) {
            std::cmp::Ordering::Less => Err(SnapshotError::Older { found }),
            std::cmp::Ordering::Equal => Ok(Blocks { from, at: 10 }),
            std::cmp::Ordering::Greater => Err(SnapshotError::Newer { found }),
        }
    }

    /// The content of the next block; none at the end of the bytes.
    fn next(&mut self) -> Result<Option<Vec<u8>>, SnapshotError> {
        let at = self.at;
        let mut head = [0; BLOCK_HEAD_BYTES];
        match read_full(&mut self.from, &mut head)? {
            0 => return Ok(None),
            BLOCK_HEAD_BYTES => {}
            _ => return Err(SnapshotError::Short { at }),
        }
        let word =
            |from: usize| u32::from_le_bytes([head[from], head[from + 1], head[from + 2], head[from + 3]]);
        let (length, packed_length) = (word(0) as usize, word(4) as usize);
        let most = lz4_flex::block::get_maximum_output_size(length);
        if length == 0 || length > BLOCK_BOUND_BYTES || packed_length > most {
            return Err(SnapshotError::Malformed(format!("a block at byte {at} of {length} bytes")));
        }
        // The length is the writer's word: memory grows as bytes are really there.
        let mut packed = Vec::with_capacity(packed_length.min(BLOCK_BYTES));
        let count = self.from.by_ref().take(packed_length as u64).read_to_end(&mut packed);
        if count.map_err(|error| SnapshotError::Unreadable(error.to_string()))? < packed_length {
            return Err(SnapshotError::Short { at });
        }
        let mut hash = [0; 8];
        hash.copy_from_slice(&head[8..]);
        if xxh3_64(&packed) != u64::from_le_bytes(hash) {
            return Err(SnapshotError::Damaged { at });
        }
        let block = lz4_flex::block::decompress(&packed, length)
            .map_err(|error| SnapshotError::Malformed(format!("a block at byte {at}: {error}")))?;
        if block.len() != length {
            return Err(SnapshotError::Malformed(format!("a block at byte {at} of another length")));
        }
        self.at += (BLOCK_HEAD_BYTES + packed_length) as u64;
        Ok(Some(block))
    }

    fn end(&mut self) -> Result<(), SnapshotError> {
        match read_full(&mut self.from, &mut [0])? {
            0 => Ok(()),
            _ => Err(SnapshotError::Long { at: self.at }),
        }
    }
}

/// Fills the buffer as far as there are bytes.
fn read_full(from: &mut impl Read, buffer: &mut [u8]) -> Result<usize, SnapshotError> {
    let mut count = 0;
    while count < buffer.len() {
        match from.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(SnapshotError::Unreadable(error.to_string())),
        }
    }
    Ok(count)
}

/// `Arc<str>` as text.
pub(crate) mod shared_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::sync::Arc;

    pub(crate) fn serialize<S: Serializer>(text: &Arc<str>, out: S) -> Result<S::Ok, S::Error> {
        (**text).serialize(out)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Arc<str>, D::Error> {
        Ok(Arc::from(<&str>::deserialize(input)?))
    }
}

/// `Option<Arc<str>>` as optional text.
pub(crate) mod maybe_shared_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::sync::Arc;

    pub(crate) fn serialize<S: Serializer>(text: &Option<Arc<str>>, out: S) -> Result<S::Ok, S::Error> {
        text.as_deref().serialize(out)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Arc<str>>, D::Error> {
        Ok(Option::<&str>::deserialize(input)?.map(Arc::from))
    }
}
