//! The rows of the tables: which loads there are, and one round of all of them on one store.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::data::{Data, Filling, fill};
use crate::ground::Ground;
use crate::load::{Action, Load, Measured, Times, drive};
use crate::results::{Memory, Results, Sample};
use crate::store::Store;

/// A load with a name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// The heading of its table.
    pub(crate) title: &'static str,
    action: Action,
    connections: usize,
    in_flight: usize,
    per_second: Option<u32>,
}

impl Row {
    /// Whether its requests start at a fixed rate.
    pub(crate) fn is_paced(&self) -> bool {
        self.per_second.is_some()
    }
}

/// A rate that every store carries.
const RATE: u32 = 5_000;

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "write-1",
        title: "Write, 1 client on a connection of its own",
        action: Action::Write,
        connections: 1,
        in_flight: 1,
        per_second: None,
    },
    Row {
        name: "write-64",
        title: "Write, 64 clients, one connection for each",
        action: Action::Write,
        connections: 64,
        in_flight: 1,
        per_second: None,
    },
    Row {
        name: "write-shared",
        title: "Write, one shared connection with 256 requests in flight",
        action: Action::Write,
        connections: 1,
        in_flight: 256,
        per_second: None,
    },
    Row {
        name: "read-1",
        title: "Read, 1 client on a connection of its own",
        action: Action::Read,
        connections: 1,
        in_flight: 1,
        per_second: None,
    },
    Row {
        name: "read-64",
        title: "Read, 64 clients, one connection for each",
        action: Action::Read,
        connections: 64,
        in_flight: 1,
        per_second: None,
    },
    Row {
        name: "read-shared",
        title: "Read, one shared connection with 256 requests in flight",
        action: Action::Read,
        connections: 1,
        in_flight: 256,
        per_second: None,
    },
    Row {
        name: "write-rate",
        title: "Write at a fixed rate of 5,000/s, 64 connections, latency from the intended start",
        action: Action::Write,
        connections: 64,
        in_flight: 1,
        per_second: Some(RATE),
    },
];

/// Starts a store, fills it, runs the rows on it, and stops it.
pub(crate) async fn round<S: Store>(
    ground: &Ground,
    data: &Arc<Data>,
    rows: &[Row],
    times: Times,
    round: u32,
    results: &mut Results,
) -> Result<()> {
    let mut store = S::start(ground).await.context("starting")?;
    fill(&store, data, Filling::Separate).await?;
    let filled = store.processes().resident();
    warm_up(&mut store, data, times.warm).await?;
    for row in rows {
        let load = Load {
            action: row.action,
            connections: row.connections,
            in_flight: row.in_flight,
            per_second: row.per_second,
            seed: u64::from(round) * 1_000_003,
        };
        let measured = drive(&mut store, data, load, times).await.context(row.name)?;
        let sample = sample(S::NAME, row.name, round, measured);
        eprintln!(
            "round {round}  {:<10} {:<13} {:>9.0}/s  p50 {:>7.0} us  p99 {:>7.0} us  {} errors",
            sample.store,
            sample.row,
            sample.per_second,
            sample.p50_us,
            sample.p99_us,
            sample.errors
        );
        results.samples.push(sample);
    }
    let after = store.processes().resident();
    let mb = |kb: u64| kb as f64 / 1_024.0;
    results.memory.push(Memory {
        round,
        store: S::NAME.to_owned(),
        filled_largest_mb: mb(filled.largest_kb),
        filled_total_mb: mb(filled.total_kb),
        after_largest_mb: mb(after.largest_kb),
        after_total_mb: mb(after.total_kb),
    });
    Ok(())
}

/// Some of everything, which counts for nothing: programs that are compiled while they run need it.
pub(crate) async fn warm_up<S: Store>(
    store: &mut S,
    data: &Arc<Data>,
    warm: Duration,
) -> Result<()> {
    let times = Times { warm: Duration::ZERO, window: warm };
    for action in [Action::Write, Action::Read] {
        drive(store, data, Load::separate(action), times).await.context("warming up")?;
    }
    Ok(())
}

/// What a load came to, as it is kept.
pub(crate) fn sample(store: &str, row: &str, round: u32, measured: Measured) -> Sample {
    let busy = |cpu: Duration| cpu.as_secs_f64() / measured.window.as_secs_f64();
    let late_us = |quantile| measured.late_ns.value_at_quantile(quantile) as f64 / 1_000.0;
    Sample {
        round,
        store: store.to_owned(),
        row: row.to_owned(),
        operations: measured.operations,
        errors: measured.errors,
        per_second: measured.per_second(),
        p50_us: measured.us(0.5),
        p99_us: measured.us(0.99),
        p999_us: measured.us(0.999),
        p9999_us: measured.us(0.9999),
        max_us: measured.us(1.0),
        silence_us: measured.silence.as_secs_f64() * 1e6,
        late_p99_us: late_us(0.99),
        late_max_us: late_us(1.0),
        servers_us_per_operation: measured.servers_cpu.as_secs_f64() * 1e6
            / measured.operations as f64,
        servers_busy: busy(measured.servers_cpu),
        generator_busy: busy(measured.generator_cpu),
        others_busy: busy(measured.others_cpu),
        first_error: measured.first_error,
    }
}
