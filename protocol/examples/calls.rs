//! So many calls, one after the other, from one end of a connection to the other: for counting the
//! instructions that a call takes. `traces/examples/cost.sh` does.
//!
//! ```text
//! cargo run --release -p quorate-protocol --example calls -- CALLS [TRACE_DIR]
//! ```
//!
//! With a directory the process is traced. Where the feature `trace` is there, each call also passes
//! the spans and events that a write passes in the product.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use quorate_protocol::entry::{Answer, Token};
use quorate_protocol::ids::{ClientId, Index, RequestNumber};
use quorate_protocol::record::Key;
use quorate_protocol::rpc::store::{Change, ChangeReply, Command, StoreRequest, StoreResponse};
use quorate_protocol::transport::{KnownCluster, Link, Listener, Service, serve_channel, told};
use quorate_protocol::version::Version;
use quorate_traces::{Identity, Options, Recorder};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

const CALLS_MAX: u64 = 1_000_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let calls: u64 = args.first().ok_or("how many calls?")?.parse()?;
    if let Some(dir) = args.get(1) {
        let (dir, options) = (Path::new(dir), Options::default());
        told::record(Recorder::start(dir, "calls", Identity::default(), options)?);
    }
    // As a node has it: who wants to know of nothing below `info`.
    let talk = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let filter = tracing_subscriber::EnvFilter::new("info,tarpc=off");
    tracing_subscriber::registry().with(talk.with_filter(filter)).init();
    let cluster = KnownCluster::default();
    let mut listener = Listener::bind("127.0.0.1:0", Service::OF_NODE, cluster.clone()).await?;
    let address = listener.local_address()?.to_string();
    tokio::spawn(async move {
        let Ok(accepted) = listener.accept().await else { return };
        let connection = accepted.into_connection::<StoreRequest, StoreResponse>();
        let _ = serve_channel(connection, |_, responder| {
            let (version, answer) = (Version::new(1, 1), Answer::Written);
            responder.send(StoreResponse::Change(ChangeReply::Applied { version, answer }));
        })
        .await;
    });
    let link = Link::<StoreRequest, StoreResponse>::new(address, Service::Store, cluster);
    for number in 0..calls.min(CALLS_MAX) {
        let (client, request) = (ClientId(7), RequestNumber(number));
        let token = Token { client, request, born: Index(1) };
        let key = Key::from("key/of-usual-length".to_owned());
        let value = Bytes::from_static(&[7; 256]).into();
        let change = Change { token, command: Command::Write { key, value } };
        pass_steps(&change);
        link.call(StoreRequest::Change { change }, Duration::from_secs(10)).await?;
    }
    Ok(())
}

/// What a write passes on its way through client, coordinator and members.
#[cfg(feature = "trace")]
fn pass_steps(change: &Change) {
    let (request, key) = (change.token.id(), change.command.key());
    let _client = tracing::debug_span!(parent: None, "client request", %key, %request);
    let _order = tracing::debug_span!(parent: None, "order", %request, %key);
    tracing::debug!(%request, %key, "order");
    let _commit = tracing::debug_span!(parent: None, "commit", %request);
    for to in 2..4 {
        let _append = tracing::debug_span!(parent: None, "append", to);
    }
    for member in 1..4 {
        let _fsync = tracing::debug_span!(parent: None, "fsync", member);
        tracing::debug!(member, "fsync");
        let _apply = tracing::debug_span!(parent: None, "apply", member);
        tracing::debug!(member, "apply");
    }
    tracing::debug!(%request, "commit");
}

#[cfg(not(feature = "trace"))]
fn pass_steps(_: &Change) {}
