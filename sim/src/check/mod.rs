//! What must hold, one property a file. Each checker watches the run and remembers the first
//! thing that was wrong.
//!
//! * [`versions`]: no version is used twice, no entry of one version has two contents.
//! * [`applied`]: no two nodes apply different entries at one index.
//! * [`once`]: no request is executed twice, and none that was certainly refused is executed.
//! * [`durable`]: nothing is acknowledged that a write quorum does not hold on disk.
//! * [`promises`]: promises never go back, whatever a process goes through.
//! * [`floors`]: nor do the server's floors, and none is above what its node held on disk.
//! * [`epochs`]: one node serves in an epoch, and only in a view that the server activated.
//! * [`replay`]: a state is what its entries come to: no lost write, no resurrected delete.
//! * [`acknowledged`]: every acknowledged change is in the log at the end, as it was told.
//! * [`weak`]: weak reads return only what was committed.
//! * [`linear`]: for each key, the answers have one order that explains them all.

pub(crate) mod acknowledged;
pub(crate) mod applied;
pub(crate) mod durable;
pub(crate) mod epochs;
pub(crate) mod floors;
pub mod linear;
pub(crate) mod once;
pub(crate) mod promises;
pub(crate) mod replay;
pub(crate) mod versions;
pub(crate) mod weak;

use quorate_protocol::ids::History;

use crate::story::Story;

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The checker that says so.
    pub checker: &'static str,
    /// What is wrong.
    pub what: String,
}

/// The first thing that a checker found wrong.
#[derive(Debug, Default)]
pub(crate) struct Wrong(Option<String>);

impl Wrong {
    pub(crate) fn unless(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds && self.0.is_none() {
            self.0 = Some(what());
        }
    }
}

/// All checkers of one run.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    pub(crate) story: Story,
    pub(crate) versions: versions::Versions,
    pub(crate) applied: applied::Applied,
    pub(crate) once: once::Once,
    pub(crate) durable: durable::Durable,
    pub(crate) promises: promises::Promises,
    pub(crate) floors: floors::Floors,
    pub(crate) epochs: epochs::Epochs,
    pub(crate) replay: replay::Replay,
    pub(crate) acknowledged: acknowledged::Acknowledged,
    pub(crate) weak: weak::Weak,
    pub(crate) linear: linear::Linear,
}

impl Checks {
    /// The first violation, if there is one.
    pub(crate) fn violation(&self) -> Option<Violation> {
        let found: [(&'static str, &Wrong); 11] = [
            ("versions", &self.versions.wrong),
            ("applied", &self.applied.wrong),
            ("once", &self.once.wrong),
            ("durable", &self.durable.wrong),
            ("promises", &self.promises.wrong),
            ("floors", &self.floors.wrong),
            ("epochs", &self.epochs.wrong),
            ("replay", &self.replay.wrong),
            ("acknowledged", &self.acknowledged.wrong),
            ("weak", &self.weak.wrong),
            ("linear", &self.linear.wrong),
        ];
        found
            .into_iter()
            .find_map(|(checker, wrong)| Some(Violation { checker, what: wrong.0.clone()? }))
    }

    /// The run is over, and `history` the one that went on: what can only be judged as a whole.
    pub(crate) fn end(&mut self, history: History) {
        self.acknowledged.end(history, &self.applied);
        self.weak.end(history, &self.applied);
        let (once, applied) = (&self.once, &self.applied);
        self.linear.end(|token| {
            let version = once.version(history, token)?;
            applied.entry(history, version.index).cloned()
        });
    }
}
