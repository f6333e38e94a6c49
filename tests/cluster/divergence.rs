//! Copies that differ, with and without a majority (S002-46, 47).
//!
//! Nothing the cluster does makes copies differ, so a stopped node's state is opened here and a
//! record in it is exchanged for another of the same version, checksum and all: what no checksum
//! can tell, only the other nodes.

use std::collections::BTreeMap;
use std::path::Path;

use quorate_client::{Client, Error, Refused, Version};
use quorate_node::state::{Change, DiskState, Group, Identity, State};
use quorate_protocol::ids::{ClusterId, History, NodeId};
use quorate_protocol::record::{Key, Record, Value};

use crate::cluster::Cluster;
use crate::process::until;
use crate::{alone, ask};

/// Exchanges what a stopped node holds at these keys; the versions stay.
fn exchange(dir: &Path, changes: &[(&str, Option<&str>)]) {
    let line = std::fs::read_to_string(dir.join("node")).unwrap();
    let store = line.split(' ').nth(1).unwrap().parse().unwrap();
    let identity = Identity { store, cluster: ClusterId::default(), history: History(0) };
    let state = DiskState::open(dir, &identity).unwrap();
    let other = |(key, value): &(&str, Option<&str>)| {
        let key = Key::from(*key);
        let held = state.get(&key).unwrap().expect("it was on disk when the node stopped");
        let other = value.map(|value| Record { value: Some(value.into()), ..held });
        (key, Change::Repair(other))
    };
    let changes: BTreeMap<_, _> = changes.iter().map(other).collect();
    let applied = state.marks().applied;
    let group = Group { changes: changes.iter().collect(), applied, ..Group::default() };
    state.apply(&group).unwrap();
    state.sync().unwrap();
}

fn exchange_at(cluster: &Cluster, node: NodeId, changes: &[(&str, Option<&str>)]) {
    exchange(cluster.nodes[&node].dir.as_ref().unwrap(), changes);
}

/// Waits until this very node holds `value`.
async fn holds(cluster: &Cluster, node: NodeId, key: &str, value: Option<&str>) {
    let value = value.map(Value::from);
    until(&format!("{node} holds {value:?} at {key}"), async || {
        let held = ask::weak(cluster.address(node), key).await?;
        if held == value { Ok(()) } else { Err(format!("{held:?}")) }
    })
    .await;
}

/// Writes `right` at each of these keys.
async fn write_all(client: &Client, keys: &[&str]) -> Vec<Version> {
    let mut versions = Vec::new();
    for key in keys {
        versions.push(client.write(*key, "right").await.unwrap().version);
    }
    versions
}

#[test]
fn copies_that_differ_from_the_majority_are_written_over_whoever_holds_them() {
    alone(async {
        let mut cluster = Cluster::start(3).await;
        let members = cluster.up();
        let client = cluster.client().await;
        // Votes go to the lowest number (S002-20): so the odd one follows, and then coordinates.
        let (lowest, highest) = (members[0], members[2]);
        for (odd, coordinates) in [(highest, false), (lowest, true)] {
            // Keys of its own each time: a repair is not in the log, so a node that is killed
            // soon after may be the odd one again.
            let [changed, lost] = ["changed", "lost"].map(|what| format!("{what} at {odd}"));
            let keys = [changed.as_str(), lost.as_str()];
            let versions = write_all(&client, &keys).await;
            cluster.stop(odd).await;
            exchange_at(&cluster, odd, &[(&changed, Some("wrong")), (&lost, None)]);
            cluster.restart(odd).await;
            cluster.settled(&members).await;
            holds(&cluster, odd, &changed, Some("wrong")).await;
            holds(&cluster, odd, &lost, None).await;
            if coordinates != (cluster.coordinator().await == odd) {
                let coordinator = cluster.coordinator().await;
                cluster.kill(coordinator);
                cluster.settled(&cluster.up()).await;
                cluster.restart(coordinator).await;
                cluster.settled(&members).await;
            }
            assert_eq!(coordinates, cluster.coordinator().await == odd);
            for (key, version) in keys.into_iter().zip(versions) {
                let reading = client.read(key).await.unwrap();
                assert_eq!((reading.value, reading.version), (Some("right".into()), version));
                holds(&cluster, odd, key, Some("right")).await;
            }
        }
        cluster.end();
    });
}

#[test]
fn without_a_majority_a_read_fails_and_the_key_is_kept_or_deleted_as_the_cluster_is_set() {
    alone(async {
        let mut cluster = Cluster::start(3).await;
        let members = cluster.up();
        let client = cluster.client().await;
        write_all(&client, &["read", "written"]).await;
        for node in &members {
            cluster.stop(*node).await;
        }
        for (node, value) in [(members[0], "first"), (members[1], "second")] {
            exchange_at(&cluster, node, &[("read", Some(value)), ("written", Some(value))]);
        }
        cluster.restart_all_nodes().await;
        cluster.settled(&members).await;

        // The default keeps everything, and says who holds what.
        let expected = [(members[0], "first"), (members[1], "second"), (members[2], "right")];
        for _ in 0..2 {
            let holders = match client.read("read").await {
                Err(Error::Refused(Refused::NoMajority { holders })) => holders,
                other => panic!("three copies of three that differ were read as {other:?}"),
            };
            let named: Vec<_> = holders.iter().map(|(node, _)| *node).collect();
            assert_eq!(named, members);
            for (node, value) in expected {
                holds(&cluster, node, "read", Some(value)).await;
            }
        }
        // A write ends the matter.
        let written = client.write("written", "again").await.unwrap();
        let reading = client.read("written").await.unwrap();
        assert_eq!((reading.value, reading.version), (Some("again".into()), written.version));

        // As the original did: deleted, everywhere.
        client.set_setting("divergence", "delete", crate::process::PATIENCE).await.unwrap();
        until("the key is deleted", async || match client.read("read").await {
            Ok(reading) if reading.value.is_none() => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        for node in members {
            holds(&cluster, node, "read", None).await;
            holds(&cluster, node, "written", Some("again")).await;
        }
        assert!(!client.delete("read").await.unwrap().found);
        cluster.end();
    });
}
