//! PURE. Who hears whom.

use super::format;
use crate::report::{Span, shorten};
use crate::snapshot::{ClusterSnapshot, Hearing, Link, NodeView};
use web::fragments::{LinkCell, LinkRow, Links, Mark, Tone};

/// Clock offsets from which a cell names them, milliseconds.
const OFFSET_SHOWN_MS: i64 = 50;
/// Round trips up to which a link is as short as any, milliseconds; each step is so many times
/// longer.
const SHORT_MS: f64 = 1.0;
const STEP: f64 = 5.0;
/// Silent links that the sentence names.
const NAMED_SILENT: usize = 3;

/// Nodes that the matrix shows; of more, it shows voters.
const MAX_SHOWN: usize = 16;

/// The matrix.
pub(super) fn links(snapshot: &ClusterSnapshot) -> Links {
    let shown = shown(snapshot);
    let rows = shown.iter().map(|from| LinkRow {
        from: from.name().to_owned(),
        cells: shown.iter().map(|to| cell(snapshot, from, to)).collect(),
    });
    Links {
        summary: summary(snapshot),
        rows: rows.collect(),
        columns: shown.iter().map(|n| n.name().to_owned()).collect(),
    }
}

/// The nodes whose links are shown.
pub(super) fn shown(snapshot: &ClusterSnapshot) -> Vec<&NodeView> {
    match snapshot.nodes.len() > MAX_SHOWN {
        true => {
            let voters = snapshot.nodes.iter().filter(|node| snapshot.is_voter(node.name()));
            voters.take(MAX_SHOWN).collect()
        }
        false => snapshot.nodes.iter().collect(),
    }
}

fn summary(snapshot: &ClusterSnapshot) -> Mark {
    let silent: Vec<&Link> = snapshot.links.iter().filter(|l| l.hearing == Hearing::Silent).collect();
    let unknown = snapshot.links.iter().filter(|l| l.hearing == Hearing::Unknown).count();
    if !silent.is_empty() {
        let named: Vec<String> =
            silent.iter().take(NAMED_SILENT).map(|l| format!("{} does not hear {}", l.from, l.to)).collect();
        let more = silent.len().saturating_sub(NAMED_SILENT);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        return Mark::new(Tone::Bad, format!("{}{more}", named.join(", ")));
    }
    if unknown > 0 {
        let text = format!("{unknown} of {} links are not spoken of", snapshot.links.len());
        return Mark::new(Tone::Warn, text);
    }
    let longest = snapshot.links.iter().filter_map(|l| Some((l.rtt_ms?, l)));
    match longest.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((rtt, link)) => {
            let rtt = format::milliseconds(rtt);
            let text = format!(
                "all hear each other, the longest round trip is {rtt} ({} to {})",
                link.from, link.to
            );
            Mark::new(Tone::Good, text)
        }
        None if snapshot.links.is_empty() => Mark::new(Tone::Idle, "one node alone has nobody to hear"),
        None => Mark::new(Tone::Good, "all hear each other"),
    }
}

/// How long a round trip is: 1 up to [`SHORT_MS`], and one more for each [`STEP`] times.
fn heat(rtt_ms: f64) -> u8 {
    let steps = [SHORT_MS, SHORT_MS * STEP, SHORT_MS * STEP * STEP];
    1 + steps.iter().filter(|limit| rtt_ms > **limit).count() as u8
}

/// What one node hears of another.
pub(super) fn cell(snapshot: &ClusterSnapshot, from: &NodeView, to: &NodeView) -> LinkCell {
    let name = to.name().to_owned();
    let cell = |mark, detail, heat| LinkCell { to: name.clone(), mark, detail, heat };
    if from.address == to.address {
        return cell(None, String::new(), 0);
    }
    let unsaid = || cell(Some(Mark::new(Tone::Idle, "not said")), String::new(), 0);
    let Some(link) = snapshot.link(from.name(), to.name()) else { return unsaid() };
    match link.hearing {
        Hearing::Hears => {
            let rtt = link.rtt_ms.map_or("hears".to_owned(), format::milliseconds);
            let detail = offset(from, to).unwrap_or_default();
            cell(Some(Mark::new(Tone::Good, rtt)), detail, link.rtt_ms.map_or(1, heat))
        }
        Hearing::Silent => {
            let silence = link.last_contact_ms.map(|ms| format!("last {} ago", Span(ms as f64 / 1_000.0)));
            let detail = silence.or_else(|| link.error.as_deref().map(|e| shorten(e, 60)));
            cell(Some(Mark::new(Tone::Bad, "silent")), detail.unwrap_or_default(), 0)
        }
        Hearing::Unknown => unsaid(),
    }
}

/// The other's clock, where it is off.
fn offset(from: &NodeView, to: &NodeView) -> Option<String> {
    let peers = &from.report.as_ref()?.status.peers;
    let offset = peers.iter().find(|peer| peer.node_id == to.name())?.clock_offset_ms?;
    (offset.abs() >= OFFSET_SHOWN_MS).then(|| format!("clock {offset:+} ms"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detectors::fixture::Scene;

    #[test]
    fn the_matrix_speaks_of_the_longest_way_or_of_silence() {
        let (snapshot, _) = Scene::new(3).round(|_| {});
        let whole = links(&snapshot);
        assert_eq!(whole.summary.tone, Tone::Good);
        assert!(whole.summary.text.starts_with("all hear each other, the longest"), "{}", whole.summary.text);
        let (snapshot, _) = Scene::new(3).round(|a| {
            a.kill(3);
        });
        let cut = links(&snapshot);
        assert_ne!(cut.summary.tone, Tone::Good);
    }

    #[test]
    fn of_many_nodes_the_voters_are_shown() {
        let (snapshot, _) = Scene::new(40).round(|a| {
            for n in 1..=40 {
                a.report(n).status.voters.truncate(5);
            }
        });
        let shown = links(&snapshot);
        assert_eq!((shown.columns.len(), shown.rows.len(), shown.rows[0].cells.len()), (5, 5, 5));
        assert_eq!(snapshot.links.len(), 40 * 39, "what nodes say of one another is all there");
    }

    #[test]
    fn longer_ways_are_darker() {
        assert_eq!([0.2, 1.0, 3.0, 20.0, 300.0].map(heat), [1, 1, 2, 3, 4]);
    }
}
