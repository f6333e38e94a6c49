//! Disks that are full: who cannot write says so and stops, and what was acknowledged is there
//! once there is room.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_client::{ChangeOptions, DEFAULT_DEADLINE, Error};
use quorate_protocol::ids::NodeId;
use quorate_protocol::record::Value;

use crate::alone;
use crate::cluster::Cluster;
use crate::contents::holds;
use crate::load::Load;
use crate::process::{quorate, until};
use crate::small_disk::SmallDisk;

/// Room for a log of one file and the state behind it, but not for a second file of the log.
const SMALL_MIB: u32 = 28;

/// What is left of that where the state is to find no room, while the log has its first file.
const LEFT_BYTES: u64 = 3 << 20;

/// With this, a node writes its state when four times as much waits: more than that.
const MEMTABLE_BYTES: u64 = 1 << 20;

/// Room for everything that is written here.
const LARGE_MIB: u32 = 400;

/// How long each value is.
const VALUE_BYTES: usize = 256 << 10;

/// More values than any of the small disks holds.
const VALUES_MAX: usize = 400;

/// Fewer than the first file of a log holds, and more than the state then has room for.
const VALUES_OF_A_FILE: usize = 40;

/// How long a write is tried.
const TRIED: Duration = Duration::from_secs(2);

/// How many changes show that a cluster goes on.
const SOME: usize = 40;

/// The value of a key: long, and no other key's.
fn value(key: &str) -> Value {
    format!("{key} ").repeat(VALUE_BYTES / (key.len() + 1)).into()
}

/// What became of a cluster whose disks were filled.
#[derive(Default)]
struct Filled {
    /// What was acknowledged.
    acknowledged: BTreeMap<String, Option<Value>>,
    /// Who ended by himself.
    ended: Vec<NodeId>,
}

/// Writes one key after the other, until two of three nodes have ended and nobody takes any more, or
/// this many are written.
async fn fill(cluster: &mut Cluster, at_most: usize) -> Filled {
    let client = cluster.client().await;
    let mut filled = Filled::default();
    for n in 0..at_most {
        let key = format!("filling-{n}");
        let options = ChangeOptions::default().deadline(TRIED);
        let written = client.write_with(key.as_str(), value(&key), options).await;
        filled.ended.extend(cluster.ended_by_themselves());
        match written {
            Ok(_) => {
                filled.acknowledged.insert(key.clone(), Some(value(&key)));
            }
            Err(Error::Unknown { .. } | Error::Unavailable { .. }) if filled.ended.len() >= 2 => {
                break;
            }
            Err(Error::Unknown { .. } | Error::Unavailable { .. }) => {}
            Err(error) => panic!("a full disk is no reason for this answer: {error}"),
        }
    }
    filled
}

/// Somebody writes at the command line, until nobody takes it any more; gives the exit code and what
/// was said then.
async fn write_until_it_fails(cluster: &Cluster) -> (Option<i32>, String) {
    until("a write fails", async || {
        let server = &cluster.server_address;
        let mut command = quorate(["write", "late", "x", "--timeout", "1s", "--server", server]);
        let written = tokio::task::spawn_blocking(move || command.output()).await;
        let written = written.unwrap().unwrap();
        match written.status.success() {
            true => Err("it is taken".to_owned()),
            false => {
                Ok((written.status.code(), String::from_utf8_lossy(&written.stderr).into_owned()))
            }
        }
    })
    .await
}

/// What the node logged as it ended: what happened, and what to do.
fn says_what_to_do(cluster: &Cluster, node: NodeId) {
    let log = cluster.log(node);
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("No space left") && last.contains("free"), "{node} ends with: {last}");
    assert!(!log.contains("panicked"), "{node}: {log}");
}

#[test]
fn full_disks_end_in_an_error_and_everything_acknowledged_is_there_once_there_is_room() {
    // The log fills them; or it has room in its first file, and the state has none.
    for left_to_the_state in [None, Some(LEFT_BYTES)] {
        alone(every_disk_is_full(left_to_the_state));
    }
}

async fn every_disk_is_full(left_to_the_state: Option<u64>) {
    let disks: Option<Vec<_>> = (0..3).map(|_| SmallDisk::mount(SMALL_MIB)).collect();
    let Some(disks) = disks else { return };
    let mut cluster = Cluster::with_server().await;
    cluster.memtable_bytes = left_to_the_state.map(|_| MEMTABLE_BYTES);
    for (n, disk) in disks.iter().enumerate() {
        let dir = disk.path().join(format!("full-{n}"));
        cluster.run_node(Some(dir), "127.0.0.1:0").await;
    }
    let members = cluster.up();
    cluster.settled(&members).await;
    let values = match left_to_the_state {
        None => VALUES_MAX,
        Some(bytes) => {
            disks.iter().for_each(|disk| disk.leave(bytes));
            VALUES_OF_A_FILE
        }
    };
    let Filled { acknowledged, mut ended } = fill(&mut cluster, values).await;
    until("a majority has ended", async || {
        ended.extend(cluster.ended_by_themselves());
        if ended.len() >= 2 { Ok(()) } else { Err(format!("{ended:?} have")) }
    })
    .await;
    assert!(acknowledged.len() > 5, "{} values were taken", acknowledged.len());
    let (code, said) = write_until_it_fails(&cluster).await;
    assert!(matches!(code, Some(4 | 5)) && !said.is_empty(), "{code:?}: {said}");
    for node in ended {
        says_what_to_do(&cluster, node);
    }
    for node in cluster.up() {
        cluster.kill(node);
    }
    disks.iter().for_each(|disk| disk.resize(LARGE_MIB));
    cluster.restart_all_nodes().await;
    cluster.settled(&members).await;
    let client = cluster.client().await;
    for (key, value) in &acknowledged {
        let held = client.read(key.as_str()).await.unwrap().value;
        assert!(held == *value, "{key}, which was acknowledged, is not there");
    }
    cluster.serves().await;
    let some = acknowledged.into_iter().step_by(9).collect();
    for node in members {
        holds(&cluster, node, &some).await;
    }
    cluster.end();
}

#[test]
fn one_node_on_a_full_disk_stops_and_the_others_go_on() {
    // The first node coordinates, the last one follows.
    for small in [1, 3] {
        alone(one_on_a_full_disk(NodeId(small)));
    }
}

async fn one_on_a_full_disk(small: NodeId) {
    let Some(disk) = SmallDisk::mount(SMALL_MIB) else { return };
    let mut cluster = Cluster::with_server().await;
    for n in 1..=3 {
        match NodeId(n) == small {
            true => cluster.run_node(Some(disk.path().join("full")), "127.0.0.1:0").await,
            false => cluster.join().await,
        };
    }
    let members = cluster.up();
    cluster.settled(&members).await;
    let load = Load::start(cluster.client().await, DEFAULT_DEADLINE);
    let client = cluster.client().await;
    let mut written = BTreeMap::new();
    while cluster.ended_by_themselves().is_empty() {
        let key = format!("filling-{}", written.len());
        client.write(key.as_str(), value(&key)).await.unwrap();
        written.insert(key.clone(), Some(value(&key)));
        assert!(written.len() < VALUES_MAX, "{small} goes on");
    }
    assert!(!cluster.is_up(small), "{small} is the one without room");
    says_what_to_do(&cluster, small);
    let others = cluster.up();
    assert_eq!(others.len(), 2);
    cluster.settled(&others).await;
    load.goes_on(SOME).await;
    load.everything_is_there().await;
    for (key, value) in &written {
        let held = client.read(key.as_str()).await.unwrap().value;
        assert!(held == *value, "{key}, which was acknowledged, is not there");
    }

    // With room it comes back as who it was, and catches up.
    disk.resize(LARGE_MIB);
    cluster.restart(small).await;
    cluster.settled(&members).await;
    holds(&cluster, small, &load.numbered()).await;
    holds(&cluster, small, &written.into_iter().step_by(9).collect()).await;
    load.finish_without_error().await;
    cluster.end();
}
