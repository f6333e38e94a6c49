//! `quorate up`: a whole cluster on this machine, as real processes.
//!
//! ```text
//! DIR/cluster.json                  while it runs: who runs where
//! DIR/server, DIR/node-1, ...       their data
//! DIR/server.log, DIR/node-1.log    their logs
//! DIR/requests/                     orders from other terminals
//! ```
//!
//! With `--memory` the data and the logs are in a temporary directory that goes with the cluster.
//!
//! * `runtime`: the runtime file, and the lock on the directory; `process`: processes by number.
//! * `child`: starting one; `cluster`: all of them; `control`: from other terminals.

mod child;
mod cluster;
mod control;
mod entries;
mod process;
pub(crate) mod runtime;

use std::path::Path;
use std::time::Duration;

use quorate_client::Client;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::args::{Control, DATA_DEFAULT, Down, NODES_MAX, Start, Tracing, Up, Which};
use crate::exit::{Code, Failure};
use crate::output::talk;
use crate::session::{Order, Session};
use crate::{logging, roles, shell};
use cluster::{Cluster, Plan};
use runtime::{Lock, Runtime};

/// How many nodes a new cluster has.
const NODES_DEFAULT: u32 = 3;

/// How often the processes and the orders from outside are looked at.
const TEND_INTERVAL: Duration = Duration::from_millis(100);

/// Starts a cluster, or controls one that runs.
///
/// # Errors
/// When it does not come up, or a flag cannot be meant.
pub(crate) fn up(typed: Up) -> Result<Code, Failure> {
    match typed.control {
        None => run(&typed.start),
        Some(Control::Restart(Which { whom, data })) => {
            crate::block_on(control::order(&data, Order::Restart(whom)))
        }
        Some(Control::Kill(Which { whom, data })) => {
            crate::block_on(control::order(&data, Order::Kill(whom)))
        }
    }
}

/// Stops a cluster.
///
/// # Errors
/// When its runtime file cannot be read or removed.
pub(crate) fn down(typed: &Down) -> Result<Code, Failure> {
    crate::block_on(control::down(&typed.data))
}

fn run(typed: &Start) -> Result<Code, Failure> {
    logging::check(&typed.log)?;
    let lock = Lock::take(&typed.data)?;
    if typed.alphanumeric && !typed.memory {
        roles::tell_founded(&typed.data.join("server"));
    }
    let plan = plan(typed)?;
    let _trace =
        logging::trace_only("up", &Tracing { trace: plan.trace.clone(), trace_name: None });
    control::open_requests(&plan.dir)?;
    let outcome = crate::block_on(async {
        let mut signals = Signals::new()?;
        let started = tokio::select! {
            started = start(&plan) => started,
            name = signals.next() => Err(interrupted(name)),
        };
        let (cluster, client) = match started {
            Ok(started) => started,
            Err(failure) => {
                clean_up(&plan).await;
                return Err(failure);
            }
        };
        introduce(&cluster, typed);
        if plan.detached {
            return Ok(Code::Done);
        }
        let dir = plan.dir.clone();
        let session = Session { client, ask: typed.ask, how: typed.how, dir, control: None };
        serve(cluster, session, &mut signals).await
    });
    drop(lock);
    outcome
}

/// What to run, from what was asked for and what is there.
fn plan(typed: &Start) -> Result<Plan, Failure> {
    let cannot = |error| Failure::usage(format!("cannot use {}: {error}", typed.data.display()));
    let dir = std::path::absolute(&typed.data).map_err(cannot)?;
    let trace = typed.trace.as_ref().map(std::path::absolute).transpose().map_err(cannot)?;
    let nodes = match typed.memory {
        true => typed.nodes.unwrap_or(NODES_DEFAULT),
        false => choose_nodes(typed.nodes, nodes_there(&dir), || {
            shell::is_interactive().then(|| roles::ask("Start all of them?"))
        })?,
    };
    let scratch = match typed.memory {
        true => {
            let scratch = tempfile::Builder::new()
                .prefix(cluster::SCRATCH_PREFIX)
                .tempdir()
                .map_err(|error| {
                    Failure::usage(format!(
                        "cannot make a temporary directory: {error}; set TMPDIR"
                    ))
                })?;
            // Removed when the cluster stops, which may be another process's doing.
            Some(scratch.keep())
        }
        false => None,
    };
    Ok(Plan {
        dir,
        scratch,
        nodes,
        alphanumeric: typed.alphanumeric,
        detached: typed.detach,
        log: typed.log.clone(),
        trace,
    })
}

/// How many nodes have a directory already.
fn nodes_there(dir: &Path) -> u32 {
    let there = (1..=NODES_MAX).filter(|slot| dir.join(format!("node-{slot}")).is_dir());
    there.max().unwrap_or(0)
}

/// How many nodes to start. More than there are are added; fewer would leave members out, and a
/// majority with them, so that is asked about.
fn choose_nodes(
    wanted: Option<u32>,
    there: u32,
    ask: impl FnOnce() -> Option<Result<bool, Failure>>,
) -> Result<u32, Failure> {
    let Some(wanted) = wanted else {
        return Ok(if there == 0 { NODES_DEFAULT } else { there });
    };
    if wanted >= there {
        return Ok(wanted);
    }
    let why = format!(
        "there are {there} nodes here, which count towards every majority; {wanted} would be \
         fewer. Start all of them with --nodes {there}, or use another directory with --data"
    );
    talk(&why);
    match ask().transpose()? {
        Some(true) => Ok(there),
        _ => Err(Failure::usage("nothing was started")),
    }
}

/// Starts everything and waits until it serves.
async fn start(plan: &Plan) -> Result<(Cluster, Client), Failure> {
    let mut cluster = Cluster::start_server(plan)?;
    let client = Client::connect([&cluster.runtime().server.address]).await;
    let client = client.map_err(|error| cluster.with_logs(error.into()))?;
    cluster.start_nodes(&client, plan.nodes).await?;
    cluster.wait_serving(&client).await?;
    Ok((cluster, client))
}

/// Stops whatever was started.
async fn clean_up(plan: &Plan) {
    let stopped = match Runtime::read(&plan.dir) {
        Ok(Some(runtime)) => Cluster::adopt(plan.dir.clone(), runtime).stop().await,
        Ok(None) => Ok(()),
        Err(failure) => Err(failure),
    };
    if let Err(failure) = stopped {
        talk(&failure.to_string());
    }
    cluster::sweep(&plan.dir, plan.scratch.as_deref());
}

/// Says who is who, and how to get there from elsewhere.
fn introduce(cluster: &Cluster, typed: &Start) {
    let runtime = cluster.runtime();
    talk(&format!("server  {}  process {}", runtime.server.address, runtime.server.process.pid));
    for node in &runtime.nodes {
        let name = node.id.map_or_else(|| "node".to_owned(), |id| format!("node {}", id.0));
        talk(&format!("{name:7} {}  process {}", node.address, node.process.pid));
    }
    talk(&format!("in other terminals: export QUORATE_SERVER={}", runtime.addresses().join(",")));
    if typed.detach {
        let flag = data_flag(&typed.data);
        talk(&format!("it runs on by itself; stop it with: quorate down{flag}"));
    } else if shell::is_interactive() {
        talk("type 'help' for the commands, 'quit' to stop everything");
    }
}

fn data_flag(dir: &Path) -> String {
    match dir == Path::new(DATA_DEFAULT) {
        true => String::new(),
        false => format!(" --data {}", dir.display()),
    }
}

/// Runs the shell or the script, tends the processes meanwhile, and stops everything.
async fn serve(
    mut cluster: Cluster,
    mut session: Session,
    signals: &mut Signals,
) -> Result<Code, Failure> {
    let client = session.client.clone();
    let (control, mut orders) = mpsc::channel(1);
    session.control = Some(control);
    let interactive = shell::is_interactive();
    let code = {
        let shell = shell::run(&session, shell::input(), interactive);
        tokio::pin!(shell);
        let mut tend = tokio::time::interval(TEND_INTERVAL);
        loop {
            tokio::select! {
                code = &mut shell => break code,
                name = signals.next() => {
                    talk(&format!("{name}: stopping"));
                    // A script that was cut short has not done its work.
                    break if interactive { Code::Done } else { Code::Unavailable };
                }
                Some((order, done)) = orders.recv() => {
                    // A session that is gone needs no answer.
                    let _ = done.send(cluster.obey(&client, order).await);
                }
                _ = tend.tick() => tend_to(&mut cluster, &client).await,
            }
        }
    };
    cluster.stop().await?;
    Ok(code)
}

async fn tend_to(cluster: &mut Cluster, client: &Client) {
    cluster.collect();
    for request in control::requests(cluster.dir()) {
        let (order, answer) = request.split();
        answer(cluster.obey(client, order).await);
    }
}

fn interrupted(name: &str) -> Failure {
    Failure::unavailable(format!("{name} before the cluster served"))
}

/// What tells `quorate up` to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Failure::unavailable(format!("cannot listen for signals: {error}"))
            })
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hang_up.recv() => "SIGHUP",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_nodes_as_there_were_or_more_but_never_fewer_unasked() {
        let no = || Some(Ok(false));
        assert_eq!(choose_nodes(None, 0, no).unwrap(), 3);
        assert_eq!(choose_nodes(None, 5, no).unwrap(), 5);
        assert_eq!(choose_nodes(Some(4), 0, no).unwrap(), 4);
        assert_eq!(choose_nodes(Some(5), 3, no).unwrap(), 5);
        assert_eq!(choose_nodes(Some(3), 5, || Some(Ok(true))).unwrap(), 5);
        assert_eq!(choose_nodes(Some(3), 5, no).unwrap_err().code, Code::Usage);
        assert_eq!(choose_nodes(Some(3), 5, || None).unwrap_err().code, Code::Usage);
    }

    #[test]
    fn the_directories_tell_how_many_nodes_there_were() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(nodes_there(dir.path()), 0);
        for slot in [1, 2, 4] {
            std::fs::create_dir(dir.path().join(format!("node-{slot}"))).unwrap();
        }
        assert_eq!(nodes_there(dir.path()), 4);
    }
}
