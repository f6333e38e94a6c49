//! `quorate trace`: what traced processes wrote, shown to people.

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use quorate_protocol::record::Key;
use quorate_traces::print::{Question, explain, merge, page, shiviz};
use quorate_traces::{Limits, Trace, view};

use crate::args::{Explain, Merge, Shiviz, TraceCommand, View};
use crate::exit::{Code, Failure};
use crate::output::{data, talk};

/// How many findings are told one by one.
const FINDINGS_TOLD_MAX: usize = 20;

/// Shows the traces of some directories.
///
/// # Errors
/// When there is no trace, or what it is shown in cannot be written.
pub(crate) fn trace(typed: &TraceCommand) -> Result<Code, Failure> {
    match typed {
        TraceCommand::Merge(typed) => merged(typed),
        TraceCommand::Shiviz(Shiviz { dirs, out }) => {
            let trace = load(dirs)?;
            write_to(out, dirs, |to| shiviz(&trace, to))?;
            let hint = "open it at https://bestchai.bitbucket.io/shiviz/";
            told(&trace, out, &format!("{} events; {hint}", trace.events().len()))
        }
        TraceCommand::View(View { dirs, out }) => {
            let trace = load(dirs)?;
            write_page(&trace, out, dirs)?;
            told(&trace, out, &format!("{} events; open it in a browser", trace.events().len()))
        }
        TraceCommand::Explain(typed) => explained(typed),
    }
}

fn merged(typed: &Merge) -> Result<Code, Failure> {
    let Merge { dirs, out, html } = typed;
    let trace = load(dirs)?;
    let mut merged = None;
    write_to(out, dirs, |to| {
        merged = Some(merge(&trace, to)?);
        Ok(())
    })?;
    let merged = merged.expect("it was written");
    for finding in &merged.findings {
        talk(&format!("careful: {finding}"));
    }
    if let Some(html) = html {
        write_page(&trace, html, dirs)?;
        talk(&format!("{}: the same as a page", html.display()));
    }
    let unfinished = match merged.unfinished {
        0 => String::new(),
        some => format!(" ({some} unfinished)"),
    };
    let what = format!(
        "{} processes, {} events, {} arrows, {} spans{unfinished}; open it at \
         https://ui.perfetto.dev or in chrome://tracing",
        merged.processes, merged.events, merged.arrows, merged.spans
    );
    told(&trace, out, &what)
}

fn explained(typed: &Explain) -> Result<Code, Failure> {
    let question = match (&typed.about.key, &typed.about.request) {
        // As the processes write it down.
        (Some(key), _) => Question::Key(Key::from(key.clone()).to_string()),
        (None, Some(request)) => Question::Request(request.clone()),
        (None, None) => Question::election(),
    };
    let trace = load(&typed.dirs)?;
    tell_findings(&trace);
    let mut story = Vec::new();
    let events = explain(&trace, &question, &mut story).map_err(Failure::unavailable)?;
    data(&story)?;
    Ok(if events == 0 { Code::Missing } else { Code::Done })
}

fn load(dirs: &[PathBuf]) -> Result<Trace, Failure> {
    if let Some(missing) = dirs.iter().find(|dir| !dir.exists()) {
        return Err(Failure::usage(format!(
            "there is no {}; name the directories that processes were given with --trace",
            missing.display()
        )));
    }
    Trace::load(dirs, &Limits::default()).map_err(Failure::usage)
}

/// Says what was found wrong, how the clocks were aligned, and what was written.
fn told(trace: &Trace, out: &Path, what: &str) -> Result<Code, Failure> {
    tell_findings(trace);
    talk(trace.alignment().to_string().trim_end());
    talk(&format!("{}: {what}", out.display()));
    Ok(Code::Done)
}

fn tell_findings(trace: &Trace) {
    let findings = trace.findings();
    for finding in findings.iter().take(FINDINGS_TOLD_MAX) {
        talk(&format!("careful: {finding}"));
    }
    if let Some(more) = findings.len().checked_sub(FINDINGS_TOLD_MAX).filter(|more| *more > 0) {
        talk(&format!("careful: and {more} more of the kind"));
    }
}

fn write_page(trace: &Trace, out: &Path, dirs: &[PathBuf]) -> Result<(), Failure> {
    let names: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    let title = names.join(", ");
    let mut document = Vec::new();
    page(trace, &title, &mut document).map_err(Failure::unavailable)?;
    let document = String::from_utf8_lossy(&document);
    let html = view::page(&document, &title);
    write_to(out, dirs, |to| to.write_all(html.as_bytes()))
}

/// Writes a file whole or not at all; `-` is standard output.
fn write_to(
    out: &Path,
    dirs: &[PathBuf],
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Failure> {
    if out == Path::new("-") {
        let mut bytes = Vec::new();
        write(&mut bytes).map_err(Failure::unavailable)?;
        return data(&bytes);
    }
    let is_input = |ending: &str| out.to_string_lossy().ends_with(ending);
    if is_input(".govec") || is_input(".trace.json") || dirs.iter().any(|dir| dir == out) {
        return Err(Failure::usage(format!(
            "{} is what a process writes; give another file with --out",
            out.display()
        )));
    }
    let mut half: OsString = out.into();
    half.push(".part");
    let half = PathBuf::from(half);
    let done = std::fs::File::create(&half).and_then(|file| {
        let mut to = BufWriter::new(file);
        write(&mut to)?;
        to.flush()?;
        std::fs::rename(&half, out)
    });
    done.map_err(|error| {
        let _ = std::fs::remove_file(&half);
        Failure::usage(format!(
            "cannot write {}: {error}; give another file with --out",
            out.display()
        ))
    })
}
