//! The operator's way out: two of three disks are gone for good, and the data is given up but for
//! what the survivor holds (design §2).

use std::collections::BTreeMap;

use quorate_client::DEFAULT_DEADLINE;
use quorate_protocol::ids::{History, NodeId};

use crate::cluster::Cluster;
use crate::contents::everywhere;
use crate::load::Load;
use crate::process::{assert_told, quorate, refused, until};
use crate::{alone, ask};

/// How many changes are made before everything else.
const SOME: usize = 100;

#[test]
fn a_survivor_begins_a_new_history_with_what_it_holds_once_the_operator_gives_the_rest_up() {
    // The survivor coordinated and goes on running; or it followed and is started again.
    alone(two_disks_of_three_are_lost(NodeId(1), false));
    alone(two_disks_of_three_are_lost(NodeId(3), true));
}

async fn two_disks_of_three_are_lost(survivor: NodeId, starts_again: bool) {
    let mut cluster = Cluster::start(3).await;
    let members = cluster.up();
    let load = Load::start(cluster.client().await, DEFAULT_DEADLINE);
    load.goes_on(SOME).await;
    // Everything acknowledged is on every node, so that nothing has to be lost.
    let contents = load.finish_without_error().await;
    let client = cluster.client().await;
    client.write("since", "before").await.unwrap();
    let mut contents: BTreeMap<_, _> = contents.into_iter().step_by(3).collect();
    contents.insert("since".to_owned(), Some("before".into()));
    everywhere(&cluster, &contents).await;

    let others: Vec<_> = members.iter().copied().filter(|node| *node != survivor).collect();
    let [lost, astray] = others[..] else { panic!("three nodes") };
    cluster.kill(lost);
    cluster.kill(astray);
    std::fs::remove_dir_all(cluster.nodes[&lost].dir.as_ref().unwrap()).unwrap();
    until("status says for whom is waited, and the way out", async || {
        let said = status(&cluster).await;
        let waits = said.lines().find(|line| line.starts_with("waiting ")).unwrap_or_default();
        let named = [lost, astray].iter().all(|node| waits.contains(&node.to_string()));
        if named && waits.contains("--abandon-data") { Ok(()) } else { Err(said) }
    })
    .await;

    // Nobody is here to be asked: nothing happens.
    cluster.kill_server();
    let state = cluster.path("server/server.state");
    let before = std::fs::read(&state).unwrap();
    let mut args = cluster.server_args();
    args.push("--abandon-data".into());
    let told = refused(args).await;
    let names = members.iter().map(|node| format!("{node} at {}", cluster.address(*node)));
    let names: Vec<_> = names.collect();
    let mut words: Vec<_> = names.iter().map(String::as_str).collect();
    words.extend(["on disk, last known to hold everything up to", "lost", "--yes"]);
    assert_told(&told, 2, &words);
    assert_eq!(std::fs::read(&state).unwrap(), before, "nothing was given up");

    // And then it is meant.
    if starts_again {
        cluster.kill(survivor);
    }
    let said = cluster.server_log().len();
    cluster.start_server_with(&["--abandon-data", "--yes"]).await;
    let said = cluster.server_log().split_off(said);
    for word in words.iter().filter(|word| **word != "--yes") {
        assert!(said.contains(word), "'{word}' is not in: {said}");
    }
    if starts_again {
        cluster.restart(survivor).await;
    }
    cluster.settled(&[survivor]).await;
    let history = ask::server(&cluster.server_address).await.unwrap().history;
    assert_eq!(history, History(1));
    everywhere(&cluster, &contents).await;
    cluster.serves().await;
    client.write("since", "after").await.unwrap();
    contents.insert("since".to_owned(), Some("after".into()));

    // New nodes join, and one of the old history does not bring its data in.
    cluster.join().await;
    cluster.restart(astray).await;
    cluster.settled(&cluster.up()).await;
    for (key, value) in &contents {
        assert_eq!(client.read(key.as_str()).await.unwrap().value, *value, "{key}");
    }
    everywhere(&cluster, &contents).await;

    // The new history stands on its own: it survives as any other does.
    cluster.kill(survivor);
    cluster.recovered(&[survivor]).await;
    cluster.restart(survivor).await;
    cluster.settled(&cluster.up()).await;
    everywhere(&cluster, &contents).await;
    cluster.end();
}

/// What `quorate status` prints.
async fn status(cluster: &Cluster) -> String {
    let mut command = quorate(["status", "--server", &cluster.server_address]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
