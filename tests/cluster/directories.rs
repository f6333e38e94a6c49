//! Data directories that cannot be used: each is an error that says what to do, and afterwards every
//! file in it is what it was.
//!
//! The directories are those of processes that were killed under load, so that there is something
//! that an opening would put in order.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use quorate_client::DEFAULT_DEADLINE;
use rustix::process::Signal;
use xxhash_rust::xxh3::xxh3_64;

use crate::alone;
use crate::cluster::Cluster;
use crate::load::Load;
use crate::process::{assert_told, refused};
use crate::small_disk::SmallDisk;

/// How many changes are made before everything else.
const SOME: usize = 40;

/// Room for a node's directory.
const DISK_MIB: u32 = 80;

/// Every file and folder below `dir`, each file with its length and a hash of what is in it.
fn fingerprint(dir: &Path) -> BTreeMap<PathBuf, (u64, u64)> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            found.insert(path, (0, 0));
        } else {
            let bytes = fs::read(&path).unwrap();
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            found.insert(path, (bytes.len() as u64, hasher.finish()));
        }
    }
    found
}

/// A copy of `from` and everything below it at `to`.
fn copy(from: &Path, to: &Path) {
    if !from.is_dir() {
        fs::copy(from, to).unwrap();
        return;
    }
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        copy(&entry.path(), &to.join(entry.file_name()));
    }
}

/// Puts a copy of `from` in the place of `to`.
fn replace(to: &Path, from: &Path) {
    if to.is_dir() {
        fs::remove_dir_all(to).unwrap();
    }
    copy(from, to);
}

/// A process that is started on `dir` ends with this code, says all of that, and changes nothing.
async fn leaves_alone(dir: &Path, args: Vec<OsString>, code: i32, words: &[&str]) {
    let before = fingerprint(dir);
    let told = refused(args).await;
    assert_told(&told, code, words);
    let after = fingerprint(dir);
    let changed: Vec<_> = before
        .keys()
        .chain(after.keys())
        .filter(|path| before.get(*path) != after.get(*path))
        .collect();
    assert!(changed.is_empty(), "it changed {changed:?}, and said: {}", told.1);
}

/// Makes `node`, who somebody is, one of the next format.
fn next_identity_format(dir: &Path, _: &Path) {
    let text = fs::read_to_string(dir.join("node")).unwrap();
    let (line, _) = text.trim_end().rsplit_once(' ').unwrap();
    let line = line.replacen("quorate-node-1", "quorate-node-2", 1);
    let checksum = crc32c::crc32c(line.as_bytes());
    fs::write(dir.join("node"), format!("{line} {checksum:08x}\n")).unwrap();
}

/// Makes every file of the log one of the next format.
fn next_log_format(dir: &Path, _: &Path) {
    for entry in fs::read_dir(dir.join("log")).unwrap() {
        let file = File::options().read(true).write(true).open(entry.unwrap().path()).unwrap();
        let mut header = vec![0; 4096];
        file.read_exact_at(&mut header, 0).unwrap();
        header[8] += 1;
        let end = 20 + u32::from_le_bytes(header[12..16].try_into().unwrap()) as usize;
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&header[8..16]), &header[20..end]);
        header[16..20].copy_from_slice(&checksum.to_le_bytes());
        file.write_all_at(&header, 0).unwrap();
    }
}

/// Makes the state one of the next format.
fn next_state_format(dir: &Path, _: &Path) {
    let path = dir.join("state/head");
    let mut head = fs::read(&path).unwrap();
    head[16] += 1;
    let checksum = xxh3_64(&head[8..]);
    head[..8].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&path, head).unwrap();
}

/// What is wrong with a node's directory.
struct Case {
    /// What is done to a copy of it; the other directory is that of another node.
    damage: fn(&Path, &Path),
    says: &'static [&'static str],
}

const CASES: [Case; 7] = [
    Case { damage: next_identity_format, says: &["quorate-node-1", "empty directory"] },
    Case { damage: next_log_format, says: &["log format 2", "run the version"] },
    Case { damage: next_state_format, says: &["has format 2", "use the version"] },
    Case {
        damage: |dir, other| replace(&dir.join("log"), &other.join("log")),
        says: &["belongs to store", "put the store's own files back"],
    },
    Case {
        damage: |dir, other| replace(&dir.join("state"), &other.join("state")),
        says: &["belongs to store", "put the store's own files back"],
    },
    Case {
        damage: |dir, other| replace(&dir.join("node"), &other.join("node")),
        says: &["belongs to store", "put the store's own files back"],
    },
    Case {
        damage: |dir, _| fs::remove_file(dir.join("node")).unwrap(),
        says: &["files that are not a node's", "empty directory"],
    },
];

#[test]
fn a_node_leaves_a_directory_that_it_cannot_use_as_it_is() {
    alone(async {
        let mut cluster = Cluster::start(3).await;
        let other = Cluster::start(1).await;
        let load = Load::start(cluster.client().await, DEFAULT_DEADLINE);
        load.goes_on(SOME).await;
        let running = cluster.coordinator().await;
        let killed: Vec<_> = cluster.up().into_iter().filter(|node| *node != running).collect();
        let node = |dir: &Path| cluster.node_args(Some(dir), "127.0.0.1:0");

        // In use. Whoever uses it is paused, so that whatever changes is the other one's doing.
        let dir = cluster.nodes[&running].dir.clone().unwrap();
        cluster.process(running).pause().await;
        leaves_alone(&dir, node(&dir), 2, &["in use", "stop it", "directory of its own"]).await;
        cluster.signal(running, Signal::CONT);

        load.goes_on(SOME).await;
        for node in &killed {
            cluster.kill(*node);
        }
        let dirs = [0, 1].map(|n| cluster.nodes[&killed[n]].dir.clone().unwrap());
        let node = |dir: &Path| cluster.node_args(Some(dir), "127.0.0.1:0");
        for (n, Case { damage, says }) in CASES.into_iter().enumerate() {
            let dir = cluster.path(&format!("case-{n}"));
            copy(&dirs[0], &dir);
            damage(&dir, &dirs[1]);
            leaves_alone(&dir, node(&dir), 2, says).await;
        }

        // Another cluster's.
        let args = other.node_args(Some(&dirs[0]), "127.0.0.1:0");
        leaves_alone(&dirs[0], args, 3, &["belongs to cluster", "give the address"]).await;
        // A server's.
        let server = cluster.path("server");
        cluster.server().pause().await;
        leaves_alone(&server, node(&server), 2, &["not a node's", "empty directory"]).await;
        cluster.server().signal(Signal::CONT);

        // On a disk that nobody may write to; as it is, and where nothing is there yet.
        if let Some(disk) = SmallDisk::mount(DISK_MIB) {
            let (dir, empty) = (disk.path().join("protected"), disk.path().join("empty"));
            copy(&dirs[0], &dir);
            fs::create_dir(&empty).unwrap();
            disk.protect();
            for dir in [&dir, &empty, &disk.path().join("missing")] {
                leaves_alone(disk.path(), node(dir), 2, &["cannot use", "may write to"]).await;
            }
        }

        for node in killed {
            cluster.restart(node).await;
        }
        cluster.settled(&cluster.up()).await;
        load.finish().await;
        other.end();
        cluster.end();
    });
}

#[test]
fn a_server_leaves_a_directory_that_it_cannot_use_as_it_is() {
    alone(async {
        let mut cluster = Cluster::start(1).await;
        let server = |dir: &Path| -> Vec<OsString> {
            let args = ["server", "--listen", "127.0.0.1:0", "--data"].map(OsString::from);
            args.into_iter().chain([dir.into()]).collect()
        };
        let dir = cluster.path("server");
        cluster.server().pause().await;
        leaves_alone(&dir, server(&dir), 2, &["in use", "--data"]).await;
        cluster.server().signal(Signal::CONT);
        let node = cluster.up()[0];
        cluster.stop(node).await;
        let nodes = cluster.nodes[&node].dir.clone().unwrap();
        leaves_alone(&nodes, server(&nodes), 2, &["no server's state", "empty directory"]).await;

        cluster.kill_server();
        let newer = cluster.path("newer");
        copy(&dir, &newer);
        let path = newer.join("server.state");
        let mut state = fs::read(&path).unwrap();
        state[8] += 1;
        fs::write(&path, state).unwrap();
        leaves_alone(&newer, server(&newer), 2, &["of format 3", "run the release"]).await;
        if let Some(disk) = SmallDisk::mount(DISK_MIB) {
            let (protected, empty) = (disk.path().join("protected"), disk.path().join("empty"));
            copy(&dir, &protected);
            fs::create_dir(&empty).unwrap();
            disk.protect();
            for dir in [&protected, &empty, &disk.path().join("missing")] {
                leaves_alone(disk.path(), server(dir), 2, &["cannot", "writable"]).await;
            }
        }
        cluster.start_server().await;
        cluster.restart(node).await;
        cluster.settled(&cluster.up()).await;
        cluster.serves().await;
        cluster.end();
    });
}
