//! Where the talk of processes goes: log lines of the server and of nodes on standard error, and
//! the trace of any process for which one is asked.
//!
//! A trace never stands in the way: where it cannot be written, that is said once, and the process
//! does its work without.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quorate_protocol::transport::told;
use quorate_traces::chrome::{SpanLayer, SpanOptions};
use quorate_traces::record::OnTrouble;
use quorate_traces::{ChromeTrace, EventLayer, Identity, Options, Recorder};
use tracing::Dispatch;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::args::Tracing;
use crate::exit::Failure;
use crate::output::talk;

/// What a trace has of spans, and of events: our own.
const SPANS: &str = "off,quorate=trace";
const EVENTS: &str = "off,quorate=debug";

/// How much of a process's name is kept, so that its incarnation fits behind it.
const NAME_BYTES_MAX: usize = 48;

/// Ends the trace when dropped: writes the rest, and that nothing is missing.
#[derive(Default)]
pub(crate) struct Guard {
    recorder: Option<Recorder>,
    spans: Option<ChromeTrace>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.spans.take());
        if let Some(recorder) = &self.recorder {
            recorder.stop();
        }
    }
}

/// Starts logging, and the trace where one is asked for. `level` is one of the five or a tracing
/// filter.
///
/// # Errors
/// When the level is no level.
pub(crate) fn start(
    role: &str,
    address: &str,
    level: &str,
    asked: &Tracing,
) -> Result<Guard, Failure> {
    let filter = parse_filter(level)?;
    let identity = Identity { address: Some(address.to_owned()), ..of_role(role) };
    let (layers, guard) = begin(asked, &format!("{role}@{address}"), identity);
    subscriber(layers, filter).init();
    Ok(guard)
}

/// Takes what is traced and what is logged. Where nothing is traced there is no empty layer for it:
/// one wants everything, and every span and event there is would be made for it.
fn subscriber(layers: Option<Layers>, filter: EnvFilter) -> Dispatch {
    match layers {
        Some(layers) => tracing_subscriber::registry().with(layers).with(to_stderr(filter)).into(),
        None => tracing_subscriber::registry().with(to_stderr(filter)).into(),
    }
}

fn to_stderr<S>(filter: EnvFilter) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
{
    tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_filter(filter)
}

/// Starts the trace of a process that logs nothing, where one is asked for.
pub(crate) fn trace_only(role: &str, asked: &Tracing) -> Guard {
    let mut number = [0; 4];
    getrandom::fill(&mut number).expect("the system gives out randomness");
    let name = format!("{role}-{:08x}", u32::from_le_bytes(number));
    let (layers, guard) = begin(asked, &name, of_role(role));
    if let Some(layers) = layers {
        tracing_subscriber::registry().with(layers).init();
    }
    guard
}

fn of_role(role: &str) -> Identity {
    Identity { role: role.to_owned(), ..Identity::default() }
}

/// What writes the trace.
type Layers = Box<dyn Layer<Registry> + Send + Sync>;

fn begin(asked: &Tracing, name: &str, identity: Identity) -> (Option<Layers>, Guard) {
    let Some(dir) = &asked.trace else { return Default::default() };
    if cfg!(not(feature = "trace")) {
        talk("careful: this quorate was built without traces; there will be none");
        return Default::default();
    }
    let name = file_name(asked.trace_name.as_deref().unwrap_or(name));
    match write(dir, &name, identity) {
        Ok((layers, guard)) => (Some(layers), guard),
        Err(error) => {
            talk(&format!("careful: there will be no trace: {error}"));
            Default::default()
        }
    }
}

fn write(
    dir: &Path,
    name: &str,
    identity: Identity,
) -> Result<(Layers, Guard), quorate_traces::TraceError> {
    let said = AtomicBool::new(false);
    // The log and the spans have one disk: what befalls both is said once.
    let on_trouble: OnTrouble = Arc::new(move |why| {
        if !said.swap(true, Ordering::Relaxed) {
            talk(&format!("careful: {why}"));
        }
    });
    let options = Options { on_trouble: Some(on_trouble.clone()), ..Options::default() };
    let recorder = Recorder::start(dir, name, identity, options)?;
    let options = SpanOptions { on_trouble: Some(on_trouble), ..SpanOptions::default() };
    let (spans, trace): (SpanLayer<Registry>, _) = ChromeTrace::beside(&recorder, options)?;
    let events = EventLayer::new(recorder.clone());
    // Spans are for the timeline, events for the log: each layer takes its own.
    let of_spans = filter_fn(|metadata| !metadata.is_event()).and(EnvFilter::new(SPANS));
    let of_events = filter_fn(|metadata| !metadata.is_span()).and(EnvFilter::new(EVENTS));
    let layers = spans.with_filter(of_spans).and_then(events.with_filter(of_events)).boxed();
    told::record(recorder.clone());
    Ok((layers, Guard { recorder: Some(recorder), spans: Some(trace) }))
}

/// A name that files and clocks may have.
fn file_name(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-@:%[]".contains(c);
    name.chars().map(|c| if plain(c) { c } else { '_' }).take(NAME_BYTES_MAX).collect()
}

/// Checks a level or filter.
///
/// # Errors
/// When it is none.
pub(crate) fn check(level: &str) -> Result<(), Failure> {
    parse_filter(level).map(|_| ())
}

fn parse_filter(level: &str) -> Result<EnvFilter, Failure> {
    // tarpc's own channels, which are not used here, trace every call on their own, every missed
    // deadline as an error among them; the state engine tells of each file it opens.
    let filter = match level {
        "info" | "debug" => format!("{level},tarpc=off,fjall=warn,lsm_tree=warn"),
        "error" | "warn" | "trace" | "off" => format!("{level},tarpc=off"),
        filter => filter.to_owned(),
    };
    EnvFilter::try_new(&filter).map_err(|error| {
        Failure::usage(format!(
            "--log {level}: {error}; write error, warn, info, debug, trace, or a tracing filter \
             such as info,quorate_node=debug"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_becomes_one_of_a_file() {
        assert_eq!(file_name("node@[::1]:4747"), "node@[::1]:4747");
        assert_eq!(file_name("a/../é b"), "a_..___b");
        assert_eq!(file_name(&"x".repeat(100)).len(), NAME_BYTES_MAX);
    }

    #[test]
    fn without_a_trace_nothing_is_made_that_nobody_wants() {
        let filter = parse_filter("info").unwrap();
        tracing::dispatcher::with_default(&subscriber(None, filter), || {
            assert!(tracing::info_span!(target: "tarpc::server", "RPC").is_disabled());
            assert!(tracing::debug_span!(target: "quorate_node", "order").is_disabled());
            assert!(!tracing::info_span!(target: "quorate_node", "copy").is_disabled());
        });
    }

    #[test]
    fn levels_and_filters_are_taken() {
        for level in ["info", "off", "warn,quorate_server=trace"] {
            assert!(parse_filter(level).is_ok(), "{level}");
        }
        let failure = parse_filter("info=loud=x").unwrap_err();
        assert!(failure.to_string().contains("--log"), "{failure}");
    }
}
