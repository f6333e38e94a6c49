//! Nodes that come and go.

use std::time::Duration;

use quorate_client::DEFAULT_DEADLINE;
use quorate_protocol::ids::{History, NodeId};

use crate::alone;
use crate::ask;
use crate::cluster::Cluster;
use crate::contents::everywhere;
use crate::load::Load;
use crate::process::{PATIENCE, until};
use crate::witness::Witness;

/// How many changes show that a cluster goes on.
const SOME: usize = 40;

/// How long a request is tried where nobody may answer for a while.
const SHORT: Duration = Duration::from_millis(300);

#[test]
fn nodes_join_under_load_and_an_emptied_one_comes_back_as_another() {
    alone(async {
        let mut cluster = Cluster::start(1).await;
        let load = Load::start(cluster.client().await, DEFAULT_DEADLINE);
        let witness = Witness::call(cluster.client().await, &cluster.server_address);
        for _ in 0..3 {
            load.goes_on(SOME).await;
            cluster.join().await;
            cluster.settled(&cluster.up()).await;
            load.goes_on(SOME).await;
            load.everything_is_there().await;
        }

        let emptied = cluster.follower().await;
        cluster.kill(emptied);
        let dir = cluster.nodes[&emptied].dir.clone().unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        let address = cluster.address(emptied).to_owned();
        let fresh = cluster.run_node(Some(dir), &address).await;
        assert!(!(1..=4).map(NodeId).any(|old| old == fresh), "{fresh} was used before");
        cluster.settled(&cluster.up()).await;
        load.goes_on(SOME).await;
        load.everything_is_there().await;

        // In memory, every start is a new node.
        let memory = cluster.join_in_memory().await;
        cluster.settled(&cluster.up()).await;
        cluster.kill(memory);
        cluster.settled(&cluster.up()).await;
        let again = cluster.join_in_memory().await;
        assert_ne!(memory, again);
        cluster.recovered(&[emptied, memory]).await;
        let contents = load.finish_without_error().await;
        let some = contents.into_iter().step_by(7).take(100).collect();
        everywhere(&cluster, &some).await;
        witness.question().await;
        cluster.end();
    });
}

#[test]
fn the_last_node_standing_has_everything() {
    alone(async {
        let mut cluster = Cluster::start(3).await;
        let load = Load::start(cluster.client().await, DEFAULT_DEADLINE);
        let witness = Witness::call(cluster.client().await, &cluster.server_address);
        let mut gone = Vec::new();
        while cluster.up().len() > 1 {
            load.goes_on(SOME).await;
            let coordinator = cluster.coordinator().await;
            cluster.kill(coordinator);
            gone.push(coordinator);
            cluster.settled(&cluster.up()).await;
            cluster.serves().await;
            load.goes_on(SOME).await;
            load.everything_is_there().await;
        }
        for node in gone {
            cluster.restart(node).await;
            cluster.settled(&cluster.up()).await;
            cluster.serves().await;
            load.goes_on(SOME).await;
            load.everything_is_there().await;
        }
        cluster.recovered(&[]).await;
        let contents = load.finish_without_error().await;
        let some = contents.into_iter().step_by(7).take(100).collect();
        everywhere(&cluster, &some).await;
        witness.question().await;
        cluster.end();
    });
}

#[test]
fn two_of_three_killed_at_once_is_a_halt_and_no_guess() {
    alone(async {
        let mut cluster = Cluster::start(3).await;
        let load = Load::start(cluster.client().await, SHORT);
        let witness = Witness::call(cluster.client().await, &cluster.server_address);
        load.goes_on(SOME).await;
        let (follower, coordinator) = (cluster.follower().await, cluster.coordinator().await);
        cluster.kill(follower);
        cluster.kill(coordinator);
        let [left] = cluster.up()[..] else { panic!("one is left") };
        let waits = until("the server says for whom it waits", async || {
            let status = ask::server(&cluster.server_address).await?;
            status.waiting_for.ok_or_else(|| format!("active {:?}", status.active))
        })
        .await;
        for lost in [follower, coordinator] {
            assert!(waits.contains(&lost.to_string()), "{lost} is not in: {waits}");
        }
        // Clients are told, and nobody is told anything wrong: the load sees to that.
        let errors = load.errors().len();
        let acknowledged = load.acknowledged();
        until("clients meet the halt", async || {
            let now = load.errors().len();
            if now > errors + 10 { Ok(()) } else { Err(format!("{now} errors, {errors} before")) }
        })
        .await;
        assert_eq!(load.acknowledged(), acknowledged, "one of three acknowledges nothing");
        assert!(ask::status(cluster.address(left)).await.is_ok(), "{left} still answers");

        cluster.restart(follower).await;
        load.goes_on(SOME).await;
        cluster.settled(&cluster.up()).await;
        load.everything_is_there().await;
        cluster.restart(coordinator).await;
        cluster.recovered(&[]).await;
        load.finish().await;
        witness.question().await;
        cluster.end();
    });
}

#[test]
fn a_cluster_in_memory_starts_afresh_under_a_new_history_once_every_node_is_gone() {
    alone(async {
        let (mut cluster, members) = Cluster::start_in_memory(3).await;
        let load = Load::start(cluster.client().await, DEFAULT_DEADLINE);
        let witness = Witness::call(cluster.client().await, &cluster.server_address);
        load.goes_on(SOME).await;
        let client = cluster.client().await;
        client.set_setting("gone_after", "1s", PATIENCE).await.unwrap();
        // As long as one is left, it has everything, and whoever comes gets it.
        for node in &members[..2] {
            cluster.kill(*node);
            cluster.settled(&cluster.up()).await;
            load.goes_on(SOME).await;
        }
        let joined = cluster.join_in_memory().await;
        cluster.settled(&[members[2], joined]).await;
        load.goes_on(SOME).await;
        client.write("before", "kept").await.unwrap();
        load.finish_without_error().await;
        assert_eq!(ask::server(&cluster.server_address).await.unwrap().history, History(0));

        cluster.kill(members[2]);
        cluster.kill(joined);
        let first = cluster.join_in_memory().await;
        let view = cluster.settled(&[first]).await;
        assert_eq!(view.history, History(1));
        assert_eq!(client.read("before").await.unwrap().value, None, "all of it is gone");
        cluster.recovered(&members).await;
        witness.question().await;
        cluster.end();
    });
}

#[test]
fn two_of_three_in_memory_lost_at_once_is_a_halt_too_and_the_survivor_keeps_what_it_holds() {
    alone(async {
        let (mut cluster, members) = Cluster::start_in_memory(3).await;
        let client = cluster.client().await;
        client.write("kept", "by all").await.unwrap();
        everywhere(&cluster, &[("kept".to_owned(), Some("by all".into()))].into()).await;
        let coordinator = cluster.coordinator().await;
        let lost: Vec<_> = members.iter().copied().filter(|node| *node != members[1]).collect();
        assert!(lost.contains(&coordinator), "{coordinator} coordinates");
        for node in &lost {
            cluster.kill(*node);
        }
        until("the server says for whom it waits", async || {
            let status = ask::server(&cluster.server_address).await?;
            let waits = status.waiting_for.ok_or_else(|| format!("active {:?}", status.active))?;
            let named = lost.iter().all(|node| waits.contains(&node.to_string()));
            if named && waits.contains("in memory") { Ok(()) } else { Err(waits) }
        })
        .await;
        // They never come back, for a memory that is gone is another store; the way out is the same.
        cluster.kill_server();
        cluster.start_server_with(&["--abandon-data", "--yes"]).await;
        cluster.settled(&[members[1]]).await;
        let history = ask::server(&cluster.server_address).await.unwrap().history;
        assert_eq!(history, History(1));
        assert_eq!(client.read("kept").await.unwrap().value, Some("by all".into()));
        cluster.recovered(&lost).await;
        cluster.end();
    });
}
