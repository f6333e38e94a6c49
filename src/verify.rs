//! `quorate verify`: what is wrong with the files of stopped processes. Changes none of them.
//!
//! A directory is a node's, a server's, or one of `quorate up`, which holds several of both.

use std::path::{Path, PathBuf};

use quorate_node::verify::Finding;
use quorate_server::store::{self, StoreError};
use serde_json::{Value as Json, json};

use crate::args::{Format, Verify};
use crate::exit::{Code, Failure};
use crate::output::data;

/// Checks a directory.
///
/// # Errors
/// When it is not one of ours, or a file cannot be read.
pub(crate) fn verify(typed: &Verify) -> Result<Code, Failure> {
    let looks = find(&typed.dir)?.into_iter().map(look).collect::<Result<Vec<_>, _>>()?;
    let text = match typed.output {
        Format::Text => looks.iter().map(Look::text).collect::<String>() + &summary(&looks),
        Format::Json => json!({
            "clean": looks.iter().all(|look| !look.in_use && look.findings.is_empty()),
            "directories": looks.iter().map(Look::json).collect::<Vec<_>>(),
        })
        .to_string(),
    };
    data(format!("{text}\n").as_bytes())?;
    Ok(if looks.iter().any(|look| !look.findings.is_empty()) {
        Code::Refused
    } else if looks.iter().any(|look| look.in_use) {
        Code::Unavailable
    } else {
        Code::Done
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Server,
    Node,
}

impl Kind {
    fn of(dir: &Path) -> Option<Self> {
        if store::is_server(dir) {
            Some(Self::Server)
        } else if quorate_node::is_node(dir) {
            Some(Self::Node)
        } else {
            None
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Node => "node",
        }
    }
}

/// The directories meant: the one given, or those in it.
fn find(dir: &Path) -> Result<Vec<(Kind, PathBuf)>, Failure> {
    if let Some(kind) = Kind::of(dir) {
        return Ok(vec![(kind, dir.to_owned())]);
    }
    let cannot = |error| Failure::usage(format!("cannot read {}: {error}", dir.display()));
    let mut below = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = name == "server" || name.starts_with("node-");
        let kind = if ours { Kind::of(&entry.path()) } else { None };
        below.extend(kind.map(|kind| (kind, entry.path())));
    }
    if below.is_empty() {
        return Err(Failure::usage(format!(
            "{} holds nothing of quorate's; name the data directory of a server or of a node, or \
             that of `quorate up`",
            dir.display()
        )));
    }
    below.sort_by_key(|(kind, path)| (*kind == Kind::Node, path.as_os_str().len(), path.clone()));
    Ok(below)
}

/// What a look at one directory came to.
#[derive(Debug)]
struct Look {
    kind: Kind,
    dir: PathBuf,
    in_use: bool,
    /// Whose it is and what is in it.
    holds: Json,
    findings: Vec<Finding>,
    notes: Vec<Finding>,
}

fn look((kind, dir): (Kind, PathBuf)) -> Result<Look, Failure> {
    let holds = Json::Object(serde_json::Map::new());
    let empty = Look { kind, dir, in_use: false, holds, findings: Vec::new(), notes: Vec::new() };
    match kind {
        Kind::Server => look_at_server(empty),
        Kind::Node => look_at_node(empty),
    }
}

fn look_at_node(mut look: Look) -> Result<Look, Failure> {
    use quorate_node::VerifyFailed;
    match quorate_node::verify(&look.dir) {
        Ok(report) => {
            let (cluster, node) = report.identity.unzip();
            look.holds = json!({
                "cluster": cluster.map(|cluster| cluster.to_string()),
                "id": node.map(|node| node.0),
                "store": report.store.map(|store| store.to_string()),
                "position": report.position.map(|version| version.to_string()),
                "applied": report.applied.map(|version| version.to_string()),
                "records": report.records,
            });
            (look.findings, look.notes) = (report.findings, report.notes);
            Ok(look)
        }
        Err(VerifyFailed::InUse { .. }) => Ok(Look { in_use: true, ..look }),
        Err(error @ VerifyFailed::NotANode { .. }) => Err(Failure::usage(error)),
        Err(error @ VerifyFailed::Io { .. }) => Err(Failure::unavailable(error)),
    }
}

fn look_at_server(mut look: Look) -> Result<Look, Failure> {
    const REFUSES: &str = "the next start ends with this error and changes nothing";
    let find =
        |file: PathBuf, why: String, next: &str| Finding { file, why, next: next.to_owned() };
    match store::inspect(&look.dir) {
        Ok(Some(state)) => {
            look.holds = json!({
                "cluster": state.cluster.to_string(),
                "epoch": state.active.as_ref().map(|view| view.epoch.0),
                "nodes": state.directory.len(),
            });
            Ok(look)
        }
        Ok(None) => {
            let why = "there is no state in it".to_owned();
            let next = "the next start founds a new cluster; if there was one, put its state back";
            look.findings.push(find(look.dir.clone(), why, next));
            Ok(look)
        }
        Err(StoreError::InUse { .. }) => Ok(Look { in_use: true, ..look }),
        Err(StoreError::Damaged { file, why }) => {
            let next = "the next start ends with this error and changes nothing; put a copy of \
                        exactly this state back, or start a new cluster on an empty directory";
            look.findings.push(find(file, why, next));
            Ok(look)
        }
        Err(error @ StoreError::OtherVersion { .. }) => {
            look.findings.push(find(look.dir.clone(), error.to_string(), REFUSES));
            Ok(look)
        }
        Err(error) => Err(Failure::unavailable(error)),
    }
}

impl Look {
    /// A line for each thing found.
    fn text(&self) -> String {
        let line = |what: &str, found: &Finding| {
            format!("{}: {what}{}; {}\n", found.file.display(), found.why, found.next)
        };
        let mut text = String::new();
        if self.in_use {
            text.push_str(&format!(
                "{}: in use by a running {}; stop it first\n",
                self.dir.display(),
                self.kind.name()
            ));
        }
        text.extend(self.findings.iter().map(|found| line("", found)));
        text.extend(self.notes.iter().map(|found| line("note: ", found)));
        text
    }

    fn json(&self) -> Json {
        let all = |found: &[Finding]| -> Json {
            let one = |found: &Finding| json!({ "file": found.file.display().to_string(), "why": found.why, "next": found.next });
            found.iter().map(one).collect()
        };
        json!({
            "dir": self.dir.display().to_string(),
            "kind": self.kind.name(),
            "in_use": self.in_use,
            "holds": self.holds,
            "findings": all(&self.findings),
            "notes": all(&self.notes),
        })
    }

    /// Whose it is, in a few words.
    fn name(&self) -> String {
        let text = |field: &str| match &self.holds[field] {
            Json::String(text) => text.clone(),
            Json::Null => "?".to_owned(),
            other => other.to_string(),
        };
        match (self.kind, &self.holds["id"]) {
            (Kind::Server, _) => format!("the server of cluster {}", text("cluster")),
            (Kind::Node, Json::Null) if self.holds["store"].is_null() => {
                "a node whose name cannot be read".to_owned()
            }
            (Kind::Node, Json::Null) => "a node that never registered".to_owned(),
            (Kind::Node, id) => format!(
                "node {id} (log up to {}, {} records applied up to {})",
                text("position"),
                text("records"),
                text("applied")
            ),
        }
    }
}

/// The last line: what was checked and what it came to.
fn summary(looks: &[Look]) -> String {
    let checked: Vec<_> = looks.iter().filter(|look| !look.in_use).collect();
    let faults: usize = checked.iter().map(|look| look.findings.len()).sum();
    let names: Vec<_> = checked.iter().map(|look| look.name()).collect();
    let outcome = match faults {
        0 if checked.is_empty() => "nothing was checked".to_owned(),
        0 => "nothing is wrong".to_owned(),
        1 => "1 thing is wrong".to_owned(),
        n => format!("{n} things are wrong"),
    };
    if names.is_empty() { outcome } else { format!("{outcome}: checked {}", names.join(", ")) }
}
