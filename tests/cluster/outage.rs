//! Everything dies; the server is away, or comes back without what it knew.

use std::time::Instant;

use quorate_client::DEFAULT_DEADLINE;

use crate::alone;
use crate::ask;
use crate::cluster::Cluster;
use crate::load::Load;
use crate::process::{assert_told, refused, until};
use crate::witness::Witness;

/// How many changes show that a cluster goes on.
const SOME: usize = 40;

#[test]
fn nothing_acknowledged_is_lost_when_every_process_is_killed_at_once() {
    alone(async {
        let mut cluster = Cluster::start(3).await;
        let load = Load::start(cluster.client().await, DEFAULT_DEADLINE);
        let witness = Witness::call(cluster.client().await, &cluster.server_address);
        for _ in 0..2 {
            load.goes_on(3 * SOME).await;
            let members = cluster.up();
            cluster.kill_everything();
            let from = Instant::now();
            cluster.start_server().await;
            cluster.restart_all_nodes().await;
            load.goes_on(SOME).await;
            eprintln!("everything was killed: serves again after {:?}", load.longest_gap(from));
            cluster.settled(&members).await;
            load.everything_is_there().await;
        }
        cluster.recovered(&[]).await;
        load.finish().await;
        witness.question().await;
        cluster.end();
    });
}

#[test]
fn a_cluster_goes_on_without_its_server() {
    alone(async {
        let mut cluster = Cluster::start(3).await;
        let members = cluster.up();
        let view = cluster.settled(&members).await;
        let load = Load::start(cluster.client().await, DEFAULT_DEADLINE);
        let witness = Witness::call(cluster.client().await, &cluster.server_address);
        load.goes_on(SOME).await;
        cluster.kill_server();
        load.goes_on(10 * SOME).await;
        // Nobody else can be elected meanwhile, so it is still the same one.
        for node in cluster.up() {
            let status = ask::status(cluster.address(node)).await.unwrap();
            assert_eq!(status.view, Some(view.clone()), "{node}");
        }
        cluster.start_server().await;
        load.goes_on(SOME).await;
        cluster.settled(&members).await;
        until("the server hears of everyone again", async || {
            let status = ask::server(&cluster.server_address).await?;
            let heard: Vec<_> = status.heard_ms_ago.iter().map(|(node, _)| *node).collect();
            if heard == members { Ok(()) } else { Err(format!("of {heard:?}")) }
        })
        .await;
        load.everything_is_there().await;
        cluster.recovered(&[]).await;
        load.finish_without_error().await;
        witness.question().await;
        cluster.end();
    });
}

#[test]
fn a_coordinator_lost_while_the_server_is_away_is_replaced_once_it_is_back() {
    alone(async {
        let mut cluster = Cluster::start(3).await;
        let load = Load::start(cluster.client().await, DEFAULT_DEADLINE);
        let witness = Witness::call(cluster.client().await, &cluster.server_address);
        load.goes_on(SOME).await;
        let coordinator = cluster.coordinator().await;
        cluster.kill_server();
        cluster.kill(coordinator);
        let before = load.acknowledged();
        until("everyone left suspects the coordinator", async || {
            for node in cluster.up() {
                let status = ask::status(cluster.address(node)).await?;
                if !status.suspects.contains(&coordinator) {
                    return Err(format!("{node} does not"));
                }
            }
            Ok(())
        })
        .await;
        // Without the server nobody is elected: nobody answers, and nobody answers wrongly.
        assert!(load.acknowledged() <= before + SOME, "nobody coordinates");
        cluster.start_server().await;
        load.goes_on(SOME).await;
        cluster.recovered(&[coordinator]).await;
        load.finish().await;
        witness.question().await;
        cluster.end();
    });
}

#[test]
fn a_cluster_whose_servers_disk_is_lost_serves_on_and_follows_no_other_server() {
    alone(async {
        let mut cluster = Cluster::start(3).await;
        let members = cluster.up();
        let view = cluster.settled(&members).await;
        let load = Load::start(cluster.client().await, DEFAULT_DEADLINE);
        load.goes_on(SOME).await;
        cluster.kill_server();
        std::fs::remove_dir_all(cluster.path("server")).unwrap();
        // What starts at its address is the server of another cluster.
        cluster.start_server().await;
        load.goes_on(10 * SOME).await;
        for node in &members {
            let status = ask::status(cluster.address(*node)).await.unwrap();
            assert_eq!(status.view, Some(view.clone()), "{node}");
        }
        assert!(ask::server(&cluster.server_address).await.unwrap().nodes.is_empty());

        // Nobody joins it by mistake, and two of three go on.
        let killed = members.iter().copied().find(|node| *node != view.coordinator).unwrap();
        cluster.kill(killed);
        let dir = cluster.nodes[&killed].dir.clone().unwrap();
        let args = cluster.node_args(Some(&dir), "127.0.0.1:0");
        assert_told(&refused(args).await, 3, &["belongs to cluster", "address"]);
        load.goes_on(SOME).await;
        load.finish_without_error().await;
        cluster.end();
    });
}

#[test]
fn a_server_that_was_put_back_to_an_older_state_says_so_and_stops() {
    alone(async {
        let mut cluster = Cluster::start(3).await;
        let load = Load::start(cluster.client().await, DEFAULT_DEADLINE);
        load.goes_on(SOME).await;
        cluster.kill_server();
        let state = cluster.path("server/server.state");
        let older = std::fs::read(&state).unwrap();
        cluster.start_server().await;
        let coordinator = cluster.coordinator().await;
        cluster.kill(coordinator);
        load.goes_on(SOME).await;
        cluster.settled(&cluster.up()).await;

        cluster.kill_server();
        let newer = std::fs::read(&state).unwrap();
        std::fs::write(&state, older).unwrap();
        let told = refused(cluster.server_args()).await;
        assert_told(&told, 5, &["heard of epoch", "old copy"]);
        // The members went on, and nobody was appointed.
        load.goes_on(SOME).await;

        std::fs::write(&state, newer).unwrap();
        cluster.start_server().await;
        cluster.restart(coordinator).await;
        cluster.settled(&cluster.up()).await;
        load.finish_without_error().await;
        cluster.end();
    });
}
