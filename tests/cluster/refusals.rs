//! Garbage on a port, and processes that must not start: each is told why, and nobody else is
//! disturbed.

use std::io::Write as _;
use std::path::Path;

use quorate_client::DEFAULT_DEADLINE;
use quorate_protocol::transport::PROTOCOL_VERSION;
use quorate_protocol::transport::hello::HELLO_BYTES;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::alone;
use crate::cluster::Cluster;
use crate::load::Load;
use crate::process::{PATIENCE, assert_told, refused};

const SOME: usize = 40;

/// A hello for a service, in this version of the protocol or another.
pub(crate) fn hello(version: u16, service: u8) -> Vec<u8> {
    let mut bytes = b"QUORATE\n".to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.push(service);
    bytes.resize(HELLO_BYTES, 0);
    bytes
}

/// Sends this and waits until the other end hangs up.
pub(crate) async fn is_hung_up_on(address: &str, what: &str, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The other end may hang up amid it.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let end = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    assert!(end.is_ok(), "{address} holds on to {what}");
}

#[test]
fn garbage_on_a_port_disturbs_nobody() {
    alone(async {
        let cluster = Cluster::start(3).await;
        let load = Load::start(cluster.client().await, DEFAULT_DEADLINE);
        load.goes_on(SOME).await;
        let mut addresses = vec![cluster.server_address.clone()];
        addresses.extend(cluster.up().iter().map(|node| cluster.address(*node).to_owned()));
        for address in &addresses {
            let noise: Vec<u8> =
                (0..4_096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            is_hung_up_on(address, "noise", &noise).await;
            is_hung_up_on(address, "a web request", b"GET / HTTP/1.1\r\n\r\n").await;
            is_hung_up_on(address, "another version", &hello(PROTOCOL_VERSION + 1, 6)).await;
            is_hung_up_on(address, "a service that is none", &hello(PROTOCOL_VERSION, 99)).await;
            for service in 1..=6 {
                let welcome = hello(PROTOCOL_VERSION, service);
                let huge = [&welcome[..], &[0xff; 64]].concat();
                is_hung_up_on(address, "a frame over the bound", &huge).await;
                let noise = [&welcome[..], &40u32.to_le_bytes(), &noise[..200]].concat();
                is_hung_up_on(address, "a frame of noise", &noise).await;
            }
        }
        // A trickle is cut off too: these say half a hello and then nothing.
        let half = &hello(PROTOCOL_VERSION, 6)[..HELLO_BYTES / 2];
        for address in &addresses {
            is_hung_up_on(address, "half a hello", half).await;
        }
        load.goes_on(SOME).await;
        cluster.settled(&cluster.up()).await;
        load.finish_without_error().await;
        cluster.end();
    });
}

#[test]
fn a_node_of_another_cluster_is_refused_and_unharmed() {
    alone(async {
        let mut cluster = Cluster::start(3).await;
        let other = Cluster::start(1).await;
        let members = cluster.up();
        let node = cluster.follower().await;
        let dir = cluster.nodes[&node].dir.clone().unwrap();
        cluster.stop(node).await;
        let args = other.node_args(Some(&dir), "127.0.0.1:0");
        assert_told(&refused(args).await, 3, &["belongs to cluster", "address"]);
        // Nor does it harm to name a node where the server should be named.
        let mut args = cluster.node_args(Some(&dir), "127.0.0.1:0");
        args.iter_mut().filter(|arg| **arg == *cluster.server_address).for_each(|arg| {
            *arg = other.address(other.up()[0]).into();
        });
        assert_told(&refused(args).await, 3, &["cannot register"]);
        cluster.restart(node).await;
        cluster.settled(&members).await;
        other.serves().await;
        other.end();
        cluster.end();
    });
}

#[test]
fn a_directory_that_cannot_be_used_is_told_and_left_alone() {
    alone(async {
        let mut cluster = Cluster::start(2).await;
        let members = cluster.up();
        let [first, second] = members[..] else { panic!("two nodes") };
        let dirs = [first, second].map(|node| cluster.nodes[&node].dir.clone().unwrap());
        let node = |cluster: &Cluster, dir: &Path| cluster.node_args(Some(dir), "127.0.0.1:0");

        assert_told(&refused(node(&cluster, &dirs[0])).await, 2, &["in use", "directory"]);
        let mut server = cluster.server_args();
        server[2] = "127.0.0.1:0".into();
        assert_told(&refused(server).await, 2, &["in use", "--data"]);

        let foreign = cluster.path("thesis");
        std::fs::create_dir(&foreign).unwrap();
        std::fs::write(foreign.join("thesis.tex"), "precious").unwrap();
        let told = refused(node(&cluster, &foreign)).await;
        assert_told(&told, 2, &["thesis.tex", "empty directory"]);
        assert_eq!(std::fs::read_dir(&foreign).unwrap().count(), 1);

        let within_a_file = foreign.join("thesis.tex/data");
        assert_told(&refused(node(&cluster, &within_a_file)).await, 2, &["cannot use"]);
        // Nobody may write here, whoever runs this test.
        assert_told(&refused(node(&cluster, Path::new("/proc/quorate"))).await, 2, &["cannot use"]);

        // Two nodes' identities changed places.
        cluster.stop(second).await;
        let mine = std::fs::read(dirs[1].join("node")).unwrap();
        std::fs::copy(dirs[0].join("node"), dirs[1].join("node")).unwrap();
        assert_told(&refused(node(&cluster, &dirs[1])).await, 2, &["belongs to store"]);
        let put_back =
            std::fs::File::create(dirs[1].join("node")).and_then(|mut f| f.write_all(&mine));
        put_back.unwrap();
        cluster.restart(second).await;
        cluster.settled(&members).await;
        cluster.end();
    });
}
