//! What the process uses: processor, memory, descriptors, threads, disk. Measured, never assumed.
//!
//! Two threads of their own measure once a second. They are no tasks of the async runtime because
//! a stalled disk must not take one of its threads, and they are two because it must not stop the
//! other figures either. Both end with the last handle.

use crate::node::Node;
use api::cluster::Resources;
use parking_lot::Mutex;
use procfs::{Current, WithCurrentSystemInfo};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Between two measurements.
const INTERVAL: Duration = Duration::from_secs(1);
/// Between two walks through the data directory.
const WALK_INTERVAL: Duration = Duration::from_secs(10);
/// Files that a walk counts at most.
const WALK_FILES: usize = 200_000;

/// The newest measurements. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sampler {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    process: Mutex<ProcessSample>,
    disk: Mutex<DiskSample>,
    raft: Mutex<Turns>,
}

/// One look at the process.
#[derive(Debug, Clone, Copy)]
struct ProcessSample {
    at: Instant,
    cpu_seconds: f64,
    cpu_percent: f64,
    memory_bytes: u64,
    memory_total_bytes: u64,
    open_fds: u64,
    max_fds: u64,
    threads: u64,
}

/// One look at the disk.
#[derive(Debug, Clone, Copy, Default)]
struct DiskSample {
    free_bytes: u64,
    usable_bytes: u64,
    data_dir_bytes: u64,
}

/// The Raft thread's turns, and when they moved last.
#[derive(Debug, Clone, Copy)]
struct Turns {
    turns: u64,
    moved: Instant,
}

impl Sampler {
    /// Measures once, then once a second in the background.
    pub fn start(node: Node, data_dir: PathBuf) -> std::io::Result<Sampler> {
        let process = ProcessSample::first().map_err(|e| std::io::Error::other(format!("/proc: {e}")))?;
        let shared = Arc::new(Shared {
            process: Mutex::new(process),
            disk: Mutex::new(DiskSample::take(&data_dir, dir_bytes(&data_dir))),
            raft: Mutex::new(Turns { turns: node.progress().raft_turns, moved: Instant::now() }),
        });
        let weak = Arc::downgrade(&shared);
        spawn("sample-process", weak.clone(), move |shared| {
            shared.note_turns(node.progress().raft_turns);
            let last = *shared.process.lock();
            match last.next() {
                Ok(next) => *shared.process.lock() = next,
                Err(error) => tracing::warn!(%error, "the process can't be measured"),
            }
        })?;
        let mut walked = Instant::now();
        spawn("sample-disk", weak, move |shared| {
            let mut data_dir_bytes = shared.disk.lock().data_dir_bytes;
            if walked.elapsed() >= WALK_INTERVAL {
                data_dir_bytes = dir_bytes(&data_dir);
                walked = Instant::now();
            }
            let sample = DiskSample::take(&data_dir, data_dir_bytes);
            *shared.disk.lock() = sample;
        })?;
        Ok(Sampler { shared })
    }

    /// The newest figures, as `/api/health/resources` shows them.
    pub fn resources(&self) -> Resources {
        let process = *self.shared.process.lock();
        let disk = *self.shared.disk.lock();
        Resources {
            cpu_usage: process.cpu_percent,
            memory_usage: percent(process.memory_bytes, process.memory_total_bytes),
            disk_usage: disk.used_percent(),
            memory_bytes: process.memory_bytes,
            memory_total_bytes: process.memory_total_bytes,
            disk_free_bytes: disk.free_bytes,
            disk_total_bytes: disk.usable_bytes,
            data_dir_bytes: disk.data_dir_bytes,
            open_fds: process.open_fds,
            max_fds: process.max_fds,
            threads: process.threads,
        }
    }

    /// Processor time since the process started, seconds.
    pub fn cpu_seconds(&self) -> f64 {
        self.shared.process.lock().cpu_seconds
    }

    /// How long the Raft thread has not turned, to the second.
    pub fn raft_still_ms(&self) -> u64 {
        self.shared.raft.lock().moved.elapsed().saturating_sub(INTERVAL).as_millis() as u64
    }
}

impl Shared {
    fn note_turns(&self, turns: u64) {
        let mut last = self.raft.lock();
        if turns != last.turns {
            *last = Turns { turns, moved: Instant::now() };
        }
    }
}

/// Runs `sample` once an interval for as long as anybody holds the sampler.
fn spawn(
    name: &str,
    shared: Weak<Shared>,
    mut sample: impl FnMut(&Shared) + Send + 'static,
) -> std::io::Result<()> {
    let run = move || {
        loop {
            std::thread::sleep(INTERVAL);
            let Some(shared) = shared.upgrade() else { return };
            sample(&shared);
        }
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}

impl ProcessSample {
    /// The first look: processor use over the process's life so far.
    fn first() -> procfs::ProcResult<Self> {
        let stat = procfs::process::Process::myself()?.stat()?;
        let uptime = procfs::Uptime::current()?.uptime;
        let alive_seconds = (uptime - stat.starttime as f64 / procfs::ticks_per_second() as f64).max(0.01);
        let mut sample = Self::look()?;
        sample.cpu_percent = sample.cpu_seconds / alive_seconds * 100.0;
        Ok(sample)
    }

    /// The next look: processor use since this one.
    fn next(&self) -> procfs::ProcResult<Self> {
        let mut sample = Self::look()?;
        let interval = sample.at.duration_since(self.at).as_secs_f64().max(0.001);
        sample.cpu_percent = (sample.cpu_seconds - self.cpu_seconds).max(0.0) / interval * 100.0;
        Ok(sample)
    }

    fn look() -> procfs::ProcResult<Self> {
        let process = procfs::process::Process::myself()?;
        let stat = process.stat()?;
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        Ok(ProcessSample {
            at: Instant::now(),
            cpu_seconds: (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64,
            cpu_percent: 0.0,
            memory_bytes: stat.rss_bytes().get(),
            memory_total_bytes: procfs::Meminfo::current()?.mem_total,
            open_fds: process.fd_count()? as u64,
            max_fds: limit.current.unwrap_or(u64::MAX),
            threads: stat.num_threads.max(0) as u64,
        })
    }
}

impl DiskSample {
    /// What the file system of `path` has; zeros where it can't be asked.
    fn take(path: &Path, data_dir_bytes: u64) -> Self {
        match rustix::fs::statvfs(path) {
            Ok(stat) => DiskSample {
                free_bytes: stat.f_bavail * stat.f_frsize,
                // As df counts: what is reserved for root is neither used nor free.
                usable_bytes: (stat.f_blocks - stat.f_bfree + stat.f_bavail) * stat.f_frsize,
                data_dir_bytes,
            },
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the file system can't be measured");
                DiskSample { data_dir_bytes, ..DiskSample::default() }
            }
        }
    }

    fn used_percent(&self) -> f64 {
        percent(self.usable_bytes.saturating_sub(self.free_bytes), self.usable_bytes)
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 }
}

/// Bytes of the files under `path`. What vanishes meanwhile counts nothing.
fn dir_bytes(path: &Path) -> u64 {
    let mut folders = vec![path.to_owned()];
    let (mut bytes, mut files) = (0, 0);
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            files += 1;
            if files > WALK_FILES {
                return bytes;
            }
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                bytes += metadata.len();
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_the_disk_is_that_of_its_bytes() {
        let disk = DiskSample::take(Path::new("/"), 0);
        let of_bytes = 100.0 - percent(disk.free_bytes, disk.usable_bytes);
        assert!((disk.used_percent() - of_bytes).abs() < 0.001 && disk.usable_bytes > 0, "{disk:?}");
        let stat = rustix::fs::statvfs("/").unwrap();
        assert!(disk.usable_bytes <= stat.f_blocks * stat.f_frsize, "{disk:?}");
    }

    #[test]
    fn what_the_process_uses_is_measured() {
        let first = ProcessSample::first().unwrap();
        assert!(first.memory_bytes > 1 << 20 && first.memory_total_bytes > first.memory_bytes, "{first:?}");
        assert!(first.open_fds >= 3 && first.threads >= 1 && first.max_fds >= first.open_fds, "{first:?}");
        // A busy process must show: burn until the kernel has counted some ticks.
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut sum = 0u64;
        loop {
            for i in 0..5_000_000u64 {
                sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(i));
            }
            let next = first.next().unwrap();
            if next.cpu_percent > 1.0 && next.cpu_seconds > first.cpu_seconds {
                break;
            }
            assert!(Instant::now() < deadline, "no processor time was counted: {next:?}");
        }
    }

    #[test]
    fn the_disk_is_measured() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("deep")).unwrap();
        std::fs::write(folder.path().join("deep/file"), [0; 1000]).unwrap();
        std::fs::write(folder.path().join("file"), [0; 500]).unwrap();
        assert_eq!(dir_bytes(folder.path()), 1500);
        let sample = DiskSample::take(folder.path(), 1500);
        assert!(sample.usable_bytes > 0 && sample.free_bytes <= sample.usable_bytes, "{sample:?}");
        assert!((0.0..=100.0).contains(&sample.used_percent()), "{sample:?}");
    }

    #[test]
    fn a_file_system_that_cant_be_asked_has_no_invented_size() {
        let sample = DiskSample::take(Path::new("/nonexistent/folder"), 0);
        assert_eq!((sample.usable_bytes, sample.free_bytes), (0, 0));
    }
}
