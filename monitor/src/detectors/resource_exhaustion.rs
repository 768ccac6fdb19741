//! Resource exhaustion: disk, memory or descriptors near their end.

use super::{FaultKind, Finding, Limits, Window};
use crate::report::bytes;
use crate::snapshot::{ClusterSnapshot, Severity};
use api::cluster::Resources;

/// A finding for each node that was above a limit and is not below its low-water mark again.
pub fn detect(now: &ClusterSnapshot, window: &Window, limits: &Limits) -> Vec<Finding> {
    let low = limits.low_water();
    now.reporting()
        .filter_map(|(node, report)| {
            let name = node.name();
            let is_short = |s: &ClusterSnapshot, limits: &Limits| {
                s.report_of(name).is_some_and(|r| !shortages(&r.resources, limits).is_empty())
            };
            let held = window.latched(
                now,
                limits.confirmations,
                0.0,
                |s| is_short(s, limits),
                |s| is_short(s, &low),
            )?;
            let mut short = shortages(&report.resources, limits);
            if short.is_empty() {
                short = shortages(&report.resources, &low);
                short.iter_mut().for_each(|(severity, text)| {
                    *severity = Severity::Warning;
                    text.push_str(" is its low-water mark");
                });
            }
            let severity = short.iter().map(|(severity, _)| *severity).max().unwrap_or(Severity::Warning);
            let evidence = short.into_iter().map(|(_, text)| text).collect();
            Some(Finding::new(FaultKind::ResourceExhaustion, severity, held, vec![name.to_owned()], evidence))
        })
        .collect()
}

/// What a node is short of.
fn shortages(resources: &Resources, limits: &Limits) -> Vec<(Severity, String)> {
    let mut short = Vec::new();
    let disk = resources.disk_usage;
    if disk >= limits.disk_warn_percent {
        let at_floor = disk >= limits.disk_floor_percent;
        let (severity, limit) = match at_floor {
            true => (Severity::Critical, limits.disk_floor_percent),
            false => (Severity::Warning, limits.disk_warn_percent),
        };
        let free = bytes(resources.disk_free_bytes);
        short.push((severity, format!("disk {disk:.1} % used, {free} free, limit {limit} %")));
    }
    if resources.memory_usage >= limits.memory_percent {
        let used = resources.memory_usage;
        let limit = limits.memory_percent;
        short.push((Severity::Warning, format!("memory {used:.1} % used, limit {limit} %")));
    }
    let fds_percent = resources.open_fds as f64 * 100.0 / resources.max_fds.max(1) as f64;
    if resources.max_fds > 0 && fds_percent >= limits.fds_percent {
        let (open, most) = (resources.open_fds, resources.max_fds);
        short.push((
            Severity::Warning,
            format!("{open} of {most} file descriptors open, limit {} %", limits.fds_percent),
        ));
    }
    short
}
