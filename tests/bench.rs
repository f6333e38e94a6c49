//! `quorate bench` against real processes: what it tells, what it checks, and how it ends. How
//! fast it is, is not tested.

#![allow(clippy::unwrap_used, reason = "a test's helpers are test code")]

mod common;

use std::fs;
use std::process::Output;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

use common::{Detached, data, done, quorate, talk, wait_until};

fn cluster() -> Detached {
    Detached::start(&["--memory", "--nodes", "3"])
}

fn run(cluster: &Detached, args: &[&str]) -> Output {
    quorate(cluster.dir(), &[&["bench"], args].concat()).output().unwrap()
}

#[track_caller]
fn json(output: &Output) -> Json {
    serde_json::from_str(&data(output)).unwrap_or_else(|_| panic!("{}", talk(output)))
}

/// What a key holds, if anything.
fn read(cluster: &Detached, key: &str) -> Option<String> {
    let output = quorate(cluster.dir(), &["read", key]).output().unwrap();
    output.status.success().then(|| data(&output).trim_end().to_owned())
}

#[test]
fn every_answer_of_a_healthy_cluster_is_right_and_all_is_told() {
    let cluster = cluster();
    done(cluster.dir(), &["write", "mine", "precious"]);
    let short = ["--duration", "1s", "--warmup", "100ms", "--clients", "8", "--keys", "200"];
    let mixed = ["--workload", "mixed", "--verify", "-o", "json", "--plot", "plot.svg"];
    let output = run(&cluster, &[&short[..], &mixed].concat());
    assert_eq!(output.status.code(), Some(0), "{}{}", data(&output), talk(&output));
    assert_eq!(talk(&output), "drawn: plot.svg\n", "no progress where there is no terminal");
    let json = json(&output);
    assert_eq!(json["verify"]["violations"], 0, "{json}");
    assert_eq!(
        (&json["verify"]["keys_at_the_end"], &json["loaded_keys"]),
        (&200.into(), &200.into())
    );
    assert!(json["verify"]["answers"].as_u64().unwrap() > 0, "{json}");
    assert_eq!(json["engines"], serde_json::json!(["memory", "memory", "memory"]));
    for kind in ["reads", "writes"] {
        let kind = &json["requests"][kind];
        let buckets = kind["histogram"].as_array().unwrap().iter();
        let sum: u64 = buckets.map(|bucket| bucket["count"].as_u64().unwrap()).sum();
        assert!(sum > 0 && kind["answered"] == sum, "{json}");
    }
    let plot = fs::read_to_string(cluster.dir().join("plot.svg")).unwrap();
    assert!(plot.starts_with("<svg") && plot.ends_with("</svg>\n"));

    let open = ["--workload", "zipf", "--level", "weak", "--connections", "1", "--rate", "50"];
    let output = run(&cluster, &[&short[..], &open, &["--verify"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}{}", data(&output), talk(&output));
    for said in ["not from when it was sent", "1 connection for all", "weak reads", "not durable"] {
        assert!(data(&output).contains(said), "{said}: {}", data(&output));
    }
    assert_eq!(read(&cluster, "mine").as_deref(), Some("precious"));
}

#[test]
fn an_interrupt_ends_it_with_what_was_measured() {
    let cluster = cluster();
    let args = ["bench", "--duration", "60m", "--warmup", "0", "--keys", "4", "-o", "json"];
    let bench = quorate(cluster.dir(), &args).spawn().unwrap();
    // The first key is written once to see whether it can be; any other is written when it measures.
    wait_until("it measures", || read(&cluster, "bench/00000001").is_some());
    kill_process(Pid::from_child(&bench), Signal::INT).unwrap();
    let output = bench.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", talk(&output));
    let json = json(&output);
    assert_eq!((&json["interrupted"], &json["duration_ms"]), (&true.into(), &3_600_000.into()));
    assert!(json["measured_ms"].as_u64().unwrap() < 3_600_000);
    assert!(json["requests"]["writes"]["answered"].as_u64().unwrap() > 0, "{json}");
}

#[test]
fn what_somebody_else_writes_is_seen_as_wrong() {
    let cluster = cluster();
    let keys: Vec<_> = (0..4).map(|n| format!("bench/{n:08}")).collect();
    // Longer where the machine was too busy for the write to come in time.
    for seconds in [2, 8, 32] {
        let before: Vec<_> = keys.iter().map(|key| read(&cluster, key)).collect();
        let duration = format!("{seconds}s");
        let args = ["bench", "--workload", "read", "--verify", "--keys", "4", "--clients", "4"];
        let args = [&args[..], &["--warmup", "0", "--duration", &duration]].concat();
        let bench = quorate(cluster.dir(), &args).spawn().unwrap();
        wait_until("every key has its first value", || {
            keys.iter().zip(&before).all(|(key, before)| read(&cluster, key) != *before)
        });
        done(cluster.dir(), &["write", &keys[2], "hello"]);
        let output = bench.wait_with_output().unwrap();
        if output.status.code() == Some(0) {
            continue;
        }
        assert_eq!(output.status.code(), Some(3), "{}{}", data(&output), talk(&output));
        let said = data(&output);
        assert!(said.contains("VIOLATION"), "{said}");
        assert!(said.contains("bench/00000002: a read found what no bench wrote"), "{said}");
        return;
    }
    panic!("never in time");
}

#[test]
fn a_cluster_that_takes_no_such_requests_or_is_not_there_is_told_at_once() {
    let strict = Detached::start(&["--memory", "--nodes", "1", "--alphanumeric"]);
    let output = run(&strict, &["--duration", "60m"]);
    assert_eq!(output.status.code(), Some(3), "{}", talk(&output));
    assert!(talk(&output).contains("key_pattern"), "{}", talk(&output));
    done(strict.dir(), &["settings", "set", "key_pattern", ""]);
    wait_until("the node knows of it", || {
        quorate(strict.dir(), &["write", "bench/", "1"]).output().unwrap().status.success()
    });
    let output = run(&strict, &["--duration", "60m", "--value-bytes", "2000000"]);
    assert_eq!(output.status.code(), Some(3), "{}", talk(&output));
    assert!(talk(&output).contains("--value-bytes"), "{}", talk(&output));
    let dir = strict.stop();

    let nobody = ["bench", "--server", "127.0.0.1:1", "--duration", "60m"];
    let output = quorate(dir.path(), &nobody).output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", talk(&output));
    assert!(talk(&output).contains("--server"), "{}", talk(&output));
    assert_eq!(data(&output), "");
}
