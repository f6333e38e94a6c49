//! Whole clusters of real processes: killed, paused, starved, damaged and put together again.
//!
//! Every test starts `quorate server` and `quorate node` as a person would, on this machine and in
//! a directory of its own, and asks them over their own ports. Each is a claim; most hold under a
//! load that knows what every read may answer ([`load`]).
//!
//! * [`process`]: one process: its start, signals to it, its log.
//! * [`ask`]: calls to one node or to the server, past the client library.
//! * [`cluster`]: a server and its nodes; what is true once it has settled.
//! * [`load`]: clients that keep a book of everything they were told.
//! * [`witness`]: what `status` said meanwhile.
//! * [`small_disk`]: a file system that can be filled.
//! * The rest: the claims, by theme.
//!
//! One test runs at a time, whatever the test runner would like: two cores are not enough for two
//! clusters that are told apart by who answers in time. Nothing sleeps to let something happen;
//! everything waits for a condition, up to [`PATIENCE`](process::PATIENCE).

#![allow(clippy::unwrap_used, reason = "a test's helpers are test code")]
#![allow(clippy::print_stderr, reason = "figures and logs of a test that failed are for people")]

mod ask;
mod cluster;
mod load;
mod process;
mod small_disk;
mod witness;

mod abandoned;
mod contents;
mod damage;
mod directories;
mod divergence;
mod failover;
mod full_disk;
mod hostile;
mod membership;
mod outage;
mod refusals;
mod retries;

use std::sync::{Mutex, PoisonError};

/// One cluster at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs one test, alone.
fn alone(test: impl Future<Output = ()>) {
    // A test that failed left nothing behind that could disturb the next.
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(tokio::task::LocalSet::new().run_until(test));
}
