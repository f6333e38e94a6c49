//! `quorate verify` on what real processes left.

#![allow(clippy::unwrap_used, reason = "a test's helpers are test code")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value as Json;

fn quorate(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("QUORATE_") {
            command.env_remove(name);
        }
    }
    command.args(args).current_dir(dir).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A directory in which a cluster of two ran and was stopped.
fn stopped() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut up =
        quorate(dir.path(), &["up", "--nodes", "2"]).stdin(Stdio::piped()).spawn().unwrap();
    let lines: String = (0..50).map(|n| format!("write key-{n} value-{n}\n")).collect();
    up.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(up.wait_with_output().unwrap().status.success());
    dir
}

/// Every file below `dir` and what is in it.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.insert(path.clone(), Vec::new());
            found.extend(tree(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

/// The code, and what was said. Changes nothing.
#[track_caller]
fn verify(dir: &Path, args: &[&str]) -> (i32, String) {
    let before = tree(dir);
    let output: Output = quorate(dir, &[&["verify"], args].concat()).output().unwrap();
    assert!(tree(dir) == before, "verify changed something");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    // Files of the log end in zeros.
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[written / 2] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// The newest file in `dir` whose name begins like this.
fn newest(dir: &Path, prefix: &str) -> PathBuf {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.retain(|name| name.to_string_lossy().starts_with(prefix));
    names.sort_by_key(|name| (name.len(), name.clone()));
    dir.join(names.pop().unwrap())
}

#[test]
fn what_was_stopped_in_order_is_clean_and_damage_is_named() {
    let dir = stopped();
    let at = |path: &str| dir.path().join(".quorate").join(path);
    let (code, said) = verify(dir.path(), &[".quorate"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.starts_with("nothing is wrong: checked the server"), "{said}");
    assert!(said.contains("node 1 (log up to"), "{said}");
    let (code, said) = verify(dir.path(), &[".quorate", "-o", "json"]);
    let json: Json = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &json["clean"]), (0, &Json::Bool(true)), "{said}");
    assert_eq!(json["directories"][0]["kind"], "server");
    assert_eq!(json["directories"][2]["holds"]["id"], 2);

    let rows = at("node-1/state/gen-1/keyspaces/1");
    let files = [
        (at("server/server.state"), "exactly this state"),
        (at("node-1/node"), "restore the file"),
        (newest(&at("node-1/log"), "log-"), "marks the node"),
        (at("node-1/state/head"), "sets the state aside"),
        (newest(&rows, "v"), "sets the state aside"),
        (newest(&rows.join("tables"), ""), "sets the state aside"),
    ];
    for (file, next) in files {
        let good = fs::read(&file).unwrap();
        flip(&file);
        let (code, said) = verify(dir.path(), &[".quorate"]);
        assert_eq!(code, 3, "{}: {said}", file.display());
        assert!(said.contains(next), "{}: {said}", file.display());
        assert!(said.contains("1 thing is wrong"), "{}: {said}", file.display());
        fs::write(&file, &good[..good.len() / 3]).unwrap();
        let (code, said) = verify(dir.path(), &[file.parent().unwrap().to_str().unwrap()]);
        assert_ne!(code, 0, "{}: {said}", file.display());
        fs::write(&file, good).unwrap();
    }
    assert_eq!(verify(dir.path(), &[".quorate"]).0, 0);
}

#[test]
fn what_runs_is_not_verified_and_what_was_killed_is() {
    let dir = tempfile::tempdir().unwrap();
    let up = quorate(dir.path(), &["up", "--nodes", "2", "--detach"]).output().unwrap();
    assert!(up.status.success());
    // The tree changes while the cluster runs.
    let verify = |path: &str| {
        let output = quorate(dir.path(), &["verify", path]).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, said) = verify(".quorate");
    assert_eq!(code, 5, "{said}");
    assert_eq!(said.matches("in use by a running").count(), 3, "{said}");
    assert_eq!(verify(".quorate/node-2").0, 5);
    let killed = quorate(dir.path(), &["up", "kill", "2"]).output().unwrap();
    let (code, said) = verify(".quorate/node-2");
    let down = quorate(dir.path(), &["down"]).output().unwrap();
    assert!(killed.status.success() && down.status.success());
    assert_eq!(code, 0, "{said}");
}

#[test]
fn what_is_not_ours_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "precious").unwrap();
    let (code, said) = verify(dir.path(), &["."]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("holds nothing of quorate's"), "{said}");
    assert_eq!(verify(dir.path(), &["missing"]).0, 2);
    assert_eq!(verify(dir.path(), &[]).0, 2);
}
