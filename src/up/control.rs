//! Control from outside: `quorate down`, `quorate up kill N`, `quorate up restart N`.
//!
//! A cluster whose `quorate up` still runs is controlled by it: orders are put into
//! `DIR/requests` and it answers there. One that was detached is controlled by whoever comes, by
//! its runtime file, one at a time.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use quorate_client::Client;
use rustix::fs::FlockOperation;
use rustix::process::Signal;

use super::cluster::{Cluster, KILL_TIMEOUT, STOP_TIMEOUT};
use super::process::{LOOK_INTERVAL, Process, holders, wait_gone};
use super::runtime::Runtime;
use crate::args::{DATA_DEFAULT, NODES_MAX};
use crate::exit::{Code, Failure};
use crate::output::talk;
use crate::script::Whom;
use crate::session::Order;

/// Where orders are put.
pub(crate) const REQUESTS: &str = "requests";

/// How long an order may take. A restart is the longest: the node replays its log.
const ORDER_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a `quorate up` may take to stop its cluster, told to.
const SUPERVISOR_TIMEOUT: Duration = Duration::from_secs(90);

/// Stops the cluster of `dir`.
///
/// # Errors
/// When the runtime file cannot be read or removed.
pub(crate) async fn down(dir: &Path) -> Result<Code, Failure> {
    if !dir.exists() && dir != Path::new(DATA_DEFAULT) {
        return Err(Failure::unavailable(format!(
            "nothing runs in {}: there is no such directory",
            dir.display()
        )));
    }
    let Some(runtime) = Runtime::read(dir)? else {
        let lost = stop_lost(dir).await;
        talk(&match lost {
            0 => format!("nothing runs in {}", dir.display()),
            _ => "stopped".to_owned(),
        });
        return Ok(Code::Done);
    };
    if let Some(supervisor) = runtime.supervisor.filter(Process::is_alive) {
        supervisor.signal(Signal::TERM);
        if wait_gone([&supervisor], SUPERVISOR_TIMEOUT, || {}).await.is_empty() {
            talk("stopped");
            return Ok(Code::Done);
        }
        talk(&format!(
            "`quorate up` (process {}) does not stop; stopping its processes",
            supervisor.pid
        ));
        supervisor.signal(Signal::KILL);
    }
    let _turn = Turn::take(dir).await?;
    // What was ordered meanwhile has changed it.
    let runtime = Runtime::read(dir)?.unwrap_or(runtime);
    let mut ran = runtime.processes().any(Process::is_alive);
    Cluster::adopt(dir.to_owned(), runtime).stop().await?;
    ran |= stop_lost(dir).await > 0;
    talk(if ran { "stopped" } else { "nothing ran any more; the runtime file is removed" });
    Ok(Code::Done)
}

/// Stops the processes that use the directories in `dir` and are in no runtime file. Tells how many
/// there were.
async fn stop_lost(dir: &Path) -> usize {
    let nodes = (1..=NODES_MAX).map(|slot| dir.join(format!("node-{slot}/lock")));
    let mut count = 0;
    for locks in [nodes.collect(), vec![dir.join("server/server.lock")]] {
        let lost = holders(&locks);
        count += lost.len();
        for (signal, patience) in [(Signal::TERM, STOP_TIMEOUT), (Signal::KILL, KILL_TIMEOUT)] {
            lost.iter().for_each(|process| process.signal(signal));
            wait_gone(&lost, patience, || {}).await;
        }
    }
    count
}

/// A turn at the processes of a detached cluster: whoever has it reads the runtime file, acts, and
/// writes what has become of it.
struct Turn {
    _locked: File,
}

impl Turn {
    async fn take(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join(REQUESTS);
        let cannot = |error: std::io::Error| {
            Failure::unavailable(format!("cannot lock {}: {error}", path.display()))
        };
        // A directory that is there for as long as the cluster runs. The processes that are
        // started meanwhile do not inherit it.
        std::fs::create_dir_all(&path).map_err(cannot)?;
        let file = File::open(&path).map_err(cannot)?;
        let deadline = Instant::now() + ORDER_TIMEOUT;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _locked: file }),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    tokio::time::sleep(LOOK_INTERVAL).await;
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(Failure::unavailable(format!(
                        "another order has not ended within {} s",
                        ORDER_TIMEOUT.as_secs()
                    )));
                }
                Err(error) => return Err(cannot(error.into())),
            }
        }
    }
}

/// Kills or restarts a process of the cluster of `dir`.
///
/// # Errors
/// When no cluster runs there, or the order cannot be followed.
pub(crate) async fn order(dir: &Path, order: Order) -> Result<Code, Failure> {
    let none = || {
        Failure::usage(format!(
            "no cluster runs in {}; start one with `quorate up`, or name its directory with --data",
            dir.display()
        ))
    };
    let runtime = Runtime::read(dir)?.ok_or_else(none)?;
    let done = if runtime.supervisor.is_some_and(|process| process.is_alive()) {
        request(dir, &order).await?
    } else {
        let _turn = Turn::take(dir).await?;
        // As the order before this one left it.
        let runtime = Runtime::read(dir)?.ok_or_else(none)?;
        // It may be the server that is to be started again, or the last node.
        let client = Client::unconnected(runtime.addresses())?;
        Cluster::adopt(dir.to_owned(), runtime).obey(&client, order).await?
    };
    talk(&done);
    Ok(Code::Done)
}

/// Puts an order to the `quorate up` that runs, and waits for its answer.
async fn request(dir: &Path, order: &Order) -> Result<String, Failure> {
    let (verb, whom) = match order {
        Order::Kill(whom) => ("kill", whom),
        Order::Restart(whom) => ("restart", whom),
    };
    let whom = match whom {
        Whom::Server => "server".to_owned(),
        Whom::Node(id) => id.0.to_string(),
    };
    let cannot = |error: std::io::Error| {
        Failure::unavailable(format!(
            "cannot ask `quorate up` for it in {}: {error}",
            dir.display()
        ))
    };
    // The name keeps two askers apart.
    let request = dir.join(REQUESTS).join(format!("{verb}-{whom}-{}", std::process::id()));
    let answer = request.with_extension("done");
    std::fs::write(&request, b"").map_err(cannot)?;
    let deadline = Instant::now() + ORDER_TIMEOUT;
    loop {
        if let Ok(text) = std::fs::read_to_string(&answer) {
            // Whatever is left behind is swept by the next start.
            let _ = std::fs::remove_file(&answer);
            return match text.split_once(' ') {
                Some(("done", what)) => Ok(what.to_owned()),
                Some((_, why)) => Err(Failure::unavailable(why)),
                None => Err(Failure::unavailable("`quorate up` gave no answer")),
            };
        }
        if Instant::now() >= deadline {
            let _ = std::fs::remove_file(&request);
            return Err(Failure::unavailable(format!(
                "`quorate up` did not answer within {} s",
                ORDER_TIMEOUT.as_secs()
            )));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// An order found in the directory.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) order: Order,
    path: PathBuf,
}

/// Makes the directory for orders anew.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn open_requests(dir: &Path) -> Result<(), Failure> {
    let path = dir.join(REQUESTS);
    // What a `quorate up` that was killed left unanswered.
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path)
        .map_err(|error| Failure::usage(format!("cannot make {}: {error}", path.display())))
}

/// The orders that wait.
pub(crate) fn requests(dir: &Path) -> Vec<Request> {
    let Ok(entries) = std::fs::read_dir(dir.join(REQUESTS)) else { return Vec::new() };
    let found = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let order = parse_request(&name)?;
        Some(Request { order, path: entry.path() })
    });
    found.collect()
}

fn parse_request(name: &str) -> Option<Order> {
    let mut parts = name.split('-');
    let (verb, whom, asker) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
    asker.parse::<u32>().ok()?;
    match verb {
        "kill" => Some(Order::Kill(whom)),
        "restart" => Some(Order::Restart(whom)),
        _ => None,
    }
}

impl Request {
    /// The order, and where its answer goes.
    pub(crate) fn split(self) -> (Order, impl FnOnce(Result<String, Failure>)) {
        let path = self.path;
        let answer = move |outcome: Result<String, Failure>| {
            let text = match outcome {
                Ok(what) => format!("done {what}"),
                Err(why) => format!("failed {why}"),
            };
            // If it cannot be written the asker gives up by itself.
            let next = path.with_extension("new");
            let _ = std::fs::write(&next, text)
                .and_then(|()| std::fs::rename(&next, path.with_extension("done")));
            let _ = std::fs::remove_file(&path);
        };
        (self.order, answer)
    }
}

#[cfg(test)]
mod tests {
    use quorate_protocol::ids::NodeId;

    use super::*;

    #[tokio::test]
    async fn an_order_is_found_and_answered() {
        let dir = tempfile::tempdir().unwrap();
        open_requests(dir.path()).unwrap();
        let asking = tokio::spawn({
            let dir = dir.path().to_owned();
            async move { request(&dir, &Order::Restart(Whom::Node(NodeId(3)))).await }
        });
        let found = loop {
            if let Some(found) = requests(dir.path()).pop() {
                break found;
            }
            tokio::task::yield_now().await;
        };
        assert!(matches!(found.order, Order::Restart(Whom::Node(NodeId(3)))));
        let (_, answer) = found.split();
        answer(Ok("n3 started again".to_owned()));
        assert_eq!(asking.await.unwrap().unwrap(), "n3 started again");
        assert!(requests(dir.path()).is_empty());
    }

    #[test]
    fn other_files_are_no_orders() {
        for name in ["kill-3", "kill-x-1", "burn-3-1", "kill-3-1.done", "kill-3-1.new"] {
            assert!(parse_request(name).is_none(), "{name}");
        }
    }
}
