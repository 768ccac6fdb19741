//! Wall clocks that jump: nobody's lease minds, and the nodes see each other's offset.

use api::ErrorCode;
use api::client::Repeat;
use api::cluster::{LogPage, NamedLease, NamedLeaseRequest, Report};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use testbed::cluster::READY_LIMIT;
use testbed::{Cluster, wait};

const LIMIT: Duration = Duration::from_secs(60);
const HOUR_MS: i64 = 3_600_000;

/// A library that adds the seconds in a file to a process's wall clock; none without a compiler.
fn stepping_library(folder: &Path) -> Option<PathBuf> {
    const SOURCE: &str = "
        #define _GNU_SOURCE
        #include <stdio.h>
        #include <stdlib.h>
        #include <sys/syscall.h>
        #include <time.h>
        #include <unistd.h>
        int clock_gettime(clockid_t clock, struct timespec *now) {
            int result = syscall(SYS_clock_gettime, clock, now);
            const char *folder = getenv(\"HOLDFAST_CLOCK_FOLDER\");
            char name[4096];
            if (result == 0 && clock == CLOCK_REALTIME && folder) {
                snprintf(name, sizeof name, \"%s/%d\", folder, (int) getpid());
                FILE *file = fopen(name, \"r\");
                long seconds = 0;
                if (file) {
                    if (fscanf(file, \"%ld\", &seconds) == 1) now->tv_sec += seconds;
                    fclose(file);
                }
            }
            return result;
        }
    ";
    let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
    std::fs::write(&source, SOURCE).unwrap();
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).status();
    compiled.is_ok_and(|status| status.success()).then_some(library)
}

/// The folder in which a file named by a pid has the seconds that are added to that process's clock.
const CLOCK_FOLDER: &str = "HOLDFAST_CLOCK_FOLDER";

/// Runs this test again with a library that can step its children's clocks. Gives the folder inside;
/// none outside, where the test is over.
fn with_stepped_clocks(test: &str) -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(CLOCK_FOLDER) {
        return Some(PathBuf::from(folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = stepping_library(folder.path()) else {
        assert!(std::env::var_os("CI").is_none(), "no C compiler");
        println!("SKIPPED: no C compiler (cc) to make the library that steps clocks");
        return None;
    };
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("LD_PRELOAD", library)
        .env(CLOCK_FOLDER, folder.path())
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed with stepped clocks");
    None
}

/// The log's times, in the order of the log.
async fn log_times(cluster: &Cluster, index: usize) -> Vec<(i64, i64)> {
    let page: LogPage =
        wait::get(&wait::http(), &cluster.place(index).url("/api/debug/raft_log?limit=1000")).await.unwrap();
    let commands = page.entries.into_iter().flat_map(|entry| entry.commands);
    commands
        .map(|command: Value| (command["log_ms"].as_i64().unwrap(), command["wall_ms"].as_i64().unwrap()))
        .collect()
}

#[test]
fn a_clock_that_is_stepped_ends_no_lease_and_shows() {
    let Some(folder) = with_stepped_clocks("a_clock_that_is_stepped_ends_no_lease_and_shows") else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let cluster = Cluster::start(3).await.unwrap();
        let clock_file = |index: usize| folder.join(cluster.pid(index).unwrap().to_string());
        let client = cluster.client().unwrap().with_deadline(LIMIT);
        let ask = |holder: &str| NamedLeaseRequest { holder: holder.into(), ttl_ms: 600_000 };
        let first: NamedLease = client.post("/api/leases/l", &ask("a"), Repeat::Idempotent).await.unwrap();
        for (round, seconds) in [3600, -3600, 0].into_iter().enumerate() {
            let leader = cluster.leader(READY_LIMIT).await.unwrap();
            std::fs::write(clock_file(leader), seconds.to_string()).unwrap();
            // The others see how far its clock is from theirs.
            let watcher = (leader + 1) % 3;
            let id = cluster.place(leader).id.clone();
            let url = cluster.place(watcher).url("/api/report");
            wait::until("the offset to show", LIMIT, || async {
                let report: Report = wait::get(&wait::http(), &url).await?;
                let peer =
                    report.status.peers.into_iter().find(|peer| peer.node_id == id).ok_or("no peer")?;
                let offset_ms = peer.clock_offset_ms.ok_or("no offset")?;
                let near = (offset_ms - seconds * 1000).abs() < 60_000;
                if near && peer.rtt_ms.is_some() { Ok(()) } else { Err(format!("{offset_ms} ms")) }
            })
            .await
            .unwrap();
            // Written under the stepped clock.
            let task = json!({"task_id": format!("t-{round}"), "type": "noop"});
            let _: Value = client.post("/api/tasks", &task, Repeat::Idempotent).await.unwrap();
            let other = client.post::<_, NamedLease>("/api/leases/l", &ask("b"), Repeat::Idempotent).await;
            assert_eq!(other.unwrap_err().code(), Some(ErrorCode::LeaseHeld), "an hour did not pass");
            std::fs::remove_file(clock_file(leader)).unwrap();
            // Across leaders too.
            let _: Value =
                client.post("/api/cluster/transfer", &json!({}), Repeat::Never).await.unwrap_or_default();
        }
        let again: NamedLease = client.post("/api/leases/l", &ask("a"), Repeat::Idempotent).await.unwrap();
        assert_eq!(again.epoch, first.epoch, "renewed, not taken anew");
        let times = log_times(&cluster, cluster.leader(READY_LIMIT).await.unwrap()).await;
        assert!(times.windows(2).all(|pair| pair[0].0 <= pair[1].0), "log time went back: {times:?}");
        assert!(times.last().unwrap().0 < HOUR_MS, "log time jumped with the clock: {times:?}");
        let walls = times.iter().map(|(_, wall)| wall);
        let span = walls.clone().max().unwrap() - walls.min().unwrap();
        assert!(span > HOUR_MS, "the wall clock was stepped: {span} ms");
    });
}
