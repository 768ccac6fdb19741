//! Room on the disk and in memory: what a node does before it runs out of either.
//!
//! A disk that is full in the middle of a write tears things. So the node stops taking writes while
//! there is still room for what keeps it a member: its vote, the log of what others committed,
//! leases, cleaning up. Levels, by what is free on the data directory's file system:
//!
//! | level | from | this node |
//! |---|---|---|
//! | open | | takes everything |
//! | read-only | used up to the floor, or less free than the reserve | refuses what makes the log grow (503 `disk_full`), serves reads; a leader hands over to a member with room |
//! | closed | the ballast is gone, and little is left | appends no entries of a leader either; it falls behind, and catches up later |
//!
//! The *ballast* is a file as large as the reserve. It is removed when the free space comes near its
//! end, so that what must be written still can be, and made again when there is room.
//!
//! Memory has one level: beyond `max_memory_mb` what adds tasks or workers is refused as overloaded.
//!
//! Invariant: the log writer asks [`Room::wait_to_write`] before each batch, so that the log engine
//! never meets a full disk that could be seen coming. Where there is no room at all it waits, which
//! shows as a stalled log, instead of ending the process.

use crate::command::{Command, KeyedWrite};
use crate::config::Config;
use crate::node::NodeError;
use parking_lot::Mutex;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Between two looks of a writer that waits for room.
const WAIT_STEP: Duration = Duration::from_millis(50);
/// What the log engine may need beyond a batch's own bytes: a file's header, padding.
const WRITE_MARGIN_BYTES: u64 = 128 * 1024;
/// Used space must fall so far below the floor before writes are taken again, percent.
const HYSTERESIS_PERCENT: f64 = 2.0;
/// A ballast of less is not worth its file.
const LEAST_BALLAST_BYTES: u64 = 256 * 1024;
/// Between two attempts to give memory back to the system.
const TRIM_EVERY: Duration = Duration::from_secs(5);

/// How much room the disk has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskLevel {
    /// Enough.
    Open,
    /// At the floor: no new writes of clients.
    ReadOnly,
    /// Nearly none: no entries of a leader either.
    Closed,
}

impl DiskLevel {
    const ALL: [DiskLevel; 3] = [DiskLevel::Open, DiskLevel::ReadOnly, DiskLevel::Closed];
}

/// The bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoomLimits {
    /// Used space at which writes are refused, percent.
    pub floor_percent: f64,
    /// Free space at which writes are refused; also the ballast's size.
    pub reserve_bytes: u64,
    /// Resident memory at which what grows is refused.
    pub max_memory_bytes: u64,
}

impl RoomLimits {
    /// As the config has them.
    pub fn of(config: &Config) -> RoomLimits {
        RoomLimits {
            floor_percent: config.disk_floor_percent as f64,
            reserve_bytes: config.disk_reserve_mb << 20,
            max_memory_bytes: config.max_memory_mb << 20,
        }
    }
}

/// What the file system says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// Free for us.
    pub free_bytes: u64,
    /// Used and free for us together.
    pub usable_bytes: u64,
}

impl DiskSpace {
    fn of(path: &Path) -> Option<DiskSpace> {
        let stat = rustix::fs::statvfs(path).ok()?;
        Some(DiskSpace {
            free_bytes: stat.f_bavail * stat.f_frsize,
            usable_bytes: (stat.f_blocks - stat.f_bfree + stat.f_bavail) * stat.f_frsize,
        })
    }

    fn used_percent(&self) -> f64 {
        let used = self.usable_bytes.saturating_sub(self.free_bytes);
        if self.usable_bytes == 0 { 0.0 } else { used as f64 / self.usable_bytes as f64 * 100.0 }
    }
}

/// What is to be done about the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Verdict {
    level: DiskLevel,
    /// True where the ballast should be there.
    ballast: bool,
}

/// PURE. The level that follows from what is free; `now` is the present one, `ballast_bytes` what
/// the ballast takes.
fn judge(limits: &RoomLimits, space: DiskSpace, now: DiskLevel, ballast_bytes: u64) -> Verdict {
    // A small disk has a small reserve, or it would be at its floor when it is empty.
    let reserve = limits.reserve_bytes.min(space.usable_bytes / 10);
    let free = space.free_bytes;
    let used = space.used_percent();
    let at_floor = free < reserve || used >= limits.floor_percent;
    let room_again = free >= reserve + reserve / 4 && used < limits.floor_percent - HYSTERESIS_PERCENT;
    let ballast = match ballast_bytes > 0 {
        true => free >= reserve / 4,
        // It fits, and the node would not be read-only because of it.
        false => free >= 2 * reserve + reserve / 2,
    };
    let left = if ballast { free } else { free + ballast_bytes };
    let level = if left < reserve / 8 {
        DiskLevel::Closed
    } else if at_floor || (now != DiskLevel::Open && !room_again) {
        DiskLevel::ReadOnly
    } else {
        DiskLevel::Open
    };
    Verdict { level, ballast }
}

/// The node's room. Cheap to share.
#[derive(Debug)]
pub struct Room {
    folder: PathBuf,
    limits: Mutex<RoomLimits>,
    disk: AtomicU8,
    free_bytes: AtomicU64,
    ballast_bytes: AtomicU64,
    memory_bytes: AtomicU64,
    memory_over: AtomicBool,
    /// The disks of so many voters are full that nothing more would be committed.
    cluster_full: AtomicBool,
    /// One looks at a time.
    looking: Mutex<()>,
}

impl Room {
    /// Looks once.
    fn new(data_dir: &Path, limits: RoomLimits) -> Room {
        let room = Room {
            folder: data_dir.to_owned(),
            limits: Mutex::new(limits),
            disk: AtomicU8::new(DiskLevel::Open as u8),
            free_bytes: AtomicU64::new(u64::MAX),
            ballast_bytes: AtomicU64::new(0),
            memory_bytes: AtomicU64::new(0),
            memory_over: AtomicBool::new(false),
            cluster_full: AtomicBool::new(false),
            looking: Mutex::new(()),
        };
        let kept = std::fs::metadata(room.ballast_path()).map_or(0, |found| found.len());
        room.ballast_bytes.store(kept, Ordering::Relaxed);
        room.look(false);
        room
    }

    /// Looks once, and again in the background for as long as somebody holds the room.
    pub fn start(data_dir: &Path, limits: RoomLimits) -> Arc<Room> {
        let room = Arc::new(Room::new(data_dir, limits));
        let weak = Arc::downgrade(&room);
        let watch = move || {
            let mut trimmed = None;
            loop {
                std::thread::sleep(LOOK_EVERY);
                let Some(room) = weak.upgrade() else { return };
                room.look(true);
                room.look_at_memory(&mut trimmed);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("room".into()).spawn(watch) {
            tracing::error!(%error, "disk and memory are not watched: a thread can't be started");
        }
        room
    }

    /// Takes other limits.
    pub fn set_limits(&self, limits: RoomLimits) {
        *self.limits.lock() = limits;
    }

    fn ballast_path(&self) -> PathBuf {
        self.folder.join("ballast")
    }

    /// How much room the disk has.
    pub fn disk(&self) -> DiskLevel {
        DiskLevel::ALL[usize::from(self.disk.load(Ordering::Relaxed)).min(2)]
    }

    /// True where resident memory is beyond its bound.
    pub fn memory_over(&self) -> bool {
        self.memory_over.load(Ordering::Relaxed)
    }

    /// The leader says whether enough voters have room for a write to be committed.
    pub fn set_cluster_full(&self, full: bool) {
        if self.cluster_full.swap(full, Ordering::Relaxed) != full {
            match full {
                true => tracing::error!("the disks of a majority of the voters are full; writes are refused"),
                false => tracing::info!("a majority of the voters has room on its disks again"),
            }
        }
    }

    /// Whether there is room for this command.
    pub fn admit(&self, command: &Command) -> Result<(), NodeError> {
        let full = self.disk() != DiskLevel::Open;
        if (full || self.cluster_full.load(Ordering::Relaxed)) && grows_the_log(command) {
            let why = match full {
                true => format!(
                    "{} MiB are free under {}, less than its reserve or floor",
                    self.free_bytes.load(Ordering::Relaxed) >> 20,
                    self.folder.display()
                ),
                false => "the disks of a majority of the voters are at their floor".to_owned(),
            };
            return Err(NodeError::DiskFull { why });
        }
        if self.memory_over() && grows_memory(command) {
            return Err(NodeError::OutOfMemory {
                used_mb: self.memory_bytes.load(Ordering::Relaxed) >> 20,
                limit_mb: self.limits.lock().max_memory_bytes >> 20,
            });
        }
        Ok(())
    }

    /// Returns when there is room for `bytes` of log. Gives the ballast up for it; where there is
    /// none even so, it waits until somebody makes room.
    pub fn wait_to_write(&self, bytes: u64) {
        let mut since: Option<Instant> = None;
        loop {
            let Some(space) = DiskSpace::of(&self.folder) else { return };
            if space.free_bytes >= bytes + WRITE_MARGIN_BYTES {
                if let Some(since) = since {
                    let waited_ms = since.elapsed().as_millis() as u64;
                    tracing::info!(waited_ms, "there is room for the log again");
                }
                return;
            }
            if self.drop_ballast() {
                continue;
            }
            if since.is_none() {
                since = Some(Instant::now());
                self.disk.store(DiskLevel::Closed as u8, Ordering::Relaxed);
                tracing::error!(bytes, free_bytes = space.free_bytes, folder = %self.folder.display(),
                    "no room to write the log; waiting. Make room on this file system");
            }
            std::thread::sleep(WAIT_STEP);
        }
    }

    /// After a write that failed for want of room: gives up the ballast. True where it was there.
    pub fn drop_ballast(&self) -> bool {
        let _one = self.looking.lock();
        self.remove_ballast()
    }

    fn remove_ballast(&self) -> bool {
        let bytes = self.ballast_bytes.swap(0, Ordering::Relaxed);
        if bytes == 0 {
            return false;
        }
        match std::fs::remove_file(self.ballast_path()) {
            Ok(()) => {
                tracing::warn!(
                    bytes,
                    "the disk is nearly full; the ballast was given up so that the log can be kept"
                );
                true
            }
            Err(error) => {
                tracing::error!(%error, path = %self.ballast_path().display(), "the ballast can't be removed");
                false
            }
        }
    }

    fn look(&self, make_ballast: bool) {
        let _one = self.looking.lock();
        // A file system that can't be asked is the sampler's to report; nothing is known, nothing changes.
        let Some(space) = DiskSpace::of(&self.folder) else { return };
        let before = self.disk();
        let ballast_bytes = self.ballast_bytes.load(Ordering::Relaxed);
        let limits = *self.limits.lock();
        let verdict = judge(&limits, space, before, ballast_bytes);
        self.free_bytes.store(space.free_bytes, Ordering::Relaxed);
        self.disk.store(verdict.level as u8, Ordering::Relaxed);
        match (verdict.ballast, ballast_bytes > 0) {
            (false, true) => drop(self.remove_ballast()),
            (true, false) if make_ballast => self.make_ballast(&limits, space),
            _ => {}
        }
        let (free_mb, used) = (space.free_bytes >> 20, format!("{:.1} %", space.used_percent()));
        match (before, verdict.level) {
            (a, b) if a == b => {}
            (_, DiskLevel::Open) => {
                tracing::info!(free_mb, used, "the disk has room again; writes are taken")
            }
            (_, level) => tracing::error!(free_mb, used, ?level, folder = %self.folder.display(),
                "the disk is at its floor; the node is read-only until there is room"),
        }
    }

    /// Has the file system set blocks aside for it, or fills it with zeros where it can't do that.
    fn make_ballast(&self, limits: &RoomLimits, space: DiskSpace) {
        let bytes = limits.reserve_bytes.min(space.usable_bytes / 10);
        if bytes < LEAST_BALLAST_BYTES {
            return;
        }
        let path = self.ballast_path();
        let fill = || -> std::io::Result<()> {
            let mut file = File::create(&path)?;
            match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
                Ok(()) => return file.sync_all(),
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
                Err(error) => return Err(error.into()),
            }
            let zeros = vec![0u8; 1 << 20];
            let mut left = bytes;
            while left > 0 {
                let step = left.min(zeros.len() as u64);
                file.write_all(&zeros[..step as usize])?;
                left -= step;
            }
            file.sync_all()
        };
        match fill() {
            Ok(()) => self.ballast_bytes.store(bytes, Ordering::Relaxed),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "the ballast can't be made");
                // Half a ballast is only in the way.
                let _ = std::fs::remove_file(&path);
            }
        }
    }

    fn look_at_memory(&self, trimmed: &mut Option<Instant>) {
        let Some(mut bytes) = resident_bytes() else { return };
        let limit = self.limits.lock().max_memory_bytes;
        if bytes > limit && trimmed.is_none_or(|at| at.elapsed() >= TRIM_EVERY) {
            *trimmed = Some(Instant::now());
            give_memory_back();
            bytes = resident_bytes().unwrap_or(bytes);
        }
        self.memory_bytes.store(bytes, Ordering::Relaxed);
        let was = self.memory_over();
        let over = if was { bytes > limit - limit / 20 } else { bytes > limit };
        if over != was {
            self.memory_over.store(over, Ordering::Relaxed);
            let (used_mb, limit_mb) = (bytes >> 20, limit >> 20);
            match over {
                true => tracing::error!(
                    used_mb,
                    limit_mb,
                    "the process uses more than `max_memory_mb`; new tasks are refused"
                ),
                false => {
                    tracing::info!(used_mb, limit_mb, "memory is below its limit again; tasks are taken")
                }
            }
        }
    }
}

/// PURE. Commands that a full disk refuses: all but those that are small and keep the cluster
/// itself, or make room.
fn grows_the_log(command: &Command) -> bool {
    match command {
        Command::Submit { .. }
        | Command::Retry { .. }
        | Command::RetryMany { .. }
        | Command::Keyed { .. }
        | Command::RegisterWorker { .. }
        | Command::Assign { .. }
        | Command::Delivered { .. }
        | Command::Complete { .. } => true,
        Command::Cancel { .. }
        | Command::DrainWorker { .. }
        | Command::Expire { .. }
        | Command::WorkerLost { .. }
        | Command::Maintenance { .. }
        | Command::Checkpoint
        | Command::Evict { .. }
        | Command::NamedLease { .. }
        | Command::ChangeSettings { .. }
        | Command::RaiseVersion { .. } => false,
    }
}

/// PURE. Commands that make the machine larger.
fn grows_memory(command: &Command) -> bool {
    match command {
        Command::Submit { .. } | Command::RegisterWorker { .. } => true,
        Command::Keyed { write, .. } => matches!(write, KeyedWrite::Submit { .. }),
        _ => false,
    }
}

/// Resident memory of this process.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * procfs::page_size())
}

/// Has the allocator give back what it keeps for later.
fn give_memory_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim takes a number and touches only the allocator's own books.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn limits() -> RoomLimits {
        RoomLimits { floor_percent: 95.0, reserve_bytes: 64 * MIB, max_memory_bytes: 1 << 30 }
    }

    fn space(free_mib: u64, usable_mib: u64) -> DiskSpace {
        DiskSpace { free_bytes: free_mib * MIB, usable_bytes: usable_mib * MIB }
    }

    fn level(free_mib: u64, now: DiskLevel) -> DiskLevel {
        judge(&limits(), space(free_mib, 1000), now, 64 * MIB).level
    }

    #[test]
    fn the_floor_is_a_share_or_a_reserve_whichever_comes_first() {
        assert_eq!(level(100, DiskLevel::Open), DiskLevel::Open);
        assert_eq!(level(63, DiskLevel::Open), DiskLevel::ReadOnly, "below the reserve");
        let large = |free| judge(&limits(), space(free, 100_000), DiskLevel::Open, 64 * MIB).level;
        assert_eq!((large(5001), large(4999)), (DiskLevel::Open, DiskLevel::ReadOnly), "95 % are used");
    }

    #[test]
    fn it_comes_back_only_with_some_room_to_spare() {
        assert_eq!(level(70, DiskLevel::ReadOnly), DiskLevel::ReadOnly);
        assert_eq!(level(79, DiskLevel::ReadOnly), DiskLevel::ReadOnly);
        assert_eq!(level(81, DiskLevel::ReadOnly), DiskLevel::Open);
        assert_eq!(level(81, DiskLevel::Closed), DiskLevel::Open);
    }

    #[test]
    fn the_ballast_goes_before_the_log_is_closed_and_comes_back_late() {
        let verdict = |free, ballast| judge(&limits(), space(free, 1000), DiskLevel::ReadOnly, ballast * MIB);
        assert!(verdict(16, 64).ballast);
        // Given up, it leaves room: the log is not closed.
        assert_eq!(verdict(1, 64), Verdict { level: DiskLevel::ReadOnly, ballast: false });
        assert_eq!(verdict(1, 0).level, DiskLevel::Closed);
        assert_eq!(verdict(8, 0).level, DiskLevel::ReadOnly);
        // Made again too early, it would make the node read-only at once.
        assert!(!verdict(150, 0).ballast);
        assert!(verdict(161, 0).ballast);
    }

    #[test]
    fn a_small_disk_has_a_small_reserve() {
        let small = |free| judge(&limits(), space(free, 50), DiskLevel::Open, 0);
        assert_eq!((small(6).level, small(4).level), (DiskLevel::Open, DiskLevel::ReadOnly));
        assert!(small(40).ballast);
    }

    #[test]
    fn what_keeps_the_cluster_or_makes_room_is_taken_on_a_full_disk() {
        let folder = tempfile::tempdir().unwrap();
        let none = RoomLimits { floor_percent: 0.0, ..limits() };
        let room = Room::new(folder.path(), none);
        assert_ne!(room.disk(), DiskLevel::Open);
        let refused = room.admit(&Command::Submit { tasks: Vec::new() }).unwrap_err();
        assert!(matches!(refused, NodeError::DiskFull { .. }), "{refused}");
        for taken in [
            Command::Evict { before_log_ms: 0, limit: 1 },
            Command::NamedLease { name: "n".into(), holder: "h".into(), ttl_ms: 1 },
            Command::WorkerLost { worker_id: "w".into() },
        ] {
            assert_eq!(room.admit(&taken), Ok(()), "{}", taken.name());
        }
    }

    #[test]
    fn the_ballast_is_really_on_the_disk_and_can_be_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let limits = RoomLimits { floor_percent: 100.0, reserve_bytes: MIB, ..limits() };
        let room = Room::new(folder.path(), limits);
        room.look(true);
        let path = folder.path().join("ballast");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), MIB);
        assert!(room.drop_ballast() && !path.exists());
        assert!(!room.drop_ballast(), "once");
    }

    #[test]
    fn memory_beyond_its_bound_refuses_what_grows_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let room = Room::new(folder.path(), RoomLimits { max_memory_bytes: MIB, ..limits() });
        room.look_at_memory(&mut None);
        assert!(room.memory_over(), "this test uses more than a MiB");
        let refused = room.admit(&Command::Submit { tasks: Vec::new() }).unwrap_err();
        assert!(matches!(refused, NodeError::OutOfMemory { limit_mb: 1, .. }), "{refused}");
        assert_eq!(room.admit(&Command::Cancel { task_id: "t".into() }), Ok(()));
    }
}
