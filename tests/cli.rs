//! The command line, as far as it needs no cluster: usage, exit codes, talk and data apart.

#![allow(clippy::unwrap_used, reason = "a test's helpers are test code")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// `quorate` with nothing said by the environment, in a directory of its own.
fn quorate(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("QUORATE_") {
            command.env_remove(name);
        }
    }
    command.args(args).current_dir(dir).stdin(Stdio::null());
    command
}

struct Ended {
    code: i32,
    data: String,
    talk: String,
}

fn run(args: &[&str]) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    ended(quorate(dir.path(), args).output().unwrap())
}

fn ended(output: Output) -> Ended {
    Ended {
        code: output.status.code().expect("ended by itself"),
        data: String::from_utf8(output.stdout).unwrap(),
        talk: String::from_utf8(output.stderr).unwrap(),
    }
}

/// An address on which nobody listens: it was free a moment ago.
fn nobody() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn wrong_usage_is_told_and_ends_with_2() {
    let table: [(&[&str], &str); 25] = [
        (&[], "Usage"),
        (&["open"], "unrecognized"),
        (&["read"], "<KEY>"),
        (&["write", "k"], "<VALUE>"),
        (&["read", "k", "--level", "strong"], "majority, weak"),
        (&["read", "k", "--timeout", "soon"], "500ms"),
        (&["read", "k", "--timeout", "0"], "--timeout"),
        (&["read", "k", "--server", "http://h"], "HOST:PORT"),
        (&["read", "k", "-o", "xml"], "text, json"),
        (&["up", "--nodes", "0"], "1..=10"),
        (&["up", "--nodes", "many"], "--nodes"),
        (&["up", "kill", "all"], "'server'"),
        (&["up", "--log", "bogus=x=y"], "--log"),
        (&["read", "k", "--raw", "-o", "json"], "--raw"),
        (&["up", "restart", "2"], "no cluster runs"),
        (&["write", "k", "@/no/such/file"], "@@/no/such/file"),
        (&["write", "k", "-v"], "<VALUE>"),
        (&["run", "r,k"], "R,KEY"),
        (&["run", "/no/such/file"], "/no/such/file"),
        (&["run", "R,k", "file"], "not both"),
        (&["run", "R,k", "W,k"], "W,KEY,VALUE"),
        (&["completions", "tcsh"], "bash"),
        (&["bench", "--reads", "10"], "--workload mixed"),
        (&["bench", "--clients", "0"], "1..=4096"),
        (&["bench", "--plot", "/no/such/dir/plot.svg"], "--plot"),
    ];
    for (args, word) in table {
        let ended = run(args);
        assert_eq!(ended.code, 2, "{args:?}: {}", ended.talk);
        assert!(ended.talk.contains(word), "{args:?}: {}", ended.talk);
        assert_eq!(ended.data, "", "{args:?}: talk is for standard error");
    }
}

#[test]
fn bytes_that_are_no_text_are_told_where_they_may_stand() {
    use std::os::unix::ffi::OsStrExt as _;
    let dir = tempfile::tempdir().unwrap();
    let mut command = quorate(dir.path(), &["write", "k"]);
    let ended = ended(command.arg(std::ffi::OsStr::from_bytes(b"\xff")).output().unwrap());
    assert_eq!((ended.code, ended.data.as_str()), (2, ""));
    assert!(ended.talk.contains("UTF-8") && ended.talk.contains("@FILE"), "{}", ended.talk);
}

#[test]
fn wrong_roles_are_told_and_end_with_2() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let table: [(&[&str], &str); 7] = [
        (&["node", "--memory", "--data", "d"], "--memory"),
        (&["node", "--memory", "--listen", &taken], "--listen"),
        (&["server", "--listen", &taken], "--listen"),
        (&["node", "--memory", "--listen", "0.0.0.0:0"], "--advertise"),
        (&["server", "--listen", "no such host"], "--listen"),
        (&["server", "--log", "loud=x=y"], "--log"),
        (&["server", "--advertise", "http://h"], "HOST:PORT"),
    ];
    for (args, word) in table {
        let ended = run(args);
        assert_eq!(ended.code, 2, "{args:?}: {}", ended.talk);
        assert!(ended.talk.contains(word), "{args:?}: {}", ended.talk);
    }
}

#[test]
fn a_cluster_that_does_not_answer_ends_with_5_and_a_hint() {
    let nobody = nobody();
    let table: [&[&str]; 5] = [
        &["read", "k"],
        &["write", "k", "v"],
        &["delete", "k"],
        &["settings"],
        &["settings", "set", "heartbeat_ms", "50"],
    ];
    let running: Vec<_> = table
        .iter()
        .map(|args| {
            let args = [*args, &["--server", &nobody]].concat();
            let dir = tempfile::tempdir().unwrap();
            let mut command = quorate(dir.path(), &args);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            (dir, command.spawn().unwrap())
        })
        .collect();
    for (_dir, child) in running {
        let ended = ended(child.wait_with_output().unwrap());
        assert_eq!(ended.code, 5, "{}", ended.talk);
        assert!(ended.talk.contains(&nobody) && ended.talk.contains("--server"), "{}", ended.talk);
        assert_eq!(ended.data, "");
    }
}

#[test]
fn status_says_what_it_found_also_where_that_is_nothing() {
    let nobody = nobody();
    let ended = run(&["status", "--server", &nobody, "-o", "json"]);
    assert_eq!(ended.code, 5, "{}", ended.talk);
    assert!(ended.talk.contains(&nobody) && ended.talk.contains("--server"), "{}", ended.talk);
    let found: serde_json::Value = serde_json::from_str(&ended.data).unwrap();
    assert_eq!((&found["serves"], &found["epoch"]), (&false.into(), &serde_json::Value::Null));
    assert_eq!(found["server"]["reachable"], false);
}

#[test]
fn data_is_never_given_up_by_the_environment() {
    for command in ["server", "node"] {
        let ended = run(&[command, "--help"]);
        assert!(!ended.data.contains("QUORATE_ABANDON_DATA"), "{}", ended.data);
        assert!(!ended.data.contains("QUORATE_YES"), "{}", ended.data);
    }
}

#[test]
fn the_environment_says_what_no_flag_does() {
    let (here, there) = (nobody(), nobody());
    let dir = tempfile::tempdir().unwrap();
    let mut command = quorate(dir.path(), &["read", "k"]);
    let told = ended(command.env("QUORATE_SERVER", &here).output().unwrap());
    assert!(told.talk.contains(&here), "{}", told.talk);
    let mut command = quorate(dir.path(), &["read", "k", "--server", &there]);
    let told = ended(command.env("QUORATE_SERVER", &here).output().unwrap());
    assert!(told.talk.contains(&there) && !told.talk.contains(&here), "{}", told.talk);
    let mut command = quorate(dir.path(), &["read", "k"]);
    let told = ended(command.env("QUORATE_TIMEOUT", "soon").output().unwrap());
    assert_eq!(told.code, 2);
}

#[test]
fn completions_are_made_for_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ended = run(&["completions", shell]);
        assert_eq!(ended.code, 0, "{}", ended.talk);
        for word in ["settings", "down", "--server"] {
            let word = if shell == "fish" { word.trim_start_matches('-') } else { word };
            assert!(ended.data.contains(word), "{shell} lacks {word}");
        }
    }
}

#[test]
fn help_tells_the_exit_codes() {
    let ended = run(&["--help"]);
    assert_eq!(ended.code, 0);
    assert!(ended.data.contains("4 outcome unknown"), "{}", ended.data);
}

#[test]
fn down_where_nothing_runs_is_done_already() {
    let ended = run(&["down"]);
    assert_eq!((ended.code, ended.data.as_str()), (0, ""));
    assert!(ended.talk.contains("nothing runs"), "{}", ended.talk);
    let ended = run(&["down", "--data", "typo"]);
    assert_eq!(ended.code, 5, "{}", ended.talk);
    assert!(ended.talk.contains("no such directory"), "{}", ended.talk);
}

#[test]
fn help_is_a_command_too() {
    for args in [&["help"][..], &["help", "read"], &["help", "up", "restart"]] {
        let ended = run(args);
        assert_eq!(ended.code, 0, "{args:?}: {}", ended.talk);
        assert!(ended.data.contains("Usage"), "{args:?}: {}", ended.data);
    }
}

#[test]
fn a_server_that_cannot_go_on_ends_with_5() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["server", "--listen", "127.0.0.1:0", "--data", "d", "--announce", "--parent-pipe"];
    let mut command = quorate(dir.path(), &args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut server = command.spawn().unwrap();
    let alive = server.stdin.take();
    let mut address = String::new();
    BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut address).unwrap();
    // As good as a full disk, and there for the asking.
    std::fs::remove_dir_all(dir.path().join("d")).unwrap();
    let set = ["settings", "set", "heartbeat", "90ms", "--timeout", "1s", "--server"];
    run(&[&set[..], &[address.trim()]].concat());
    let ended = ended(server.wait_with_output().unwrap());
    assert_eq!(ended.code, 5, "{}", ended.talk);
    assert!(ended.talk.contains("cannot write"), "{}", ended.talk);
    drop(alive);
}

#[test]
fn sleeping_needs_nobody() {
    assert_eq!(run(&["sleep", "1"]).code, 0);
    assert_eq!(run(&["sleep", "99999999999999"]).code, 2);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = quorate(dir.path(), &["completions", "bash"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = ended(child.wait_with_output().unwrap());
    assert!(!ended.talk.contains("panicked"), "{}", ended.talk);
}
