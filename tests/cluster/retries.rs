//! A request keeps its token through retries, and is done once.

use quorate_client::{ChangeOptions, DEFAULT_DEADLINE};

use crate::alone;
use crate::cluster::Cluster;
use crate::load::{Load, token};

/// How many requests are retried.
const REQUESTS: usize = 20;

#[test]
fn a_retry_is_answered_as_the_first_time_by_the_next_coordinator_and_after_a_restart() {
    alone(async {
        let mut cluster = Cluster::start(3).await;
        let client = cluster.client().await;
        let mut done = Vec::new();
        for n in 0..REQUESTS {
            let (key, options) = (format!("k{n}"), ChangeOptions::default());
            client.write(key.as_str(), "first").await.unwrap();
            let delete = token(&client).await;
            let deleted = client.delete_with(key.as_str(), options.token(delete)).await.unwrap();
            assert!(deleted.found);
            let write = token(&client).await;
            let options = options.token(write);
            let written = client.write_with(key.as_str(), "second", options).await.unwrap();
            let last = client.write(key.as_str(), "third").await.unwrap();
            done.push((key, (delete, deleted), (write, written), last));
        }
        let coordinator = cluster.coordinator().await;
        for round in ["here", "by the next coordinator", "after a total restart"] {
            // Another client, as after a restart of the program that holds the tokens.
            let client = cluster.client().await;
            for (key, (delete, deleted), (write, written), last) in &done {
                let again = |token| ChangeOptions::default().again(token);
                let retried = client.delete_with(key.as_str(), again(*delete)).await.unwrap();
                assert_eq!((retried.found, retried.version), (true, deleted.version), "{round}");
                let retried = client.write_with(key.as_str(), "second", again(*write)).await;
                assert_eq!(retried.unwrap().version, written.version, "{round}");
                let reading = client.read(key.as_str()).await.unwrap();
                let found = (reading.value, reading.version);
                assert_eq!(found, (Some("third".into()), last.version), "{round}");
            }
            match round {
                "here" => cluster.kill(coordinator),
                _ => {
                    cluster.kill_everything();
                    cluster.start_server().await;
                    cluster.restart_all_nodes().await;
                }
            }
        }
        cluster.end();
    });
}

#[test]
fn requests_under_way_when_the_coordinator_is_killed_are_done_once() {
    alone(async {
        let mut cluster = Cluster::start(3).await;
        let client = cluster.client().await;
        let load = Load::start(client.clone(), DEFAULT_DEADLINE);
        for n in 0..2 {
            // Each of these deletes answers "found" exactly if it is the first to be done.
            let keys: Vec<_> = (0..REQUESTS).map(|k| format!("once{n}-{k}")).collect();
            for key in &keys {
                client.write(key.as_str(), "v").await.unwrap();
            }
            let deletes: Vec<_> = keys
                .iter()
                .map(|key| {
                    let (client, key) = (client.clone(), key.clone());
                    tokio::task::spawn_local(async move { client.delete(key.as_str()).await })
                })
                .collect();
            // They leave with the next turn of this thread; the kill may come before, amid or
            // after their answers.
            tokio::task::yield_now().await;
            let coordinator = cluster.coordinator().await;
            cluster.kill(coordinator);
            for delete in deletes {
                assert!(delete.await.unwrap().unwrap().found, "its own first attempt deleted it");
            }
            cluster.restart(coordinator).await;
            cluster.settled(&cluster.up()).await;
        }
        load.finish_without_error().await;
        cluster.end();
    });
}
