//! Shows the traces of some directories: a small command line around the printed forms.
//!
//! ```text
//! cargo run -p quorate-traces --example show -- merge DIR... > out.json
//! cargo run -p quorate-traces --example show -- shiviz DIR... > out.log
//! cargo run -p quorate-traces --example show -- key K DIR...
//! ```

#![allow(clippy::print_stderr, reason = "an example that says what it found")]

use std::error::Error;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::time::Instant;

use quorate_traces::print::{Question, explain, merge, page, shiviz};
use quorate_traces::{Limits, Trace};

const USAGE: &str = "show merge|shiviz|page|election DIR..., or show key|request WORD DIR...";

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let form = args.next().ok_or(USAGE)?;
    let word = match form.as_str() {
        "key" | "request" => args.next().ok_or(USAGE)?,
        _ => String::new(),
    };
    let dirs: Vec<PathBuf> = args.map(PathBuf::from).collect();
    let start = Instant::now();
    let trace = Trace::load(&dirs, &Limits::default())?;
    eprint!("{}", trace.alignment());
    for finding in trace.findings() {
        eprintln!("{finding}");
    }
    eprintln!("{} events, loaded in {:?}", trace.events().len(), start.elapsed());
    let mut out = BufWriter::new(io::stdout().lock());
    match form.as_str() {
        "merge" => eprintln!("{:#?}", merge(&trace, &mut out)?),
        "shiviz" => shiviz(&trace, &mut out)?,
        "page" => page(&trace, "trace", &mut out)?,
        "election" => {
            explain(&trace, &Question::election(), &mut out)?;
        }
        "key" => {
            explain(&trace, &Question::Key(word), &mut out)?;
        }
        "request" => {
            explain(&trace, &Question::Request(word), &mut out)?;
        }
        _ => return Err(USAGE.into()),
    }
    out.flush()?;
    eprintln!("done in {:?}", start.elapsed());
    Ok(())
}
