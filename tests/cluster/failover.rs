//! Nodes and coordinators that die, are stopped, or fall silent and come back (S002-39, 48..54).

use std::time::Instant;

use quorate_client::{DEFAULT_DEADLINE, Level};
use quorate_protocol::rpc::store::{Change, ChangeReply, Command, ReadReply, Role};
use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::contents::everywhere;
use crate::load::{Load, token};
use crate::process::{PATIENCE, until};
use crate::witness::Witness;
use crate::{alone, ask};

/// How many changes show that a cluster goes on.
const SOME: usize = 40;

#[test]
fn a_cluster_recovers_from_the_kill_of_a_node() {
    alone(async {
        let mut cluster = Cluster::start(3).await;
        let load = Load::start(cluster.client().await, DEFAULT_DEADLINE);
        let witness = Witness::call(cluster.client().await, &cluster.server_address);
        load.goes_on(SOME).await;
        let node = cluster.follower().await;
        let from = Instant::now();
        cluster.kill(node);
        cluster.recovered(&[node]).await;
        load.goes_on(SOME).await;
        eprintln!("a node was killed: longest gap {:?}", load.longest_gap(from));
        // It comes back as who it was.
        cluster.restart(node).await;
        cluster.settled(&cluster.up()).await;
        let contents = load.finish_without_error().await;
        everywhere(&cluster, &last_of(contents)).await;
        witness.question().await;
        cluster.end();
    });
}

#[test]
fn a_cluster_recovers_from_the_kill_of_its_coordinator_again_and_again() {
    alone(async {
        let mut cluster = Cluster::start(3).await;
        let load = Load::start(cluster.client().await, DEFAULT_DEADLINE);
        let witness = Witness::call(cluster.client().await, &cluster.server_address);
        let mut coordinators = Vec::new();
        for _ in 0..2 {
            load.goes_on(SOME).await;
            let coordinator = cluster.coordinator().await;
            let from = Instant::now();
            cluster.kill(coordinator);
            load.goes_on(SOME).await;
            cluster.settled(&cluster.up()).await;
            eprintln!("the coordinator was killed: longest gap {:?}", load.longest_gap(from));
            let from = Instant::now();
            cluster.recovered(&[coordinator]).await;
            load.goes_on(SOME).await;
            eprintln!("a node joined: longest gap {:?}", load.longest_gap(from));
            coordinators.push(coordinator);
        }
        for coordinator in coordinators {
            cluster.restart(coordinator).await;
        }
        cluster.settled(&cluster.up()).await;
        let contents = load.finish_without_error().await;
        everywhere(&cluster, &last_of(contents)).await;
        witness.question().await;
        cluster.end();
    });
}

#[test]
fn a_cluster_recovers_when_a_node_dies_and_then_the_coordinator() {
    alone(async {
        let mut cluster = Cluster::start(5).await;
        let load = Load::start(cluster.client().await, DEFAULT_DEADLINE);
        let witness = Witness::call(cluster.client().await, &cluster.server_address);
        load.goes_on(SOME).await;
        let (node, coordinator) = (cluster.follower().await, cluster.coordinator().await);
        let from = Instant::now();
        cluster.kill(node);
        cluster.kill(coordinator);
        cluster.recovered(&[node, coordinator]).await;
        load.goes_on(SOME).await;
        eprintln!("a node and the coordinator: longest gap {:?}", load.longest_gap(from));
        load.finish_without_error().await;
        witness.question().await;
        cluster.end();
    });
}

#[test]
fn a_coordinator_that_is_stopped_hands_over_without_an_error() {
    alone(async {
        let mut cluster = Cluster::start(3).await;
        let load = Load::start(cluster.client().await, DEFAULT_DEADLINE);
        let witness = Witness::call(cluster.client().await, &cluster.server_address);
        load.goes_on(SOME).await;
        let members = cluster.up();
        let coordinator = cluster.coordinator().await;
        let from = Instant::now();
        cluster.stop(coordinator).await;
        load.goes_on(SOME).await;
        eprintln!("the coordinator was stopped: longest gap {:?}", load.longest_gap(from));
        // It announced that it leaves: it stays a member, and is one when it is back.
        assert_ne!(cluster.coordinator().await, coordinator);
        cluster.restart(coordinator).await;
        cluster.settled(&members).await;
        cluster.recovered(&[]).await;
        load.finish_without_error().await;
        witness.question().await;
        cluster.end();
    });
}

#[test]
fn a_coordinator_that_wakes_up_deposed_serves_nothing() {
    alone(async {
        let mut cluster = Cluster::start(3).await;
        let client = cluster.client().await;
        client.write("watched", "before").await.unwrap();
        let load = Load::start(client.clone(), DEFAULT_DEADLINE);
        let witness = Witness::call(cluster.client().await, &cluster.server_address);
        load.goes_on(SOME).await;
        let deposed = cluster.coordinator().await;
        let address = cluster.address(deposed).to_owned();
        cluster.signal(deposed, Signal::STOP);

        // These reach it while it sleeps: it finds them when it wakes, before any news.
        let change = Change {
            token: token(&client).await,
            command: Command::Write { key: "stray".into(), value: "stray".into() },
        };
        let stray_change = tokio::task::spawn_local({
            let address = address.clone();
            async move { ask::change(&address, change, PATIENCE).await }
        });
        let stray_read = tokio::task::spawn_local({
            let address = address.clone();
            async move { ask::read(&address, "watched", Level::Majority, PATIENCE).await }
        });
        until("another one coordinates", async || {
            let now = cluster.coordinator().await;
            if now == deposed { Err("not yet".to_owned()) } else { Ok(()) }
        })
        .await;
        client.write("watched", "after").await.unwrap();
        load.goes_on(SOME).await;
        cluster.signal(deposed, Signal::CONT);

        match stray_read.await.unwrap() {
            Ok(ReadReply::Found { value, .. }) => assert_eq!(value, Some("after".into())),
            Ok(ReadReply::Refused(_)) | Err(_) => {}
        }
        let stray = stray_change.await.unwrap();
        until("it knows that it is deposed", async || match ask::status(&address).await?.role {
            Role::Coordinator => Err("it believes to coordinate".to_owned()),
            _ => Ok(()),
        })
        .await;
        // What it answered is true.
        let read = client.read("stray").await.unwrap().value;
        match stray {
            Ok(ChangeReply::Applied { .. }) => assert_eq!(read, Some("stray".into())),
            Ok(ChangeReply::Refused(_)) => assert_eq!(read, None),
            Ok(ChangeReply::Unknown | ChangeReply::Expired) | Err(_) => {}
        }
        cluster.recovered(&[]).await;
        load.finish_without_error().await;
        witness.question().await;
        cluster.end();
    });
}

#[test]
fn a_coordinator_that_hears_no_majority_says_how_old_its_weak_reads_may_be() {
    alone(async {
        let cluster = Cluster::start(3).await;
        cluster.client().await.write("k", "v").await.unwrap();
        let coordinator = cluster.coordinator().await;
        let address = cluster.address(coordinator);
        let age = async || match ask::read(address, "k", Level::Weak, PATIENCE).await? {
            ReadReply::Found { by, heard_ms_ago, .. } if by == coordinator => {
                heard_ms_ago.ok_or_else(|| "it never heard anybody".to_owned())
            }
            other => Err(format!("{other:?}")),
        };
        until("a coordinator that is followed is in touch", async || match age().await? {
            ms @ 0..500 => Ok(ms),
            ms => Err(format!("{ms} ms ago")),
        })
        .await;
        let others: Vec<_> = cluster.up().into_iter().filter(|node| *node != coordinator).collect();
        for node in &others {
            cluster.process(*node).pause().await;
        }
        until("a coordinator that is cut off says so", async || match age().await? {
            ms @ 2_000.. => Ok(ms),
            ms => Err(format!("{ms} ms ago")),
        })
        .await;
        for node in &others {
            cluster.signal(*node, Signal::CONT);
        }
        cluster.settled(&cluster.up()).await;
        cluster.end();
    });
}

/// A part of what a load left behind: enough to tell whether a node has it.
fn last_of<K: Ord + Clone, V: Clone>(
    contents: std::collections::BTreeMap<K, V>,
) -> std::collections::BTreeMap<K, V> {
    const ENOUGH: usize = 150;
    let every = (contents.len() / ENOUGH).max(1);
    contents.into_iter().step_by(every).collect()
}
