//! The figures of a run, drawn: throughput, latency and the gaps of a killed leader, each as an SVG that
//! reads well on a light and on a dark page.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::document::count;
use crate::results::{Results, Sample, Spread};
use crate::rows::{ROWS, Row};

const WIDTH: f64 = 860.0;
/// Where names end, where what is drawn begins and ends; behind it stand figures.
const NAMES: f64 = 138.0;
const LEFT: f64 = 148.0;
const RIGHT: f64 = 700.0;
/// The height of a store's line, and of what an axis says.
const LINE: f64 = 20.0;
const SCALE: f64 = 18.0;
/// What is above the heading of a panel.
const GAP: f64 = 26.0;
/// Where the first panel begins.
const TOP: f64 = 34.0;
/// At a fixed rate all stores are as fast.
const PACED: &str = "-rate";

const STYLE: &str = "\
svg{color-scheme:light dark;--page:#fff;--ink:#1c1e21;--muted:#5c6167;--rule:#e4e4e2;\
--ours:#0072b2;--theirs:#a3a9b1}\
@media(prefers-color-scheme:dark){svg{--page:#1b1e22;--ink:#e7e8ea;--muted:#a2a8b0;\
--rule:#32373d;--ours:#5fb6ee;--theirs:#767d86}}\
.page{fill:var(--page)}\
text{font:12px system-ui,-apple-system,'Segoe UI','Noto Sans',sans-serif;fill:var(--muted)}\
.title{font-size:16px;font-weight:600;fill:var(--ink)}\
.head{font-size:13px;font-weight:600;fill:var(--ink)}.mid{text-anchor:middle}.end{text-anchor:end}\
.rule{stroke:var(--rule)}.span{stroke:var(--ink);stroke-width:1.5}\
.ours{fill:var(--ours);stroke:var(--ours)}.theirs{fill:var(--theirs);stroke:var(--theirs)}\
.bar{stroke:none}.way{stroke-width:2}.slow{fill:var(--page);stroke-width:2}.dot{fill-opacity:.6}";

/// Writes them all into a directory.
pub(crate) fn write(results: &Results, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("{}", dir.display()))?;
    let images = [
        ("bench-throughput.svg", throughput(results)),
        ("bench-latency.svg", latency(results)),
        ("bench-failover.svg", failover(results)),
    ];
    for (name, image) in images {
        let path = dir.join(name);
        fs::write(&path, image).with_context(|| format!("{}", path.display()))?;
    }
    Ok(())
}

/// The rows that were measured in a closed loop.
fn rows(results: &Results) -> impl Iterator<Item = &'static Row> {
    let is_there = |row: &&Row| results.samples.iter().any(|sample| sample.row == row.name);
    ROWS.iter().filter(is_there).filter(|row| !row.name.ends_with(PACED))
}

/// A figure of a row, of each store that has one.
fn figures<'a>(
    results: &'a Results,
    row: &'a Row,
    figure: fn(&Sample) -> f64,
) -> impl Iterator<Item = (&'a str, &'a str, Spread)> {
    results.stores.iter().filter_map(move |facts| {
        let spread = Spread::of(results.figures(&facts.name, row.name, figure))?;
        Some((facts.name.as_str(), facts.store.as_str(), spread))
    })
}

fn throughput(results: &Results) -> String {
    let mut page =
        Page::new("Operations a second: median of the rounds, and the least and the most");
    for row in rows(results) {
        page.panel(row.title);
        let most = figures(results, row, |sample| sample.per_second);
        let most = most.map(|(_, _, rate)| rate.most).fold(1.0, f64::max);
        for (name, store, rate) in figures(results, row, |sample| sample.per_second) {
            let y = page.line(store, &count(rate.median));
            let x = |figure: f64| LEFT + figure / most * (RIGHT - LEFT);
            page.put(format_args!(
                "<rect class=\"bar {}\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"13\"/>",
                class(name),
                y - 6.5,
                x(rate.median) - LEFT,
            ));
            page.stroke("span", (x(rate.least), y), (x(rate.most), y));
            for end in [rate.least, rate.most] {
                page.stroke("span", (x(end), y - 3.5), (x(end), y + 3.5));
            }
        }
    }
    page.end()
}

fn latency(results: &Results) -> String {
    let mut page =
        Page::new("Latency: half of the requests (dot) and 99 of 100 (ring) took no longer");
    let axis = Axis::over(results.samples.iter().flat_map(|s| [s.p50_us, s.p99_us]));
    for row in rows(results) {
        page.panel(row.title);
        let lines = figures(results, row, |sample| sample.p50_us).count();
        axis.draw(&mut page, lines, 0.001);
        let slow: Vec<_> = figures(results, row, |sample| sample.p99_us).collect();
        for ((name, store, p50), (_, _, p99)) in
            figures(results, row, |sample| sample.p50_us).zip(slow)
        {
            let shown = [p50, p99].map(|figure| time(figure.median / 1_000.0));
            let y = page.line(store, &shown.join(", "));
            let (from, to) = (axis.x(p50.median), axis.x(p99.median));
            page.stroke(&format!("way {}", class(name)), (from, y), (to, y));
            page.dot(class(name), (from, y), 4.5);
            page.dot(&format!("{} slow", class(name)), (to, y), 4.0);
        }
    }
    page.end()
}

fn failover(results: &Results) -> String {
    let mut page = Page::new("The leader is killed: how long one writer heard nothing");
    page.panel("Each dot is one kill; the line is the median");
    let axis = Axis::over(results.failovers.iter().flat_map(|failover| failover.gaps_ms.clone()));
    axis.draw(&mut page, results.failovers.len(), 1.0);
    for failover in &results.failovers {
        let Some(gap) = Spread::of(failover.gaps_ms.iter().copied()) else { continue };
        let known = results.stores.iter().find(|facts| facts.name == failover.store);
        let store = known.map_or(&failover.store, |facts| &facts.store);
        let y = page.line(store, &format!("{}, worst {}", time(gap.median), time(gap.most)));
        for each in &failover.gaps_ms {
            page.dot(&format!("{} dot", class(&failover.store)), (axis.x(*each), y), 4.0);
        }
        let x = axis.x(gap.median);
        page.stroke("span", (x, y - 7.0), (x, y + 7.0));
    }
    page.end()
}

fn class(store: &str) -> &'static str {
    if store == "quorate" { "ours" } else { "theirs" }
}

fn time(ms: f64) -> String {
    match ms {
        _ if ms < 0.0995 => format!("{:.0} us", ms * 1_000.0),
        _ if ms < 1.0 => format!("{ms:.2} ms"),
        _ if ms < 9.95 => format!("{ms:.1} ms"),
        _ if ms < 999.5 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1_000.0),
    }
}

/// A power of ten.
fn tick(ms: f64) -> String {
    match ms {
        _ if ms < 0.5 => format!("{:.0} us", ms * 1_000.0),
        _ if ms < 500.0 => format!("{ms:.0} ms"),
        _ => format!("{:.0} s", ms / 1_000.0),
    }
}

/// A scale on which ten times as much is always as far.
#[derive(Debug, PartialEq)]
struct Axis {
    /// Powers of ten.
    from: i32,
    to: i32,
}

impl Axis {
    fn over(figures: impl Iterator<Item = f64>) -> Self {
        let powers = figures.filter(|figure| *figure > 0.0).map(f64::log10);
        let (least, most) = powers
            .fold((f64::MAX, f64::MIN), |(least, most), power| (least.min(power), most.max(power)));
        if least > most {
            return Self { from: 0, to: 1 };
        }
        let from = least.floor() as i32;
        Self { from, to: (most.ceil() as i32).max(from + 1) }
    }

    fn x(&self, figure: f64) -> f64 {
        let share = (figure.log10() - f64::from(self.from)) / f64::from(self.to - self.from);
        LEFT + share.clamp(0.0, 1.0) * (RIGHT - LEFT)
    }

    /// Its powers of ten, behind so many lines; one of it is so many milliseconds.
    fn draw(&self, page: &mut Page, lines: usize, ms: f64) {
        page.y += SCALE;
        let (top, bottom) = (page.y - 2.0, page.y + LINE * lines as f64);
        for power in self.from..=self.to {
            let figure = 10f64.powi(power);
            let x = self.x(figure);
            page.stroke("rule", (x, top), (x, bottom));
            page.text("mid", (x, top - 3.0), &tick(figure * ms));
        }
    }
}

/// A drawing from top to bottom.
struct Page {
    body: String,
    title: &'static str,
    y: f64,
}

impl Page {
    fn new(title: &'static str) -> Self {
        Self { body: String::new(), title, y: TOP }
    }

    /// Begins a panel; its lines follow.
    fn panel(&mut self, title: &str) {
        self.y += GAP;
        let at = (24.0, self.y);
        self.text("head", at, title);
        self.y += 6.0;
    }

    /// One store's line; the middle of it.
    fn line(&mut self, store: &str, figure: &str) -> f64 {
        let y = self.y + LINE / 2.0;
        self.y += LINE;
        self.text("end", (NAMES, y + 4.0), store);
        self.text("", (RIGHT + 12.0, y + 4.0), figure);
        y
    }

    fn text(&mut self, class: &str, (x, y): (f64, f64), text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        self.put(format_args!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>"));
    }

    fn stroke(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        self.put(format_args!(
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        ));
    }

    fn dot(&mut self, class: &str, (x, y): (f64, f64), radius: f64) {
        self.put(format_args!(
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"/>"
        ));
    }

    fn put(&mut self, part: std::fmt::Arguments<'_>) {
        writeln!(self.body, "{part}").expect("a string takes everything");
    }

    fn end(self) -> String {
        let (Self { body, title, y }, height) = (&self, self.y + 14.0);
        assert!(*y >= TOP, "it grows downwards");
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n<title>{title}</title>\n\
             <style>{STYLE}</style>\n<rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>\n\
             <text class=\"title\" x=\"24\" y=\"28\">{title}</text>\n{body}</svg>\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_reaches_over_every_figure() {
        assert_eq!(Axis::over([30.0, 2_000.0].into_iter()), Axis { from: 1, to: 4 });
        assert_eq!(Axis::over([10.0].into_iter()), Axis { from: 1, to: 2 });
        assert_eq!(Axis::over(std::iter::empty()), Axis { from: 0, to: 1 });
    }

    #[test]
    fn times_are_short() {
        let table = [(0.0586, "59 us"), (0.342, "0.34 ms"), (7.696, "7.7 ms"), (1_234.0, "1.2 s")];
        for (ms, shown) in table {
            assert_eq!(time(ms), shown);
        }
    }
}
