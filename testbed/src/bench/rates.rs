//! Rates: how many operations a second, how long each, and how much processor time it takes.
//!
//! Every series of a run is measured once, then the next run begins, so that the runs of two series
//! stand beside each other in time.

use super::etcd::Etcd;
use super::http_limit::HttpLimit;
use super::raw::{self, NUMBER, Request};
use super::report::{Run, Series};
use super::sample::{Processor, Sample};
use super::{
    Arguments, Case, ETCD_GRPC, ETCD_HTTP, Findings, HOLDFAST, HTTP_LIMIT, LEADER_LIMIT, WARM_UP, batch_body,
    body, grpc, mass, pids,
};
use crate::{Cluster, Error};
use api::task::Submitted;
use std::time::Duration;

/// Tasks in one request of the case `batches`.
const BATCH_TASKS: u64 = 100;
/// Bytes of the value that is put into etcd.
const VALUE_BYTES: usize = 256;
/// Sizes of cluster that the case `nodes` compares.
const SIZES: [usize; 3] = [1, 3, 5];

/// What is sent to whom.
pub(super) enum Load {
    Http { requests: Vec<Request>, expected: u16 },
    Grpc { addresses: Vec<String>, call: grpc::Call },
}

impl Load {
    pub(super) fn post(address: &str, path: &str, body: &str, expected: u16) -> Load {
        Load::Http { requests: vec![Request::post(address, path, body)], expected }
    }

    fn get(addresses: &[String], path: &str) -> Load {
        Load::Http { requests: addresses.iter().map(|a| Request::get(a, path)).collect(), expected: 200 }
    }

    async fn run(&self, clients: usize, duration: Duration) -> Result<Sample, Error> {
        match self {
            Load::Http { requests, expected } => raw::load(requests, *expected, clients, duration).await,
            Load::Grpc { addresses, call } => grpc::load(addresses, call, clients, duration).await,
        }
    }
}

/// One series to be measured.
pub(super) struct Shot {
    subject: &'static str,
    case: String,
    clients: usize,
    /// Operations in one request.
    weight: u64,
    load: Load,
    /// The processes whose time counts.
    pids: Vec<u32>,
}

impl Shot {
    pub(super) fn new(
        subject: &'static str,
        case: impl Into<String>,
        clients: usize,
        pids: &[u32],
        load: Load,
    ) -> Shot {
        Shot { subject, case: case.into(), clients, weight: 1, load, pids: pids.to_vec() }
    }

    /// True where an acknowledgement is a task of ours.
    fn makes_tasks(&self) -> bool {
        self.subject == HOLDFAST && self.case.starts_with("write")
    }
}

/// Measures in turns. Gives the tasks that were acknowledged.
pub(super) async fn in_turns(
    shots: &[Shot],
    arguments: &Arguments,
    series: &mut Vec<Series>,
) -> Result<u64, Error> {
    let mut runs: Vec<Vec<Run>> = shots.iter().map(|_| Vec::new()).collect();
    let mut acknowledged = 0;
    for round in 1..=arguments.runs {
        for (shot, runs) in shots.iter().zip(&mut runs) {
            let warm = shot.load.run(shot.clients, WARM_UP.min(arguments.duration())).await?;
            let before = Processor::used(&shot.pids);
            let sample = shot.load.run(shot.clients, arguments.duration()).await?;
            let run = Run::of(&sample, Processor::used(&shot.pids).since(before), shot.weight);
            if shot.makes_tasks() {
                acknowledged += (warm.acknowledged + sample.acknowledged) * shot.weight;
            }
            println!(
                "run {round} of {}: {}, {}, {} clients: {:.0} a second, {:.1} us of processor time each",
                arguments.runs, shot.subject, shot.case, shot.clients, run.per_second, run.cpu_us
            );
            runs.push(run);
        }
    }
    series.extend(
        shots.iter().zip(runs).map(|(shot, runs)| Series::of(shot.subject, &shot.case, shot.clients, runs)),
    );
    Ok(acknowledged)
}

/// Writes, batches and reads of one cluster, beside the HTTP limit and etcd.
pub async fn measure(arguments: &Arguments, findings: &mut Findings) -> Result<(), Error> {
    println!("starting {} coordinators", arguments.nodes);
    let cluster = Cluster::start(arguments.nodes).await?;
    mass::make_room(&cluster).await?;
    let limit = HttpLimit::start(cluster.folder()).await?;
    let etcd = match arguments.peers {
        true => Some(Etcd::start(arguments.nodes).await?),
        false => None,
    };
    let leader = cluster.place(cluster.leader(LEADER_LIMIT).await?).address();
    let own = pids(&cluster);
    let mut acknowledged = 0;
    if arguments.wants(Case::Writes) {
        let mut shots = Vec::new();
        for clients in arguments.clients.iter().copied() {
            shots.extend(writes(clients, &leader, &own, &limit, etcd.as_ref()));
        }
        acknowledged += in_turns(&shots, arguments, &mut findings.series).await?;
    }
    if arguments.wants(Case::Batches) {
        let load = |address: &str| Load::post(address, "/api/tasks/batch", &batch_body(BATCH_TASKS), 201);
        let shots: Vec<Shot> = [1, 16]
            .map(|clients| Shot {
                weight: BATCH_TASKS,
                ..Shot::new(
                    HOLDFAST,
                    format!("write, batches of {BATCH_TASKS}"),
                    clients,
                    &own,
                    load(&leader),
                )
            })
            .into();
        acknowledged += in_turns(&shots, arguments, &mut findings.series).await?;
    }
    if arguments.wants(Case::Reads) {
        let (id, made) = one_task(&leader).await?;
        acknowledged += made;
        let mut shots = Vec::new();
        for clients in arguments.clients.iter().copied() {
            shots.extend(reads(clients, &id, &leader, &cluster, &limit, etcd.as_ref()));
        }
        in_turns(&shots, arguments, &mut findings.series).await?;
    }
    findings.count(&cluster, acknowledged).await
}

fn writes(clients: usize, leader: &str, own: &[u32], limit: &HttpLimit, etcd: Option<&Etcd>) -> Vec<Shot> {
    let submit = |address: &str| Load::post(address, "/api/tasks", &body(), 201);
    let mut shots = vec![
        Shot::new(HTTP_LIMIT, "write", clients, &[limit.pid()], submit(&limit.address)),
        Shot::new(HOLDFAST, "write", clients, own, submit(leader)),
    ];
    if let Some(etcd) = etcd {
        let first = &etcd.addresses()[0];
        let put = grpc::Call::Put { value_bytes: VALUE_BYTES };
        let load = Load::Grpc { addresses: vec![first.clone()], call: put };
        shots.push(Shot::new(ETCD_GRPC, "write", clients, &etcd.pids(), load));
        // Digits are base64 too: the counted number is a key of twelve bytes.
        let value = "eHh4".repeat(VALUE_BYTES / 3 + 1);
        let json = format!(r#"{{"key":"{NUMBER}","value":"{value}"}}"#);
        let load = Load::post(first, "/v3/kv/put", &json, 200);
        shots.push(Shot::new(ETCD_HTTP, "write", clients, &etcd.pids(), load));
    }
    shots
}

fn reads(
    clients: usize,
    id: &str,
    leader: &str,
    cluster: &Cluster,
    limit: &HttpLimit,
    etcd: Option<&Etcd>,
) -> Vec<Shot> {
    let own = pids(cluster);
    let path = |query: &str| format!("/api/tasks/{id}{query}");
    let all = cluster.addresses();
    let one = [leader.to_owned()];
    let local = path("?consistency=local");
    let mut shots = vec![
        Shot::new(
            HTTP_LIMIT,
            "read",
            clients,
            &[limit.pid()],
            Load::get(std::slice::from_ref(&limit.address), &path("")),
        ),
        Shot::new(HOLDFAST, "read, local", clients, &own, Load::get(&all, &local)),
        Shot::new(HOLDFAST, "read, linearizable", clients, &own, Load::get(&all, &path(""))),
        Shot::new(HOLDFAST, "read, linearizable, leader only", clients, &own, Load::get(&one, &path(""))),
    ];
    if let Some(etcd) = etcd {
        for (case, serializable) in [("read, local", true), ("read, linearizable", false)] {
            let call = grpc::Call::Range { serializable };
            let load = Load::Grpc { addresses: etcd.addresses().to_vec(), call };
            shots.push(Shot::new(ETCD_GRPC, case, clients, &etcd.pids(), load));
        }
    }
    shots
}

/// Makes the task that is read. Gives its id, and that it is one.
async fn one_task(leader: &str) -> Result<(String, u64), Error> {
    let mut connection = raw::Connection::open(leader).await?;
    let status = connection.post("/api/tasks", &body()).await?;
    let answer: Result<Submitted, _> = serde_json::from_slice(connection.body());
    match answer {
        Ok(submitted) if status == 201 => Ok((submitted.task_id, 1)),
        _ => Err(Error::Http { address: leader.into(), why: format!("{status}: {}", connection.excerpt()) }),
    }
}

/// Writes and reads of clusters of one, three and five nodes.
pub async fn by_nodes(arguments: &Arguments, findings: &mut Findings) -> Result<(), Error> {
    let clients = arguments.clients.iter().copied().max().unwrap_or(1);
    for size in SIZES {
        println!("starting {size} coordinators");
        let cluster = Cluster::start(size).await?;
        mass::make_room(&cluster).await?;
        let leader = cluster.place(cluster.leader(LEADER_LIMIT).await?).address();
        let own = pids(&cluster);
        let (id, made) = one_task(&leader).await?;
        let name = |what: &str| format!("{what}, {size} node{}", if size == 1 { "" } else { "s" });
        let path = format!("/api/tasks/{id}");
        let local = format!("{path}?consistency=local");
        let shots = [
            Shot::new(
                HOLDFAST,
                name("write"),
                clients,
                &own,
                Load::post(&leader, "/api/tasks", &body(), 201),
            ),
            Shot::new(HOLDFAST, name("read, local"), clients, &own, Load::get(&cluster.addresses(), &local)),
            Shot::new(
                HOLDFAST,
                name("read, linearizable"),
                clients,
                &own,
                Load::get(&cluster.addresses(), &path),
            ),
        ];
        let acknowledged = in_turns(&shots, arguments, &mut findings.series).await? + made;
        findings.count(&cluster, acknowledged).await?;
    }
    Ok(())
}
