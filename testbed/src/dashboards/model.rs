//! What a dashboard is, and how Grafana wants it (the classic model, schema version 42).

use serde_json::{Value, json};

/// The matchers that every selector has.
const MATCHERS: &str = r#"cluster=~"$cluster", job=~"$job", instance=~"$instance""#;
/// Columns of Grafana's grid.
const COLUMNS: u64 = 24;
/// Panels side by side, unless there are fewer.
const PANELS_ABREAST: u64 = 3;
const PANEL_HEIGHT: u64 = 8;
const STAT_HEIGHT: u64 = 4;
const STATS_ABREAST: u64 = 6;

/// A dashboard.
#[derive(Debug, Clone)]
pub struct Board {
    /// Its uid without the prefix, and the name of its file.
    pub name: &'static str,
    /// Its title without the prefix.
    pub title: &'static str,
    /// What it is for.
    pub description: &'static str,
    /// Looks at one instance only.
    pub one_instance: bool,
    /// From top to bottom.
    pub rows: &'static [Row],
}

/// A row of panels.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its title.
    pub title: &'static str,
    /// Folded away at first.
    pub collapsed: bool,
    /// From left to right.
    pub panels: &'static [Panel],
}

/// How a panel looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Lines over time.
    Lines,
    /// One large value.
    Stat,
    /// Which state each thing was in, over time: 0 or 1.
    States,
}

/// When a value is shown in red.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Alarm {
    /// Never: no value is bad by itself.
    Never,
    /// From this value on.
    From(f64),
    /// Below this value.
    Below(f64),
}

/// A panel.
#[derive(Debug, Clone)]
pub struct Panel {
    /// Its title.
    pub title: &'static str,
    /// What it tells, and what is normal.
    pub description: &'static str,
    /// Grafana's name of the unit.
    pub unit: &'static str,
    /// How it looks.
    pub look: Look,
    /// When it is bad.
    pub alarm: Alarm,
    /// What it shows.
    pub queries: &'static [Query],
}

/// PromQL with `$m` for the matchers, and the legend; an empty one is Grafana's own.
pub type Query = (&'static str, &'static str);

/// Lines over time.
pub(super) const fn lines(
    title: &'static str,
    unit: &'static str,
    description: &'static str,
    queries: &'static [Query],
) -> Panel {
    Panel { look: Look::Lines, alarm: Alarm::Never, title, unit, description, queries }
}

/// One large value.
pub(super) const fn stat(
    title: &'static str,
    unit: &'static str,
    description: &'static str,
    queries: &'static [Query],
) -> Panel {
    Panel { look: Look::Stat, alarm: Alarm::Never, title, unit, description, queries }
}

/// What was so (1) and what not (0), over time.
pub(super) const fn states(
    title: &'static str,
    description: &'static str,
    queries: &'static [Query],
) -> Panel {
    Panel { look: Look::States, alarm: Alarm::Never, title, unit: "short", description, queries }
}

impl Panel {
    /// The same, red from this value on.
    pub(super) const fn red_from(mut self, value: f64) -> Panel {
        self.alarm = Alarm::From(value);
        self
    }

    /// The same, red below this value.
    pub(super) const fn red_below(mut self, value: f64) -> Panel {
        self.alarm = Alarm::Below(value);
        self
    }
}

/// A row that is open.
pub(super) const fn row(title: &'static str, panels: &'static [Panel]) -> Row {
    Row { title, collapsed: false, panels }
}

/// A row that is folded away at first.
pub(super) const fn folded(title: &'static str, panels: &'static [Panel]) -> Row {
    Row { title, collapsed: true, panels }
}

/// A query as Prometheus gets it, but for Grafana's variables.
pub fn full(expression: &str) -> String {
    expression.replace("$m", MATCHERS)
}

/// When leaders changed.
const LEADER_CHANGES: &str = "increase(holdfast_raft_leader_changes_total{$m}[$__rate_interval]) > 0";
/// When the recovery daemon last acted, as milliseconds.
const REPAIRS: &str = "(holdfast_recovery_last_action_timestamp_seconds{$m} > 0) * 1000";

/// The queries of the marks on every chart.
pub fn annotation_queries() -> [String; 2] {
    [full(LEADER_CHANGES), full(REPAIRS)]
}

impl Board {
    /// Name of its file.
    pub fn file(&self) -> String {
        format!("{}.json", self.name)
    }

    /// What the file holds.
    pub fn text(&self) -> String {
        format!("{:#}\n", self.json())
    }

    fn json(&self) -> Value {
        json!({
            "id": null,
            "uid": format!("holdfast-{}", self.name),
            "title": format!("Holdfast / {}", self.title),
            "description": self.description,
            "tags": ["holdfast"],
            "schemaVersion": 42,
            "version": 1,
            "editable": false,
            "graphTooltip": 1,
            "timezone": "browser",
            "refresh": "10s",
            "time": {"from": "now-1h", "to": "now"},
            "timepicker": {},
            "fiscalYearStartMonth": 0,
            "links": [{
                "title": "Holdfast",
                "type": "dashboards",
                "tags": ["holdfast"],
                "asDropdown": false,
                "includeVars": true,
                "keepTime": true,
                "targetBlank": false,
                "icon": "external link",
                "tooltip": "The other dashboards, at the same time and for the same nodes",
                "url": "",
            }],
            "annotations": {"list": annotations()},
            "templating": {"list": self.variables()},
            "panels": self.panels(),
        })
    }

    fn variables(&self) -> Value {
        let label = |name: &str, title: &str, matchers: &str, every: bool| {
            let query = format!("label_values(holdfast_build_info{{{matchers}}}, {name})");
            let mut variable = json!({
                "name": name,
                "label": title,
                "type": "query",
                "datasource": datasource(),
                "query": {"query": query, "refId": format!("{name}-values"), "qryType": 1},
                "refresh": 2,
                "sort": 1,
                "multi": every,
                "includeAll": every,
                "hide": 0,
                "skipUrlSync": false,
                "regex": "",
                "options": [],
            });
            if every {
                // A series without the label is one of "all", too.
                variable["allValue"] = json!(".*");
                variable["current"] = json!({"text": ["All"], "value": ["$__all"]});
            }
            variable
        };
        json!([
            {
                "name": "datasource",
                "label": "Data source",
                "type": "datasource",
                "query": "prometheus",
                "refresh": 1,
                "multi": false,
                "includeAll": false,
                "hide": 0,
                "skipUrlSync": false,
                "regex": "",
                "options": [],
            },
            label("cluster", "Cluster", "", true),
            label("job", "Job", r#"cluster=~"$cluster""#, true),
            label("instance", "Instance", r#"cluster=~"$cluster", job=~"$job""#, !self.one_instance),
        ])
    }

    /// Places rows below one another, panels side by side.
    fn panels(&self) -> Vec<Value> {
        let (mut all, mut y, mut id) = (Vec::new(), 0, 0);
        for row in self.rows {
            id += 1;
            let mut head = json!({
                "id": id,
                "type": "row",
                "title": row.title,
                "collapsed": row.collapsed,
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
                "panels": [],
            });
            y += 1;
            let placed = place(row.panels, &mut y, &mut id);
            if row.collapsed {
                head["panels"] = Value::from(placed);
                all.push(head);
            } else {
                all.push(head);
                all.extend(placed);
            }
        }
        all
    }
}

fn place(panels: &[Panel], y: &mut u64, id: &mut u64) -> Vec<Value> {
    let (mut placed, mut x, mut line_height) = (Vec::new(), 0, 0);
    for panel in panels {
        let (abreast, height) = match panel.look {
            Look::Stat => (STATS_ABREAST, STAT_HEIGHT),
            Look::Lines | Look::States => (PANELS_ABREAST, PANEL_HEIGHT),
        };
        let width = COLUMNS / abreast.min(panels.len() as u64).max(2);
        if x + width > COLUMNS || (line_height > 0 && height != line_height) {
            (x, *y) = (0, *y + line_height);
        }
        line_height = height;
        *id += 1;
        placed.push(panel.json(*id, json!({"x": x, "y": *y, "w": width, "h": height})));
        x += width;
    }
    *y += line_height;
    placed
}

impl Panel {
    fn json(&self, id: u64, place: Value) -> Value {
        let letters = ('A'..='Z').map(String::from);
        let targets: Vec<Value> = self
            .queries
            .iter()
            .zip(letters)
            .map(|((expression, legend), letter)| {
                json!({
                    "refId": letter,
                    "datasource": datasource(),
                    "editorMode": "code",
                    "expr": full(expression),
                    "legendFormat": if legend.is_empty() { "__auto" } else { *legend },
                    "range": true,
                    "instant": false,
                })
            })
            .collect();
        json!({
            "id": id,
            "type": self.look.plugin(),
            "title": self.title,
            "description": self.description,
            "datasource": datasource(),
            "gridPos": place,
            "fieldConfig": {"defaults": self.defaults(), "overrides": []},
            "options": self.look.options(),
            "targets": targets,
        })
    }

    fn defaults(&self) -> Value {
        match self.look {
            Look::Lines => json!({
                "unit": self.unit,
                "custom": {"lineWidth": 1, "fillOpacity": 8, "showPoints": "never", "spanNulls": false},
            }),
            Look::Stat => json!({
                "unit": self.unit,
                "color": {"mode": "thresholds"},
                "thresholds": {"mode": "absolute", "steps": self.steps()},
            }),
            Look::States => json!({
                "unit": self.unit,
                "custom": {"lineWidth": 0, "fillOpacity": 80},
                "mappings": [{"type": "value", "options": self.words()}],
            }),
        }
    }

    /// Colours of a value, from the lowest up.
    fn steps(&self) -> Value {
        match self.alarm {
            Alarm::Never => json!([{"color": "text", "value": null}]),
            Alarm::From(value) => {
                json!([{"color": "green", "value": null}, {"color": "red", "value": value}])
            }
            Alarm::Below(value) => {
                json!([{"color": "red", "value": null}, {"color": "green", "value": value}])
            }
        }
    }

    /// Words and colours of 0 and 1.
    fn words(&self) -> Value {
        let (no, yes) = match self.alarm {
            Alarm::Never => ("transparent", "blue"),
            Alarm::From(_) => ("green", "red"),
            Alarm::Below(_) => ("red", "green"),
        };
        json!({
            "0": {"text": "no", "color": no, "index": 0},
            "1": {"text": "yes", "color": yes, "index": 1},
        })
    }
}

impl Look {
    fn plugin(self) -> &'static str {
        match self {
            Look::Lines => "timeseries",
            Look::Stat => "stat",
            Look::States => "state-timeline",
        }
    }

    fn options(self) -> Value {
        match self {
            Look::Lines => json!({
                "legend": {"displayMode": "table", "placement": "bottom", "showLegend": true, "calcs": ["lastNotNull", "max"]},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }),
            Look::Stat => json!({
                "colorMode": "value",
                "graphMode": "area",
                "justifyMode": "auto",
                "orientation": "auto",
                "percentChangeColorMode": "standard",
                "showPercentChange": false,
                "wideLayout": true,
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": false},
                "textMode": "auto",
            }),
            Look::States => json!({
                "alignValue": "left",
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": []},
                "mergeValues": true,
                "rowHeight": 0.9,
                "showValue": "never",
                "tooltip": {"mode": "single", "sort": "none"},
            }),
        }
    }
}

fn datasource() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

/// Leader changes and repairs, as marks on every chart.
fn annotations() -> Value {
    let mark = |name: &str, color: &str, expression: &str, title: &str, value_is_time: bool| {
        json!({
            "name": name,
            "datasource": datasource(),
            "enable": true,
            "hide": false,
            "iconColor": color,
            "target": {"refId": "Anno", "expr": full(expression), "interval": "10s"},
            "titleFormat": title,
            "tagKeys": "instance",
            "useValueForTime": value_is_time,
        })
    };
    json!([
        mark("Leader changes", "orange", LEADER_CHANGES, "leader changed", false,),
        mark("Repairs", "blue", REPAIRS, "repair step", true,),
    ])
}
