//! Control from outside: `quorate down`, `quorate up kill N`, `quorate up restart N`.
//!
//! A cluster whose `quorate up` still runs is controlled by it: orders are put into
//! `DIR/requests` and it answers there. One that was detached is controlled by whoever comes, by
//! its runtime file.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use quorate_client::Client;
use quorate_protocol::ids::NodeId;
use rustix::process::Signal;

use super::cluster::Cluster;
use super::process::{LOOK_INTERVAL, Process, wait_gone};
use super::runtime::Runtime;
use crate::exit::{Code, Failure};
use crate::output::talk;
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
    let Some(runtime) = Runtime::read(dir)? else {
        talk(&format!("nothing runs in {}", dir.display()));
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
    let ran = runtime.processes().any(Process::is_alive);
    Cluster::adopt(dir.to_owned(), runtime).stop().await?;
    talk(if ran { "stopped" } else { "nothing ran any more; the runtime file is removed" });
    Ok(Code::Done)
}

/// Kills or restarts a node of the cluster of `dir`.
///
/// # Errors
/// When no cluster runs there, or the order cannot be followed.
pub(crate) async fn order(dir: &Path, order: Order) -> Result<Code, Failure> {
    let Some(runtime) = Runtime::read(dir)? else {
        return Err(Failure::usage(format!(
            "no cluster runs in {}; start one with `quorate up`, or name its directory with --data",
            dir.display()
        )));
    };
    let done = if runtime.supervisor.is_some_and(|process| process.is_alive()) {
        request(dir, &order).await?
    } else {
        let client = Client::connect(runtime.addresses()).await?;
        Cluster::adopt(dir.to_owned(), runtime).obey(&client, order).await?
    };
    talk(&done);
    Ok(Code::Done)
}

/// Puts an order to the `quorate up` that runs, and waits for its answer.
async fn request(dir: &Path, order: &Order) -> Result<String, Failure> {
    let (verb, id) = match order {
        Order::Kill(id) => ("kill", id),
        Order::Restart(id) => ("restart", id),
    };
    let cannot = |error: std::io::Error| {
        Failure::unavailable(format!(
            "cannot ask `quorate up` for it in {}: {error}",
            dir.display()
        ))
    };
    // The name keeps two askers apart.
    let request = dir.join(REQUESTS).join(format!("{verb}-{}-{}", id.0, std::process::id()));
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
    let (verb, id, asker) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
    asker.parse::<u32>().ok()?;
    match verb {
        "kill" => Some(Order::Kill(NodeId(id))),
        "restart" => Some(Order::Restart(NodeId(id))),
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
    use super::*;

    #[tokio::test]
    async fn an_order_is_found_and_answered() {
        let dir = tempfile::tempdir().unwrap();
        open_requests(dir.path()).unwrap();
        let asking = tokio::spawn({
            let dir = dir.path().to_owned();
            async move { request(&dir, &Order::Restart(NodeId(3))).await }
        });
        let found = loop {
            if let Some(found) = requests(dir.path()).pop() {
                break found;
            }
            tokio::task::yield_now().await;
        };
        assert!(matches!(found.order, Order::Restart(NodeId(3))));
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
