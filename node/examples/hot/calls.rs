//! Calls over connections of loopback, both ends in one thread.
//!
//! Requests go through one queue to one task that answers all that are ready, as in the shell of a
//! node; who calls has its next request when it has the answer to the last.

use std::time::Duration;

use quorate_protocol::entry::Answer;
use quorate_protocol::ids::NodeId;
use quorate_protocol::rpc::store::{ChangeReply, ReadReply, StoreRequest, StoreResponse};
use quorate_protocol::transport::{
    KnownCluster, Link, Listener, Responder, Service, serve_channel,
};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

use crate::load::{Load, version};
use crate::{BATCH, Path};

const TIMEOUT: Duration = Duration::from_secs(60);

type Asked = (StoreRequest, Responder<StoreResponse>);

#[derive(Clone, Copy)]
enum Kind {
    Write,
    Read,
}

pub(crate) fn write_1(path: &Path, times: usize) {
    run(path, Kind::Write, times, 1, 1);
}

pub(crate) fn write_64(path: &Path, times: usize) {
    run(path, Kind::Write, times, 1, BATCH);
}

pub(crate) fn write_64_connections(path: &Path, times: usize) {
    run(path, Kind::Write, times, BATCH, 1);
}

pub(crate) fn read_64_connections(path: &Path, times: usize) {
    run(path, Kind::Read, times, BATCH, 1);
}

/// Each of the callers calls so often.
fn run(path: &Path, kind: Kind, times: usize, connections: usize, in_flight: usize) {
    // As a node has it: no trace is asked for, and who reads its log wants nothing below `info`.
    let talk = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let filter = EnvFilter::new("info,tarpc=off,fjall=warn,lsm_tree=warn");
    tracing_subscriber::registry().with(talk.with_filter(filter)).init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the system has room for one");
    runtime.block_on(async {
        let address = serve().await;
        let mut load = Load::new();
        let mut callers = JoinSet::new();
        for _ in 0..connections {
            let cluster = KnownCluster::default();
            let link = Link::<_, StoreResponse>::new(address.clone(), Service::Store, cluster);
            // The connection is there before the first of many calls.
            link.call(StoreRequest::Committed {}, TIMEOUT).await.expect_err("it is not answered");
            for _ in 0..in_flight {
                let requests: Vec<_> =
                    (0..path.times_max).map(|_| request(kind, &mut load)).collect();
                let link = link.clone();
                callers.spawn(async move {
                    for request in requests.into_iter().take(times) {
                        link.call(request, TIMEOUT).await.expect("it is answered");
                    }
                });
            }
        }
        while let Some(done) = callers.join_next().await {
            done.expect("no caller fails");
        }
        // As everywhere: nothing is taken apart.
        std::process::exit(0);
    });
}

fn request(kind: Kind, load: &mut Load) -> StoreRequest {
    match kind {
        Kind::Write => StoreRequest::Change { change: load.change() },
        Kind::Read => StoreRequest::Read { read: load.read() },
    }
}

/// Somebody who answers, and where.
async fn serve() -> String {
    let cluster = KnownCluster::default();
    let listener = Listener::bind("127.0.0.1:0", Service::OF_NODE, cluster).await;
    let listener = listener.expect("there is a free port");
    let address = listener.local_address().expect("it listens").to_string();
    let (inbox, mut asked) = unbounded_channel::<Asked>();
    tokio::spawn(accept(listener, inbox));
    tokio::spawn(async move {
        let value = Load::new().value();
        while let Some(first) = asked.recv().await {
            let mut next = Some(first);
            while let Some((request, responder)) = next {
                match request {
                    StoreRequest::Change { .. } => {
                        let (version, answer) = (version(7), Answer::Written);
                        let reply = ChangeReply::Applied { version, answer };
                        responder.send(StoreResponse::Change(reply));
                    }
                    StoreRequest::Read { .. } => {
                        let reply = ReadReply::Found {
                            value: Some(value.clone()),
                            version: version(7),
                            applied: version(9),
                            by: NodeId(1),
                            heard_ms_ago: None,
                        };
                        responder.send(StoreResponse::Read(reply));
                    }
                    _ => drop(responder),
                }
                next = asked.try_recv().ok();
            }
        }
    });
    address
}

async fn accept(mut listener: Listener, inbox: UnboundedSender<Asked>) {
    loop {
        let Ok(accepted) = listener.accept().await else { continue };
        let connection = accepted.into_connection::<StoreRequest, StoreResponse>();
        let inbox = inbox.clone();
        tokio::spawn(serve_channel(connection, move |request, responder| {
            // Fails when the process ends.
            let _ = inbox.send((request, responder));
        }));
    }
}
