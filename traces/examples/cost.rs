//! What recording costs: nanoseconds an event, for clocks of several sizes.
//!
//! ```text
//! cargo run --release -p quorate-traces --example cost
//! ```

#![allow(clippy::print_stdout, reason = "an example that prints what it measures")]

use std::error::Error;
use std::time::Instant;

use quorate_traces::{Identity, Level, Options, Recorder};

const ROUNDS: u32 = 200_000;

/// So many rounds are timed together.
const BATCH: u32 = 500;

/// So many messages leave in one write.
const FLUSH_EVERY: u32 = 32;

fn main() -> Result<(), Box<dyn Error>> {
    println!(
        "{:>6} {:>10} {:>10} {:>10} {:>12}",
        "hosts", "send", "receive", "local", "with flush"
    );
    for hosts in [2, 8, 32] {
        measure(hosts)?;
    }
    Ok(())
}

/// Nanoseconds for each of some rounds: of many batches the one in the middle, for a machine that
/// has other things to do slows some of them down.
fn time(mut each: impl FnMut(u32)) -> f64 {
    let mut batches: Vec<_> = (0..ROUNDS / BATCH)
        .map(|batch| {
            let start = Instant::now();
            (batch * BATCH..(batch + 1) * BATCH).for_each(&mut each);
            start.elapsed().as_nanos() as f64 / f64::from(BATCH)
        })
        .collect();
    batches.sort_by(f64::total_cmp);
    batches[batches.len() / 2]
}

fn measure(hosts: usize) -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let start =
        |name: &str| Recorder::start(dir.path(), name, Identity::default(), Options::default());
    let node = start("node-1")?;
    for number in 1..hosts {
        let other = start(&format!("client-5f0cd1e2-{number}"))?;
        let stamp = other.prepare_send(Level::Debug, "hello", |_| ()).ok_or("no stamp")?;
        node.unpack_receive(&stamp, Level::Debug, "hello", |_| ());
    }
    let send = |step: u32| {
        node.prepare_send(Level::Debug, "append", |out| {
            out.field("to", "127.0.0.1:4747").field("rpc", "replica.append").field("key", "key-17");
            out.field("version", step);
        })
    };
    let other = start("node-2")?;
    let stamps: Vec<_> = (0..ROUNDS)
        .filter_map(|_| {
            node.unpack_receive(
                &other.prepare_send(Level::Debug, "s", |_| ())?,
                Level::Debug,
                "r",
                |_| (),
            );
            other.prepare_send(Level::Debug, "append", |_| ())
        })
        .collect();
    let sends = time(|step| drop(std::hint::black_box(send(step))));
    let receives = time(|step| {
        node.unpack_receive(&stamps[step as usize], Level::Debug, "append", |out| {
            out.field("rpc", "replica.append").field("key", "key-17").field("version", step);
        });
    });
    let locals = time(|step| {
        node.local_event(Level::Debug, "commit", |out| {
            out.field("key", "key-17").field("version", step);
        });
    });
    let flushes = time(|step| {
        drop(std::hint::black_box(send(step)));
        if step % FLUSH_EVERY == 0 {
            node.flush();
        }
    });
    println!("{hosts:>6} {sends:>7.0} ns {receives:>7.0} ns {locals:>7.0} ns {flushes:>9.0} ns");
    Ok(())
}
