//! etcd: three members, spoken to by its gRPC client.

use std::path::Path;

use anyhow::{Context, Result};
use bytes::Bytes;
use etcd_client::{Client, KvClient};

use super::{first_line, strings, wait_until};
use crate::ground::{Ground, free_ports};
use crate::processes::Processes;
use crate::store::{Connection, Facts, Store};

const PROGRAM: &str = "/usr/bin/etcd";

pub(crate) struct Etcd {
    processes: Processes,
    endpoints: Vec<String>,
}

impl Store for Etcd {
    type Connection = KvClient;

    const NAME: &'static str = "etcd";

    fn facts(_: &Ground) -> Result<Facts> {
        let line = first_line(Path::new(PROGRAM), &["--version"])?;
        Ok(Facts {
            name: Self::NAME.to_owned(),
            store: "etcd".to_owned(),
            version: line.trim_start_matches("etcd Version: ").to_owned(),
            flags: "no flags but names and addresses".to_owned(),
            durability: "fsync on a majority before the answer".to_owned(),
            reads: "linearizable (the default)".to_owned(),
        })
    }

    async fn start(ground: &Ground) -> Result<Self> {
        let ports = free_ports(6)?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let (clients, peers) = ports.split_at(3);
        let named = peers.iter().enumerate().map(|(at, port)| format!("e{at}={}", url(*port)));
        let cluster = named.collect::<Vec<_>>().join(",");
        let mut processes = Processes::new(ground);
        for at in 0..3 {
            let dir = ground.empty(&format!("etcd-{at}"))?;
            let (name, data) = (format!("e{at}"), dir.join("data").display().to_string());
            let (client, peer) = (url(clients[at]), url(peers[at]));
            let mut args = strings(["--name", &name, "--data-dir", &data]);
            args.extend(strings(["--listen-client-urls", &client]));
            args.extend(strings(["--advertise-client-urls", &client]));
            args.extend(strings(["--listen-peer-urls", &peer]));
            args.extend(strings(["--initial-advertise-peer-urls", &peer]));
            args.extend(strings(["--initial-cluster", &cluster]));
            processes.start(Path::new(PROGRAM), &args, &dir)?;
        }
        let mut store = Self { processes, endpoints: clients.iter().map(|at| url(*at)).collect() };
        let endpoints = store.endpoints.clone();
        wait_until(&mut store.processes, async || Ok(is_whole(&endpoints).await)).await?;
        Ok(store)
    }

    fn processes(&mut self) -> &mut Processes {
        &mut self.processes
    }

    async fn connect(&self) -> Result<KvClient> {
        let leader = &self.endpoints[self.leader().await?];
        Ok(Client::connect([leader], None).await?.kv_client())
    }

    async fn connect_lasting(&self) -> Result<KvClient> {
        Ok(Client::connect(&self.endpoints, None).await?.kv_client())
    }

    async fn leader(&self) -> Result<usize> {
        for (at, endpoint) in self.endpoints.iter().enumerate() {
            if let Ok((me, leader)) = who_leads(endpoint).await
                && me == leader
            {
                return Ok(at);
            }
        }
        None.context("no member leads")
    }

    async fn is_whole(&self) -> bool {
        is_whole(&self.endpoints).await
    }
}

/// A member's own number, and that of the leader; zero is none.
async fn who_leads(endpoint: &str) -> Result<(u64, u64)> {
    let status = Client::connect([endpoint], None).await?.status().await?;
    Ok((status.header().map_or(0, |header| header.member_id()), status.leader()))
}

/// Whether all three agree on who leads.
async fn is_whole(endpoints: &[String]) -> bool {
    let mut leaders = Vec::new();
    for endpoint in endpoints {
        leaders.extend(who_leads(endpoint).await.map(|(_, leader)| leader));
    }
    leaders.len() == 3 && leaders[0] != 0 && leaders.iter().all(|leader| *leader == leaders[0])
}

impl Connection for KvClient {
    async fn write(&mut self, key: &str, value: Bytes) -> Result<()> {
        self.put(key, value, None).await?;
        Ok(())
    }

    async fn read(&mut self, key: &str) -> Result<usize> {
        let found = self.get(key, None).await?;
        Ok(found.kvs().first().map_or(0, |pair| pair.value().len()))
    }
}
