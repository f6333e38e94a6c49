//! `quorate up` with real processes. Each test has a directory and so a cluster of its own.

#![allow(clippy::unwrap_used, reason = "a test's helpers are test code")]

mod common;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::Value as Json;

use common::{Detached, data, done, is_alive, pids, quorate, runtime, script, talk, wait_until};

/// Waits until these are the members, by number.
#[track_caller]
fn wait_for_members(dir: &Path, members: [u32; 3]) {
    wait_until(&format!("{members:?} are the members"), || {
        // While nobody serves it ends with 5, and prints what it found.
        let status = quorate(dir, &["status", "-o", "json"]).output().unwrap();
        let status: Json = serde_json::from_slice(&status.stdout).unwrap();
        status["members"] == serde_json::json!(members)
    });
}

/// Has a node started again; it must come back as another, or as itself.
#[track_caller]
fn restart(dir: &Path, node: u32, back_as: u32) {
    let output = quorate(dir, &["up", "restart", &node.to_string()]).output().unwrap();
    assert!(output.status.success(), "{}", talk(&output));
    let said = talk(&output);
    assert!(said.contains(&format!("n{node} started again as n{back_as} ")), "{said}");
}

#[test]
fn a_piped_script_runs_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let lines = "write a 1\nread a\ndelete a\nread a\n";
    let output = script(dir.path(), &["up", "--memory"], lines);
    assert_eq!(output.status.code(), Some(0), "{}", talk(&output));
    assert_eq!(data(&output), "(written)\n1\n(deleted)\n(no such key)\n");
    assert!(talk(&output).contains("QUORATE_SERVER="), "{}", talk(&output));
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_script_goes_on_after_a_failure_and_ends_with_its_code() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("value"), "from1file").unwrap();
    let lines = b"write a\nwrite b- 1\n\xff\nwrite b -\nwrite b @value\nread b\nwrite b @@x\n";
    let args = ["up", "--memory", "--nodes", "1", "--alphanumeric"];
    let output = script(dir.path(), &args, lines);
    assert_eq!(output.status.code(), Some(2), "{}", talk(&output));
    assert_eq!(data(&output), "(written)\nfrom1file\n");
    assert!(talk(&output).contains("line 3: a line that is not UTF-8"), "{}", talk(&output));
    assert!(talk(&output).contains("line 4: - means standard input"), "{}", talk(&output));
    assert!(talk(&output).contains("line 7: refused: invalid value"), "{}", talk(&output));
    assert!(talk(&output).contains("line 1: write: write KEY VALUE"), "{}", talk(&output));
    assert!(talk(&output).contains("line 2: refused: invalid key"), "{}", talk(&output));
}

#[test]
fn a_cluster_that_is_detached_runs_on_until_it_is_taken_down() {
    let cluster = Detached::start(&["--nodes", "3"]);
    let dir = cluster.dir();
    let pids = pids(dir);
    assert_eq!(pids.len(), 4);
    assert!(pids.iter().all(|pid| is_alive(*pid)));

    // Found by the runtime file; one value through a pipe, as bytes.
    let write = script(dir, &["write", "k", "-"], "two\nlines");
    assert!(write.status.success(), "{}", talk(&write));
    assert_eq!(done(dir, &["read", "k"]), "two\nlines\n");
    let json: Json = serde_json::from_str(&done(dir, &["read", "k", "-o", "json"])).unwrap();
    assert_eq!(json["value"], "two\nlines");
    assert_eq!(done(dir, &["read", "k", "--raw"]), "two\nlines");
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let full = quorate(dir, &["read", "k"]).stdout(full).output().unwrap();
    assert_eq!(full.status.code(), Some(5), "{}", talk(&full));
    assert!(talk(&full).contains("standard output"), "{}", talk(&full));
    // The runtime file is found wherever `up` would look for it.
    let elsewhere = tempfile::tempdir().unwrap();
    let mut found = quorate(elsewhere.path(), &["read", "k", "--raw"]);
    let found = found.env("QUORATE_DATA", dir.join(".quorate")).output().unwrap();
    assert_eq!(data(&found), "two\nlines", "{}", talk(&found));
    let weak = quorate(dir, &["get", "k", "--level", "weak", "-v"]).output().unwrap();
    assert!(talk(&weak).contains("answered"), "{}", talk(&weak));
    let missing = quorate(dir, &["del", "nothing"]).output().unwrap();
    assert_eq!((missing.status.code(), data(&missing).as_str()), (Some(1), ""));

    let status: Json = serde_json::from_str(&done(dir, &["status", "-o", "json"])).unwrap();
    assert_eq!(status["members"], serde_json::json!([1, 2, 3]), "{status:#}");
    assert!(status["nodes"].as_array().unwrap().iter().all(|node| node["reachable"] == true));
    check_status(&status, &pids);
    let set = quorate(dir, &["settings", "set", "heartbeat", "banana"]).output().unwrap();
    assert_eq!(set.status.code(), Some(3), "{}", talk(&set));
    assert!(done(dir, &["settings", "set", "heartbeat", "90ms"]).contains("90ms"));

    let second = quorate(dir, &["up"]).output().unwrap();
    assert_eq!(second.status.code(), Some(2));
    assert!(talk(&second).contains("quorate down"), "{}", talk(&second));

    done(dir, &["down"]);
    assert!(pids.iter().all(|pid| !is_alive(*pid)));
    assert!(runtime(dir).is_none());

    // The data is found again, and so is the number of nodes.
    done(dir, &["up", "--detach"]);
    assert_eq!(done(dir, &["read", "k"]), "two\nlines\n");
    let fewer = {
        done(dir, &["down"]);
        quorate(dir, &["up", "--nodes", "2"]).output().unwrap()
    };
    assert_eq!(fewer.status.code(), Some(2));
    assert!(talk(&fewer).contains("--nodes 3"), "{}", talk(&fewer));
}

#[test]
fn a_node_is_killed_and_started_again_from_another_terminal() {
    let cluster = Detached::start(&["--nodes", "3"]);
    let dir = cluster.dir();
    done(dir, &["write", "k", "v"]);
    let before = pids(dir);
    done(dir, &["up", "kill", "2"]);
    assert!(!is_alive(before[2]));
    assert_eq!(done(dir, &["read", "k"]), "v\n");
    done(dir, &["up", "restart", "2"]);
    let after = pids(dir);
    assert!(before[2] != after[2] && is_alive(after[2]));
    wait_for_members(dir, [1, 2, 3]);
    let wrong = quorate(dir, &["up", "restart", "9"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}

/// The code of `status`, and what it says in JSON.
fn status(dir: &Path) -> (Option<i32>, Json) {
    let output = quorate(dir, &["status", "-o", "json"]).output().unwrap();
    (output.status.code(), serde_json::from_slice(&output.stdout).expect("always an object"))
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn the_cluster_is_seen_while_the_server_hangs_and_while_it_is_gone() {
    let cluster = Detached::start(&["--nodes", "3"]);
    let dir = cluster.dir();
    done(dir, &["write", "k", "v"]);
    let server = pids(dir)[0];
    let sees_all = |status: &Json| {
        let nodes = status["nodes"].as_array().unwrap();
        assert!(status["cluster"].is_string() && status["serves"] == true, "{status:#}");
        assert_eq!((&status["server"]["reachable"], nodes.len()), (&false.into(), 3), "{status:#}");
        assert!(nodes.iter().all(|node| node["reachable"] == true), "{status:#}");
    };
    signal(server, rustix::process::Signal::STOP);
    let (code, hangs) = status(dir);
    signal(server, rustix::process::Signal::CONT);
    assert_eq!(code, Some(0), "{hangs:#}");
    sees_all(&hangs);

    done(dir, &["up", "kill", "server"]);
    assert!(!is_alive(server));
    let up = quorate(dir, &["up"]).output().unwrap();
    assert!(talk(&up).contains("up restart server"), "{}", talk(&up));
    let (code, gone) = status(dir);
    assert_eq!(code, Some(0), "{gone:#}");
    sees_all(&gone);
    let text = done(dir, &["status"]);
    assert!(text.contains("up restart server") && !text.contains("registry"), "{text}");

    // The coordinator comes back, and cannot register: it is shown, and nobody serves.
    let coordinator = gone["coordinator"].to_string();
    let restart = quorate(dir, &["up", "restart", &coordinator]).output().unwrap();
    assert_eq!(restart.status.code(), Some(5), "{}", talk(&restart));
    assert!(talk(&restart).contains("has not registered"), "{}", talk(&restart));
    let (code, halted) = status(dir);
    assert_eq!((code, &halted["serves"]), (Some(5), &false.into()), "{halted:#}");
    let nodes = halted["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 3, "{halted:#}");
    let returning = nodes.iter().find(|node| node["id"] == gone["coordinator"]).unwrap();
    assert_eq!(returning["role"], "joining", "{halted:#}");

    done(dir, &["up", "restart", "server"]);
    wait_until("the cluster serves again", || status(dir).0 == Some(0));
    assert_eq!(done(dir, &["read", "k"]), "v\n");

    // By the address of a node alone nobody knows where the server is: that is no silence.
    let node = runtime(dir).unwrap()["nodes"][1]["address"].as_str().unwrap().to_owned();
    let text = done(dir, &["status", "--server", &node]);
    assert!(text.contains("not asked") && !text.contains("does not answer"), "{text}");
}

#[test]
fn orders_given_at_once_lose_no_process_and_down_finds_one_that_was_lost() {
    let cluster = Detached::start(&["--nodes", "3"]);
    let dir = cluster.dir();
    let orders = ["2", "3"].map(|node| quorate(dir, &["up", "restart", node]).spawn().unwrap());
    for order in orders {
        let output = order.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", talk(&output));
    }
    let mut after = pids(dir);
    assert!(after.len() == 4 && after.iter().all(|pid| is_alive(*pid)), "{after:?}");
    // As if an order had been cut off before it wrote down what it had started.
    let mut lost = runtime(dir).unwrap();
    lost["nodes"].as_array_mut().unwrap().pop();
    std::fs::write(dir.join(".quorate/cluster.json"), lost.to_string()).unwrap();
    done(dir, &["down"]);
    after.retain(|pid| is_alive(*pid));
    assert!(after.is_empty(), "{after:?}");
}

#[test]
fn a_damaged_node_is_left_out_and_the_others_serve() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert!(script(dir, &["up"], "write k v\n").status.success());
    let file = dir.join(".quorate/node-2/node");
    std::fs::write(&file, "damaged").unwrap();
    let output = script(dir, &["up", "--alphanumeric"], "read k\n");
    assert_eq!(output.status.code(), Some(0), "{}", talk(&output));
    assert_eq!(data(&output), "v\n");
    assert!(talk(&output).contains("starts without it"), "{}", talk(&output));
    assert!(talk(&output).contains("--alphanumeric is for new clusters"), "{}", talk(&output));
    assert!(runtime(dir).is_none());
}

#[test]
fn a_reader_that_goes_away_stops_the_cluster_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = quorate(dir.path(), &["up", "--memory", "--nodes", "1"]);
    let mut up = command.stdin(Stdio::piped()).spawn().unwrap();
    drop(up.stdout.take());
    up.stdin.take().unwrap().write_all(b"write k v\nread k\n").unwrap();
    let output = up.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", talk(&output));
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_a_killed_cluster_in_memory_left_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = quorate(dir.path(), &["up", "--memory", "--nodes", "1"]);
    let mut up = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    up.stdin.as_mut().unwrap().write_all(b"write k v\n").unwrap();
    let mut first = String::new();
    BufReader::new(up.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    let scratch = runtime(dir.path()).unwrap()["scratch"].as_str().unwrap().to_owned();
    let pids = pids(dir.path());
    up.kill().unwrap();
    up.wait().unwrap();
    wait_until("the children noticed", || pids.iter().all(|pid| !is_alive(*pid)));
    assert!(Path::new(&scratch).is_dir());
    let again = script(dir.path(), &["up", "--memory", "--nodes", "1"], "");
    assert!(again.status.success(), "{}", talk(&again));
    assert!(!Path::new(&scratch).exists());
}

#[test]
fn a_cluster_that_was_cut_off_comes_back_with_its_data_where_it_was() {
    let cluster = Detached::start(&["--nodes", "3"]);
    let dir = cluster.dir();
    done(dir, &["write", "k", "v"]);
    let addresses = |runtime: &Json| -> Vec<String> {
        let nodes = runtime["nodes"].as_array().unwrap().iter();
        let all = std::iter::once(&runtime["server"]).chain(nodes);
        all.map(|entry| entry["address"].as_str().unwrap().to_owned()).collect()
    };
    let before = addresses(&runtime(dir).unwrap());
    for pid in pids(dir) {
        signal(pid, rustix::process::Signal::KILL);
    }
    wait_until("everything is gone", || pids(dir).into_iter().all(|pid| !is_alive(pid)));
    done(dir, &["up", "--detach"]);
    assert_eq!(done(dir, &["read", "k"]), "v\n");
    for (before, after) in before.iter().zip(addresses(&runtime(dir).unwrap())) {
        // Somebody else may have taken the port meanwhile; nothing else is a reason to move.
        assert!(*before == after || std::net::TcpListener::bind(before).is_err(), "{before}");
    }
}

/// That the status of three settled nodes has every field, and the truth in it.
fn check_status(status: &Json, pids: &[u32]) {
    assert!(status["cluster"].is_string() && status["epoch"].is_u64(), "{status:#}");
    assert_eq!(
        (&status["server"]["reachable"], &status["server"]["pid"]),
        (&true.into(), &pids[0].into())
    );
    let nodes = status["nodes"].as_array().unwrap();
    for (node, pid) in nodes.iter().zip(&pids[1..]) {
        assert_eq!((&node["pid"], &node["storage"]), (&(*pid).into(), &"disk".into()), "{node:#}");
        let coordinates = node["id"] == status["coordinator"];
        assert_eq!(node["role"] == "coordinator", coordinates, "{node:#}");
        assert!(node["address"].is_string() && node["lag"].is_u64(), "{node:#}");
        assert!(node["position"].is_string() && node["applied"].is_string(), "{node:#}");
        // The server hears from nodes through the coordinator, which needs a moment.
        assert!(node["last_heard_ms"].is_u64() || node["last_heard_ms"].is_null(), "{node:#}");
    }
    assert!(nodes.iter().any(|node| node["id"] == status["coordinator"]), "{status:#}");
}

/// A cluster with a script that goes on for as long as the test holds it.
struct Attended {
    dir: tempfile::TempDir,
    up: Child,
}

impl Attended {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = quorate(dir.path(), &["up", "--nodes", "3"]);
        let talk = dir.path().join("talk");
        command.stdin(Stdio::piped()).stderr(File::create(&talk).unwrap());
        let mut up = command.spawn().unwrap();
        up.stdin.as_mut().unwrap().write_all(b"write k v\n").unwrap();
        let mut first = String::new();
        BufReader::new(up.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
        assert_eq!(first, "(written)\n", "{}", std::fs::read_to_string(talk).unwrap());
        Self { dir, up }
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        let _ = self.up.kill();
        let _ = self.up.wait();
    }
}

#[test]
fn the_children_stop_when_up_is_killed() {
    let mut cluster = Attended::start();
    let pids = pids(cluster.dir.path());
    cluster.up.kill().unwrap();
    cluster.up.wait().unwrap();
    wait_until("the children noticed", || pids.iter().all(|pid| !is_alive(*pid)));
    // What it left behind hinders nobody.
    let again = script(cluster.dir.path(), &["up"], "read k\n");
    assert_eq!((again.status.code(), data(&again).as_str()), (Some(0), "v\n"), "{}", talk(&again));
}

#[test]
fn an_attended_cluster_takes_orders_from_outside_and_goes_down() {
    let mut cluster = Attended::start();
    let dir = cluster.dir.path();
    let before = pids(dir);
    done(dir, &["up", "kill", "3"]);
    assert!(!is_alive(before[3]));
    done(dir, &["up", "restart", "3"]);
    let after = pids(dir);
    assert!(before[3] != after[3] && is_alive(after[3]));
    done(dir, &["down"]);
    assert!(after.iter().all(|pid| !is_alive(*pid)));
    cluster.up.wait().unwrap();
    assert!(runtime(dir).is_none());
}

#[test]
fn a_node_in_memory_comes_back_as_another_and_only_all_of_them_together_lose_anything() {
    let cluster = Detached::start(&["--memory", "--nodes", "3"]);
    let dir = cluster.dir();
    done(dir, &["settings", "set", "gone_after", "1s"]);
    let keys: Vec<_> = (1..=12).map(|n| format!("k{n}")).collect();
    let everything_is_there = || {
        let reads: Vec<_> = keys.iter().map(|key| format!("R,{key}")).collect();
        let reads = reads.iter().map(String::as_str);
        let read = done(dir, &["run"].into_iter().chain(reads).collect::<Vec<_>>());
        assert_eq!(read.lines().collect::<Vec<_>>(), keys, "each holds its own name");
    };
    let writes: Vec<_> = keys.iter().map(|key| format!("W,{key},{key}")).collect();
    let writes = writes.iter().map(String::as_str);
    done(dir, &["run"].into_iter().chain(writes).collect::<Vec<_>>());

    // A node that follows, then the one that coordinates; another number each time.
    done(dir, &["up", "kill", "2"]);
    everything_is_there();
    restart(dir, 2, 4);
    wait_for_members(dir, [1, 3, 4]);
    everything_is_there();
    let unknown = quorate(dir, &["up", "kill", "2"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2), "{}", talk(&unknown));
    // One that runs is killed first.
    restart(dir, 1, 5);
    wait_for_members(dir, [3, 4, 5]);
    everything_is_there();

    // All of them: nothing is left, and the cluster begins anew by itself.
    for node in ["3", "4", "5"] {
        done(dir, &["up", "kill", node]);
    }
    for (node, back_as) in [(3, 6), (4, 7), (5, 8)] {
        restart(dir, node, back_as);
    }
    wait_for_members(dir, [6, 7, 8]);
    let gone = quorate(dir, &["read", "k1"]).output().unwrap();
    assert_eq!(gone.status.code(), Some(1), "{}", talk(&gone));
    done(dir, &["write", "k1", "again"]);
    assert_eq!(done(dir, &["read", "k1"]), "again\n");
    done(dir, &["down"]);
    let left: Vec<_> = std::fs::read_dir(dir).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}
