//! NATS JetStream: three servers and a key-value bucket with three replicas.
//!
//! The bucket is made and used by the messages that every client's key-value calls consist of: the
//! crate's own calls do not understand the answers of the version that Debian has.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_nats::Client;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{first_line, strings, wait_until};
use crate::ground::{Ground, free_ports};
use crate::processes::Processes;
use crate::store::{Connection, Facts, Store};

const PROGRAM: &str = "/usr/sbin/nats-server";

/// The bucket `bench`, as a stream.
const STREAM: &str = "KV_bench";
const SUBJECTS: &str = "$KV.bench";

const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct Nats {
    processes: Processes,
    urls: Vec<String>,
}

impl Store for Nats {
    type Connection = Client;

    const NAME: &'static str = "nats";

    fn facts(_: &Ground) -> Result<Facts> {
        let line = first_line(Path::new(PROGRAM), &["--version"])?;
        Ok(Facts {
            name: Self::NAME.to_owned(),
            store: "NATS JetStream".to_owned(),
            version: line.trim_start_matches("nats-server: v").to_owned(),
            flags: "`--jetstream`, a key-value bucket with file storage and 3 replicas, history 1"
                .to_owned(),
            durability:
                "**not fsynced**: a majority has it in the page cache, and files are synced \
                         every two minutes (the default)"
                    .to_owned(),
            reads: "direct get, from any replica: may be stale".to_owned(),
        })
    }

    async fn start(ground: &Ground) -> Result<Self> {
        let ports = free_ports(6)?;
        let (clients, peers) = ports.split_at(3);
        let url = |port: u16| format!("nats://127.0.0.1:{port}");
        let routes = peers.iter().map(|port| url(*port)).collect::<Vec<_>>().join(",");
        let mut processes = Processes::new(ground);
        for at in 0..3 {
            let dir = ground.empty(&format!("nats-{at}"))?;
            let (name, data) = (format!("n{at}"), dir.display().to_string());
            let mut args = strings(["--addr", "127.0.0.1", "--port", &clients[at].to_string()]);
            args.extend(strings(["--server_name", &name, "--jetstream", "--store_dir", &data]));
            args.extend(strings(["--cluster_name", "bench", "--cluster", &url(peers[at])]));
            args.extend(strings(["--routes", &routes]));
            processes.start(Path::new(PROGRAM), &args, &dir)?;
        }
        let mut store = Self { processes, urls: clients.iter().map(|port| url(*port)).collect() };
        let urls = store.urls.clone();
        wait_until(&mut store.processes, async || {
            timeout(PATIENCE, make_bucket(&urls[0])).await??;
            Ok(true)
        })
        .await?;
        wait_until(&mut store.processes, async || Ok(is_whole(&urls).await)).await?;
        Ok(store)
    }

    fn processes(&mut self) -> &mut Processes {
        &mut self.processes
    }

    async fn connect(&self) -> Result<Client> {
        Ok(async_nats::connect(&self.urls[self.leader().await?]).await?)
    }

    async fn connect_lasting(&self) -> Result<Client> {
        Ok(async_nats::connect(&self.urls).await?)
    }

    async fn leader(&self) -> Result<usize> {
        let cluster = timeout(PATIENCE, cluster(&self.urls)).await??;
        let name = cluster["leader"].as_str().context("the bucket has no leader")?;
        name.trim_start_matches('n').parse().context("not a name of ours")
    }

    async fn is_whole(&self) -> bool {
        is_whole(&self.urls).await
    }
}

async fn make_bucket(url: &str) -> Result<()> {
    let config = json!({
        "name": STREAM,
        "subjects": [format!("{SUBJECTS}.>")],
        "max_msgs_per_subject": 1,
        "discard": "new",
        "storage": "file",
        "num_replicas": 3,
        "allow_rollup_hdrs": true,
        "deny_delete": true,
        "allow_direct": true,
    });
    let client = async_nats::connect(url).await?;
    ask(&client, "STREAM.CREATE", config.to_string().into()).await?;
    Ok(())
}

/// One request to JetStream about the bucket.
async fn ask(client: &Client, what: &str, body: Bytes) -> Result<Value> {
    let answer = client.request(format!("$JS.API.{what}.{STREAM}"), body).await?;
    let answer: Value = serde_json::from_slice(&answer.payload)?;
    if !answer["error"].is_null() {
        bail!("{what}: {}", answer["error"]);
    }
    Ok(answer)
}

/// What the servers say of the bucket's replicas.
async fn cluster(urls: &[String]) -> Result<Value> {
    let client = async_nats::connect(urls).await?;
    let mut info = ask(&client, "STREAM.INFO", Bytes::new()).await?;
    Ok(info["cluster"].take())
}

/// Whether the bucket has a leader and two replicas that follow it.
async fn is_whole(urls: &[String]) -> bool {
    let Ok(Ok(cluster)) = timeout(PATIENCE, cluster(urls)).await else { return false };
    let replicas = cluster["replicas"].as_array().map_or(&[][..], Vec::as_slice);
    let follows = |peer: &&Value| peer["current"] == true && peer["offline"] != true;
    cluster["leader"].is_string() && replicas.iter().filter(follows).count() == 2
}

impl Connection for Client {
    async fn write(&mut self, key: &str, value: Bytes) -> Result<()> {
        let answer = self.request(format!("{SUBJECTS}.{key}"), value).await?;
        let answer: Acknowledged = serde_json::from_slice(&answer.payload)?;
        match (answer.seq, answer.error) {
            (Some(_), None) => Ok(()),
            (_, error) => bail!("a write came to {error:?}"),
        }
    }

    async fn read(&mut self, key: &str) -> Result<usize> {
        let subject = format!("$JS.API.DIRECT.GET.{STREAM}.{SUBJECTS}.{key}");
        Ok(self.request(subject, Bytes::new()).await?.payload.len())
    }
}

/// The answer to a write.
#[derive(Debug, serde::Deserialize)]
struct Acknowledged {
    /// Its number in the stream.
    seq: Option<u64>,
    error: Option<Value>,
}
