//! Members, leadership, and whether a node can be spared.

use super::App;
use super::extract::{Id, OptionalJson, Params};
use super::problem::{self, ApiError, ApiResult};
use super::read::Freshness;
use super::tasks::Nothing;
use api::ErrorCode;
use api::cluster::{CanLose, Leadership, Member, Members, PeerStatus, Role, Transfer};
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;

/// A voter whose log is further behind than this can't take another's place at once.
const MAX_LAG_ENTRIES: u64 = 1000;
/// A voter that was silent for longer is not counted on.
const MAX_SILENCE_MS: u64 = 3000;

/// What only the leader answers: it alone knows how far the others are.
pub fn of_the_leader() -> Router<App> {
    Router::new().route("/api/cluster/transfer", post(transfer)).route("/api/cluster/can_lose", get(can_lose))
}

/// What concerns the node asked.
pub fn of_this_node() -> Router<App> {
    Router::new()
        .route("/api/cluster/members", get(members))
        .route("/api/cluster/members/{node_id}", get(member))
        .route("/api/admin/step_down", post(step_down))
}

async fn members(State(app): State<App>, Params(query): Params<Freshness>) -> ApiResult<Json<Members>> {
    app.catch_up(query.consistency, query.min_index).await?;
    Ok(Json(Members { members: all_members(&app) }))
}

async fn member(
    State(app): State<App>,
    Id(node_id): Id,
    Params(query): Params<Freshness>,
) -> ApiResult<Json<Member>> {
    app.catch_up(query.consistency, query.min_index).await?;
    let found = all_members(&app).into_iter().find(|member| member.node_id == node_id);
    found.map(Json).ok_or_else(|| unknown_member(&node_id))
}

fn all_members(app: &App) -> Vec<Member> {
    let leader = app.node.view().leader;
    let (voters, learners) = app.node.members();
    let with_vote = |ids: Vec<String>, voter| ids.into_iter().map(move |id| (id, voter));
    with_vote(voters, true)
        .chain(with_vote(learners, false))
        .map(|(node_id, voter)| Member {
            address: if node_id == app.node.node_id() {
                Some(app.config.address())
            } else {
                app.node.address_of(&node_id)
            },
            leader: leader.as_ref() == Some(&node_id),
            node_id,
            voter,
        })
        .collect()
}

async fn transfer(
    State(app): State<App>,
    OptionalJson(body): OptionalJson<Transfer>,
) -> ApiResult<Json<Leadership>> {
    if let Some(to) = &body.to {
        let (voters, _) = app.node.members();
        if !voters.contains(to) {
            let why = format!("`{to}` is no voter of this cluster; it has {}", voters.join(", "));
            return Err(ApiError::new(ErrorCode::UnknownMember, why));
        }
    }
    give_up(&app, body.to.as_deref()).await
}

/// Never forwarded: it is about the node asked, and another leader has done nothing to deserve it.
async fn step_down(
    State(app): State<App>,
    OptionalJson(Nothing {}): OptionalJson<Nothing>,
) -> ApiResult<Json<Leadership>> {
    let view = app.node.view();
    if view.role != Role::Leader {
        let why = format!("{} is {} and has no leadership to give up", app.node.node_id(), view.role);
        return Err(ApiError::new(ErrorCode::InvalidState, why).with_leader(app.leader_address()));
    }
    give_up(&app, None).await
}

async fn give_up(app: &App, to: Option<&str>) -> ApiResult<Json<Leadership>> {
    app.node.transfer(to).await.map_err(|e| problem::of_proposal(&e, app.leader_address()))?;
    let view = app.node.view();
    Ok(Json(Leadership { leader: view.leader, term: view.term }))
}

/// Query of `can_lose`.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct WithoutNode {
    node: String,
}

async fn can_lose(State(app): State<App>, Params(query): Params<WithoutNode>) -> ApiResult<Json<CanLose>> {
    // Whoever believes to lead without leading must not say who can be spared.
    app.catch_up(super::read::Consistency::Linearizable, None).await?;
    let (voters, learners) = app.node.members();
    let last_index = app.node.view().last_index;
    judge_loss(&query.node, app.node.node_id(), &voters, &learners, &app.node.peers(), last_index)
        .map(Json)
        .ok_or_else(|| unknown_member(&query.node))
}

fn unknown_member(node_id: &str) -> ApiError {
    ApiError::new(ErrorCode::UnknownMember, format!("`{node_id}` is no member of this cluster"))
}

/// PURE. Does the cluster keep its quorum without `node`? None where that is no member.
///
/// Counted on are the leader itself and the voters that answer it and are nearly caught up.
pub fn judge_loss(
    node: &str,
    leader: &str,
    voters: &[String],
    learners: &[String],
    peers: &[PeerStatus],
    last_index: u64,
) -> Option<CanLose> {
    let verdict = |can_lose, why| Some(CanLose { node: node.to_owned(), can_lose, why });
    if learners.iter().any(|id| id == node) {
        return verdict(true, format!("{node} is a learner and has no vote"));
    }
    if !voters.iter().any(|id| id == node) {
        return None;
    }
    let sound = |id: &&String| {
        let answers = |peer: &PeerStatus| {
            peer.reachable && peer.last_contact_ms.is_some_and(|silent_ms| silent_ms <= MAX_SILENCE_MS)
        };
        let near = |peer: &PeerStatus| {
            peer.match_index.is_some_and(|index| last_index.saturating_sub(index) <= MAX_LAG_ENTRIES)
        };
        **id == leader || peers.iter().any(|peer| peer.node_id == **id && answers(peer) && near(peer))
    };
    let quorum = voters.len() / 2 + 1;
    let left: Vec<&str> = voters.iter().filter(sound).map(String::as_str).filter(|id| *id != node).collect();
    let names = if left.is_empty() { "none".to_owned() } else { left.join(", ") };
    let why = format!(
        "without {node}, {} of {} voters are up and caught up ({names}); a quorum is {quorum}",
        left.len(),
        voters.len()
    );
    verdict(left.len() >= quorum, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(node_id: &str, reachable: bool, match_index: u64) -> PeerStatus {
        PeerStatus {
            node_id: node_id.into(),
            address: format!("{node_id}:8080"),
            reachable,
            last_contact_ms: Some(20),
            rtt_ms: Some(0.2),
            match_index: Some(match_index),
            clock_offset_ms: None,
            error: None,
        }
    }

    fn judge(node: &str, peers: &[PeerStatus]) -> Option<CanLose> {
        let voters = ["n1", "n2", "n3"].map(str::to_owned);
        judge_loss(node, "n1", &voters, &["n4".to_owned()], peers, 5000)
    }

    #[test]
    fn one_of_three_can_be_lost_while_the_others_are_sound() {
        let peers = [peer("n2", true, 5000), peer("n3", true, 4500)];
        for node in ["n1", "n2", "n3"] {
            assert!(judge(node, &peers).unwrap().can_lose, "{node}");
        }
    }

    #[test]
    fn a_second_one_can_not() {
        let peers = [peer("n2", true, 5000), peer("n3", false, 5000)];
        let verdict = judge("n2", &peers).unwrap();
        assert!(!verdict.can_lose);
        assert!(
            verdict.why.contains("1 of 3 voters") && verdict.why.contains("a quorum is 2"),
            "{}",
            verdict.why
        );
        assert!(!judge("n1", &peers).unwrap().can_lose);
        assert!(judge("n3", &peers).unwrap().can_lose, "the one that is down already");
    }

    #[test]
    fn a_voter_far_behind_or_silent_is_not_counted_on() {
        assert!(!judge("n2", &[peer("n2", true, 5000), peer("n3", true, 100)]).unwrap().can_lose);
        let mut silent = peer("n3", true, 5000);
        silent.last_contact_ms = Some(10_000);
        assert!(!judge("n2", &[peer("n2", true, 5000), silent]).unwrap().can_lose);
    }

    #[test]
    fn a_learner_can_always_be_lost_and_a_stranger_is_unknown() {
        assert!(judge("n4", &[]).unwrap().can_lose);
        assert!(judge("n10", &[]).is_none(), "n10 is not n1");
    }

    #[test]
    fn a_cluster_of_one_cant_lose_its_node() {
        let verdict = judge_loss("n1", "n1", &["n1".to_owned()], &[], &[], 5).unwrap();
        assert!(!verdict.can_lose, "{}", verdict.why);
    }
}
