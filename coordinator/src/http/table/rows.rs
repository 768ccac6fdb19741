//! The rows of the table, by resource.

use super::{
    ADMINISTER, Allowed, Content, Endpoint, OPERATE, VIEW, WORK, WORK_OR_OPERATE, delete, get, post, put,
};
use crate::http::read::Freshness;
use crate::http::tasks::{ListQuery, Nothing, Repeated};
use crate::http::{cluster, node_health, observe, results};
use api::ErrorCode::{
    BodyTooLarge, ChangePending, DiskFull, IdempotencyKeyReused, InvalidState, LeaseHeld,
    Maintenance as InMaintenance, RateLimited, StaleEpoch, StaleToken, TaskIdTaken, Unauthorized,
    Unavailable, UnknownMember, UnknownOutcome, UnknownTask, UnknownWorker,
};
use api::{access, admin as repairs, cluster as wire, task, worker};

pub(super) fn all() -> Vec<Endpoint> {
    [node(), tasks(), workers(), the_cluster(), admin(), access_and_description(), peers()].concat()
}

fn node() -> Vec<Endpoint> {
    vec![
        get("/api/status", VIEW, "What this node is and knows.")
            .gives::<wire::Status>(200, "The node's standing."),
        get("/api/report", VIEW, "Everything this node says of itself, in one document.")
            .gives::<wire::Report>(200, "The report."),
        get("/api/health", Allowed::Anybody, "Each check of the node's health.")
            .gives::<wire::Health>(200, "It serves.")
            .gives::<wire::Health>(503, "It does not serve."),
        get("/api/health/live", Allowed::Anybody, "Do the node's threads make progress?")
            .gives::<wire::Health>(200, "They do.")
            .gives::<wire::Health>(503, "One is stuck."),
        get("/api/health/ready", Allowed::Anybody, "Are reads and writes served?")
            .gives::<wire::Health>(200, "They are.")
            .gives::<wire::Health>(503, "They are not."),
        get("/api/health/db", VIEW, "DuckDB behind the log.").gives::<wire::PartHealth>(200, "Its standing."),
        get("/api/health/log", VIEW, "The Raft log.").gives::<wire::PartHealth>(200, "Its standing."),
        get("/api/health/state_checksum", VIEW, "Checksums of the state, for comparing nodes.")
            .query::<node_health::ChecksumQuery>()
            .gives::<wire::StateChecksum>(200, "The checksums."),
        get("/api/health/resources", VIEW, "What the process uses.")
            .gives::<wire::Resources>(200, "CPU, memory, disk."),
        get("/api/health/operations", VIEW, "What takes longer than a request.")
            .gives::<wire::Operations>(200, "The operations."),
        get("/api/debug/raft_log", OPERATE, "Entries of the log, decoded.")
            .query::<observe::LogQuery>()
            .gives::<wire::LogPage>(200, "A page of entries.")
            .refuses(&[Unavailable]),
        get("/api/logs", VIEW, "The last log lines.")
            .query::<observe::LinesQuery>()
            .gives::<wire::LogLines>(200, "Log lines, oldest first."),
        get("/api/events", VIEW, "Cluster events as they happen (server-sent events).").unbuilt(),
    ]
}

fn tasks() -> Vec<Endpoint> {
    vec![
        post("/api/tasks", OPERATE, "Submits a task.")
            .takes::<task::NewTask>()
            .gives::<task::Submitted>(201, "It is new, and on the disks of a majority.")
            .gives::<Repeated>(200, "The same task was there before; its record.")
            .led()
            .refuses(&[TaskIdTaken, IdempotencyKeyReused, InMaintenance, DiskFull]),
        get("/api/tasks", VIEW, "Tasks in memory, in order of submission.")
            .query::<ListQuery>()
            .gives::<task::TaskPage>(200, "A page.")
            .refuses(&[Unavailable]),
        post("/api/tasks/batch", OPERATE, "Submits many tasks; all or none.")
            .takes::<task::NewBatch>()
            .gives::<task::BatchSubmitted>(201, "All are on the disks of a majority.")
            .led()
            .refuses(&[TaskIdTaken, IdempotencyKeyReused, InMaintenance, DiskFull]),
        get("/api/tasks/{id}", VIEW, "One task with its attempts and its result.")
            .query::<Freshness>()
            .gives::<task::TaskRecord>(200, "The task.")
            .refuses(&[UnknownTask, Unavailable]),
        post("/api/tasks/{id}/cancel", OPERATE, "Cancels a task; running work is told.")
            .may_take::<Nothing>()
            .gives::<task::TaskStanding>(200, "Where it stands now.")
            .led()
            .refuses(&[UnknownTask, InvalidState]),
        post("/api/tasks/{id}/retry", OPERATE, "Runs a failed or cancelled task again.")
            .may_take::<Nothing>()
            .gives::<task::TaskStanding>(200, "Where it stands now.")
            .led()
            .refuses(&[UnknownTask, InvalidState]),
        post("/api/tasks/retry", OPERATE, "Runs many failed tasks again.")
            .takes::<task::RetryMany>()
            .gives::<task::Retried>(200, "How many, and whether there are more.")
            .led()
            .refuses(&[IdempotencyKeyReused, DiskFull]),
        post("/api/tasks/{id}/result", WORK, "A worker reports the end of an attempt.")
            .takes::<task::ResultReport>()
            .gives::<task::TaskStanding>(200, "Accepted, or accepted before.")
            .led()
            .refuses(&[UnknownTask, StaleToken, InvalidState]),
        get("/api/results", VIEW, "Finished tasks, from DuckDB.")
            .query::<results::ResultQuery>()
            .gives::<task::TaskPage>(200, "A page.")
            .refuses(&[Unavailable]),
    ]
}

fn workers() -> Vec<Endpoint> {
    vec![
        get("/api/workers", VIEW, "Every worker.")
            .query::<Freshness>()
            .gives::<worker::WorkerList>(200, "The workers, by id.")
            .refuses(&[Unavailable]),
        post("/api/workers/register", WORK, "A worker says that it is there and what it can run.")
            .takes::<worker::Register>()
            .gives::<worker::Registered>(200, "The times to keep.")
            .led(),
        post("/api/workers/{id}/heartbeat", WORK, "A sign of life; the answer carries cancellations.")
            .may_take::<worker::Heartbeat>()
            .gives::<worker::HeartbeatAnswer>(200, "What to end.")
            .led()
            .refuses(&[UnknownWorker]),
        post("/api/workers/{id}/lease", WORK, "Asks for tasks, by long poll.")
            .takes::<worker::LeaseRequest>()
            .gives::<worker::LeaseAnswer>(200, "What to run.")
            .led()
            .refuses(&[UnknownWorker]),
        post("/api/workers/{id}/results", WORK, "A worker reports the ends of many attempts.")
            .takes::<worker::ResultBatch>()
            .gives::<worker::ResultVerdicts>(200, "What became of each.")
            .led()
            .refuses(&[UnknownWorker]),
        post("/api/workers/{id}/drain", WORK_OR_OPERATE, "Lets a worker finish and gives it nothing new.")
            .may_take::<Nothing>()
            .answers(200, "It drains.", Content::AnyJson)
            .led()
            .refuses(&[UnknownWorker]),
    ]
}

fn the_cluster() -> Vec<Endpoint> {
    vec![
        get("/api/maintenance", VIEW, "Is the cluster in maintenance mode?")
            .query::<Freshness>()
            .gives::<wire::Maintenance>(200, "Since when.")
            .refuses(&[Unavailable]),
        post("/api/maintenance/enable", OPERATE, "No new tasks are accepted or assigned.")
            .may_take::<Nothing>()
            .gives::<wire::Maintenance>(200, "The mode.")
            .led(),
        post("/api/maintenance/disable", OPERATE, "Tasks are accepted and assigned again.")
            .may_take::<Nothing>()
            .gives::<wire::Maintenance>(200, "The mode.")
            .led(),
        get("/api/cluster/members", VIEW, "The members of the cluster.")
            .query::<Freshness>()
            .gives::<wire::Members>(200, "Voters first.")
            .refuses(&[Unavailable]),
        post("/api/cluster/members", ADMINISTER, "Takes a node in, as a learner first.")
            .takes::<wire::AddMember>()
            .gives::<wire::MemberChanged>(201, "It was taken in.")
            .gives::<wire::MemberChanged>(200, "It was a member before.")
            .led()
            .refuses(&[InvalidState, ChangePending, UnknownMember]),
        get("/api/cluster/members/{node_id}", VIEW, "One member.")
            .query::<Freshness>()
            .gives::<wire::Member>(200, "The member.")
            .refuses(&[UnknownMember, Unavailable]),
        delete("/api/cluster/members/{node_id}", ADMINISTER, "Takes a member out.")
            .gives::<wire::MemberChanged>(200, "It is out.")
            .led()
            .refuses(&[InvalidState, ChangePending, UnknownMember]),
        post("/api/cluster/transfer", OPERATE, "Moves leadership to another voter.")
            .may_take::<wire::Transfer>()
            .gives::<wire::Leadership>(200, "Who leads now.")
            .led()
            .refuses(&[UnknownMember, InvalidState]),
        get("/api/cluster/can_lose", VIEW, "Does the cluster keep its quorum without that node?")
            .query::<cluster::WithoutNode>()
            .gives::<wire::CanLose>(200, "The verdict and why.")
            .led()
            .refuses(&[UnknownMember]),
        post("/api/leases/{name}", OPERATE, "Takes, renews or gives back a named lease.")
            .takes::<wire::NamedLeaseRequest>()
            .gives::<wire::NamedLease>(200, "It is yours, with its fencing epoch.")
            .led()
            .refuses(&[LeaseHeld]),
    ]
}

fn admin() -> Vec<Endpoint> {
    vec![
        post("/api/admin/step_down", OPERATE, "This node gives up its leadership.")
            .may_take::<Nothing>()
            .gives::<wire::Leadership>(200, "Who leads now.")
            .led()
            .refuses(&[InvalidState]),
        post("/api/admin/rejoin", ADMINISTER, "Lets a failed or removed node begin anew as a new member.")
            .takes::<wire::Rejoin>()
            .gives::<wire::RejoinStarted>(202, "It begins anew, behind this answer.")
            .refuses(&[InvalidState, Unavailable]),
        repair::<repairs::SnapshotTaken>("/api/admin/snapshot", "Takes a snapshot now."),
        repair::<repairs::Rebuilt>("/api/admin/rebuild_db", "Makes this node's database again."),
        repair::<repairs::Verified>("/api/admin/verify", "Checks log, machine and database."),
        repair::<repairs::Cancelled>("/api/admin/cancel_operations", "Ends what takes too long."),
        repair::<repairs::CleanedUp>("/api/admin/cleanup_resources", "Frees what can be freed."),
        post("/api/admin/force_sync", OPERATE, "Replaces this node's state by the majority's.")
            .may_take::<repairs::AdminCall>()
            .gives::<repairs::ForceSyncStarted>(202, "It has begun.")
            .refuses(REPAIR_REFUSALS),
        get("/api/backup", OPERATE, "A consistent archive, streamed.")
            .query::<Freshness>()
            .answers(200, "The archive.", Content::Other("application/octet-stream"))
            .refuses(&[InvalidState, Unavailable, DiskFull]),
        get("/api/config", OPERATE, "The node's config as it counts now, its secrets removed.").answers(
            200,
            "Every key with its value.",
            Content::AnyJson,
        ),
        get("/api/settings", VIEW, "The replicated settings.")
            .query::<Freshness>()
            .gives::<wire::Settings>(200, "Each with its value, default and range.")
            .refuses(&[Unavailable]),
        change_settings(post),
        change_settings(put),
    ]
}

/// What a repair refuses.
const REPAIR_REFUSALS: &[api::ErrorCode] =
    &[InvalidState, StaleEpoch, Unavailable, DiskFull, UnknownOutcome, api::ErrorCode::Validation];

fn repair<T: utoipa::ToSchema>(path: &'static str, summary: &'static str) -> Endpoint {
    post(path, OPERATE, summary)
        .may_take::<repairs::AdminCall>()
        .gives::<T>(200, "What was done.")
        .refuses(REPAIR_REFUSALS)
}

fn change_settings(method: fn(&'static str, super::Allowed, &'static str) -> Endpoint) -> Endpoint {
    method("/api/settings", ADMINISTER, "Changes replicated settings; all that are named or none.")
        .takes_json()
        .gives::<wire::Settings>(200, "The settings now.")
        .led()
}

fn access_and_description() -> Vec<Endpoint> {
    vec![
        post("/api/auth/login", Allowed::Anybody, "A token for a name and its password.")
            .takes::<access::Login>()
            .gives::<access::LoggedIn>(200, "The token.")
            .refuses(&[Unauthorized, RateLimited, InvalidState, Unavailable]),
        get("/api/openapi.json", Allowed::Anybody, "This description.").answers(
            200,
            "An OpenAPI 3.1 document.",
            Content::AnyJson,
        ),
    ]
}

fn peers() -> Vec<Endpoint> {
    use crate::members::join::JOIN_PATH;
    use crate::raft::force_sync::SNAPSHOT_NOW_PATH;
    use crate::raft::founding::{FOUND_PATH, IDENTITY_PATH};
    use crate::raft::history::HISTORY_PATH;
    use crate::raft::snapshots::SNAPSHOT_PATH;
    use crate::raft::transport::CONNECT_PATH;
    vec![
        get(IDENTITY_PATH, Allowed::Peers, "Who this node is.").answers(200, "Its card.", Content::AnyJson),
        post(FOUND_PATH, Allowed::Peers, "Accepts the founding of a cluster.")
            .takes_json()
            .answers(204, "Accepted, durably.", Content::Empty)
            .refuses(&[InvalidState, BodyTooLarge]),
        get(CONNECT_PATH, Allowed::Peers, "Upgrades to frames between peers.")
            .answers(101, "The connection is one of frames now.", Content::Empty)
            .refuses(&[StaleEpoch, InvalidState, Unavailable]),
        post(JOIN_PATH, Allowed::Peers, "Asks to be taken into the cluster.")
            .takes_json()
            .answers(200, "Taken in.", Content::AnyJson)
            .led()
            .refuses(&[InvalidState, ChangePending]),
        post(SNAPSHOT_NOW_PATH, Allowed::Peers, "Has a snapshot taken for a peer.")
            .may_take::<Nothing>()
            .answers(200, "Its name.", Content::AnyJson)
            .refuses(&[InvalidState, Unavailable]),
        get(HISTORY_PATH, Allowed::Peers, "Finished tasks for a peer, as Parquet.")
            .answers(200, "A file.", Content::Other("application/octet-stream"))
            .refuses(&[InvalidState, Unavailable]),
        get(SNAPSHOT_PATH, Allowed::Peers, "A snapshot file.").answers(
            200,
            "The file.",
            Content::Other("application/octet-stream"),
        ),
    ]
}
