//! A cluster that is traced under load, of which the coordinator and a node are killed, and what
//! is made of its traces: the raw logs, the merged trace, ShiViz's log, the stories, the page.

#![allow(clippy::unwrap_used, reason = "a test's helpers are test code")]
#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]

#[allow(dead_code, reason = "the tests of the page use the rest")]
#[path = "../../traces/tests/view/browser.rs"]
mod browser;
#[path = "../../traces/src/print/tests/chrome_rules.rs"]
mod chrome_rules;
#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code, reason = "the tests of the page use the rest")]
#[path = "../../traces/tests/view/expected.rs"]
mod expected;
mod logs;
#[path = "../../traces/src/print/tests/shiviz_rules.rs"]
mod shiviz_rules;
#[allow(dead_code, reason = "the tests of the page use the rest")]
#[path = "../../traces/tests/view/stage.rs"]
mod stage;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value as Json, json};

use common::{Detached, data, done, quorate, script, talk, wait_until};
use expected::{Expected, strings_of};
use stage::Stage;

/// How many answers show that a cluster goes on.
const SOME: usize = 60;

/// A run that is over.
struct Run {
    dir: PathBuf,
    /// The processes that were killed, by the names their traces have.
    killed: BTreeSet<String>,
    clients: usize,
}

impl Run {
    fn dir(&self) -> &Path {
        &self.dir
    }

    /// `quorate trace` with these words, in the directory of the run; what it printed and said.
    fn trace(&self, args: &[&str]) -> (String, String) {
        let output = quorate(self.dir(), &[&["trace"], args].concat()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", talk(&output));
        (data(&output), talk(&output))
    }
}

/// One run for all tests: it takes some seconds.
fn run() -> &'static Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    RUN.get_or_init(|| {
        // One place for all runs: nothing removes what a static holds.
        let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let kept = place.join("trace-run");
        let _ = std::fs::remove_dir_all(&kept);
        std::fs::create_dir(&kept).unwrap();
        let dir = tempfile::tempdir_in(place).unwrap();
        let cluster = Detached::start_in(dir, &["--nodes", "4", "--trace", "traces"]);
        let (stop, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
        let clients = 3;
        let killed = std::thread::scope(|scope| {
            for client in 0..clients {
                let (dir, stop, answers) = (cluster.dir(), &stop, &answers);
                scope.spawn(move || load(dir, client, stop, answers));
            }
            // Also where the killing fails: the load would be waited for.
            let _stop = Stop(&stop);
            kill_two(cluster.dir(), &answers)
        });
        let dir = cluster.stop();
        std::fs::rename(dir.path().join("traces"), kept.join("traces")).unwrap();
        Run { dir: kept, killed, clients }
    })
}

/// Ends the load when it is dropped.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Kills the coordinator, and then another, and starts both again, while the load goes on.
fn kill_two(dir: &Path, answers: &AtomicUsize) -> BTreeSet<String> {
    let goes_on = || {
        let before = answers.load(Ordering::Relaxed);
        wait_until("the load goes on", || answers.load(Ordering::Relaxed) >= before + SOME);
    };
    let mut gone = Vec::new();
    for _ in 0..2 {
        goes_on();
        let coordinator = status(dir)["coordinator"].as_u64().unwrap();
        let victim = match gone.is_empty() {
            true => coordinator,
            false => (1..=4).find(|node| *node != coordinator && !gone.contains(node)).unwrap(),
        };
        done(dir, &["up", "kill", &victim.to_string()]);
        gone.push(victim);
        // It is out of the way before the next one goes: a majority is needed.
        wait_until("the others go on without it", || {
            let members = status(dir)["members"].clone();
            members.as_array().unwrap().iter().all(|member| *member != json!(victim))
        });
    }
    goes_on();
    for node in &gone {
        done(dir, &["up", "restart", &node.to_string()]);
    }
    goes_on();
    gone.iter().map(|node| format!("node-{node}.1")).collect()
}

fn status(dir: &Path) -> Json {
    let output = quorate(dir, &["status", "-o", "json"]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A client that writes and reads one line after the other until it is told to stop.
fn load(dir: &Path, client: usize, stop: &AtomicBool, answers: &AtomicUsize) {
    let mut command = quorate(dir, &["shell", "--trace", "traces", "--timeout", "60s"]);
    let mut shell = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut lines = shell.stdin.take().unwrap();
    let mut said = BufReader::new(shell.stdout.take().unwrap()).lines();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("user/{}", (client + number) % 7);
        match number % 3 {
            0 => writeln!(lines, "read {key}").unwrap(),
            1 => writeln!(lines, "write {key} value-{client}-{number}").unwrap(),
            _ => writeln!(lines, "write own/{client} {number}").unwrap(),
        }
        let answer = said.next().unwrap().unwrap();
        assert!(number % 3 == 0 || answer == "(written)", "{answer}");
        answers.fetch_add(1, Ordering::Relaxed);
    }
    drop(lines);
    assert!(shell.wait().unwrap().success());
}

#[test]
fn every_process_and_incarnation_is_there_and_no_clock_has_a_gap() {
    let run = run();
    let logs = logs::read(&run.dir().join("traces"));
    logs::check(&logs);
    let hosts: BTreeSet<&str> = logs.keys().map(String::as_str).collect();
    for host in ["node-1.1", "node-2.1", "node-3.1", "node-4.1"] {
        assert!(hosts.contains(host), "{host} is not among {hosts:?}");
    }
    assert!(hosts.iter().any(|host| host.starts_with("server.")), "{hosts:?}");
    assert!(hosts.iter().any(|host| host.starts_with("up-")), "{hosts:?}");
    let clients = hosts.iter().filter(|host| host.starts_with("client-")).count();
    assert_eq!(clients, run.clients, "{hosts:?}");
    for killed in &run.killed {
        let again = killed.replace(".1", ".2");
        assert!(hosts.contains(again.as_str()), "{again} is not among {hosts:?}");
    }
    // Who was killed wrote no last word; everybody else did, and only they.
    let spoke = |events: &[logs::Event]| events.last().unwrap().said.contains("INFO stop");
    let silent = logs.iter().filter(|(_, events)| !spoke(events));
    let silent: BTreeSet<_> = silent.map(|(host, _)| host.clone()).collect();
    assert_eq!(silent, run.killed);
    // Every message among traced processes but those to the dead was received.
    let messages = logs.values().flatten().filter(|event| event.from.is_some()).count();
    assert!(messages > 1000, "only {messages} messages");
}

#[test]
fn the_merged_trace_is_one_that_chrome_takes() {
    let run = run();
    let (merged, said) = run.trace(&["merge", "traces", "-o", "-"]);
    let (events, arrows, spans) = chrome_rules::check(&merged);
    let logs = logs::read(&run.dir().join("traces"));
    assert_eq!(events, logs.values().map(Vec::len).sum::<usize>(), "every event is shown");
    let received = logs.values().flatten().filter(|event| event.from.is_some()).count();
    assert_eq!(arrows, received, "every receipt has its arrow");
    assert!(spans > 1000, "only {spans} spans");
    // What is careful to say is of the killed alone.
    for line in said.lines().filter(|line| line.starts_with("careful:")) {
        assert!(run.killed.iter().any(|host| line.contains(host.as_str())), "{line}");
    }

    let merged: Json = serde_json::from_str(&merged).unwrap();
    let named = |event: &&Json| event["ph"] == "b" || event["ph"] == "B";
    let spans = merged["traceEvents"].as_array().unwrap().iter().filter(named);
    let names: BTreeSet<_> = spans.map(|event| event["name"].as_str().unwrap()).collect();
    let expected = BTreeSet::from([
        "append",
        "apply",
        "client request",
        "commit",
        "election",
        "fsync",
        "heartbeat",
        "order",
        "read round",
        "takeover",
    ]);
    let known: BTreeSet<_> = expected.iter().copied().chain(["state copy"]).collect();
    assert!(names.is_superset(&expected) && names.is_subset(&known), "{names:?}");
}

#[test]
fn shiviz_takes_the_log() {
    let (log, _) = run().trace(&["shiviz", "traces", "-o", "-"]);
    shiviz_rules::check(&log);
}

#[test]
fn the_stories_are_told() {
    let run = run();
    let (story, _) = run.trace(&["explain", "traces", "--key", "own/1"]);
    for part in [
        "sent the message write to node-",
        "— order: ",
        "sent the message append to node-",
        "— fsync: ",
        "— commit: ",
        "sent the reply write to client-",
    ] {
        assert!(story.contains(part), "no {part} in\n{story}");
    }
    let request = story.split("request=").nth(1).unwrap();
    let request = request.split([',', '\n']).next().unwrap();
    let (story, _) = run.trace(&["explain", "traces", "--request", request]);
    assert!(story.starts_with(&format!("The story of the request {request}: ")), "{story}");

    let (story, _) = run.trace(&["explain", "traces", "--election"]);
    for part in
        ["— the coordinator is silent", "— an election begins", "— appointed: ", "— serving: "]
    {
        assert!(story.contains(part), "no {part} in\n{story}");
    }
    let none = quorate(run.dir(), &["trace", "explain", "traces", "--key", "nobody's"]);
    let none = { none }.output().unwrap();
    assert_eq!(none.status.code(), Some(1), "{}", talk(&none));
    assert!(data(&none).contains("Keys in it: "), "{}", data(&none));
}

#[test]
fn what_cannot_be_shown_or_written_is_told() {
    let run = run();
    for (args, why) in [
        (&["merge", "nowhere"][..], "there is no nowhere"),
        (&["merge", "."], "no trace"),
        (&["view", "traces", "-o", "no/such/dir.html"], "give another file with --out"),
        (&["merge", "traces", "-o", "traces/a.trace.json"], "is what a process writes"),
        (&["explain", "traces"], "--key"),
        (&["explain", "traces", "--key", "k", "--election"], "cannot be used with"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(run.dir().join("traces"), dir.path().join("traces")).unwrap();
        let args = match args {
            ["merge", "."] => vec!["trace", "merge", "empty"],
            args => [&["trace"], args].concat(),
        };
        std::fs::create_dir(dir.path().join("empty")).unwrap();
        let output = quorate(dir.path(), &args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(talk(&output).contains(why), "{args:?}: {}", talk(&output));
    }
}

#[test]
fn where_no_trace_can_be_written_that_is_said_once_and_the_store_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let blocked = dir.path().join("file");
    std::fs::write(&blocked, "").unwrap();
    let args = ["up", "--nodes", "1", "--trace", "file/traces"];
    let output = script(dir.path(), &args, "write k v\nread k\n");
    assert_eq!(output.status.code(), Some(0), "{}", talk(&output));
    assert_eq!(data(&output), "(written)\nv\n");
    let why = "careful: there will be no trace: cannot write a trace to ";
    assert_eq!(talk(&output).matches(why).count(), 1, "{}", talk(&output));
    for log in ["server.log", "node-1.log"] {
        let log = std::fs::read_to_string(dir.path().join(".quorate").join(log)).unwrap();
        assert_eq!(log.matches(why).count(), 1, "{log}");
    }
}

#[test]
fn the_page_shows_a_real_run() {
    let Some(mut stage) = Stage::new() else { return };
    let run = run();
    run.trace(&["view", "traces", "-o", "page.html"]);
    let page = std::fs::read_to_string(run.dir().join("page.html")).unwrap();
    let (_, document) = page.split_once("id=\"data\">").unwrap();
    let document: Json = serde_json::from_str(document.split_once("</script>").unwrap().0).unwrap();
    let shown = stage.browser.open(&run.dir().join("page.html"), "#theme=light");
    let events = document["events"]["at"].as_array().unwrap().len();
    assert_eq!(shown["events"], events);

    // A write that a client has an answer to: what it follows from and what follows is shaded.
    let (texts, keys) = (strings_of(&document, "text"), strings_of(&document, "key"));
    let expected = Expected::new(&document);
    let is_answer = |event: &usize| {
        keys[*event] == "own/1"
            && texts[*event].contains("dir=reply")
            && texts[*event].contains("version=")
            && expected.from(*event).is_some()
    };
    let answers: Vec<usize> = (0..events).filter(is_answer).collect();
    let answer = answers[answers.len() / 2];
    let cone = expected.cone(answer);
    stage.run(&format!("quorate.select({answer})"));
    let state = stage.state();
    let counts =
        ["past", "future", "concurrent"].map(|name| state[name].as_u64().unwrap() as usize);
    assert_eq!(counts, [cone.past(), cone.future(), cone.concurrent()]);
    for other in (0..events).step_by(97) {
        assert_eq!(stage.run(&format!("quorate.shade({other})")), cone.shade(other), "{other}");
    }

    // By key, and by host.
    stage.run("quorate.filter('key:own/1')");
    let of_key = keys.iter().filter(|key| *key == "own/1").count();
    assert_eq!(stage.state()["matched"], of_key);
    let lanes = stage.state()["lanes"].as_u64().unwrap();
    stage.run("quorate.hide('hosts', 'server')");
    assert!(stage.state()["lanes"].as_u64().unwrap() < lanes);
    stage.run("quorate.reset()");

    pictures(&mut stage, &document, answer);
}

/// The pictures of the docs.
fn pictures(stage: &mut Stage, document: &Json, answer: usize) {
    let at = document["events"]["at"][answer].as_f64().unwrap();
    let kinds = strings_of(&kinds_as_strings(document), "kind");
    let of_kind = |kind: &str| kinds.iter().position(|it| it == kind).unwrap();
    let begins = of_kind("an_election_begins");
    let begun = document["events"]["at"][begins].as_f64().unwrap();
    for theme in ["light", "dark"] {
        stage.run(&format!("quorate.reset(); quorate.theme && quorate.theme('{theme}')"));
        stage.run("quorate.clear(); quorate.fit()");
        stage.picture(&format!("run-{theme}"));
        stage.run(&format!("quorate.window({}, {})", at - 2_000.0, at + 1_000.0));
        stage.run(&format!("quorate.select({answer})"));
        stage.picture(&format!("write-{theme}"));
        stage.run("quorate.clear(); quorate.filter('-heartbeat')");
        stage.run(&format!("quorate.window({}, {})", begun - 150_000.0, begun + 150_000.0));
        stage.picture(&format!("election-{theme}"));
    }
}

/// The document with its kinds where [`strings_of`] looks for texts.
fn kinds_as_strings(document: &Json) -> Json {
    json!({ "strings": document["kinds"], "events": { "kind": document["events"]["kind"] } })
}
