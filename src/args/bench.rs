//! What `quorate bench` takes. What it comes to together is found out by `bench::plan`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum, value_parser};
use quorate_protocol::transport::seats::CLIENT_CONNECTIONS_MAX;

use super::{Format, How, Reach, parse_time};

/// The longest value, and what `value_bytes_max` may be set to at the most.
const VALUE_BYTES_MAX: i64 = 15 << 20;

/// The most keys: `--verify` remembers a little of each.
const KEYS_MAX: i64 = 10_000_000;

/// The most clients: as many requests as one connection has in flight.
const CLIENTS_MAX: i64 = 4_096;

/// The most connections: a node takes [`CLIENT_CONNECTIONS_MAX`], and some are left to others.
pub(crate) const CONNECTIONS_MAX: u32 = 500;
const _: () = assert!((CONNECTIONS_MAX as usize) < CLIENT_CONNECTIONS_MAX);

/// The most requests a second.
const RATE_MAX: i64 = 1_000_000;

/// The longest warm-up.
const WARMUP_MAX: Duration = Duration::from_secs(600);

#[derive(Clone, Debug, Args)]
pub(crate) struct Bench {
    /// What is asked: `mixed` reads and writes, `zipf` does so with few keys far more often
    #[arg(long, env = "QUORATE_WORKLOAD", default_value = "write")]
    pub(crate) workload: Workload,
    /// How many of 100 requests of `mixed` and `zipf` are reads [default: 50]
    #[arg(long, env = "QUORATE_READS", value_name = "PERCENT")]
    #[arg(value_parser = value_parser!(u8).range(0..=100))]
    pub(crate) reads: Option<u8>,
    /// How long a value is, in bytes
    #[arg(long, env = "QUORATE_VALUE_BYTES", value_name = "N", default_value = "256")]
    #[arg(value_parser = value_parser!(u32).range(1..=VALUE_BYTES_MAX))]
    pub(crate) value_bytes: u32,
    /// How many keys there are; all begin with `bench/`, and stay
    #[arg(long, env = "QUORATE_KEYS", value_name = "N", default_value = "20000")]
    #[arg(value_parser = value_parser!(u32).range(1..=KEYS_MAX))]
    pub(crate) keys: u32,
    /// How many clients; each has one request under way
    #[arg(long, env = "QUORATE_CLIENTS", value_name = "N", default_value = "64")]
    #[arg(value_parser = value_parser!(u32).range(1..=CLIENTS_MAX))]
    pub(crate) clients: u32,
    /// How many connections they share [default: one for each client, 500 at the most]
    #[arg(long, env = "QUORATE_CONNECTIONS", value_name = "N")]
    #[arg(value_parser = value_parser!(u32).range(1..=i64::from(CONNECTIONS_MAX)))]
    pub(crate) connections: Option<u32>,
    #[command(flatten)]
    pub(crate) how: How,
    /// How long to measure, such as 500ms, 10s or 1m
    #[arg(long, env = "QUORATE_DURATION", value_name = "TIME", default_value = "10s")]
    #[arg(value_parser = parse_time)]
    pub(crate) duration: Duration,
    /// How long to run before, which is not counted; 0 is not at all
    #[arg(long, env = "QUORATE_WARMUP", value_name = "TIME", default_value = "1s")]
    #[arg(value_parser = parse_warmup)]
    pub(crate) warmup: Duration,
    /// Start so many requests a second, whether or not the last are answered, and count their
    /// latency from when they should have started [default: each client sends when it is answered]
    #[arg(long, env = "QUORATE_RATE", value_name = "N")]
    #[arg(value_parser = value_parser!(u32).range(1..=RATE_MAX))]
    pub(crate) rate: Option<u32>,
    /// How long to try one request, such as 500ms, 10s or 1m
    #[arg(long, env = "QUORATE_TIMEOUT", value_name = "TIME", default_value = "10s")]
    #[arg(value_parser = parse_time)]
    pub(crate) timeout: Duration,
    /// Check every answer, and at the end every key; ends with 3 where one is wrong
    #[arg(long, env = "QUORATE_VERIFY", value_parser = FalseyValueParser::new())]
    pub(crate) verify: bool,
    /// How to print
    #[arg(short, long, env = "QUORATE_OUTPUT", value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Format,
    /// Draw the latencies and the throughput too, as an SVG
    #[arg(long, env = "QUORATE_PLOT", value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    Write,
    Read,
    Mixed,
    Zipf,
}

/// A length of time, or none.
fn parse_warmup(text: &str) -> Result<Duration, String> {
    if ["0", "0s", "0ms", "0m"].contains(&text) {
        return Ok(Duration::ZERO);
    }
    match parse_time(text) {
        Ok(time) if time > WARMUP_MAX => Err("at most 10m".to_owned()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Command, Typed};

    fn typed(args: &[&str]) -> Result<Bench, String> {
        let all = [&["quorate", "bench"], args].concat();
        match Typed::try_parse_from(all).map_err(|error| error.to_string())?.command {
            Command::Bench(bench) => Ok(bench),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_defaults_are_practical() {
        let bench = typed(&[]).unwrap();
        assert_eq!(bench.workload, Workload::Write);
        assert_eq!((bench.value_bytes, bench.keys, bench.clients), (256, 20_000, 64));
        assert_eq!((bench.reads, bench.connections, bench.rate), (None, None, None));
        let times = (bench.duration, bench.warmup, bench.timeout);
        let [ten, one] = [10, 1].map(Duration::from_secs);
        assert_eq!(times, (ten, one, ten));
    }

    #[test]
    fn every_number_has_bounds_and_the_error_names_them() {
        let table = [
            (["--reads", "101"], "0..=100"),
            (["--value-bytes", "0"], "1..=15728640"),
            (["--value-bytes", "15728641"], "1..=15728640"),
            (["--keys", "0"], "1..=10000000"),
            (["--keys", "10000001"], "1..=10000000"),
            (["--clients", "0"], "1..=4096"),
            (["--clients", "4097"], "1..=4096"),
            (["--connections", "0"], "1..=500"),
            (["--connections", "501"], "1..=500"),
            (["--rate", "0"], "1..=1000000"),
            (["--rate", "1000001"], "1..=1000000"),
            (["--duration", "0"], "too short"),
            (["--duration", "61m"], "at most 60m"),
            (["--warmup", "11m"], "at most 10m"),
            (["--warmup", "soon"], "500ms"),
            (["--workload", "scan"], "write, read, mixed, zipf"),
        ];
        for (args, word) in table {
            let error = typed(&args).unwrap_err();
            assert!(error.contains(word) && error.contains(args[0]), "{args:?}: {error}");
        }
        assert_eq!(typed(&["--warmup", "0"]).unwrap().warmup, Duration::ZERO);
    }
}
