//! Flipped bytes in the files of a stopped process: noticed, and healed from the peers where there
//! are any.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use quorate_client::DEFAULT_DEADLINE;
use quorate_protocol::record::Value;

use crate::alone;
use crate::cluster::Cluster;
use crate::contents::{everywhere, holds};
use crate::load::Load;
use crate::process::{assert_told, refused, until};

/// How many changes are made before each damage.
const SOME: usize = 60;

/// How many large values are written: more than a node keeps of its log in memory (32 MiB), so that
/// the first are read from its files, and less than it keeps there for peers that lag (64 MiB).
const LARGE: usize = 48;

/// How long each is: the longest there is.
const LARGE_BYTES: usize = 1 << 20;

/// One kind of file, and what a node says that finds it damaged.
struct Kind {
    name: &'static str,
    /// Where in a node's directory a file of this kind is, and which byte of it to flip.
    find: fn(&Path) -> (PathBuf, u64),
    says: Option<&'static str>,
}

const MARKED: Option<&str> = Some("the log lost what it had promised");
const SET_ASIDE: Option<&str> = Some("the state was set aside");

/// Every kind of file that a node has. Of a journal nothing is ever used again, so that damage to
/// it has nothing to be noticed by.
const KINDS: [Kind; 9] = [
    Kind { name: "a frame of the log", find: |dir| middle(&segment(dir)), says: MARKED },
    Kind { name: "the log's metadata", find: |dir| (segment(dir), 40), says: MARKED },
    Kind {
        name: "a table",
        find: |dir| dedup_rows(&newest(&rows(dir).join("tables"), "")),
        says: SET_ASIDE,
    },
    Kind {
        name: "a list of tables",
        find: |dir| middle(&newest(&rows(dir), "v")),
        says: SET_ASIDE,
    },
    Kind {
        name: "the name of the list",
        find: |dir| middle(&rows(dir).join("current")),
        says: SET_ASIDE,
    },
    Kind { name: "the state's head", find: |dir| middle(&dir.join("state/head")), says: SET_ASIDE },
    Kind {
        name: "the state's format",
        find: |dir| (generation(dir).join("version"), 1),
        says: SET_ASIDE,
    },
    Kind {
        name: "fjall's own table",
        find: |dir| middle(&newest(&generation(dir).join("keyspaces/0/tables"), "")),
        says: SET_ASIDE,
    },
    Kind { name: "a journal", find: |dir| middle(&newest(&generation(dir), "jnl")), says: None },
];

fn segment(dir: &Path) -> PathBuf {
    newest(&dir.join("log"), "seg")
}

fn generation(dir: &Path) -> PathBuf {
    newest(&dir.join("state"), "gen-")
}

fn rows(dir: &Path) -> PathBuf {
    generation(dir).join("keyspaces/1")
}

/// The newest in `dir` whose name begins or ends like this.
fn newest(dir: &Path, like: &str) -> PathBuf {
    let all = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let fits = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with(like) || name.ends_with(like)
    };
    let number = |path: &PathBuf| {
        let digits = path.file_name().unwrap().to_string_lossy().into_owned();
        digits.chars().filter(char::is_ascii_digit).collect::<String>().parse::<u64>().unwrap_or(0)
    };
    all.filter(fits).max_by_key(number).unwrap()
}

/// The byte in the middle of what was written: files of the log end in zeros.
fn middle(path: &Path) -> (PathBuf, u64) {
    let bytes = std::fs::read(path).unwrap();
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64;
    (path.to_owned(), written / 2)
}

/// A byte of a table's dedup rows, all of which a start reads; records it reads when they are asked for.
/// They stand behind their name: a letter, and two numbers below 2^24, the larger one first.
fn dedup_rows(path: &Path) -> (PathBuf, u64) {
    let bytes = std::fs::read(path).unwrap();
    let is_name = |name: &[u8]| name[0] == b't' && name[1..6] == [0; 5] && name[9..14] == [0; 5];
    let name = bytes.windows(17).position(is_name).unwrap() as u64;
    (path.to_owned(), name + 40)
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn a_flipped_byte_in_any_file_of_a_node_is_noticed_and_heals() {
    alone(async {
        let mut cluster = Cluster::start(3).await;
        let members = cluster.up();
        let load = Load::start(cluster.client().await, DEFAULT_DEADLINE);
        for Kind { name, find, says } in KINDS {
            load.goes_on(SOME).await;
            let victim = cluster.follower().await;
            cluster.stop(victim).await;
            let before = cluster.log(victim).len();
            let (path, at) = find(cluster.nodes[&victim].dir.as_ref().unwrap());
            flip(&path, at);
            load.goes_on(SOME).await;
            cluster.restart(victim).await;
            cluster.settled(&members).await;
            let said = cluster.log(victim).split_off(before);
            if let Some(says) = says {
                assert!(said.contains(says), "{name}, byte {at} of {}: {said}", path.display());
            }
            // It has everything again, from before and from meanwhile.
            holds(&cluster, victim, &load.numbered()).await;
        }
        load.everything_is_there().await;
        load.finish_without_error().await;
        cluster.end();
    });
}

#[test]
fn a_log_that_is_damaged_under_a_running_node_is_noticed_once_a_peer_needs_it() {
    alone(async {
        let mut cluster = Cluster::start(3).await;
        let members = cluster.up();
        let client = cluster.client().await;
        let (away, victim) = (cluster.follower().await, cluster.coordinator().await);
        cluster.kill(away);
        let value = |n: usize| Value::from(vec![b'a' + (n % 26) as u8; LARGE_BYTES]);
        let key = |n: usize| format!("large-{n}");
        for n in 0..LARGE {
            client.write(key(n).as_str(), value(n)).await.unwrap();
        }
        let dir = cluster.nodes[&victim].dir.clone().unwrap();
        flip(&dir.join("log/log-000000000001.seg"), 3 * LARGE_BYTES as u64);
        let before = cluster.log(victim).len();
        cluster.restart(away).await;
        until("the damage is noticed", async || {
            let said = cluster.log(victim).split_off(before);
            if said.contains("the log is damaged; it is opened anew") { Ok(()) } else { Err(said) }
        })
        .await;
        // It lost what it had promised, and comes back as one that copied it from the others.
        cluster.settled(&members).await;
        let contents = (0..LARGE).map(|n| (key(n), Some(value(n)))).collect();
        everywhere(&cluster, &contents).await;
        cluster.serves().await;
        cluster.end();
    });
}

#[test]
fn a_flipped_byte_in_who_one_is_is_an_error_that_changes_nothing() {
    alone(async {
        let mut cluster = Cluster::start(3).await;
        let members = cluster.up();
        let load = Load::start(cluster.client().await, DEFAULT_DEADLINE);
        load.goes_on(SOME).await;
        let victim = cluster.follower().await;
        cluster.stop(victim).await;
        let dir = cluster.nodes[&victim].dir.clone().unwrap();
        refuses_to_start(cluster.node_args(Some(&dir), "127.0.0.1:0"), &dir.join("node")).await;
        cluster.restart(victim).await;
        cluster.settled(&members).await;

        cluster.kill_server();
        let state = cluster.path("server/server.state");
        refuses_to_start(cluster.server_args(), &state).await;
        cluster.start_server().await;
        cluster.settled(&members).await;
        load.finish_without_error().await;
        cluster.end();
    });
}

/// A process with a flipped byte in `file` says so and ends. Afterwards the file is whole again.
async fn refuses_to_start(args: Vec<OsString>, file: &Path) {
    let (path, at) = middle(file);
    flip(&path, at);
    let damaged = std::fs::read(file).unwrap();
    assert_told(&refused(args).await, 2, &["damaged", file.to_str().unwrap()]);
    assert_eq!(std::fs::read(file).unwrap(), damaged, "nothing was changed");
    flip(&path, at);
}
