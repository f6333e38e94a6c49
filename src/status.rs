//! What the cluster is doing, as far as it can be reached, and said no better than it is known.
//!
//! The epoch and the coordinator shown are those of an *active* view: the server's, or where a
//! node has heard of a newer one (or the server is away), that one. A proposal is shown as one.
//!
//! Every node is shown that anyone names: who answers, the addresses given, the members of the
//! view, the runtime file of a cluster on this machine. All that was found is printed, also where
//! the cluster does not serve; that is told besides, and by the exit code.

use std::path::Path;
use std::time::{Duration, Instant};

use quorate_client::{Client, ClusterStatus, NoServer, NodeReport};
use quorate_protocol::ids::NodeId;
use quorate_protocol::rpc::registry::ServerStatus;
use quorate_protocol::rpc::store::{NodeStatus, Role};
use quorate_protocol::view::View;
use serde_json::{Value as Json, json};

use crate::args::Format;
use crate::exit::Failure;
use crate::output::data;
use crate::up::runtime::Runtime;

/// How long it is waited before a coordinator that changes its view is looked at again.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// One look at the cluster.
pub(crate) struct Snapshot {
    found: ClusterStatus,
    /// The newest active view anyone told of.
    view: Option<View>,
    /// Which process runs at which address, where `quorate up` runs them here.
    runtime: Option<Runtime>,
}

impl Snapshot {
    /// Looks once; whoever does not answer within `patience` is shown as silent. `dir` is where
    /// the runtime file of a cluster on this machine would be.
    ///
    /// A coordinator that is widening or narrowing its own view is seen again in a moment: it does
    /// that within milliseconds, and nobody's health is in doubt.
    pub(crate) async fn take(client: &Client, dir: &Path, patience: Duration) -> Self {
        let deadline = Instant::now() + patience;
        loop {
            let snapshot = Self::take_once(client, dir, patience).await;
            if !snapshot.changes_view() || Instant::now() >= deadline {
                return snapshot;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    async fn take_once(client: &Client, dir: &Path, patience: Duration) -> Self {
        let found = client.status(patience).await;
        // A runtime file that cannot be read only costs the process numbers.
        let runtime = Runtime::read(dir).ok().flatten();
        Self::of(found, runtime)
    }

    fn of(mut found: ClusterStatus, runtime: Option<Runtime>) -> Self {
        let view = newest_view(&found);
        let nodes = runtime.iter().flat_map(|runtime| &runtime.nodes);
        for node in nodes {
            if let Some(why) = found.silent.remove(&node.address)
                && !found.nodes.iter().any(|report| report.node == node.id && node.id.is_some())
            {
                let (node, address) = (node.id, node.address.clone());
                found.nodes.push(NodeReport { node, address, status: Err(why) });
            }
        }
        if found.server.is_ok() {
            // None of them is the server's.
            let silent = std::mem::take(&mut found.silent).into_iter();
            found.nodes.extend(silent.map(|(address, why)| NodeReport {
                node: None,
                address,
                status: Err(why),
            }));
        } else if let Some(NoServer::Silent { why }) = found.server.as_mut().err() {
            // Those of nodes were taken out.
            if !found.silent.is_empty() {
                *why = found.silent.values().cloned().collect::<Vec<_>>().join("; ");
            }
        }
        for node in view.iter().flat_map(|view| view.members.iter()) {
            if !found.nodes.iter().any(|report| report.node == Some(node)) {
                let status = Err("nobody who answers knows where it is".to_owned());
                let (node, address) = (Some(node), String::new());
                found.nodes.push(NodeReport { node, address, status });
            }
        }
        found.nodes.sort_by_key(|report| (report.node.is_none(), report.node));
        Self { found, view, runtime }
    }

    /// Whether anyone answered at all.
    pub(crate) fn reached(&self) -> bool {
        self.found.server.is_ok() || self.found.nodes.iter().any(|node| node.status.is_ok())
    }

    fn check(&self) -> Result<(), Failure> {
        match &self.found.server {
            Err(why) if !self.reached() => {
                Err(Failure::unavailable(format!("nobody answers: {why}")))
            }
            _ => Ok(()),
        }
    }

    /// Whether the coordinator of the active view answers, and serves.
    fn serves(&self) -> bool {
        self.coordinator_is(Role::Coordinator)
    }

    /// Whether the coordinator of the active view answers, and is about to serve.
    fn changes_view(&self) -> bool {
        self.coordinator_is(Role::TakingOver)
    }

    fn coordinator_is(&self, role: Role) -> bool {
        self.view.as_ref().is_some_and(|view| {
            let of_view =
                self.found.nodes.iter().filter(|node| node.node == Some(view.coordinator));
            let mut statuses = of_view.filter_map(|node| node.status.as_ref().ok());
            statuses.any(|status| status.role == role)
        })
    }

    fn check_serves(&self) -> Result<(), Failure> {
        self.check()?;
        let why = match &self.view {
            _ if self.serves() => return Ok(()),
            None => "no view is active".to_owned(),
            Some(view) => format!(
                "{}, which coordinates epoch {}, does not answer or does not serve (yet)",
                view.coordinator, view.epoch.0
            ),
        };
        Err(Failure::unavailable(format!("the cluster does not serve: {why}")))
    }

    /// Prints everything that was found.
    ///
    /// # Errors
    /// When no coordinator of the active view serves, as a check of the cluster's health.
    pub(crate) fn print(&self, format: Format) -> Result<(), Failure> {
        data(
            match format {
                Format::Json => format!("{}\n", self.json()),
                Format::Text => format!("{}\n{}", self.head_text(), self.nodes_text()),
            }
            .as_bytes(),
        )?;
        self.check_serves()
    }

    /// Prints the nodes.
    ///
    /// # Errors
    /// When nobody answered.
    pub(crate) fn print_nodes(&self, format: Format) -> Result<(), Failure> {
        self.check()?;
        data(
            match format {
                Format::Json => format!("{}\n", self.nodes_json()),
                Format::Text => self.nodes_text(),
            }
            .as_bytes(),
        )
    }

    /// Prints who coordinates and who counts.
    ///
    /// # Errors
    /// When nobody answered.
    pub(crate) fn print_view(&self, format: Format) -> Result<(), Failure> {
        self.check()?;
        data(
            match format {
                Format::Json => format!("{}\n", self.view_json()),
                Format::Text => self.view_text(),
            }
            .as_bytes(),
        )
    }

    /// Everything as JSON.
    pub(crate) fn json(&self) -> Json {
        let mut all = self.view_json();
        let server = match &self.found.server {
            Ok((address, server)) => json!({
                "address": address,
                "reachable": true,
                "pid": self.pid(address),
                "proposed": server.proposed.as_ref().map(view_json),
                "reporters": numbers(server.reporters.iter().copied()),
                "waiting_for": server.waiting_for,
            }),
            Err(why) => json!({ "reachable": false, "why": why.to_string() }),
        };
        all["serves"] = json!(self.serves());
        all["cluster"] = json!(self.found.cluster.map(|cluster| cluster.to_string()));
        all["server"] = server;
        all["nodes"] = self.nodes_json();
        all
    }

    fn view_json(&self) -> Json {
        match &self.view {
            Some(view) => view_json(view),
            None => json!({ "epoch": null, "coordinator": null, "members": [] }),
        }
    }

    fn nodes_json(&self) -> Json {
        self.rows().iter().map(Row::json).collect()
    }

    fn server(&self) -> Option<&ServerStatus> {
        self.found.server.as_ref().ok().map(|(_, server)| server)
    }

    fn pid(&self, address: &str) -> Option<u32> {
        self.runtime.as_ref().and_then(|runtime| runtime.pid_at(address))
    }

    fn head_text(&self) -> String {
        let mut text = match self.found.cluster {
            Some(cluster) => format!("cluster {cluster}\n"),
            None => String::new(),
        };
        match &self.found.server {
            Ok((address, _)) => text.push_str(&format!("server  {address}\n")),
            Err(NoServer::NotGiven) => {
                text.push_str("server  not asked: only addresses of nodes were given\n");
            }
            Err(NoServer::Silent { why }) => {
                text.push_str(&format!("server  does not answer: {why}\n"));
                let started = self.runtime.as_ref().map(|runtime| &runtime.server.address);
                if started.is_some_and(|address| self.found.silent.contains_key(address)) {
                    text.push_str("        start it again with: quorate up restart server\n");
                }
            }
        }
        text.push_str(&self.view_text());
        if let Some(server) = self.server() {
            if let Some(view) = &server.proposed {
                text.push_str(&format!(
                    "next    epoch {} under {}, not active yet\n",
                    view.epoch.0, view.coordinator
                ));
            }
            if !server.reporters.is_empty() {
                let who: Vec<_> = server.reporters.iter().map(ToString::to_string).collect();
                text.push_str(&format!(
                    "ballot  the coordinator is reported by {}\n",
                    who.join(" ")
                ));
            }
            if let Some(what) = &server.waiting_for {
                text.push_str(&format!("waiting {what}\n"));
            }
        }
        text
    }

    fn view_text(&self) -> String {
        match &self.view {
            Some(view) => format!(
                "view    epoch {}, coordinator {}, members {}\n",
                view.epoch.0, view.coordinator, view.members
            ),
            None => "view    none is active\n".to_owned(),
        }
    }

    fn nodes_text(&self) -> String {
        let rows = self.rows();
        if rows.is_empty() {
            return "no nodes are known\n".to_owned();
        }
        let head = [
            "node", "role", "address", "pid", "position", "applied", "lag", "heard", "storage",
            "notes",
        ];
        let mut table = vec![head.map(str::to_owned)];
        table.extend(rows.iter().map(Row::cells));
        render(&table)
    }

    fn rows(&self) -> Vec<Row<'_>> {
        let coordinator = self.view.as_ref().map(|view| view.coordinator);
        let end =
            self.found.nodes.iter().find(|node| node.node == coordinator && node.node.is_some());
        let end = end.and_then(|node| Some(node.status.as_ref().ok()?.position.index.0));
        let row = |node: &'_ quorate_client::NodeReport| {
            let known = self.server().zip(node.node);
            let heard = known.and_then(|(server, id)| {
                server.heard_ms_ago.iter().find(|(heard, _)| *heard == id).map(|(_, ms)| *ms)
            });
            (known.and_then(|(server, id)| Some(server.nodes.get(&id)?.durable)), heard)
        };
        let rows = self.found.nodes.iter().map(|node| {
            let (durable, last_heard_ms) = row(node);
            let status = node.status.as_ref();
            Row {
                id: node.node,
                address: &node.address,
                // Its own word first: the runtime file knows only who was started here.
                pid: status.ok().map(|status| status.pid).or_else(|| self.pid(&node.address)),
                role: self.role(node.node, status.ok()),
                status: status.map_err(String::as_str),
                lag: end.zip(status.ok()).map(|(end, s)| end.saturating_sub(s.applied.index.0)),
                last_heard_ms,
                storage: match (status.ok(), durable) {
                    (Some(status), _) => Some(status.engine.clone()),
                    (None, Some(true)) => Some("disk".to_owned()),
                    (None, Some(false)) => Some("memory".to_owned()),
                    (None, None) => None,
                },
            }
        });
        rows.collect()
    }

    /// What a node is in the view shown. A node's own word counts only for what is not in it:
    /// one that believes to coordinate an epoch that is not active, or not any more, does not.
    fn role(&self, id: Option<NodeId>, status: Option<&NodeStatus>) -> &'static str {
        let view = self.view.as_ref();
        match (id, view) {
            // A member may have come back and not registered yet.
            (Some(_), Some(_)) if status.is_some_and(|s| s.role == Role::Joining) => "joining",
            (Some(id), Some(view)) if view.coordinator == id => "coordinator",
            (Some(id), Some(view)) if view.members.contains(id) => match status.map(|s| s.role) {
                Some(Role::TakingOver) => "taking over",
                _ => "member",
            },
            _ => match status.map(|status| status.role) {
                Some(Role::Joining) => "joining",
                Some(Role::TakingOver) => "taking over",
                _ => "learner",
            },
        }
    }
}

/// One node, as shown.
struct Row<'a> {
    id: Option<NodeId>,
    role: &'static str,
    address: &'a str,
    pid: Option<u32>,
    status: Result<&'a NodeStatus, &'a str>,
    lag: Option<u64>,
    last_heard_ms: Option<u64>,
    storage: Option<String>,
}

impl Row<'_> {
    fn json(&self) -> Json {
        let known = self.status.ok();
        json!({
            "id": self.id.map(|id| id.0),
            "role": self.role,
            "address": Some(self.address).filter(|address| !address.is_empty()),
            "pid": self.pid,
            "reachable": known.is_some(),
            "why": self.status.err(),
            "position": known.map(|status| status.position.to_string()),
            "applied": known.map(|status| status.applied.to_string()),
            "lag": self.lag,
            "last_heard_ms": self.last_heard_ms,
            "storage": self.storage,
            "marked": known.map(|status| status.marked),
            "suspects": known.map(|status| numbers(status.suspects.iter().copied())),
            "log_bytes": known.map(|status| status.log_bytes),
            "repairs": known.map(|status| status.repairs),
        })
    }

    fn cells(&self) -> [String; 10] {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let known = self.status.ok();
        let mut notes = Vec::new();
        if known.is_none() {
            notes.push("does not answer".to_owned());
        }
        if known.is_some_and(|status| status.marked) {
            notes.push("marked: lost data it had promised".to_owned());
        }
        if let Some(suspects) = known.map(|status| &status.suspects).filter(|s| !s.is_empty()) {
            let who: Vec<_> = suspects.iter().map(ToString::to_string).collect();
            notes.push(format!("suspects {}", who.join(" ")));
        }
        [
            or_dash(self.id.map(|id| id.to_string())),
            self.role.to_owned(),
            or_dash(Some(self.address.to_owned()).filter(|address| !address.is_empty())),
            or_dash(self.pid.map(|pid| pid.to_string())),
            or_dash(known.map(|status| status.position.to_string())),
            or_dash(known.map(|status| status.applied.to_string())),
            or_dash(self.lag.map(|lag| lag.to_string())),
            or_dash(self.last_heard_ms.map(|ms| format!("{ms}ms"))),
            or_dash(self.storage.clone()),
            notes.join("; "),
        ]
    }
}

/// The newest active view that anyone tells of. What the server gave up is active no more, though
/// nodes may still believe in it.
fn newest_view(found: &ClusterStatus) -> Option<View> {
    let server = found.server.as_ref().ok().map(|(_, server)| server);
    let by_server = server.and_then(|server| server.active.clone());
    let by_nodes = found.nodes.iter().filter_map(|node| node.status.as_ref().ok()?.view.clone());
    let all = by_server.into_iter().chain(by_nodes);
    let standing = all.filter(|view| server.is_none_or(|server| view.history >= server.history));
    standing.max_by_key(|view| (view.history, view.epoch))
}

fn view_json(view: &View) -> Json {
    json!({
        "epoch": view.epoch.0,
        "coordinator": view.coordinator.0,
        "members": numbers(view.members.iter()),
    })
}

fn numbers(nodes: impl Iterator<Item = NodeId>) -> Vec<u32> {
    nodes.map(|node| node.0).collect()
}

/// Columns as wide as their widest cell, two blanks apart.
fn render<const N: usize>(table: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in table {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in table {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use quorate_client::{NodeReport, Version};
    use quorate_protocol::ids::{ClusterId, Epoch, History};
    use quorate_protocol::version::Promise;

    use super::*;

    fn view(epoch: u64, coordinator: u32) -> View {
        let members = [1, 2, 3].map(NodeId).into_iter().collect();
        let (epoch, coordinator) = (Epoch(epoch), NodeId(coordinator));
        View { history: History(0), epoch, coordinator, members }
    }

    fn node(id: u32, role: Role, known: Option<View>, index: u64) -> NodeReport {
        let position = Version::new(3, index);
        NodeReport {
            node: Some(NodeId(id)),
            address: format!("127.0.0.1:{id}"),
            status: Ok(NodeStatus {
                node: Some(NodeId(id)),
                role,
                view: known,
                promised: Promise::default(),
                position,
                applied: position,
                durable_applied: position,
                marked: false,
                suspects: vec![NodeId(1)],
                repairs: 0,
                keys: 4,
                log_bytes: 100,
                engine: "disk".to_owned(),
                pid: 4_000 + id,
            }),
        }
    }

    fn snapshot(active: Option<View>, proposed: Option<View>, nodes: Vec<NodeReport>) -> Snapshot {
        let server = ServerStatus {
            cluster: ClusterId(7),
            history: History(0),
            active: active.clone(),
            proposed,
            reporters: vec![NodeId(2)],
            nodes: Default::default(),
            heard_ms_ago: vec![(NodeId(2), 40)],
            waiting_for: None,
        };
        let cluster = Some(server.cluster);
        let server = Ok(("127.0.0.1:4747".to_owned(), server));
        let found = ClusterStatus { cluster, server, nodes, silent: Default::default() };
        Snapshot { found, view: active, runtime: None }
    }

    #[test]
    fn a_proposal_is_never_shown_as_the_view() {
        let nodes = vec![node(1, Role::Coordinator, None, 9), node(2, Role::TakingOver, None, 7)];
        let snapshot = snapshot(Some(view(3, 1)), Some(view(4, 2)), nodes);
        let json = snapshot.json();
        assert_eq!((&json["epoch"], &json["coordinator"]), (&json!(3), &json!(1)));
        assert_eq!(json["server"]["proposed"]["epoch"], json!(4));
        assert_eq!(json["nodes"][1]["role"], json!("taking over"));
        assert_eq!(
            (&json["nodes"][1]["lag"], &json["nodes"][1]["last_heard_ms"]),
            (&json!(2), &json!(40))
        );
        assert!(snapshot.head_text().contains("not active yet"));
    }

    #[test]
    fn a_node_that_is_silent_is_shown_as_silent() {
        let mut silent = node(2, Role::Member, None, 7);
        silent.status = Err("nobody listens there".to_owned());
        let snapshot = snapshot(Some(view(3, 1)), None, vec![silent]);
        assert_eq!(snapshot.json()["nodes"][0]["reachable"], json!(false));
        assert!(snapshot.nodes_text().contains("does not answer"));
    }

    #[test]
    fn the_newest_view_that_stands_is_shown_whoever_tells_of_it() {
        let told = |server: Option<View>, node: View| {
            let mut found =
                snapshot(server, None, vec![self::node(1, Role::Member, Some(node), 9)]).found;
            let newest = newest_view(&found).map(|view| view.epoch.0);
            if let Ok((_, server)) = &mut found.server {
                server.history = History(1);
            }
            (newest, newest_view(&found).map(|view| view.epoch.0))
        };
        // Second: once the server gave that history up.
        assert_eq!(told(Some(view(3, 1)), view(4, 2)), (Some(4), None));
        assert_eq!(told(None, view(4, 2)), (Some(4), None));
        assert_eq!(told(Some(view(3, 1)), view(2, 2)), (Some(3), None));
    }

    #[test]
    fn a_deposed_coordinator_is_not_shown_as_one() {
        let nodes = vec![node(9, Role::Coordinator, None, 9)];
        assert_eq!(
            snapshot(Some(view(3, 1)), None, nodes).json()["nodes"][0]["role"],
            json!("learner")
        );
    }
    /// What is shown where the server is away and these nodes, at these addresses, are not.
    fn without_server(
        nodes: Vec<NodeReport>,
        silent: &[&str],
        runtime: Option<Runtime>,
    ) -> Snapshot {
        let silent = silent.iter().map(|at| ((*at).to_owned(), format!("nobody listens at {at}")));
        let why = "nobody".to_owned();
        let found = ClusterStatus {
            cluster: None,
            server: Err(NoServer::Silent { why }),
            nodes,
            silent: silent.collect(),
        };
        Snapshot::of(found, runtime)
    }

    #[test]
    fn every_member_has_a_row_and_a_returning_one_is_joining() {
        let joining = node(1, Role::Joining, None, 9);
        let nodes = vec![joining, node(2, Role::Member, Some(view(3, 1)), 9)];
        let snapshot = without_server(nodes, &["127.0.0.1:4747"], None);
        let json = snapshot.json();
        let shown: Vec<_> =
            json["nodes"].as_array().unwrap().iter().map(|n| (&n["id"], &n["role"])).collect();
        let wanted =
            [(1, "joining"), (2, "member"), (3, "member")].map(|(id, r)| (json!(id), json!(r)));
        assert_eq!(shown, wanted.iter().map(|(id, role)| (id, role)).collect::<Vec<_>>());
        assert_eq!(json["nodes"][2]["address"], Json::Null);
        assert!(snapshot.head_text().contains("server  does not answer: nobody listens"));
    }

    #[test]
    fn what_the_runtime_file_calls_a_node_is_not_shown_as_the_server() {
        let snapshot =
            without_server(vec![], &["127.0.0.1:1", "127.0.0.1:2"], Some(Runtime::example()));
        let json = snapshot.json();
        assert_eq!(json["nodes"][0]["id"], json!(1));
        let head = snapshot.head_text();
        assert!(head.contains("127.0.0.1:1") && !head.contains("127.0.0.1:2"), "{head}");
        assert!(head.contains("quorate up restart server"), "{head}");
    }

    #[test]
    fn it_serves_where_the_coordinator_of_the_active_view_says_so() {
        let serves = |role, view: Option<View>| {
            let snapshot = snapshot(view, None, vec![node(1, role, None, 9)]);
            (snapshot.serves(), snapshot.check_serves().map_err(|failure| failure.code))
        };
        assert_eq!(serves(Role::Coordinator, Some(view(3, 1))), (true, Ok(())));
        let no = (false, Err(crate::exit::Code::Unavailable));
        assert_eq!(serves(Role::Coordinator, Some(view(3, 2))), no, "a deposed one");
        assert_eq!(serves(Role::TakingOver, Some(view(3, 1))), no);
        let changing = |view| {
            snapshot(Some(view), None, vec![node(1, Role::TakingOver, None, 9)]).changes_view()
        };
        assert!(changing(view(3, 1)) && !changing(view(3, 2)), "it is looked at again");
        assert_eq!(serves(Role::Coordinator, None), no);
    }
}
