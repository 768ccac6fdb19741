//! The guard: ends the tasks' processes when the worker itself is killed.
//!
//! A worker that gets SIGKILL can't tidy up, and its tasks would run on, holding ports, devices
//! and disk while another worker runs the same task again. The parent-death signal of Linux does
//! not help: it follows the *thread* that spawned and reaches only the direct child. So the worker
//! keeps one small shell beside it and writes to its standard input which process groups live.
//! When that pipe ends, for whatever reason, the shell kills what is left and ends.
//!
//! Invariant: a group is on the list before its task begins ([`super::process`]): a worker may be
//! killed at any moment.
//!
//! Invariant: a group is taken off the list before its leader is reaped, so the guard never kills
//! a group whose number was given to somebody else.
//!
//! A process that leaves its group (`setsid`) is out of reach, here as for time limits and
//! cancellation. Where that matters, run the worker in a container or a systemd unit.

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

const SCRIPT: &str = r#"
trap '' HUP INT QUIT TERM
groups=' '
while read -r mark group; do
  case $mark in
    +) groups="$groups$group " ;;
    -) groups="${groups%% $group *} ${groups#* $group }" ;;
  esac
done
for group in $groups; do kill -s KILL -- "-$group" 2>/dev/null; done
"#;

/// The shell and what it was told.
#[derive(Debug, Default)]
pub struct Guard {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    shell: Option<(Child, ChildStdin)>,
    groups: BTreeSet<i32>,
}

/// A group on the list; taken off it when this is dropped.
#[derive(Debug)]
pub struct Watched<'a> {
    guard: &'a Guard,
    group: i32,
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.guard.forget(self.group);
    }
}

impl Guard {
    /// Puts a process group on the list.
    pub fn watch(&self, group: Pid) -> Watched<'_> {
        let group = group.as_raw_nonzero().get();
        let mut inner = self.inner.lock();
        inner.groups.insert(group);
        inner.tell('+', group);
        Watched { guard: self, group }
    }

    /// Kills every group on the list at once.
    pub fn kill_all(&self) {
        for group in &self.inner.lock().groups {
            if let Some(pid) = Pid::from_raw(*group) {
                // A group that has ended meanwhile is no fault.
                let _ = kill_process_group(pid, Signal::KILL);
            }
        }
    }

    /// True when no group is on the list.
    pub fn is_idle(&self) -> bool {
        self.inner.lock().groups.is_empty()
    }

    fn forget(&self, group: i32) {
        let mut inner = self.inner.lock();
        inner.groups.remove(&group);
        inner.tell('-', group);
    }
}

impl Inner {
    /// Tells the shell of a change. A shell that is gone is replaced and told everything.
    fn tell(&mut self, mark: char, group: i32) {
        if let Some((_, pipe)) = &mut self.shell
            && pipe.write_all(format!("{mark} {group}\n").as_bytes()).is_ok()
        {
            return;
        }
        if let Some((mut gone, _)) = self.shell.take() {
            tracing::warn!("the guard process has ended; starting another");
            // Reaps it; it has ended, or ends now that its input is closed.
            let _ = gone.kill();
            let _ = gone.wait();
        }
        if self.groups.is_empty() {
            return;
        }
        match self.start() {
            Ok(shell) => self.shell = Some(shell),
            Err(error) => {
                tracing::warn!(%error, "no guard process: if this worker is killed, its tasks run on");
            }
        }
    }

    fn start(&self) -> std::io::Result<(Child, ChildStdin)> {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "holdfast-guard"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let mut pipe = shell.stdin.take().ok_or_else(|| std::io::Error::other("no pipe to the guard"))?;
        let all: String = self.groups.iter().map(|group| format!("+ {group}\n")).collect();
        pipe.write_all(all.as_bytes())?;
        Ok((shell, pipe))
    }
}

impl Drop for Inner {
    /// Closes the pipe, which makes the shell kill what is left, and waits for that.
    fn drop(&mut self) {
        if let Some((mut shell, pipe)) = self.shell.take() {
            drop(pipe);
            let _ = shell.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> (Child, Pid) {
        let child = Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
        let pid = Pid::from_child(&child);
        (child, pid)
    }

    #[test]
    fn when_the_pipe_ends_only_the_groups_on_the_list_are_killed() {
        use std::os::unix::process::ExitStatusExt;
        let guard = Guard::default();
        let (mut first, first_pid) = sleeper();
        let (mut spared, spared_pid) = sleeper();
        let (mut third, third_pid) = sleeper();
        let kept = [guard.watch(first_pid), guard.watch(third_pid)];
        drop(guard.watch(spared_pid));
        // What the kernel does to a worker that is killed: the pipe's end closes.
        drop(guard.inner.lock().shell.take().unwrap().1);
        assert_eq!(first.wait().unwrap().signal(), Some(9));
        assert_eq!(third.wait().unwrap().signal(), Some(9));
        assert!(spared.try_wait().unwrap().is_none(), "a group that was taken off the list was killed");
        spared.kill().unwrap();
        spared.wait().unwrap();
        drop(kept);
    }

    #[test]
    fn a_guard_that_was_killed_is_replaced_and_told_everything() {
        let guard = Guard::default();
        let (mut first, first_pid) = sleeper();
        let (mut second, second_pid) = sleeper();
        let one = guard.watch(first_pid);
        {
            let mut inner = guard.inner.lock();
            let (shell, _) = inner.shell.as_mut().unwrap();
            shell.kill().unwrap();
            shell.wait().unwrap();
        }
        let two = guard.watch(second_pid);
        drop(guard.inner.lock().shell.take().unwrap().1);
        first.wait().unwrap();
        second.wait().unwrap();
        drop((one, two));
    }
}
