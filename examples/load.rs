//! A load of writes or of reads, and how many were answered in a second: for measuring what a
//! change of a cluster costs, one run beside another.
//!
//! ```text
//! cargo run --release --example load -- SERVER [write|read] [CLIENTS] [SECONDS] [TRACE_DIR]
//! ```
//!
//! Each client has a connection of its own and one request under way. Writes are of 256 bytes, over
//! 20,000 keys. With a directory, this process is traced too.

#![allow(clippy::print_stdout, reason = "an example that prints what it measures")]

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use quorate_client::Client;
use quorate_protocol::transport::told;
use quorate_traces::{Identity, Options, Recorder};

const KEYS: usize = 20_000;
const VALUE_BYTES: usize = 256;

/// Bounds, whatever is asked for.
const CLIENTS_MAX: usize = 1_000;
const SECONDS_MAX: u64 = 600;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let server = args.first().ok_or("which server? an address first")?;
    let reads = args.get(1).is_some_and(|what| what == "read");
    let clients = args.get(2).map_or(Ok(64), |text| text.parse())?.min(CLIENTS_MAX);
    let seconds = args.get(3).map_or(Ok(5), |text| text.parse())?.min(SECONDS_MAX);
    if let Some(dir) = args.get(4) {
        let identity = Identity { role: "client".to_owned(), ..Identity::default() };
        told::record(Recorder::start(Path::new(dir), "load", identity, Options::default())?);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answered = runtime.block_on(run(server, reads, clients, Duration::from_secs(seconds)))?;
    if let Some(recorder) = told::recorder() {
        recorder.stop();
    }
    println!("{:.0} a second", answered as f64 / seconds as f64);
    Ok(())
}

async fn run(
    server: &str,
    reads: bool,
    clients: usize,
    length: Duration,
) -> Result<usize, Box<dyn Error>> {
    let mut connected = Vec::new();
    for _ in 0..clients {
        connected.push(Client::connect([server]).await?);
    }
    let end = Instant::now() + length;
    let loads = connected.into_iter().enumerate().map(|(number, client)| async move {
        let (mut answered, mut at) = (0, number * 7919);
        let value = vec![b'x'; VALUE_BYTES];
        while Instant::now() < end {
            at = (at + 1) % KEYS;
            let key = format!("key/{at}");
            match reads {
                true => drop(client.read(key).await?),
                false => drop(client.write(key, value.clone()).await?),
            }
            answered += 1;
        }
        Ok::<_, quorate_client::Error>(answered)
    });
    // Side by side on this thread.
    let local = tokio::task::LocalSet::new();
    let running: Vec<_> = loads.map(|load| local.spawn_local(load)).collect();
    let all = async {
        let mut answered = 0;
        for load in running {
            answered += load.await??;
        }
        Ok(answered)
    };
    local.run_until(all).await
}
