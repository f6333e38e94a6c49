//! Peers that mean harm, on every port and for every service, while clients go on working: nobody
//! dies, nobody's memory grows beyond a bound, and no client meets an error.
//!
//! What they send is made of raw bytes, so that it can be what no program of ours would send. Those
//! that are cut off at once are tried one after the other; the others hold on all the time.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use quorate_client::{DEFAULT_DEADLINE, Level, ReadOptions};
use quorate_protocol::record::Value;
use quorate_protocol::rpc::registry::RegistryRequest;
use quorate_protocol::rpc::store::{Read, StoreRequest};
use quorate_protocol::transport::hello::HELLO_BYTES;
use quorate_protocol::transport::respond::ANSWER_BYTES_MAX;
use quorate_protocol::transport::{FRAME_BYTES_MAX, PROTOCOL_VERSION, Service};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::alone;
use crate::cluster::Cluster;
use crate::load::Load;
use crate::process::rss_anon_bytes;
use crate::refusals::{hello, is_hung_up_on};

/// What the memory of any process may grow by, whoever does whatever on its ports: a large frame
/// for each of those that begin one, the answers that wait for those that do not read them, and
/// what a node needs anyway.
const GROWTH_BYTES_MAX: u64 = 256 << 20;

/// How many connections say hello and nothing more, to each process and for each kind of service:
/// hundreds together, but not all there are, since the cluster's own must get through.
const IDLE: usize = 100;

/// How many connections say nothing at all, to each process.
const SILENT: usize = 150;

/// How long a value is that is asked for and never fetched.
const VALUE_BYTES: usize = 1 << 20;

/// How many answers are asked for and never fetched.
const ANSWERS: u64 = 4_000;

/// How many requests have deadlines beyond all bounds.
const ENDLESS: u64 = 500;

/// How fast a trickle is, and how long it is kept up: longer than a hello may take.
const DRIP_EVERY: Duration = Duration::from_secs(1);
const DRIPS: usize = 5;

/// How many changes are made before, and at the least during the attack.
const SOME: usize = 40;

/// The most that any process has needed, kept up to date.
struct Memory {
    most: Rc<RefCell<BTreeMap<String, u64>>>,
    task: JoinHandle<()>,
}

impl Memory {
    fn watch(pids: BTreeMap<String, u32>) -> Self {
        let most: Rc<RefCell<BTreeMap<String, u64>>> = Rc::default();
        let kept = Rc::clone(&most);
        let task = tokio::task::spawn_local(async move {
            loop {
                for (name, pid) in &pids {
                    let mut kept = kept.borrow_mut();
                    let most = kept.entry(name.clone()).or_default();
                    *most = rss_anon_bytes(*pid).max(*most);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        Self { most, task }
    }

    /// What each needed at the most.
    fn most(self) -> BTreeMap<String, u64> {
        self.task.abort();
        self.most.take()
    }
}

/// A request as its frame, with whatever deadline.
fn request(id: u64, deadline_ms: u32, body: &impl Serialize) -> Vec<u8> {
    // The first variant of what a dialer says, field by field.
    framed(&postcard::to_stdvec(&(0_u8, id, deadline_ms, body)).unwrap())
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len() + 1).unwrap();
    [&length.to_le_bytes()[..], &[0], payload].concat()
}

/// A connection that had its hello, and was welcome. A service of peers wants to hear the cluster and
/// the store; a stranger learns both from the refusal.
async fn welcome(address: &str, service: Service) -> TcpStream {
    let mut said = hello(PROTOCOL_VERSION, service as u8);
    for _ in 0..2 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&said).await.unwrap();
        let mut answer = [0; HELLO_BYTES];
        stream.read_exact(&mut answer).await.unwrap();
        if answer[11] == 0 {
            return stream;
        }
        said[16..].copy_from_slice(&answer[16..]);
    }
    panic!("{address} does not welcome a dialer for {service}");
}

/// Those that hold on, for as long as they are kept.
#[derive(Default)]
struct Attack {
    held: RefCell<Vec<TcpStream>>,
    /// How many requests with endless deadlines were answered.
    answered: Cell<u64>,
}

impl Attack {
    fn hold(&self, stream: TcpStream) {
        self.held.borrow_mut().push(stream);
    }

    /// Everything that is held, against one process that has these services.
    async fn begin(&self, address: &str, services: &[Service]) {
        for _ in 0..IDLE {
            for service in [services[0], *services.last().unwrap()] {
                self.hold(welcome(address, service).await);
            }
        }
        for service in services {
            // One that claims the longest frame there is, and sends half of it.
            let mut stream = welcome(address, *service).await;
            let claim = u32::try_from(FRAME_BYTES_MAX).unwrap().to_le_bytes();
            stream.write_all(&claim).await.unwrap();
            stream.write_all(&vec![0; FRAME_BYTES_MAX / 2]).await.unwrap();
            self.hold(stream);
        }
    }

    /// Connections that say nothing at all. While they are at their hello, others wait their turn.
    async fn says_nothing(&self, address: &str) {
        for _ in 0..SILENT {
            self.hold(TcpStream::connect(address).await.unwrap());
        }
    }

    /// Asks for large answers and reads none of them.
    async fn never_reads(&self, address: &str, service: Service, body: &impl Serialize) {
        let mut stream = welcome(address, service).await;
        let frames: Vec<u8> = (1..=ANSWERS).flat_map(|id| request(id, 60_000, body)).collect();
        stream.write_all(&frames).await.unwrap();
        self.hold(stream);
    }

    /// Deadlines beyond all bounds: those that can be said are answered, the others are no frames.
    async fn endless_deadlines(&self, address: &str, service: Service, body: &impl Serialize) {
        let mut stream = welcome(address, service).await;
        for id in 1..=ENDLESS {
            stream.write_all(&request(id, u32::MAX, body)).await.unwrap();
            let length = stream.read_u32_le().await.unwrap();
            stream.read_exact(&mut vec![0; length as usize]).await.unwrap();
            self.answered.set(self.answered.get() + 1);
        }
        let beyond = postcard::to_stdvec(&(0_u8, 1_u64, u64::MAX, body)).unwrap();
        let beyond = [&hello(PROTOCOL_VERSION, service as u8)[..], &framed(&beyond)].concat();
        is_hung_up_on(address, "a deadline of more bits than there are", &beyond).await;
    }
}

/// A byte a second: of a hello, until it is cut off; of a frame behind a hello, for a while.
async fn trickles(address: &str, service: Service) {
    let mut at_hello = TcpStream::connect(address).await.unwrap();
    let mut within_frame = welcome(address, service).await;
    let mut drip = tokio::time::interval(DRIP_EVERY);
    let (said, frame) = (hello(PROTOCOL_VERSION, service as u8), framed(&[0; 1_000]));
    for (of_hello, of_frame) in said.iter().zip(&frame).take(DRIPS) {
        drip.tick().await;
        // The first is cut off amid it.
        let _ = at_hello.write_all(&[*of_hello]).await;
        within_frame.write_all(&[*of_frame]).await.unwrap();
    }
    let mut rest = Vec::new();
    let _ = at_hello.read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "{address} answers half a hello");
}

/// Nonsense that is cut off at once, and a length of four gigabytes.
async fn nonsense(address: &str, services: &[Service]) {
    for round in 0..20_u32 {
        let noise: Vec<u8> =
            (0..2_000_u32).map(|n| ((n + round).wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        is_hung_up_on(address, "noise", &noise).await;
        for service in services {
            let welcome = hello(PROTOCOL_VERSION, *service as u8);
            let huge = [&welcome[..], &u32::MAX.to_le_bytes(), &noise].concat();
            is_hung_up_on(address, "a frame of four gigabytes", &huge).await;
            let noise = [&welcome[..], &framed(&noise)].concat();
            is_hung_up_on(address, "a frame of noise", &noise).await;
        }
    }
}

#[test]
fn hostile_peers_kill_nobody_fill_no_memory_and_disturb_no_client() {
    alone(async {
        let cluster = Cluster::start(3).await;
        let client = cluster.client().await;
        client.write("large", Value::from(vec![b'x'; VALUE_BYTES])).await.unwrap();
        let read = |key: &str, level| StoreRequest::Read { read: Read { key: key.into(), level } };
        let load = Load::start(client, DEFAULT_DEADLINE);
        load.goes_on(SOME).await;
        let view = cluster.settled(&cluster.up()).await;
        let pids = cluster.pids();
        let before: BTreeMap<_, _> =
            pids.iter().map(|(name, pid)| (name.clone(), rss_anon_bytes(*pid))).collect();
        let memory = Memory::watch(pids);

        let attack = Attack::default();
        let coordinator = cluster.address(cluster.coordinator().await);
        let follower = cluster.address(cluster.follower().await);
        let server = cluster.server_address.as_str();
        let at_work = load.acknowledged();
        let (status, settings) = (StoreRequest::Status {}, RegistryRequest::Settings {});
        let (majority, weak) = (read("large", Level::Majority), read("large", Level::Weak));
        let small = read("small", Level::Majority);
        tokio::join!(
            attack.begin(server, Service::OF_SERVER),
            attack.begin(coordinator, Service::OF_NODE),
            attack.begin(follower, Service::OF_NODE),
            nonsense(server, Service::OF_SERVER),
            nonsense(coordinator, Service::OF_NODE),
            nonsense(follower, Service::OF_NODE),
            trickles(server, Service::Registry),
            trickles(coordinator, Service::Store),
            trickles(follower, Service::Replica),
            attack.endless_deadlines(server, Service::Registry, &settings),
            attack.endless_deadlines(coordinator, Service::Store, &small),
            attack.endless_deadlines(follower, Service::Store, &status),
            attack.never_reads(server, Service::Registry, &settings),
            attack.never_reads(coordinator, Service::Store, &majority),
            attack.never_reads(coordinator, Service::Store, &weak),
            attack.never_reads(follower, Service::Store, &weak),
        );
        assert_eq!(attack.answered.get(), 3 * ENDLESS);
        for address in [server, coordinator, follower] {
            attack.says_nothing(address).await;
        }
        load.goes_on(SOME).await;
        assert!(load.acknowledged() > at_work + 2 * SOME);

        // Under all of that a client that comes now is served, too.
        cluster.serves().await;
        let most = memory.most();
        eprintln!("memory before {before:?}, at the most {most:?}");
        for (name, most) in most {
            let grown = most.saturating_sub(before[&name]);
            assert!(grown < GROWTH_BYTES_MAX, "{name} grew by {grown} bytes");
        }
        drop(attack);
        assert_eq!(cluster.settled(&cluster.up()).await, view, "nobody was taken for lost");
        load.finish_without_error().await;
        cluster.end();
    });
}

#[test]
fn a_client_that_asks_for_more_than_may_wait_for_it_gets_all_of_it() {
    /// How many reads are under way at once: several times what a connection may leave lying.
    const READS: usize = 4 * ANSWER_BYTES_MAX / VALUE_BYTES;
    const KEYS: usize = 8;
    alone(async {
        let cluster = Cluster::start(3).await;
        let client = cluster.client().await;
        let value =
            |n: usize| Value::from(vec![b'a' + u8::try_from(n % KEYS).unwrap(); VALUE_BYTES]);
        for n in 0..KEYS {
            client.write(format!("large-{n}"), value(n)).await.unwrap();
        }
        for level in [Level::Majority, Level::Weak] {
            let reads = (0..READS).map(|n| {
                let client = client.clone();
                let options = ReadOptions::default().level(level);
                tokio::task::spawn_local(async move {
                    let reading = client.read_with(format!("large-{}", n % KEYS), options).await;
                    assert!(reading.unwrap().value == Some(value(n)), "the {n}th is another's");
                })
            });
            for read in reads.collect::<Vec<_>>() {
                read.await.unwrap();
            }
        }
        cluster.end();
    });
}
