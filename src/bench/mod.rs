//! `quorate bench`: loads a cluster with requests, and tells how fast it answers them.
//!
//! * `plan`: what is to be measured; `value`, `choose`, `pace`: what is written, which request comes
//!   next, and when.
//! * `load`: the requests themselves; `tally`: what is counted of them.
//! * `book`: what each answer may be, for `--verify`.
//! * `progress`, `report`, `json`, `plot`: what is shown meanwhile and at the end.
//!
//! It goes: one write, to see whether the cluster takes it; every key is given a value, where keys
//! are read; a warm-up; the time that is measured; the requests still under way, whose latency
//! counts as well; and with `--verify` one more read of every key.
//!
//! What is deliberately absent: anything that decides for whom reads the figures. There is no mean
//! of latencies without its percentiles, and no throughput without the errors beside it.

mod plan;
mod value;
mod choose;
mod pace;
mod tally;
mod book;
mod load;
mod progress;
mod report;
mod json;
mod plot;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use quorate_client::{Client, Error};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::args::{Bench, Format};
use crate::discover::{Found, data_dir};
use crate::exit::{Code, Failure};
use crate::output::{data, talk};
use load::{Books, Load, Run};
use plan::Plan;
use progress::{Phase, Progress};
use report::{Checks, OpenLoop, Report};

/// How often the progress is shown anew.
const TICK: Duration = Duration::from_millis(200);

/// How long requests under way are waited for once it was interrupted.
const GRACE: Duration = Duration::from_secs(1);

/// How long a node may take to say which engine it runs.
const STATUS_PATIENCE: Duration = Duration::from_secs(1);

/// Measures, and tells what was measured.
///
/// # Errors
/// When nothing could be measured.
pub(crate) async fn bench(typed: Bench) -> Result<Code, Failure> {
    let plan = Plan::new(&typed)?;
    let plot = typed.plot.as_deref().map(|path| create(path).map(|file| (path, file)));
    let plot = plot.transpose()?;
    let found = Found::look(&typed.reach.find, &data_dir())?;
    let mut interrupt = Interrupt::watch();
    let mut progress = Progress::new();

    let prepared = tokio::select! {
        prepared = prepare(plan, &found, &mut progress) => prepared,
        () = interrupt.next() => Err(Failure::unavailable("interrupted before anything was measured")),
    };
    progress.clear();
    let (load, engines) = prepared?;
    let report = measure(load, engines, &mut interrupt, &mut progress).await?;

    match typed.output {
        Format::Text => data(report.text().as_bytes())?,
        Format::Json => data(format!("{}\n", json::json(&report)).as_bytes())?,
    }
    if let Some((path, mut file)) = plot {
        // What has no length, such as a pipe, has none to cut.
        let _ = file.set_len(0);
        let written = file.write_all(plot::svg(&report).as_bytes());
        written.map_err(|error| cannot_write(path, &error))?;
        talk(&format!("drawn: {}", path.display()));
    }
    Ok(report.code())
}

/// Opens the file before anything is measured: what cannot be written is told at once. What is in
/// it stays until there is something better.
fn create(path: &Path) -> Result<File, Failure> {
    let file = File::options().write(true).create(true).truncate(false).open(path);
    file.map_err(|error| cannot_write(path, &error))
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("--plot: cannot write {}: {error}", path.display()))
}

/// Connects, sees whether the cluster takes such requests, and gives the keys their values. Comes
/// with the engines of the nodes that told theirs.
async fn prepare(
    plan: Plan,
    found: &Found,
    progress: &mut Progress,
) -> Result<(Arc<Load>, Vec<String>), Failure> {
    let mut clients = vec![found.connect().await?];
    let mut chance = [0; 8];
    getrandom::fill(&mut chance).expect("the system gives out randomness");
    let seed = u64::from_le_bytes(chance);
    let trial = Load::new(plan.clone(), clients.clone(), seed);
    trial.try_one().await.map_err(refuse)?;
    let engines = engines(&clients[0]).await;

    raise_open_files();
    progress.show(&Phase::Connecting { of: plan.connections });
    for _ in 1..plan.connections {
        clients.push(found.connect().await?);
    }
    let load = Arc::new(Load::new(plan, clients, seed));
    if load.plan.loads_first() {
        let mut ticks = ticks();
        let mut loading = std::pin::pin!(load.load_all());
        loop {
            tokio::select! {
                loaded = &mut loading => break loaded.map_err(refuse)?,
                _ = ticks.tick() => progress.show(&Phase::loading(&load)),
            }
        }
    }
    Ok((load, engines))
}

/// What to do where the first requests fail.
fn refuse(error: Error) -> Failure {
    let hint = match &error {
        Error::Refused(quorate_client::Refused::InvalidKey { .. }) => {
            "the keys of a bench begin with bench/; use a cluster whose key_pattern takes them"
        }
        Error::Refused(quorate_client::Refused::InvalidValue { .. }) => {
            "say fewer --value-bytes, or raise value_bytes_max with `quorate settings set`"
        }
        _ => "`quorate status` tells who serves; a busy cluster may need a longer --timeout",
    };
    Failure::from(error).hint(hint)
}

async fn engines(client: &Client) -> Vec<String> {
    let nodes = client.status(STATUS_PATIENCE).await.nodes;
    nodes.into_iter().filter_map(|node| Some(node.status.ok()?.engine)).collect()
}

/// Each connection takes a few files, and the usual limit is lower than what may be asked for.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where it stays as it is, connecting tells.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Runs all clients, and checks every key at the end where that is asked for.
async fn measure(
    load: Arc<Load>,
    engines: Vec<String>,
    interrupt: &mut Interrupt,
    progress: &mut Progress,
) -> Result<Report, Failure> {
    let cannot = |error| Failure::unavailable(format!("cannot keep a rate: {error}"));
    let run = Run::begin(load).map_err(cannot)?;
    let (books, unanswered, interrupted) = ask(&run, interrupt, progress).await;
    if interrupted && run.tally().time().is_zero() {
        progress.clear();
        return Err(Failure::unavailable("interrupted before anything was measured"));
    }
    let checks = match run.load.plan.verify {
        true => Some(check(&run, books, interrupted, interrupt, progress).await),
        false => None,
    };
    progress.clear();
    let tally = run.tally().clone();
    let open = run.load.plan.rate.map(|rate| {
        let due = |end| pace::due_before(end - run.first, rate);
        let due = due(run.begin + tally.time()) - due(run.begin);
        let sent = tally.due_and_sent + unanswered;
        OpenLoop { rate, due, never_sent: due.saturating_sub(sent), unanswered }
    });
    let plan = run.load.plan.clone();
    Ok(Report { plan, engines, tally, unanswered, interrupted, open, checks })
}

/// Waits for all clients: their books, how many requests were not waited for, and whether it was
/// interrupted.
async fn ask(
    run: &Arc<Run>,
    interrupt: &mut Interrupt,
    progress: &mut Progress,
) -> (Books, u64, bool) {
    let mut clients = run.clients();
    let mut books: Books = (0..clients.len()).map(|_| None).collect();
    let (mut unanswered, mut interrupted) = (0, None);
    let mut ticks = ticks();
    loop {
        tokio::select! {
            ended = clients.join_next() => match ended {
                None => break,
                Some(Ok((number, book))) => books[usize::try_from(number).expect("few")] = book,
                Some(Err(error)) if error.is_cancelled() => unanswered += 1,
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            },
            () = interrupt.next() => match interrupted {
                None => {
                    run.stop();
                    interrupted = Some(Instant::now());
                }
                Some(_) => clients.abort_all(),
            },
            _ = ticks.tick() => {
                progress.show(&Phase::running(run));
                if interrupted.is_some_and(|at| at.elapsed() >= GRACE) {
                    clients.abort_all();
                }
            }
        }
    }
    (books, unanswered, interrupted.is_some())
}

/// Reads every key once more, unless it was interrupted.
async fn check(
    run: &Arc<Run>,
    books: Books,
    interrupted: bool,
    interrupt: &mut Interrupt,
    progress: &mut Progress,
) -> Checks {
    let answers = books.iter().flatten().map(|book| book.checked).sum();
    let checks = |keys, unfinished| Checks {
        answers,
        keys,
        unfinished,
        violations: run.violations().clone(),
    };
    if interrupted {
        return checks(0, Some("interrupted".to_owned()));
    }
    let mut ticks = ticks();
    let mut checking = std::pin::pin!(load::check_all(run, books));
    let unfinished = loop {
        tokio::select! {
            checked = &mut checking => break checked.err().map(|error| error.to_string()),
            () = interrupt.next() => break Some("interrupted".to_owned()),
            _ = ticks.tick() => progress.show(&Phase::checking(&run.load)),
        }
    };
    checks(run.load.done.load(Ordering::Relaxed), unfinished)
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

/// Ctrl-C, as often as it is pressed.
struct Interrupt(watch::Receiver<u32>);

impl Interrupt {
    fn watch() -> Self {
        let (pressed, seen) = watch::channel(0);
        tokio::spawn(async move {
            while tokio::signal::ctrl_c().await.is_ok() {
                pressed.send_modify(|times| *times += 1);
            }
            // It cannot be watched for: then it ends the process, as it does by itself.
            std::future::pending::<()>().await;
        });
        Self(seen)
    }

    async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
