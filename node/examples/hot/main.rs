//! The hot paths one by one, so many times over: for counting the instructions that each takes.
//! `bench/count` does, and writes `bench/results/instructions.txt`.
//!
//! ```text
//! cargo run --release -p quorate-node --example hot                which paths there are
//! cargo run --release -p quorate-node --example hot -- PATH TIMES  one of them
//! ```
//!
//! Everything that a path takes in is made before it begins, as much for few times as for many. So
//! the difference of two runs is the path alone.
//!
//! * `load`: keys, values and requests, by a fixed seed.
//! * `codec`: messages into frames and back.
//! * `calls`: calls over a connection of loopback, both ends.
//! * `coordinator`: its core, its members played.
//! * `node`: a node's core, its state, its log.
//! * `whole`: three nodes in one thread, with everything but sockets, disks and the shell.
//!
//! What the kernel does is in none of it.

mod calls;
mod codec;
mod coordinator;
mod load;
mod node;
mod whole;

use std::error::Error;

/// One path.
struct Path {
    name: &'static str,
    /// How many operations one time is: the figures are for one operation.
    operations: usize,
    /// How often it is done in the longer run. In the shorter one a sixth of that.
    times_max: usize,
    /// Does it so often, but prepares for `times_max`.
    run: fn(&Path, usize),
}

const BATCH: usize = 64;

const fn path(
    name: &'static str,
    operations: usize,
    times_max: usize,
    run: fn(&Path, usize),
) -> Path {
    Path { name, operations, times_max, run }
}

const PATHS: &[Path] = &[
    path("codec/write-request-encode", 1, 6_000, codec::write_request_encode),
    path("codec/write-request-decode", 1, 6_000, codec::write_request_decode),
    path("codec/write-answer-both", 1, 6_000, codec::write_answer),
    path("codec/read-request-both", 1, 6_000, codec::read_request),
    path("codec/read-answer-both", 1, 6_000, codec::read_answer),
    path("codec/batch-of-64-encode", BATCH, 120, codec::batch_encode),
    path("codec/append-of-64-encode", BATCH, 120, codec::append_encode),
    path("codec/append-of-64-decode", BATCH, 120, codec::append_decode),
    path("codec/batch-of-64-decode", BATCH, 120, codec::batch_decode),
    path("calls/write-1-in-flight", 1, 6_000, calls::write_1),
    path("calls/write-64-in-flight", BATCH, 120, calls::write_64),
    path("calls/write-64-connections", BATCH, 120, calls::write_64_connections),
    path("calls/read-64-connections", BATCH, 120, calls::read_64_connections),
    path("coordinator/write-1", 1, 3_000, coordinator::write),
    path("coordinator/write-64", BATCH, 120, coordinator::write),
    path("coordinator/read-1", 1, 3_000, coordinator::read),
    path("coordinator/read-64", BATCH, 120, coordinator::read),
    path("node/append-1", 1, 3_000, node::append),
    path("node/append-64", BATCH, 120, node::append),
    path("node/apply-64", BATCH, 120, node::apply),
    path("node/digest-64", BATCH, 120, node::digest),
    path("node/log-group-of-1", 1, 3_000, node::log_group),
    path("node/log-group-of-64", BATCH, 120, node::log_group),
    path("whole/write-1", 1, 1_200, whole::write),
    path("whole/write-64", BATCH, 60, whole::write),
    path("whole/read-1", 1, 1_200, whole::read),
    path("whole/read-64", BATCH, 60, whole::read),
];

#[expect(clippy::print_stdout, reason = "it is a program: standard output is data")]
fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, times] = args.as_slice() else {
        for Path { name, operations, times_max, .. } in PATHS {
            println!("{name} {operations} {} {times_max}", times_max / 6);
        }
        return Ok(());
    };
    let path = PATHS.iter().find(|path| path.name == name).ok_or("there is no such path")?;
    let times: usize = times.parse()?;
    (path.run)(path, times.min(path.times_max));
    // At once: to let go of what was prepared and not used would count for the shorter run.
    std::process::exit(0);
}
