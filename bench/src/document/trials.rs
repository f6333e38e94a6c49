//! The tables of the rows that are no loads.

use std::fmt::Write;

use anyhow::Result;

use super::count;
use crate::data::{KEYS, VALUE_BYTES};
use crate::results::{Results, Sample, Spread};
use crate::trials::failover::Failover;
use crate::trials::keys::{Filled, LOADS};

pub(super) fn write(text: &mut String, results: &Results) -> Result<()> {
    gaps(
        text,
        results,
        &results.failovers,
        "`kill -9` of the leader under one writer",
        "The longest time between two answers, as the writer saw it. Default settings; the killed \
         process is started again, and the next round begins when the cluster is whole.",
    )?;
    gaps(
        text,
        results,
        &results.hand_overs,
        "SIGTERM to the leader under one writer",
        "The same, where the leader is asked to stop: a planned hand-over. The gap is looked for from the \
         signal until the process has ended and a hundred more writes are answered. A little over 300 ms \
         is the writer's own patience with a client that does not try again by itself.",
    )?;
    catch_up(text, results)?;
    memory(text, results)?;
    nodes(text, results)?;
    stalls(text, results)?;
    keys(text, results)
}

fn shown<'a>(results: &'a Results, name: &'a str) -> &'a str {
    let known = results.stores.iter().find(|facts| facts.name == name);
    known.map_or(name, |facts| &facts.store)
}

fn gaps(
    text: &mut String,
    results: &Results,
    all: &[Failover],
    title: &str,
    about: &str,
) -> Result<()> {
    if all.is_empty() {
        return Ok(());
    }
    writeln!(text, "### {title}\n\n{about}\n")?;
    writeln!(
        text,
        "| store | rounds | median ms | worst ms | best ms | until the process is back: median, worst ms \
         | it ended after, median ms |"
    )?;
    writeln!(text, "| --- | --- | --- | --- | --- | --- | --- |")?;
    for failover in all {
        let Some(gaps) = Spread::of(failover.gaps_ms.iter().copied()) else { continue };
        let ended = Spread::of(failover.ended_ms.iter().copied());
        let ended = ended.map_or_else(String::new, |ended| format!("{:.0}", ended.median));
        let back = Spread::of(failover.with_return_ms.iter().copied());
        let back =
            back.map_or_else(String::new, |back| format!("{:.0}, {:.0}", back.median, back.most));
        let (store, rounds) = (shown(results, &failover.store), failover.gaps_ms.len());
        let Spread { median, least, most } = gaps;
        writeln!(
            text,
            "| {store} | {rounds} | {median:.0} | {most:.0} | {least:.0} | {back} | {ended} |"
        )?;
    }
    writeln!(text)?;
    Ok(())
}

fn catch_up(text: &mut String, results: &Results) -> Result<()> {
    let Some(came) = &results.catch_up else { return Ok(()) };
    writeln!(text, "### A node that was away\n")?;
    let way = match came.was_copied {
        true => "was sent a copy of the state",
        false => "came back by the log that the others had kept",
    };
    writeln!(
        text,
        "Of three nodes one that does not coordinate is killed, {} writes of {VALUE_BYTES} bytes over {} \
         keys are made without it (one connection, 256 requests in flight), and it is started again under \
         the same load. It is back when it is a member and its log has what the coordinator's had when it \
         became one. A node keeps `log_tail_bytes` of log for those that lag, by default 64 MiB; one that \
         lags more copies the state. This one {way}.\n",
        count(came.missed_writes as f64),
        count(KEYS as f64),
    )?;
    writeln!(text, "| | |\n| --- | --- |")?;
    writeln!(text, "| entries it missed | {} |", count(came.missed_entries as f64))?;
    writeln!(text, "| a member again after | {:.2} s |", came.member_seconds)?;
    writeln!(text, "| **back after** | {:.2} s |", came.back_seconds)?;
    writeln!(text, "| writes/s before, with three nodes | {} |", count(came.with_three))?;
    writeln!(text, "| writes/s while it was away, with two | {} |", count(came.with_two))?;
    writeln!(text, "| writes/s while it came back | {} |", count(came.meanwhile))?;
    let of_two = came.kept() * 100.0;
    let of_three = came.meanwhile / came.with_three * 100.0;
    writeln!(text, "| **of the rate with two** | {of_two:.0}% |")?;
    writeln!(text, "| of the rate with three | {of_three:.0}% |")?;
    writeln!(text, "| longest time without any answer meanwhile | {:.0} ms |", came.silence_ms)?;
    writeln!(text, "| writes/s after | {} |", count(came.after))?;
    writeln!(text, "| errors | {} |\n", came.errors)?;
    Ok(())
}

fn memory(text: &mut String, results: &Results) -> Result<()> {
    let Some(first) = results.many_keys.first() else { return Ok(()) };
    writeln!(text, "### Memory with {} keys\n", count(f64::from(first.keys)))?;
    writeln!(
        text,
        "Resident, of the largest process, in MB: right after all keys were written once, in their order, \
         through one connection with 256 requests in flight, and after a rest of 10 s, which is what the \
         goal is about. \"Its own\" leaves out the pages of files that a process has mapped into memory, \
         as etcd does with its database.\n"
    )?;
    writeln!(
        text,
        "| store | filled in s | filled: largest process, its own | rested: largest process, its own | \
         rested: all processes |"
    )?;
    writeln!(text, "| --- | --- | --- | --- | --- |")?;
    for many in &results.many_keys {
        let (largest, own) = (many.largest_mb, many.largest_own_mb);
        writeln!(
            text,
            "| {} | {:.0} | {:.0}, {:.0} | {:.0}, {:.0} | {:.0} |",
            shown(results, &many.store),
            many.fill_seconds,
            largest[0],
            own[0],
            largest[1],
            own[1],
            many.total_mb[1],
        )?;
    }
    writeln!(text)?;
    Ok(())
}

fn nodes(text: &mut String, results: &Results) -> Result<()> {
    if results.nodes.is_empty() {
        return Ok(());
    }
    let mut sizes: Vec<_> = results.nodes.iter().map(|measured| measured.nodes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    writeln!(text, "### A write with more nodes\n")?;
    writeln!(
        text,
        "64 clients with a connection each. Processor time is that of all nodes and the server together.\n"
    )?;
    writeln!(text, "| nodes | writes/s | p50 us | p99 us | server CPU us/write | errors |")?;
    writeln!(text, "| --- | --- | --- | --- | --- | --- |")?;
    for nodes in sizes {
        let of = |figure: fn(&Sample) -> f64| {
            let mine = results.nodes.iter().filter(|measured| measured.nodes == nodes);
            Spread::of(mine.map(|measured| figure(&measured.sample))).unwrap_or(Spread::one(0.0))
        };
        let cost = of(|sample| sample.servers_us_per_operation);
        writeln!(
            text,
            "| {nodes} | {} | {} | {} | {:.1} ({:.1} to {:.1}) | {} |",
            count(of(|sample| sample.per_second).median),
            count(of(|sample| sample.p50_us).median),
            count(of(|sample| sample.p99_us).median),
            cost.median,
            cost.least,
            cost.most,
            of(|sample| sample.errors as f64).most,
        )?;
    }
    writeln!(text)?;
    Ok(())
}

fn stalls(text: &mut String, results: &Results) -> Result<()> {
    let Some(stalls) = &results.stalls else { return Ok(()) };
    let sample = &stalls.sample;
    writeln!(text, "### {} minutes at half load\n", stalls.minutes)?;
    writeln!(
        text,
        "64 connections write at a fixed rate, half of what as many clients wrote in a closed loop just \
         before ({}/s). Latency counts from when a write was meant to start. \"Late\" is how late the \
         generator's own timer was, which is in the latencies.\n",
        count(stalls.closed_per_second)
    )?;
    writeln!(text, "| | |\n| --- | --- |")?;
    let answered = count(sample.per_second);
    writeln!(
        text,
        "| writes/s, asked for and answered | {}, {answered} |",
        count(stalls.rate.into())
    )?;
    let ms = |us: f64| format!("{:.1} ms", us / 1_000.0);
    writeln!(text, "| p50, p99 | {}, {} |", ms(sample.p50_us), ms(sample.p99_us))?;
    writeln!(text, "| p99.9, p99.99 | {}, {} |", ms(sample.p999_us), ms(sample.p9999_us))?;
    writeln!(text, "| **worst** | {} |", ms(sample.max_us))?;
    writeln!(text, "| longest time without any answer | {} |", ms(sample.silence_us))?;
    writeln!(
        text,
        "| late: p99, worst | {}, {} |",
        ms(sample.late_p99_us),
        ms(sample.late_max_us)
    )?;
    writeln!(
        text,
        "| busy: servers, generator, others | {:.2}, {:.2}, {:.2} |",
        sample.servers_busy, sample.generator_busy, sample.others_busy
    )?;
    writeln!(text, "| errors | {} |\n", sample.errors)?;
    Ok(())
}

fn keys(text: &mut String, results: &Results) -> Result<()> {
    let Some(keys) = &results.keys else { return Ok(()) };
    let (few, many) = (&keys.few, &keys.many);
    writeln!(text, "### {} keys\n", count(many.keys as f64))?;
    let files = match few.held && many.held {
        true => {
            "What the nodes have on disk when a load begins is held in the system's memory meanwhile \
             (`vmtouch`)"
        }
        false => "Before each load every file of the nodes is read once",
    };
    writeln!(
        text,
        "The same loads on {} keys and on {}: on two clusters that were filled in the order of the keys \
         ({:.0} s and {:.0} s), are up all the time, and are loaded in turns: writes and then reads of the \
         one, and of the other, {} s each. Keys are asked for by chance. {files}; \"from disk\" is what \
         the machine read from there all the same, in pages of 4 KiB, in the round with most. All else \
         are medians of the rounds, and in brackets the least and the most.\n",
        count(few.keys as f64),
        count(many.keys as f64),
        few.fill_seconds,
        many.fill_seconds,
        many.window_seconds,
    )?;
    writeln!(
        text,
        "| row | few: operations/s, p50 us, p99 us | many: operations/s, p50 us, p99 us | many of few | \
         server CPU us/operation: few, many | from disk/s: few, many | errors |"
    )?;
    writeln!(text, "| --- | --- | --- | --- | --- | --- | --- |")?;
    let pages = |filled: &Filled, row: &str| filled.disk_pages(row).map_or("?".to_owned(), count);
    for row in LOADS.as_flattened() {
        let middle = |filled: &Filled, figure| filled.middle(row, figure).unwrap_or(0.0);
        let cell = |filled: &Filled| {
            let figures: [fn(&Sample) -> f64; 3] =
                [|sample| sample.per_second, |sample| sample.p50_us, |sample| sample.p99_us];
            figures.map(|figure| count(middle(filled, figure))).join(", ")
        };
        let Some(Spread { median, least, most }) = keys.ratio(row) else { continue };
        let cpu = |sample: &Sample| sample.servers_us_per_operation;
        let errors = |filled: &Filled| filled.of(row, |sample| sample.errors as f64).sum::<f64>();
        writeln!(
            text,
            "| {row} | {} | {} | {median:.2}x ({least:.2} to {most:.2}) | {:.0}, {:.0} | {}, {} | {} |",
            cell(few),
            cell(many),
            middle(few, cpu),
            middle(many, cpu),
            pages(few, row),
            pages(many, row),
            errors(few) + errors(many),
        )?;
    }
    writeln!(
        text,
        "\nAfter all of them the largest process took {} and {} MB of memory, and the directories of the \
         three nodes {} and {} MB of disk.\n",
        count(few.largest_mb),
        count(many.largest_mb),
        count(few.disk_mb),
        count(many.disk_mb),
    )?;
    Ok(())
}
