//! Where the talk of processes goes: log lines of the server and of nodes on standard error, and
//! a trace file of any process for which one is asked.

use std::io::IsTerminal;
use std::path::Path;

use quorate_traces::ChromeTrace;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::exit::Failure;

/// Ends the trace file when dropped.
pub(crate) type Guard = Option<ChromeTrace>;

/// What a trace leaves out: tarpc's own spans of every call, beside ours.
const TRACED: &str = "trace,tarpc=off";

/// Starts logging. `level` is one of the five or a tracing filter; `trace` is a directory.
///
/// # Errors
/// When the level is no level, or the trace file cannot be made.
pub(crate) fn start(role: &str, level: &str, trace: Option<&Path>) -> Result<Guard, Failure> {
    let filter = parse_filter(level)?;
    let to_stderr = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_filter(filter);
    let (to_file, guard) = trace.map(|dir| begin(role, dir)).transpose()?.unzip();
    let to_file = to_file.map(|layer| layer.with_filter(EnvFilter::new(TRACED)));
    tracing_subscriber::registry().with(to_file).with(to_stderr).init();
    Ok(guard)
}

/// Starts the trace of a process that logs nothing, where one is asked for.
///
/// # Errors
/// When the trace file cannot be made.
pub(crate) fn trace_only(role: &str, trace: Option<&Path>) -> Result<Guard, Failure> {
    let Some(dir) = trace else { return Ok(None) };
    let (layer, guard) = begin(role, dir)?;
    tracing_subscriber::registry().with(layer.with_filter(EnvFilter::new(TRACED))).init();
    Ok(Some(guard))
}

fn begin(
    role: &str,
    dir: &Path,
) -> Result<(tracing_chrome::ChromeLayer<Registry>, ChromeTrace), Failure> {
    ChromeTrace::start(dir, role).map_err(|error| Failure::usage(format!("--trace: {error}")))
}

/// Checks a level or filter.
///
/// # Errors
/// When it is none.
pub(crate) fn check(level: &str) -> Result<(), Failure> {
    parse_filter(level).map(|_| ())
}

fn parse_filter(level: &str) -> Result<EnvFilter, Failure> {
    // tarpc traces every call on its own, every missed deadline as an error among them; the state
    // engine tells of each file it opens.
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
    fn levels_and_filters_are_taken() {
        for level in ["info", "off", "warn,quorate_server=trace"] {
            assert!(parse_filter(level).is_ok(), "{level}");
        }
        let failure = parse_filter("info=loud=x").unwrap_err();
        assert!(failure.to_string().contains("--log"), "{failure}");
    }
}
