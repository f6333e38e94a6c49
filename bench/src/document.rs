//! `docs/performance.md`: what stands between its markers is made here, the rest is written by people.

mod trials;

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::data::{KEYS, VALUE_BYTES};
use crate::goals::{goals, ratio};
use crate::results::{Memory, Results, Sample, Spread};
use crate::rows::{ROWS, Row};
use crate::store::Facts;

const BEGIN: &str = "<!-- begin: written by bench/run -->";
const END: &str = "<!-- end: written by bench/run -->";

/// Puts the tables of a run into the document.
pub(crate) fn write(results: &Results, document: &Path) -> Result<()> {
    let text = fs::read_to_string(document).with_context(|| format!("{}", document.display()))?;
    let (before, rest) = text.split_once(BEGIN).context("the document has no begin marker")?;
    let (_, after) = rest.split_once(END).context("the document has no end marker")?;
    fs::write(document, format!("{before}{BEGIN}\n\n{}{END}{after}", tables(results)?))?;
    Ok(())
}

fn tables(results: &Results) -> Result<String> {
    let mut text = String::new();
    run(&mut text, results)?;
    stores(&mut text, results)?;
    goals_table(&mut text, results)?;
    limit(&mut text, results)?;
    for row in ROWS {
        if results.samples.iter().any(|sample| sample.row == row.name) {
            writeln!(text, "### {}\n", row.title)?;
            if row.is_paced() {
                paced(&mut text, results, row)?;
            } else {
                load(&mut text, results, row.name)?;
            }
        }
    }
    memory(&mut text, results)?;
    trials::write(&mut text, results)?;
    Ok(text)
}

fn run(text: &mut String, results: &Results) -> Result<()> {
    let machine = &results.machine;
    writeln!(text, "### The run\n")?;
    writeln!(text, "| | |\n| --- | --- |")?;
    writeln!(text, "| when | {}, commit {} |", results.date, results.commit)?;
    let (cores, gb) = (machine.cores, machine.memory_gb);
    writeln!(text, "| machine | {cores} cores ({}), {gb} GB |", machine.processor)?;
    writeln!(text, "| kernel | {} |", machine.kernel)?;
    writeln!(text, "| disk | {}, on {} |", machine.filesystem, machine.disk)?;
    writeln!(
        text,
        "| rounds | {} interleaved; each row {} s, after {} s that do not count |",
        results.rounds, results.window_seconds, results.warm_seconds
    )?;
    writeln!(
        text,
        "| data | {} keys, values of {VALUE_BYTES} bytes, keys by chance |",
        count(KEYS as f64)
    )?;
    for note in &results.notes {
        writeln!(text, "| note | {note} |")?;
    }
    for (what, why) in &results.left_out {
        writeln!(text, "| **left out** | {what}: {} |", why.replace(['|', '\n'], " "))?;
    }
    writeln!(text)?;
    Ok(())
}

fn stores(text: &mut String, results: &Results) -> Result<()> {
    writeln!(text, "| store | version | started with | a write that is answered | a read |")?;
    writeln!(text, "| --- | --- | --- | --- | --- |")?;
    for Facts { store, version, flags, durability, reads, .. } in &results.stores {
        writeln!(text, "| {store} | {version} | {flags} | {durability} | {reads} |")?;
    }
    writeln!(text)?;
    Ok(())
}

fn goals_table(text: &mut String, results: &Results) -> Result<()> {
    let goals = goals(results);
    writeln!(text, "### The goals\n")?;
    writeln!(
        text,
        "Ratios of medians in this run; in brackets the least and the most of any round. Ratios of \
         latencies and of processor time are better when lower, the others when higher.\n"
    )?;
    writeln!(text, "| | at least | aim | measured | |\n| --- | --- | --- | --- | --- |")?;
    for goal in &goals {
        let (at_least, aim) = (goal.at_least.shown(), goal.aim.shown());
        let (measured, verdict) = (goal.shown(), goal.verdict());
        writeln!(text, "| {} | {at_least} | {aim} | {measured} | {verdict} |", goal.what)?;
    }
    let missed = goals.iter().filter(|goal| goal.is_missed()).count();
    let measured = goals.iter().filter(|goal| goal.measured.is_some()).count();
    writeln!(text, "\n{measured} of {} were measured, and {missed} missed.\n", goals.len())?;
    Ok(())
}

fn limit(text: &mut String, results: &Results) -> Result<()> {
    let of = |figure: fn(&crate::limit::Limit) -> f64| {
        Spread::of(results.limits.iter().map(figure)).map_or_else(String::new, us)
    };
    if results.limits.is_empty() {
        return Ok(());
    }
    writeln!(text, "### The row \"limit\"\n")?;
    writeln!(text, "Medians; in brackets the least and the most of the rounds.\n")?;
    writeln!(text, "| | us |\n| --- | --- |")?;
    writeln!(text, "| one echo round trip over TCP | {} |", of(|limit| limit.echo_us))?;
    let fdatasync = of(|limit| limit.fdatasync_us);
    writeln!(text, "| one fdatasync into a preallocated file | {fdatasync} |")?;
    writeln!(text, "| one peer round trip with fdatasync | {} |", of(|limit| limit.peer_us))?;
    let total = of(crate::limit::Limit::total_us);
    writeln!(text, "| **limit**: the echo, and the slower of the other two | {total} |")?;
    let bare = results.limits.iter().filter_map(|limit| limit.bare_us);
    if let Some(bare) = Spread::of(bare) {
        writeln!(
            text,
            "| the barest write: the same at once, by three processes | {} |",
            us(bare)
        )?;
    }
    let threaded = results.limits.iter().filter_map(|limit| limit.threaded_us);
    if let Some(threaded) = Spread::of(threaded) {
        writeln!(text, "| the same, a thread for each log | {} |", us(threaded))?;
    }
    writeln!(text)?;
    Ok(())
}

fn load(text: &mut String, results: &Results, row: &str) -> Result<()> {
    writeln!(
        text,
        "| store | operations/s | p50 us | p99 us | server CPU us/operation | busy: servers, \
         generator, others | errors | Quorate against it |"
    )?;
    writeln!(text, "| --- | --- | --- | --- | --- | --- | --- | --- |")?;
    for Facts { name, store, .. } in &results.stores {
        let of = |figure: fn(&Sample) -> f64| Spread::of(results.figures(name, row, figure));
        let Some(rate) = of(|sample| sample.per_second) else {
            writeln!(text, "| {store} | not measured | | | | | | |")?;
            continue;
        };
        let latency = |figure| of(figure).map_or_else(String::new, us);
        let middle = |figure| of(figure).map_or(0.0, |figure: Spread| figure.median);
        let errors: u64 = results
            .samples
            .iter()
            .filter(|sample| sample.store == *name && sample.row == row)
            .map(|sample| sample.errors)
            .sum();
        let against = match ratio(results, row, name, |sample| sample.per_second) {
            Some(ratio) if name != "quorate" => format!("{:.2}x", ratio.median),
            _ => String::new(),
        };
        writeln!(
            text,
            "| {store} | {} ({} to {}) | {} | {} | {:.0} | {:.2}, {:.2}, {:.2} | {errors} | {against} |",
            count(rate.median),
            count(rate.least),
            count(rate.most),
            latency(|sample: &Sample| sample.p50_us),
            latency(|sample: &Sample| sample.p99_us),
            middle(|sample: &Sample| sample.servers_us_per_operation),
            middle(|sample: &Sample| sample.servers_busy),
            middle(|sample: &Sample| sample.generator_busy),
            middle(|sample: &Sample| sample.others_busy),
        )?;
    }
    writeln!(text)?;
    Ok(())
}

fn memory(text: &mut String, results: &Results) -> Result<()> {
    if results.memory.is_empty() {
        return Ok(());
    }
    writeln!(text, "### Resident memory\n")?;
    writeln!(
        text,
        "After all keys were written once, and after all rows of a round; a store that was \
         faster has written more by then. Medians, MB.\n"
    )?;
    writeln!(text, "| store | filled: largest process, all | after: largest process, all |")?;
    writeln!(text, "| --- | --- | --- |")?;
    for Facts { name, store, .. } in &results.stores {
        let of = |figure: fn(&Memory) -> f64| {
            let mine = results.memory.iter().filter(|memory| memory.store == *name);
            Spread::of(mine.map(figure))
                .map_or_else(String::new, |figure| format!("{:.0}", figure.median))
        };
        let largest = (of(|memory| memory.filled_largest_mb), of(|memory| memory.after_largest_mb));
        let total = (of(|memory| memory.filled_total_mb), of(|memory| memory.after_total_mb));
        writeln!(text, "| {store} | {}, {} | {}, {} |", largest.0, total.0, largest.1, total.1)?;
    }
    writeln!(text)?;
    Ok(())
}

/// The table of a row at a fixed rate.
fn paced(text: &mut String, results: &Results, row: &Row) -> Result<()> {
    writeln!(
        text,
        "Medians of the rounds; in brackets the least and the most. \"Late\" is how late the \
         generator's own timer was, which is in the latencies.\n"
    )?;
    writeln!(
        text,
        "| store | operations/s | p50 us | p99 us | p99.9 us | worst us | worst of all us | late: p99, \
         worst us | busy: servers, generator, others | errors |"
    )?;
    writeln!(text, "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")?;
    for Facts { name, store, .. } in &results.stores {
        let of = |figure: fn(&Sample) -> f64| Spread::of(results.figures(name, row.name, figure));
        let Some(worst) = of(|sample| sample.max_us) else { continue };
        let cell = |figure| of(figure).map_or_else(String::new, us);
        let middle = |figure| of(figure).map_or(0.0, |figure: Spread| figure.median);
        writeln!(
            text,
            "| {store} | {} | {} | {} | {} | {} | {} | {:.0}, {} | {:.2}, {:.2}, {:.2} | {} |",
            count(middle(|sample: &Sample| sample.per_second)),
            cell(|sample: &Sample| sample.p50_us),
            cell(|sample: &Sample| sample.p99_us),
            cell(|sample: &Sample| sample.p999_us),
            count(worst.median),
            count(worst.most),
            middle(|sample: &Sample| sample.late_p99_us),
            count(middle(|sample: &Sample| sample.late_max_us)),
            middle(|sample: &Sample| sample.servers_busy),
            middle(|sample: &Sample| sample.generator_busy),
            middle(|sample: &Sample| sample.others_busy),
            results.figures(name, row.name, |sample| sample.errors as f64).sum::<f64>(),
        )?;
    }
    writeln!(text)?;
    Ok(())
}

fn us(figure: Spread) -> String {
    let shown = |us: f64| if us < 100.0 { format!("{us:.1}") } else { count(us) };
    format!("{} ({} to {})", shown(figure.median), shown(figure.least), shown(figure.most))
}

/// A whole number with its thousands apart.
pub(crate) fn count(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut shown = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        let shown: Vec<_> = [0.4, 999.0, 1_000.0, 1_234_567.0].map(count).to_vec();
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
    }
}
