//! What clients read, and what every node holds (S002-44, 45).

use std::collections::BTreeMap;

use quorate_client::Client;
use quorate_protocol::ids::NodeId;
use quorate_protocol::record::Value;

use crate::alone;
use crate::ask;
use crate::cluster::Cluster;
use crate::process::until;

/// How many keys are written.
const KEYS: usize = 60;

/// Waits until every node that runs holds exactly this; weak reads ask each node for its own copy.
pub(crate) async fn everywhere(cluster: &Cluster, contents: &BTreeMap<String, Option<Value>>) {
    for node in cluster.up() {
        holds(cluster, node, contents).await;
    }
}

/// Waits until this node holds exactly this.
pub(crate) async fn holds(
    cluster: &Cluster,
    node: NodeId,
    contents: &BTreeMap<String, Option<Value>>,
) {
    for (key, value) in contents {
        until(&format!("{node} holds {value:?} at {key}"), async || {
            let held = ask::weak(cluster.address(node), key).await?;
            if held == *value { Ok(()) } else { Err(format!("it holds {held:?}")) }
        })
        .await;
    }
}

async fn expect(client: &Client, contents: &BTreeMap<String, Option<Value>>) {
    for (key, value) in contents {
        assert_eq!(client.read(key.as_str()).await.unwrap().value, *value, "{key}");
    }
}

#[test]
fn what_was_written_and_deleted_is_the_same_on_every_node() {
    alone(async {
        let cluster = Cluster::start(3).await;
        let client = cluster.client().await;
        let mut contents = BTreeMap::new();
        for n in 0..KEYS {
            let key = format!("k{n}");
            client.write(key.as_str(), format!("first {n}")).await.unwrap();
            contents.insert(key, Some(Value::from(format!("first {n}"))));
        }
        expect(&client, &contents).await;
        everywhere(&cluster, &contents).await;
        for n in (0..KEYS).step_by(2) {
            let key = format!("k{n}");
            client.write(key.as_str(), format!("second {n}")).await.unwrap();
            contents.insert(key, Some(Value::from(format!("second {n}"))));
        }
        for n in (0..KEYS).step_by(3) {
            let key = format!("k{n}");
            assert!(client.delete(key.as_str()).await.unwrap().found);
            contents.insert(key, None);
        }
        expect(&client, &contents).await;
        everywhere(&cluster, &contents).await;
        cluster.end();
    });
}

#[test]
fn a_missing_key_reads_as_absent_and_its_delete_is_told_apart() {
    alone(async {
        let cluster = Cluster::start(3).await;
        let client = cluster.client().await;
        assert_eq!(client.read("k").await.unwrap().value, None);
        assert!(!client.delete("k").await.unwrap().found);
        client.write("k", "v").await.unwrap();
        assert!(client.delete("k").await.unwrap().found);
        assert!(!client.delete("k").await.unwrap().found);
        assert_eq!(client.read("k").await.unwrap().value, None);
        cluster.end();
    });
}
