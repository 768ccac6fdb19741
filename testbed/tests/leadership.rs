//! Leadership moves without failing a write: on request, when the leader is told to end, and when
//! its disk hangs.

use api::cluster::{Leadership, Role, Transfer};
use api::task::TaskRecord;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use testbed::cluster::READY_LIMIT;
use testbed::{Cluster, judge, wait};
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(90);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

/// What was acknowledged, what failed, and the longest wait for an answer.
type Heard = (Vec<String>, Vec<String>, Duration);

/// Writers that repeat nothing: every answer but 201 is kept.
struct Plain {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    writers: Vec<JoinHandle<Heard>>,
}

impl Plain {
    /// One writer for each of these nodes.
    fn start(cluster: &Cluster, nodes: &[usize], prefix: &str) -> Plain {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writers = nodes.iter().map(|node| {
            let url = cluster.place(*node).url("/api/tasks");
            let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
            let prefix = format!("{prefix}-{node}");
            tokio::spawn(async move {
                let http = api::http::builder().timeout(Duration::from_secs(30)).build().unwrap();
                let (mut written, mut failed, mut longest) = (Vec::new(), Vec::new(), Duration::ZERO);
                for number in 0..1_000_000 {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let id = format!("{prefix}-{number}");
                    let started = Instant::now();
                    let body = json!({"task_id": id, "type": "noop"});
                    match http.post(&url).json(&body).send().await {
                        Ok(answer) if answer.status() == 201 => {
                            longest = longest.max(started.elapsed());
                            acknowledged.fetch_add(1, Ordering::Relaxed);
                            written.push(id);
                        }
                        Ok(answer) => {
                            let status = answer.status();
                            failed
                                .push(format!("{id}: {status} {}", answer.text().await.unwrap_or_default()));
                        }
                        Err(error) => failed.push(format!("{id}: {}", api::client::error_chain(&error))),
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                (written, failed, longest)
            })
        });
        Plain { writers: writers.collect(), stop, acknowledged }
    }

    async fn progress(&self, what: &str) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + 20;
        wait::until(&format!("writes {what}"), LIMIT, || async {
            let now = self.acknowledged.load(Ordering::Relaxed);
            if now >= goal { Ok(()) } else { Err(format!("{now} of {goal}")) }
        })
        .await
        .unwrap();
    }

    /// Ends the writers.
    async fn end(self) -> Heard {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = (Vec::new(), Vec::new(), Duration::ZERO);
        for writer in self.writers {
            let (written, failed, longest) = writer.await.unwrap();
            all.0.extend(written);
            all.1.extend(failed);
            all.2 = all.2.max(longest);
        }
        all
    }
}

async fn all_there(cluster: &Cluster, written: &[String]) {
    let client = cluster.client().unwrap().with_deadline(LIMIT);
    for id in written {
        let task: TaskRecord = client.get(&format!("/api/tasks/{id}")).await.unwrap();
        assert_eq!(task.task_id, *id);
    }
}

#[test]
fn a_transfer_fails_no_write() {
    runtime().block_on(async {
        let cluster = Cluster::start(3).await.unwrap();
        let writers = Plain::start(&cluster, &[0, 1, 2], "t");
        for round in 0..8 {
            writers.progress(&format!("before transfer {round}")).await;
            let http = wait::http();
            wait::until("a transfer to be taken", LIMIT, || async {
                let leader = cluster.leader(READY_LIMIT).await.map_err(|e| e.to_string())?;
                let to = cluster.place((leader + 1) % 3).id.clone();
                let url = cluster.place(leader).url("/api/cluster/transfer");
                let sent = http.post(&url).json(&Transfer { to: Some(to) }).send().await;
                let answer = sent.map_err(|e| e.to_string())?;
                // Who lags behind at the moment is not handed leadership: ask again.
                let body = answer.text().await.map_err(|e| e.to_string())?;
                serde_json::from_str::<Leadership>(&body).map(drop).map_err(|_| body)
            })
            .await
            .unwrap();
        }
        writers.progress("after the last transfer").await;
        let (written, failed, longest) = writers.end().await;
        println!("{} writes through 8 transfers, the longest took {longest:?}", written.len());
        assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), &failed[..failed.len().min(5)]);
        all_there(&cluster, &written).await;
        judge::await_all_equal(&cluster).await.unwrap();
    });
}

#[test]
fn a_leader_that_is_told_to_end_fails_no_write_of_the_others() {
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        let mut all = Vec::new();
        for round in 0..3 {
            let leader = cluster.leader(READY_LIMIT).await.unwrap();
            let others: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
            let writers = Plain::start(&cluster, &others, &format!("s{round}"));
            writers.progress("before the end").await;
            cluster.stop_node(leader).unwrap();
            writers.progress("while it is away").await;
            cluster.start_node(leader).unwrap();
            cluster.wait_ready(leader, READY_LIMIT).await.unwrap();
            writers.progress("after it came back").await;
            let (written, failed, longest) = writers.end().await;
            println!("round {round}: {} writes, the longest took {longest:?}", written.len());
            assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), &failed[..failed.len().min(5)]);
            all.extend(written);
        }
        all_there(&cluster, &all).await;
    });
}

#[test]
fn nobody_waits_for_a_leader_that_stands_still_once_another_leads() {
    runtime().block_on(async {
        let cluster = Cluster::start(3).await.unwrap();
        let http = api::http::builder().timeout(Duration::from_secs(30)).build().unwrap();
        // Where a follower has noticed before the request comes, it waits for the next leader and is
        // served; mostly it is on its way by then.
        let given_up = wait::until("a request that was with the leader when it stopped", LIMIT, || async {
            let leader = cluster.leader(READY_LIMIT).await.map_err(|e| e.to_string())?;
            let url = cluster.place((leader + 1) % 3).url("/api/tasks");
            let request = http.post(&url).json(&json!({"type": "noop"}));
            let paused = cluster.pause(leader);
            let answer = request.send().await;
            cluster.resume(leader);
            assert!(paused, "the leader runs");
            let answer = answer.expect("an answer, though the leader stands still");
            let (status, problem) = (answer.status(), answer.text().await.unwrap());
            if status == 504 { Ok(problem) } else { Err(format!("{status} {problem}")) }
        });
        let problem: Value = serde_json::from_str(&given_up.await.unwrap()).unwrap();
        assert_eq!(problem["code"], "unknown_outcome", "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("is silent"), "{problem}");
    });
}

/// The folder in which a file named by a pid makes that process's syncs wait.
const STALL_FOLDER: &str = "HOLDFAST_STALL_FOLDER";

/// Runs this test again with a library that can stall its children's syncs. Gives the folder inside;
/// none outside, where the test is over.
fn with_stalls(test: &str) -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(STALL_FOLDER) {
        return Some(PathBuf::from(folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = stalling_library(folder.path()) else {
        assert!(std::env::var_os("CI").is_none(), "no C compiler");
        println!("SKIPPED: no C compiler (cc) to make the library that stalls syncs");
        return None;
    };
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("LD_PRELOAD", library)
        .env(STALL_FOLDER, folder.path())
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed with stalled syncs");
    None
}

/// A library that makes every sync of a process wait while a file is there; none without a compiler.
fn stalling_library(folder: &Path) -> Option<PathBuf> {
    const SOURCE: &str = "
        #define _GNU_SOURCE
        #include <stdio.h>
        #include <stdlib.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        static void wait_while_stalled(void) {
            const char *folder = getenv(\"HOLDFAST_STALL_FOLDER\");
            char file[4096];
            if (!folder) return;
            snprintf(file, sizeof file, \"%s/%d\", folder, (int) getpid());
            while (access(file, F_OK) == 0) usleep(10000);
        }
        int fdatasync(int fd) { wait_while_stalled(); return syscall(SYS_fdatasync, fd); }
        int fsync(int fd) { wait_while_stalled(); return syscall(SYS_fsync, fd); }
    ";
    let (source, library) = (folder.join("stall.c"), folder.join("stall.so"));
    std::fs::write(&source, SOURCE).unwrap();
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).status();
    compiled.is_ok_and(|status| status.success()).then_some(library)
}

#[test]
fn disk_stall_moves_leadership() {
    let Some(folder) = with_stalls("disk_stall_moves_leadership") else { return };
    runtime().block_on(async {
        let mut cluster = Cluster::start(3).await.unwrap();
        let leader = cluster.leader(READY_LIMIT).await.unwrap();
        let others: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
        let writers = Plain::start(&cluster, &others, "w");
        writers.progress("before the stall").await;

        let stall = folder.join(cluster.pid(leader).unwrap().to_string());
        std::fs::write(&stall, "").unwrap();
        wait::until("another leader while the disk hangs", LIMIT, || async {
            for index in &others {
                if cluster.status(*index).await?.role == Role::Leader {
                    return Ok(());
                }
            }
            Err("none of the others leads".into())
        })
        .await
        .unwrap();
        writers.progress("while the old leader's disk hangs").await;
        // It answers, and says of itself that it makes no progress.
        let http = wait::http();
        let live = cluster.place(leader).url("/api/health/live");
        wait::until("the live probe to see the stuck log", LIMIT, || async {
            let answer = http.get(&live).send().await.map_err(|e| e.to_string())?;
            let status = answer.status().as_u16();
            let body: Value = answer.json().await.map_err(|e| e.to_string())?;
            if status == 503 && body.to_string().contains("stuck") { Ok(()) } else { Err(body.to_string()) }
        })
        .await
        .unwrap();
        assert_ne!(cluster.status(leader).await.unwrap().role, Role::Leader, "leadership stays away");

        std::fs::remove_file(stall).unwrap();
        cluster.wait_ready(leader, LIMIT).await.unwrap();
        writers.progress("after the stall").await;
        let (written, failed, longest) = writers.end().await;
        println!("{} writes, the longest took {longest:?}; {} had no answer", written.len(), failed.len());
        // What was on its way through the old leader may be unknown; nothing else fails.
        let known = failed.iter().filter(|why| !why.contains("unknown_outcome")).collect::<Vec<_>>();
        assert!(known.is_empty(), "{known:?}");
        all_there(&cluster, &written).await;
        judge::await_all_equal(&cluster).await.unwrap();
    });
}

/// Bytes that wait for a disk are bounded; what is beyond is refused, and what was taken is there.
#[test]
fn bytes_in_flight_are_bounded_and_nothing_is_lost_silently() {
    let Some(folder) = with_stalls("bytes_in_flight_are_bounded_and_nothing_is_lost_silently") else {
        return;
    };
    runtime().block_on(async {
        let cluster = Cluster::start(1).await.unwrap();
        let stall = folder.join(cluster.pid(0).unwrap().to_string());
        std::fs::write(&stall, "").unwrap();
        let http = api::http::builder().timeout(LIMIT).build().unwrap();
        let large = "x".repeat(1_000_000);
        let url = cluster.place(0).url("/api/tasks/batch");
        let answered = AtomicU64::new(0);
        let batches = (0..16).map(|batch| {
            let tasks: Vec<Value> = (0..7)
                .map(|n| json!({"task_id": format!("b{batch}-{n}"), "type": "other", "config": {"a": large}}))
                .collect();
            let sent = http.post(&url).json(&json!({"tasks": tasks})).send();
            let answered = &answered;
            async move {
                let answer = sent.await.unwrap();
                answered.fetch_add(1, Ordering::Relaxed);
                let status = answer.status().as_u16();
                let after = answer.headers().contains_key("retry-after");
                (batch, status, after, answer.json::<Value>().await.unwrap())
            }
        });
        let stall = &stall;
        let resume = async {
            // 16 batches of 7 MB are more than the 64 MiB that may be in flight.
            wait::until("a batch to be answered while the disk hangs", LIMIT, || async {
                match answered.load(Ordering::Relaxed) {
                    0 => Err("none is".to_owned()),
                    _ => Ok(()),
                }
            })
            .await
            .unwrap();
            std::fs::remove_file(stall).unwrap();
        };
        let (answers, ()) = tokio::join!(futures_util::future::join_all(batches), resume);
        let mut refused = 0;
        for (batch, status, after, body) in &answers {
            let look = cluster.place(0).url(&format!("/api/tasks/b{batch}-0"));
            let found = http.get(look).send().await.unwrap().status().as_u16();
            match (*status, body["code"].as_str()) {
                (201, _) => assert_eq!(found, 200, "batch {batch} was acknowledged"),
                (503, Some("overloaded")) => {
                    assert_eq!((found, *after), (404, true), "batch {batch} was refused");
                    refused += 1;
                }
                // Its time ran out: it may be there or not.
                (504, Some("unknown_outcome")) => {}
                _ => panic!("batch {batch}: {status} {body}"),
            }
        }
        assert!(refused > 0, "nothing was refused: {:?}", answers.iter().map(|a| a.1).collect::<Vec<_>>());
    });
}
