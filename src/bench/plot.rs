//! What was measured, drawn: latency by percentile, and throughput over time. One SVG without
//! anything from elsewhere, in the colours of the page of a trace, light and dark.

use std::fmt::Write;

use crate::bench::choose::Kind;
use crate::bench::plan::grouped;
use crate::bench::report::{Report, durability, show_time};
use crate::bench::tally::{Counted, Step};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 715.0;
/// The two panels have the same edges at the left and the right.
const LEFT: f64 = 84.0;
const RIGHT: f64 = 836.0;

const STYLE: &str = "\
svg{color-scheme:light dark;--page:#fff;--ink:#1c1e21;--muted:#5c6167;--rule:#e4e4e2;\
--reads:#0072b2;--writes:#c75200;--failed:#b0154f}\
@media(prefers-color-scheme:dark){svg{--page:#1b1e22;--ink:#e7e8ea;--muted:#a2a8b0;\
--rule:#32373d;--reads:#5fb6ee;--writes:#f59a4b;--failed:#ff8fb3}}\
.page{fill:var(--page)}\
text{font:12px system-ui,-apple-system,'Segoe UI','Noto Sans',sans-serif;fill:var(--muted)}\
.title{font-size:16px;font-weight:600;fill:var(--ink)}.head{font-size:13px;font-weight:600;\
fill:var(--ink)}\
.mid{text-anchor:middle}.end{text-anchor:end}\
.rule{stroke:var(--rule);stroke-width:1}\
.line{fill:none;stroke-width:2;stroke-linejoin:round}\
.reads{stroke:var(--reads)}.writes{stroke:var(--writes)}.failed{stroke:var(--failed)}";

/// The whole drawing.
pub(crate) fn svg(report: &Report) -> String {
    let mut out = String::new();
    let title = format!("quorate bench: {}", report.plan.title());
    put(
        &mut out,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\">\n<title>{}</title>\n\
         <style>{STYLE}</style>\n<rect class=\"page\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>",
            escape(&title)
        ),
    );
    text(&mut out, "title", (24.0, 32.0), "quorate bench");
    let from = match report.open {
        Some(open) if !report.held(open) => {
            format!("open loop, {}/s, WHICH COULD NOT BE HELD", grouped(u64::from(open.rate)))
        }
        Some(open) => {
            let rate = grouped(u64::from(open.rate));
            format!("open loop, {rate}/s, latency from the intended start")
        }
        None => "closed loop, latency from sending".to_owned(),
    };
    let setting = format!("{}; {from}", report.plan.setting());
    for (line, y) in [(report.plan.title(), 52.0), (setting, 69.0)] {
        text(&mut out, "", (24.0, y), &line);
    }
    text(&mut out, "", (24.0, 86.0), durability(&report.engines));
    legend(&mut out, report);
    latency(&mut out, report, Panel { top: 130.0, bottom: 400.0 });
    throughput(&mut out, report, Panel { top: 480.0, bottom: 680.0 });
    out.push_str("</svg>\n");
    out
}

/// Where a drawing is, from the top of the page.
#[derive(Clone, Copy)]
struct Panel {
    top: f64,
    bottom: f64,
}

impl Panel {
    /// The height of a share from 0 at the bottom to 1 at the top.
    fn y(self, share: f64) -> f64 {
        self.bottom - share.clamp(0.0, 1.0) * (self.bottom - self.top)
    }
}

fn x(share: f64) -> f64 {
    LEFT + share.clamp(0.0, 1.0) * (RIGHT - LEFT)
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("a string takes everything");
}

fn text(out: &mut String, class: &str, (x, y): (f64, f64), text: &str) {
    let text = escape(text);
    put(out, format_args!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>"));
}

fn rule(out: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    put(
        out,
        format_args!(
            "<line class=\"rule\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        ),
    );
}

fn curve(out: &mut String, class: &str, points: &[(f64, f64)]) {
    let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    put(out, format_args!("<polyline class=\"line {class}\" points=\"{}\"/>", points.join(" ")));
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn legend(out: &mut String, report: &Report) {
    let mut names: Vec<_> = report.kinds().into_iter().map(|(_, name, _)| name).collect();
    if report.failed().total() > 0 {
        names.push("failed");
    }
    for (at, name) in names.iter().rev().enumerate() {
        let left = RIGHT - 70.0 - 84.0 * at as f64;
        curve(out, name, &[(left, 112.0), (left + 22.0, 112.0)]);
        text(out, "", (left + 28.0, 116.0), name);
    }
}

/// How many powers of ten of requests there are to tell percentiles of: two at the least.
fn nines(most: u64) -> u32 {
    most.max(1).ilog10().clamp(2, 6)
}

/// A percentile as a share of the width: each further nine as wide as the last.
fn nine_share(quantile: f64, nines: u32) -> f64 {
    -(1.0 - quantile).max(1e-12).log10() / f64::from(nines)
}

fn nine_name(nine: u32) -> String {
    match nine {
        0 => "0".to_owned(),
        1 => "90".to_owned(),
        2 => "99".to_owned(),
        n => format!("99.{}", "9".repeat(usize::try_from(n - 2).expect("few"))),
    }
}

fn latency(out: &mut String, report: &Report, panel: Panel) {
    text(out, "head", (24.0, panel.top - 14.0), "Latency by percentile");
    let kinds: Vec<_> =
        report.kinds().into_iter().filter(|(.., counted)| !counted.latency.is_empty()).collect();
    let most = kinds.iter().map(|(.., counted)| counted.latency.len()).max().unwrap_or(0);
    let nines = nines(most);
    let (low, high) = decades(&kinds);
    for nine in 0..=nines {
        let at = x(f64::from(nine) / f64::from(nines));
        rule(out, (at, panel.top), (at, panel.bottom));
        text(out, "mid", (at, panel.bottom + 18.0), &nine_name(nine));
    }
    let middle = (LEFT + RIGHT) / 2.0;
    text(
        out,
        "mid",
        (middle, panel.bottom + 36.0),
        "percentile; each further nine as wide as the last",
    );
    let share = |ns: f64| (ns.max(1.0).log10() - f64::from(low)) / f64::from(high - low);
    for decade in low..=high {
        for factor in [1, 2, 5] {
            let ns = 10_u64.pow(decade) * factor;
            if decade == high && factor > 1 {
                break;
            }
            let at = panel.y(share(ns as f64));
            rule(out, (LEFT, at), (RIGHT, at));
            text(out, "end", (LEFT - 8.0, at + 4.0), &short_time(ns));
        }
    }
    for (_, name, counted) in kinds {
        let points = counted.latency.iter_quantiles(10).map(|at| {
            // The last request is at the last percentile that so many can tell.
            let last = 1.0 - 1.0 / (counted.latency.len() as f64 + 1.0);
            let quantile = at.quantile_iterated_to().min(last);
            (x(nine_share(quantile, nines)), panel.y(share(at.value_iterated_to() as f64)))
        });
        curve(out, name, &points.collect::<Vec<_>>());
    }
}

/// The powers of ten of nanoseconds between which all latencies are.
fn decades(kinds: &[(Kind, &str, &Counted)]) -> (u32, u32) {
    let least = kinds.iter().map(|(.., counted)| counted.latency.min()).min().unwrap_or(100_000);
    let most = kinds.iter().map(|(.., counted)| counted.latency.max()).max().unwrap_or(100_000);
    let low = least.max(1).ilog10();
    (low, (most.max(1).ilog10() + 1).max(low + 1))
}

/// A round time, without the digits that say nothing.
fn short_time(ns: u64) -> String {
    show_time(ns).replace(".00", "").replace(".0 ", " ")
}

fn throughput(out: &mut String, report: &Report, panel: Panel) {
    text(out, "head", (24.0, panel.top - 14.0), "Answers a second over time");
    let (time, step) = (report.tally.time().as_secs_f64(), report.tally.step.as_secs_f64());
    let rate = |at: usize, count: u64| count as f64 / step.min(time - at as f64 * step).max(1e-9);
    // A last step that is a splinter of one tells nothing.
    let is_whole = |at: usize| at as f64 * step + step / 2.0 <= time;
    let kinds: [(&str, CountOf); 3] =
        [("reads", |step| step.reads), ("writes", |step| step.writes), ("failed", |s| s.failed)];
    let curves: Vec<_> = kinds
        .into_iter()
        .map(|(name, of)| {
            let steps = report.tally.steps.iter().enumerate().filter(|(at, _)| is_whole(*at));
            (name, steps.map(|(at, step)| (at, rate(at, of(step)))).collect::<Vec<_>>())
        })
        .filter(|(_, points)| points.iter().any(|(_, rate)| *rate > 0.0))
        .collect();
    let most = curves.iter().flat_map(|(_, points)| points).fold(1.0_f64, |m, (_, r)| m.max(*r));
    let (lines, top) = round_up(most);
    for line in 0..=lines {
        let share = f64::from(line) / f64::from(lines);
        let at = panel.y(share);
        rule(out, (LEFT, at), (RIGHT, at));
        let value = top * share;
        let name = match value {
            value if value >= 10.0 || value == 0.0 => grouped(value.round() as u64),
            value => format!("{value:.1}"),
        };
        text(out, "end", (LEFT - 8.0, at + 4.0), &name);
    }
    for fifth in 0..=5 {
        let share = f64::from(fifth) / 5.0;
        let name = format!("{:.1}", time * share);
        let name = format!("{} s", name.strip_suffix(".0").unwrap_or(&name));
        text(out, "mid", (x(share), panel.bottom + 18.0), &name);
    }
    for (name, points) in curves {
        let middle = |at: usize| (at as f64 + 0.5) * step / time.max(1e-9);
        let points = points.iter().map(|(at, rate)| (x(middle(*at)), panel.y(rate / top)));
        curve(out, name, &points.collect::<Vec<_>>());
    }
}

/// One of the three counts of a step.
type CountOf = fn(&Step) -> u64;

/// The next round number, and into how many parts it is divided.
fn round_up(most: f64) -> (u32, f64) {
    let unit = 10_f64.powf(most.log10().floor());
    for (factor, lines) in [(1.0, 5), (2.0, 4), (4.0, 4), (5.0, 5), (8.0, 4)] {
        if most <= factor * unit {
            return (lines, factor * unit);
        }
    }
    (5, 10.0 * unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::report;

    /// Fails where tags do not close in order, an attribute has no quotes, or text is not escaped.
    #[track_caller]
    fn check_well_formed(svg: &str) -> usize {
        let (mut open, mut tags, mut rest) = (Vec::new(), 0, svg);
        while let Some((before, after)) = rest.split_once('<') {
            assert!(!before.contains('>'), "a bare > in {before:?}");
            assert!(before.split('&').skip(1).all(|part| part.contains(';')), "{before:?}");
            let (tag, after) = after.split_once('>').expect("a tag ends");
            rest = after;
            tags += 1;
            assert!(!tag.contains('<') && tag.matches('"').count() % 2 == 0, "{tag:?}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
                continue;
            }
            let name = tag.split([' ', '/']).next().unwrap();
            let names = tag.split('"').step_by(2).skip(1).filter(|part| part.contains('='));
            assert!(names.into_iter().all(|part| part.ends_with('=')), "{tag:?}");
            if !tag.ends_with('/') {
                open.push(name);
            }
        }
        assert_eq!((open.len(), rest.trim()), (0, ""));
        tags
    }

    #[test]
    fn a_drawing_is_well_formed_and_within_its_page() {
        for args in [&["--workload", "mixed"][..], &[], &["--workload", "zipf", "--rate", "100"]] {
            let svg = svg(&report(args));
            assert!(check_well_formed(&svg) > 40);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            for points in svg.split("points=\"").skip(1) {
                for point in points.split('"').next().unwrap().split(' ') {
                    let (x, y) = point.split_once(',').unwrap();
                    let [x, y] = [x, y].map(|text| text.parse::<f64>().unwrap());
                    assert!((0.0..=WIDTH).contains(&x) && (0.0..=HEIGHT).contains(&y), "{point}");
                }
            }
        }
    }

    #[test]
    fn nothing_measured_is_drawn_as_nothing() {
        let mut report = report(&[]);
        let now = std::time::Instant::now();
        report.tally = crate::bench::tally::Tally::new(now, now);
        let svg = svg(&report);
        check_well_formed(&svg);
        assert!(!svg.contains("NaN"), "{svg}");
    }

    #[test]
    fn each_nine_is_as_wide_as_the_last() {
        let table = [(0.0, 0.0), (0.9, 0.25), (0.99, 0.5), (0.999, 0.75), (0.9999, 1.0)];
        for (quantile, share) in table {
            assert!((nine_share(quantile, 4) - share).abs() < 1e-9, "{quantile}");
        }
        let names: Vec<_> = (0..=4).map(nine_name).collect();
        assert_eq!(names, ["0", "90", "99", "99.9", "99.99"]);
        assert_eq!([0, 99, 50_000, u64::MAX].map(nines), [2, 2, 4, 6]);
    }

    #[test]
    fn scales_end_at_round_numbers() {
        let table = [(1.0, 1.0), (17.0, 20.0), (33_000.0, 40_000.0), (9_100.0, 10_000.0)];
        for (most, top) in table {
            assert!((round_up(most).1 - top).abs() < 1e-6, "{most}");
        }
        let times: Vec<_> = [1_000, 50_000, 2_000_000, 10_000_000, 5_000_000_000]
            .into_iter()
            .map(short_time)
            .collect();
        assert_eq!(times, ["1 us", "50 us", "2 ms", "10 ms", "5 s"]);
    }
}
