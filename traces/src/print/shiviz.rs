//! The trace for ShiViz and TSViz.

use std::io::{self, Write};

use super::clocks::with_clocks;
use crate::read::Trace;

/// How the two viewers read the events; the first line of the file. TSViz needs the time, ShiViz
/// shows it as a field.
pub const SHIVIZ_PARSER: &str = r"(?<timestamp>\d+) (?<host>\S+) (?<clock>\{.*\})\n(?<event>.*)";

/// Writes the trace as ShiViz and TSViz take it: how to read the events, an empty line (there is
/// one execution, so nothing parts several), and the events.
///
/// The clocks are told anew: those of a process whose first events are gone begin at 1 again, and
/// processes without a log are in none. What was known through those stays known.
///
/// # Errors
/// When `out` cannot be written.
pub fn shiviz(trace: &Trace, mut out: impl Write) -> io::Result<()> {
    write!(out, "{SHIVIZ_PARSER}\n\n")?;
    with_clocks(trace, |place, clock| {
        let event = trace.event(place);
        // All of one length, for TSViz compares them as texts.
        let time = trace.start_unix_ns.saturating_add(event.at_ns()).max(0);
        write!(out, "{time:019} {} {{", event.process().host)?;
        let mut comma = "";
        for (process, &count) in trace.processes.iter().zip(clock) {
            if count > 0 {
                write!(out, "{comma}\"{}\":{count}", process.host)?;
                comma = ", ";
            }
        }
        let space = if event.text().is_empty() { "" } else { " " };
        let text = event.text().replace(['\r', '\u{2028}', '\u{2029}'], " ");
        writeln!(out, "}}\n{} {}{space}{text}", event.level(), event.kind())
    })
}
