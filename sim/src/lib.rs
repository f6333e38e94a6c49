//! The whole of a Quorate cluster under a seed.
//!
//! The cores of server, coordinator and node are pure, and the log runs over a trait for files. So
//! a cluster of them can live in one thread, in a world whose time, network, disks and clients are
//! made up, and in which everything that can go wrong does, thousands of times a minute. One seed
//! decides a run, down to the last byte; a run that breaks a rule is replayed by its seed alone.
//!
//! ```text
//!  plan ──▶ world ──▶ server:  registry core, a disk of its own
//!             │  ╲
//!             │   ╲──▶ host:    node core + coordinator core + log over a torn disk + state
//!             │    ╲
//!             ├─ net ╲─▶ client: operations, retries under one token, impatience
//!             └─ faults
//!  everything that is told, written, applied or served ──▶ check: one property a file
//! ```
//!
//! * `plan`: what the seed decides beforehand: sizes, rates, which faults there are.
//! * `world`: the queue of what is due; calls, and who hears what of them; machines, clients.
//! * `host`, `server`, `client`: the processes, with shells as thin as the real ones.
//! * `faults`: what goes wrong, and its end.
//! * `check`: what must hold.
//! * `story`, `figures`: what happened, in words and in numbers.
//!
//! What is *not* here: threads, sockets, real files and fjall (the tests with real processes have
//! those); data given up on purpose, and histories after the first; nodes that lie.

/// Whether a deliberate bug is switched on.
macro_rules! mutant {
    ($name:ident) => {
        quorate_protocol::mutant::is_on(quorate_protocol::mutant::Mutant::$name)
    };
}

mod batch;
mod chance;
mod check;
mod client;
mod faults;
mod figures;
mod host;
mod message;
mod plan;
mod server;
mod story;
mod world;

pub use batch::{Batch, Failed, run_one, run_seeds};
pub use check::{Violation, linear};
pub use figures::Figures;
