use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;

use super::*;
use crate::clock::VectorClock;

fn start(dir: &Path, name: &str, options: Options) -> Recorder {
    let identity = Identity { role: "node".to_owned(), ..Identity::default() };
    Recorder::start(dir, name, identity, options).unwrap()
}

/// The own counts, in the order of the file, and what was said.
fn events(file: &Path, host: &str) -> Vec<(u64, VectorClock, String)> {
    let text = std::fs::read_to_string(file).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let event = |pair: &[&str]| {
        let (_, rest) = pair[0].split_once(' ').unwrap();
        let clock = rest.strip_prefix(host).unwrap().trim_start();
        let clock: VectorClock = serde_json::from_str(clock).unwrap();
        (clock.get(&Host::new(host).unwrap()), clock, pair[1].to_owned())
    };
    lines.chunks(2).map(event).collect()
}

#[test]
fn a_request_and_its_answer_are_four_events() {
    let dir = tempfile::tempdir().unwrap();
    let (client, node) = (
        start(dir.path(), "client", Options::default()),
        start(dir.path(), "node", Options::default()),
    );
    let sent = client.prepare_send(Level::Debug, "ask", |out| {
        out.field("to", node.host()).field("key", "a b");
    });
    let sent = sent.unwrap();
    node.unpack_receive(&sent, Level::Debug, "asked", |_| ());
    node.local_event(Level::Trace, "unheard", |_| ());
    node.local_event(Level::Info, "think", |out| {
        out.words("about it");
    });
    let answer = node.prepare_send(Level::Debug, "answer", |_| ()).unwrap();
    assert_eq!((answer.host().as_str(), answer.count()), ("node.1", 4));
    client.unpack_receive(&answer, Level::Debug, "answered", |out| {
        out.field("dir", "reply");
    });
    let (of_client, of_node) = (client.file(), node.file());
    drop((client, node));

    let told: Vec<_> = events(&of_node, "node.1").into_iter().map(|event| event.2).collect();
    assert!(told[0].starts_with("INFO start role=node pid="), "{}", told[0]);
    assert!(told[0].ends_with(" trace=1"), "{}", told[0]);
    let rest = ["DEBUG asked from=client.1:2", "INFO think about it", "DEBUG answer", "INFO stop"];
    assert_eq!(told[1..], rest);
    let of_client = events(&of_client, "client.1");
    assert_eq!(of_client[1].2, "DEBUG ask to=node.1 key=\"a b\"");
    assert_eq!(of_client[2].2, "DEBUG answered from=node.1:4 dir=reply");
    assert_eq!(of_client[2].1.to_string(), r#"{"client.1":3, "node.1":4}"#);
}

#[test]
fn every_event_has_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let now = Arc::new(std::sync::atomic::AtomicU64::new(7));
    let (identity, options) = (Identity::default(), Options::default());
    let time = Time::by_hand(&now);
    let recorder = Recorder::start_at(dir.path(), "n", identity, options, time).unwrap();
    now.store(1_764_000_000_123_456_789, Ordering::Relaxed);
    recorder.local_event(Level::Info, "step", |_| ());
    recorder.flush();
    let text = std::fs::read_to_string(recorder.file()).unwrap();
    let times: Vec<_> = text
        .lines()
        .filter(|line| line.contains(" n.1 {"))
        .map(|line| line.split(' ').next())
        .collect();
    assert_eq!(times, [Some("7"), Some("1764000000123456789")]);
}

#[test]
fn what_is_flushed_is_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = start(dir.path(), "n", Options::default());
    recorder.local_event(Level::Info, "step", |_| ());
    assert_eq!(events(&recorder.file(), "n.1").len(), 1);
    recorder.flush();
    assert_eq!(events(&recorder.file(), "n.1").len(), 2);
    // A process that never sends still keeps a bounded amount in memory.
    for _ in 0..2 * BUFFER_BYTES_MAX / 50 {
        recorder.local_event(Level::Info, "step", |_| ());
    }
    assert!(lock(&recorder.0.state).buffer.len() <= BUFFER_BYTES_MAX);
}

#[test]
fn every_file_begins_with_who_it_is_and_no_count_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = Bounds { part_bytes: 2000, parts: 3 };
    let recorder = start(dir.path(), "n", Options { bounds, ..Options::default() });
    recorder.named(Some("n7"), "c1");
    for _ in 0..200 {
        recorder.local_event(Level::Info, "step", |_| ());
        recorder.flush();
    }
    drop(recorder);
    let mut files: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 3);
    let mut next = None;
    for file in files {
        let events = events(&file, "n.1");
        assert!(events[0].2.starts_with("INFO part role=node cluster=c1 node=n7 pid="));
        for (count, ..) in events {
            assert_eq!(next.unwrap_or(count), count);
            next = Some(count + 1);
        }
    }
    // start, named, the steps, stop, and one more for each file but the first.
    assert!(next.unwrap() > 203);
}

#[test]
fn a_full_disk_ends_the_log_and_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let told = Arc::new(AtomicUsize::new(0));
    let counting = told.clone();
    let on_trouble: OnTrouble = Arc::new(move |words| {
        assert!(words.contains("the trace of n.1 ends here") && words.contains("goes on"));
        counting.fetch_add(1, Ordering::Relaxed);
    });
    let recorder =
        start(dir.path(), "n", Options { on_trouble: Some(on_trouble), ..Options::default() });
    let Ok(full) = File::options().write(true).open("/dev/full") else { return };
    lock(&recorder.0.files).file = full;
    assert!(recorder.prepare_send(Level::Debug, "send", |_| ()).is_some());
    for _ in 0..3 {
        recorder.local_event(Level::Info, "step", |_| ());
        recorder.flush();
    }
    assert_eq!(recorder.prepare_send(Level::Debug, "send", |_| ()), None);
    assert!(!recorder.records(Level::Error));
    recorder.stop();
    assert_eq!(told.load(Ordering::Relaxed), 1);
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let below = dir.path().join("file/traces");
    let started = Recorder::start(&below, "n", Identity::default(), Options::default());
    let text = started.err().unwrap().to_string();
    assert!(text.contains("file/traces") && text.contains("may write to"), "{text}");
}

#[test]
fn a_flush_waits_for_the_one_that_writes_its_events() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = start(dir.path(), "n", Options::default());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let recorder = recorder.clone();
            scope.spawn(move || {
                for step in 0..200 {
                    let stamp = recorder.prepare_send(Level::Debug, "send", |out| {
                        out.field("thread", thread).field("step", step);
                    });
                    recorder.flush();
                    let text = std::fs::read_to_string(recorder.file()).unwrap();
                    let own = format!("{{\"n.1\":{}}}\n", stamp.unwrap().count());
                    let said = text.split(&own).nth(1).expect("it is in the file");
                    assert!(said.starts_with(&format!("DEBUG send thread={thread} step={step}\n")));
                }
            });
        }
    });
}

#[test]
fn a_flush_that_finds_nothing_waits_for_who_took_it() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = start(dir.path(), "n", Options::default());
    let stamp = recorder.prepare_send(Level::Debug, "send", |_| ()).unwrap();
    let path = recorder.file();
    // As another thread's flush: it has taken the event, and has not written it yet.
    let mut files = lock(&recorder.0.files);
    let taken = std::mem::take(&mut lock(&recorder.0.state).buffer);
    let other = recorder.clone();
    let flush = std::thread::spawn(move || {
        other.flush();
        std::fs::read_to_string(path).unwrap()
    });
    // Time to return too early.
    for _ in 0..10_000 {
        if flush.is_finished() {
            break;
        }
        std::thread::yield_now();
    }
    assert!(!flush.is_finished(), "the message would leave before its event is written");
    files.write(&taken).unwrap();
    drop(files);
    let text = flush.join().unwrap();
    assert!(text.contains(&format!("{{\"n.1\":{}}}\nDEBUG send\n", stamp.count())));
}

#[derive(Clone, Debug)]
enum Step {
    Local(usize, Level),
    Send(usize, usize),
    Receive(usize),
    Flush(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let level = prop::sample::select(Level::ALL.to_vec());
    prop_oneof![
        (0..3usize, level).prop_map(|(at, level)| Step::Local(at, level)),
        (0..3usize, 0..3usize).prop_map(|(from, to)| Step::Send(from, to)),
        (0..8usize).prop_map(Step::Receive),
        (0..3usize).prop_map(Step::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is filtered, and however messages are delayed, lost and disordered.
    #[test]
    fn no_clock_has_a_gap_and_every_receipt_follows_its_send(
        level in prop::sample::select(Level::ALL.to_vec()),
        part_bytes in 200u64..4000,
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let bounds = Bounds { part_bytes, parts: 100 };
        let options = Options { level, bounds, on_trouble: None };
        let hosts: Vec<_> =
            (0..3).map(|number| start(dir.path(), &format!("h{number}"), options.clone())).collect();
        let mut under_way = Vec::new();
        let mut pairs = Vec::new();
        for step in steps {
            match step {
                Step::Local(at, level) => hosts[at].local_event(level, "step", |_| ()),
                Step::Send(from, to) => {
                    let stamp = hosts[from].prepare_send(Level::Trace, "send", |_| ());
                    under_way.push((stamp.unwrap(), to));
                }
                Step::Receive(place) if place < under_way.len() => {
                    let (stamp, to) = under_way.swap_remove(place);
                    hosts[to].unpack_receive(&stamp, Level::Trace, "receive", |_| ());
                    pairs.push((stamp, to));
                }
                Step::Receive(_) => {}
                Step::Flush(at) => hosts[at].flush(),
            }
        }
        let names: Vec<_> = hosts.iter().map(|host| host.host().clone()).collect();
        drop(hosts);
        for (number, name) in names.iter().enumerate() {
            let mut all = Vec::new();
            for part in 1.. {
                let path = dir.path().join(file_name(name.as_str(), part, LOG_KIND));
                if !path.exists() {
                    break;
                }
                all.extend(events(&path, name.as_str()));
            }
            let counts: Vec<_> = all.iter().map(|event| event.0).collect();
            prop_assert_eq!(counts, (1..=all.len() as u64).collect::<Vec<_>>());
            prop_assert!(all.is_sorted_by(|a, b| a.1 < b.1), "its clocks only ever rise");
            for (stamp, _) in pairs.iter().filter(|(_, to)| *to == number) {
                let from = format!(" from={stamp}");
                let receipt = all.iter().find(|event| event.2.ends_with(&from)).unwrap();
                prop_assert!(receipt.1 > *stamp.clock());
            }
        }
    }
}
