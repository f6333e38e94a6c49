//! One line on the terminal that tells how far it is; nothing where there is no terminal.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::bench::load::{Load, Run};
use crate::bench::plan::grouped;
use crate::bench::report::show_time;

/// How many letters the bar has.
const BAR: usize = 24;

/// What is under way.
#[derive(Debug)]
pub(crate) enum Phase {
    Connecting {
        of: u32,
    },
    Keys {
        what: &'static str,
        done: u32,
        of: u32,
    },
    WarmUp,
    Measuring {
        /// From 0 to 1.
        share: f64,
        per_second: f64,
        /// Zero while nothing was answered.
        p99_ns: u64,
        failed: u64,
    },
    /// The time is over; some are not answered yet.
    Waiting,
}

impl Phase {
    pub(crate) fn loading(load: &Load) -> Self {
        let done = load.done.load(Ordering::Relaxed);
        Self::Keys { what: "writing the keys", done, of: load.plan.keys }
    }

    pub(crate) fn checking(load: &Load) -> Self {
        let done = load.done.load(Ordering::Relaxed);
        Self::Keys { what: "checking the keys", done, of: load.plan.keys }
    }

    pub(crate) fn running(run: &Run) -> Self {
        let now = Instant::now();
        if now < run.begin {
            return Self::WarmUp;
        }
        let tally = run.tally();
        if now >= run.begin + tally.time() {
            return Self::Waiting;
        }
        let passed = (now - run.begin).as_secs_f64();
        let mut all = tally.reads.latency.clone();
        all.add(&tally.writes.latency).expect("the same bounds");
        Self::Measuring {
            share: passed / tally.time().as_secs_f64(),
            per_second: tally.answered() as f64 / passed.max(0.001),
            p99_ns: all.value_at_quantile(0.99),
            failed: tally.reads.failed.plus(tally.writes.failed).total(),
        }
    }

    fn text(&self) -> String {
        let bar = |share: f64| {
            let full = ((share.clamp(0.0, 1.0) * BAR as f64) as usize).min(BAR);
            format!("[{}{}]", "#".repeat(full), "-".repeat(BAR - full))
        };
        match self {
            Self::Connecting { of } => format!("connecting {}", grouped(u64::from(*of))),
            Self::Keys { what, done, of } => {
                let share = f64::from(*done) / f64::from(*of);
                let [done, of] = [*done, *of].map(|n| grouped(u64::from(n)));
                format!("{what}  {} {done} of {of}", bar(share))
            }
            Self::WarmUp => "warming up".to_owned(),
            Self::Measuring { share, per_second, p99_ns, failed } => {
                let rate = grouped(per_second.round() as u64);
                let failed = match failed {
                    0 => String::new(),
                    failed => format!(", {} failed", grouped(*failed)),
                };
                let p99 = match p99_ns {
                    0 => String::new(),
                    p99_ns => format!(", p99 {}", show_time(*p99_ns)),
                };
                format!("measuring  {} {rate}/s{p99}{failed}", bar(*share))
            }
            Self::Waiting => "waiting for the last answers".to_owned(),
        }
    }
}

/// The line.
#[derive(Debug)]
pub(crate) struct Progress {
    is_terminal: bool,
    is_shown: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { is_terminal: io::stderr().is_terminal(), is_shown: false }
    }

    pub(crate) fn show(&mut self, phase: &Phase) {
        if self.is_terminal {
            self.is_shown = true;
            put(&phase.text());
        }
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            put("");
        }
    }
}

/// Puts a text in the place of the line.
fn put(text: &str) {
    let mut out = io::stderr().lock();
    // That nobody sees it is no failure.
    let _ = write!(out, "\r\x1b[K{text}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_is_told_in_one_short_line() {
        let measuring =
            |share| Phase::Measuring { share, per_second: 12_345.6, p99_ns: 3_210_000, failed: 2 };
        let table = [
            (Phase::Connecting { of: 500 }, "connecting 500"),
            (
                Phase::Keys { what: "writing the keys", done: 5_000, of: 20_000 },
                "writing the keys  [######------------------] 5,000 of 20,000",
            ),
            (Phase::WarmUp, "warming up"),
            (
                measuring(0.5),
                "measuring  [############------------] 12,346/s, p99 3.21 ms, 2 failed",
            ),
            (
                measuring(7.0),
                "measuring  [########################] 12,346/s, p99 3.21 ms, 2 failed",
            ),
        ];
        for (phase, text) in table {
            assert_eq!(phase.text(), text);
            assert!(text.len() < 79);
        }
    }
}
