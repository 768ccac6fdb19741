//! Finished history between peers: one node gives its tables as Parquet, the other takes in what
//! it lacks.
//!
//! The machine's snapshot holds only what still lives in memory. What left memory is in every
//! node's database, and a database that was rebuilt gets it from a peer: table by table, slice by
//! slice, each with its hash. A slice that did not come is asked for again; the note that history
//! is missing lies beside the database until all of it came, so that a restart goes on with it.
//! Rows that are there already are left out, so that nothing is doubled, whatever is repeated.

use super::peer_http::{HASH_HEADER, PeerHttp};
use crate::http::extract::{Id, Params};
use crate::integrity::{Integrity, Part};
use crate::node::Node;
use crate::store::Store;
use api::ErrorCode;
use api::cluster::PartHealth;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::routing::get;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The path under which peers fetch history.
pub const HISTORY_PATH: &str = "/raft/history/{table}";
/// The slice holds the rows up to this log index.
const UPTO_HEADER: &str = "holdfast-upto";
/// `true` where more follow.
const MORE_HEADER: &str = "holdfast-more";
/// Version of the columns.
const SCHEMA_HEADER: &str = "holdfast-schema";
/// A slice as a file is not larger: its rows and their text are bounded, one entry's too.
const SLICE_FILE_BYTES: u64 = 1 << 30;
/// Slices that are made at once.
const MAKING: usize = 2;
/// How long a slice may wait for this node's writer.
const IMPORT_LIMIT: Duration = Duration::from_secs(120);
/// Between two looks whether history is wanted.
const LOOK: Duration = Duration::from_millis(500);
/// After a peer could not give it.
const RETRY: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Giver {
    store: Arc<Store>,
    folder: PathBuf,
    turns: Arc<tokio::sync::Semaphore>,
}

/// What a node gives. `folder` holds files while they are sent.
pub fn router(store: Arc<Store>, folder: PathBuf) -> axum::Router {
    let turns = Arc::new(tokio::sync::Semaphore::new(MAKING));
    axum::Router::new().route(HISTORY_PATH, get(give)).with_state(Giver { store, folder, turns })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SliceQuery {
    #[serde(default)]
    after: u64,
}

async fn give(
    State(giver): State<Giver>,
    Id(table): Id,
    Params(query): Params<SliceQuery>,
) -> Response<Body> {
    let Ok(turn) = Arc::clone(&giver.turns).try_acquire_owned() else {
        return refuse(ErrorCode::Overloaded, "other peers are being given history; ask again".into());
    };
    let made = tokio::task::spawn_blocking(move || {
        let scratch = Scratch::new(&giver.folder)?;
        let slice = giver
            .store
            .export_slice(&table, query.after, u64::MAX, &scratch.path)
            .map_err(|e| e.to_string())?;
        let bytes = std::fs::read(&scratch.path).map_err(|e| format!("{}: {e}", scratch.path.display()))?;
        drop(turn);
        Ok::<_, String>((slice, bytes))
    });
    match made.await {
        Ok(Ok((slice, bytes))) => {
            let hash = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&bytes));
            let mut response = Response::new(Body::from(bytes));
            let headers = response.headers_mut();
            for (name, value) in [
                (HASH_HEADER, hash),
                (UPTO_HEADER, slice.upto.to_string()),
                (MORE_HEADER, slice.more.to_string()),
                (SCHEMA_HEADER, Store::tables().1.to_string()),
            ] {
                if let Ok(value) = HeaderValue::from_str(&value) {
                    headers.insert(name, value);
                }
            }
            response
        }
        Ok(Err(why)) => refuse(ErrorCode::Unavailable, why),
        Err(e) => refuse(ErrorCode::Internal, e.to_string()),
    }
}

fn refuse(code: ErrorCode, why: String) -> Response<Body> {
    let problem = api::Problem::new(code, why);
    let mut response = Response::new(Body::from(serde_json::to_vec(&problem).unwrap_or_default()));
    *response.status_mut() = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let kind = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A file that goes with its last use.
pub(crate) struct Scratch {
    /// Where it lies.
    pub(crate) path: PathBuf,
}

impl Scratch {
    /// A name in `folder` that nobody else has.
    pub(crate) fn new(folder: &Path) -> Result<Scratch, String> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        std::fs::create_dir_all(folder).map_err(|e| format!("can't make {}: {e}", folder.display()))?;
        let name = format!("{}-{}.parquet", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Ok(Scratch { path: folder.join(name) })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Takes in a peer's history whenever this node's was rebuilt. Runs as long as the node.
pub async fn import_when_wanted(node: Node, store: Arc<Store>, folder: PathBuf, integrity: Integrity) {
    // What a crash left.
    let left = folder.clone();
    let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(left)).await;
    let mut told = String::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(transport) = node.transport().filter(|_| store.history_wanted() && store.health().healthy)
        else {
            continue;
        };
        let outcome = match node.members().0.len() {
            // Nobody has more than this node.
            1 => complete(&store).map(|()| 0),
            _ => import(&node, &store, &folder, transport.http()).await,
        };
        match outcome {
            Ok(rows) => {
                integrity.forget(Part::Db);
                tracing::info!(rows, "the history that has left memory is whole again");
                told.clear();
            }
            Err(why) => {
                if why != told {
                    tracing::warn!(why, "history could not be taken in; tried again");
                    told = why;
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

fn complete(store: &Store) -> Result<(), String> {
    store.history_complete().map_err(|e| e.to_string())
}

async fn import(node: &Node, store: &Arc<Store>, folder: &Path, http: &PeerHttp) -> Result<u64, String> {
    let operation =
        node.operation_book().begin_cancellable("history", "looking for a peer with sound history");
    let mut last = "no peer is reachable".to_owned();
    for peer in node.peers().into_iter().filter(|peer| peer.reachable) {
        let health: Result<PartHealth, String> = http.get(&peer.address, "/api/health/db").await;
        match health {
            Ok(health) if health.healthy && health.details.get("history_wanted") != Some(&true.into()) => {}
            Ok(_) => {
                last = format!("the history of {} is not sound itself", peer.node_id);
                continue;
            }
            Err(why) => {
                last = why;
                continue;
            }
        }
        operation.says(format!("taking in the history of {}", peer.node_id));
        let work = import_from(store, folder, http, &peer.address);
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = operation.token().cancelled() => return Err("it was cancelled".into()),
        };
        match outcome {
            Ok(rows) => {
                complete(store)?;
                return Ok(rows);
            }
            Err(why) => last = why,
        }
    }
    Err(last)
}

async fn import_from(
    store: &Arc<Store>,
    folder: &Path,
    http: &PeerHttp,
    address: &str,
) -> Result<u64, String> {
    let mut total = 0;
    let (tables, schema) = Store::tables();
    for table in tables {
        let mut after = 0;
        loop {
            let path = format!("{}?after={after}", HISTORY_PATH.replace("{table}", table));
            let (headers, bytes) = http.hashed(address, &path, SLICE_FILE_BYTES).await?;
            let (upto, more) = slice_of(&headers, schema)?;
            let (store, folder) = (Arc::clone(store), folder.to_owned());
            let taken = tokio::task::spawn_blocking(move || {
                let scratch = Scratch::new(&folder)?;
                std::fs::write(&scratch.path, bytes)
                    .map_err(|e| format!("{}: {e}", scratch.path.display()))?;
                // Rows that this node has yet to write itself would come twice.
                store.wait_for(upto, IMPORT_LIMIT).map_err(|e| e.to_string())?;
                store.import(table, &scratch.path, IMPORT_LIMIT).map_err(|e| e.to_string())
            });
            total += taken.await.map_err(|e| e.to_string())??;
            if !more || upto <= after {
                break;
            }
            after = upto;
        }
    }
    Ok(total)
}

/// What a slice's headers say: up to which index, and whether more follow.
fn slice_of(headers: &HeaderMap, schema: u32) -> Result<(u64, bool), String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if text(SCHEMA_HEADER) != schema.to_string() {
        return Err(format!(
            "the peer's database has schema version `{}`, this one {schema}: bring both to one version of the program",
            text(SCHEMA_HEADER)
        ));
    }
    let upto = text(UPTO_HEADER).parse().map_err(|_| "the slice does not say how far it goes".to_owned())?;
    Ok((upto, text(MORE_HEADER) == "true"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_schema_is_refused_by_name() {
        let mut headers = HeaderMap::new();
        headers.insert(SCHEMA_HEADER, HeaderValue::from_static("2"));
        headers.insert(UPTO_HEADER, HeaderValue::from_static("7"));
        headers.insert(MORE_HEADER, HeaderValue::from_static("true"));
        assert_eq!(slice_of(&headers, 2), Ok((7, true)));
        assert!(slice_of(&headers, 1).unwrap_err().contains("schema version `2`"));
        headers.remove(UPTO_HEADER);
        assert!(slice_of(&headers, 2).is_err());
    }
}
