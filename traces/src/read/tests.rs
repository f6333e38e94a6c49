use proptest::prelude::*;

use super::scene::{Scene, disorder, scene_of, step};
use super::*;

fn kinds(trace: &Trace) -> Vec<FindingKind> {
    trace.findings().iter().map(|finding| finding.kind).collect()
}

fn only(trace: &Trace) -> &Finding {
    assert_eq!(trace.findings().len(), 1, "{:#?}", trace.findings());
    &trace.findings()[0]
}

fn process<'a>(trace: &'a Trace, host: &str) -> &'a Process {
    trace.processes().iter().find(|process| process.host == host).unwrap()
}

#[test]
fn processes_are_known_by_what_they_said() {
    let trace = Scene::write().load();
    let node = process(&trace, "node-1.1");
    assert_eq!((node.name.as_str(), node.incarnation, node.role.as_str()), ("node-1", 1, "node"));
    assert_eq!(node.address.as_deref(), Some("node-1:4747"));
    assert_eq!((node.cluster.as_deref(), node.node.as_deref()), (Some("c0ffee"), Some("n1")));
    assert_eq!((node.lost_head, node.lost_tail, node.note.as_str()), (0, false, ""));
    assert_eq!(trace.findings(), []);
}

#[test]
fn clocks_of_machines_are_aligned_as_far_as_messages_tell() {
    let trace = Scene::write().load();
    let [reference, other] = &trace.alignment().clocks[..] else { panic!("two machines") };
    assert_eq!((reference.name.as_str(), reference.offset_ns), ("alpha", 0));
    // 5 ms ahead; messages took 64 µs there and 70 µs back.
    assert_eq!((other.least_ns, other.most_ns), (Some(-5_064_000), Some(-4_930_000)));
    assert_eq!(other.offset_ns, -4_997_000);
    for event in trace.events() {
        if let Some(send) = event.from() {
            assert!(send.at_ns() < event.at_ns());
        }
    }
}

#[test]
fn clocks_that_drift_are_brought_together_as_far_as_they_go() {
    let scene = {
        let mut scene = Scene::new();
        scene.add("a", "node", 0).add("b", "node", 0);
        scene.message("a", "b", 50, "ask", "");
        scene.message("b", "a", 50, "ask", "");
        scene.end(&["a", "b"]);
        scene
    };
    // From its third line on b's clock is 10 ms behind: somebody set it.
    scene.edit("b", |lines| {
        let behind = |line: String| match line.split_once(' ') {
            Some((time, rest)) if time.parse::<u64>().is_ok() && line.contains("\"b.1\":3") => {
                format!("{} {rest}", time.parse::<u64>().unwrap() - 10_000_000)
            }
            _ => line,
        };
        lines.into_iter().map(behind).collect()
    });
    let trace = scene.load();
    let text = trace.findings().iter().map(|finding| format!("{finding}\n")).collect::<String>();
    assert!(text.contains("b.1: its own time runs backwards at 1 event"), "{text}");
    for event in trace.events() {
        assert!(event.from().is_none_or(|send| send.at_ns() < event.at_ns()));
    }
}

#[test]
fn a_contradiction_is_named_with_its_size() {
    let mut scene = Scene::new();
    scene.add("a", "node", 0).add("b", "node", 0);
    scene.message("a", "b", 50, "ask", "");
    scene.end(&["a", "b"]);
    // Received before it was sent, and the other way round too: no offset makes both right.
    let dir = scene.dir();
    let write = |host: &str, text: &str| std::fs::write(dir.join(format!("{host}.1.govec")), text);
    write("a", "100000000 a.1 {\"a.1\":1}\nINFO ask to=b.1\n100000001 a.1 {\"a.1\":2, \"b.1\":2}\nINFO ask from=b.1:2\n").unwrap();
    write("b", "90000000 b.1 {\"a.1\":1, \"b.1\":1}\nINFO ask from=a.1:1\n105000000 b.1 {\"a.1\":1, \"b.1\":2}\nINFO ask to=a.1\n").unwrap();
    let trace = scene.load();
    let found = trace.findings().iter().find(|finding| finding.kind == FindingKind::Alignment);
    let text = &found.unwrap().text;
    assert!(
        text.starts_with("the messages between a.1 and b.1 contradict each other by 15.0 ms"),
        "{text}"
    );
}

#[test]
fn processes_of_one_machine_share_its_clock_unless_their_messages_say_otherwise() {
    let mut scene = Scene::new();
    scene.add("a", "node", 0).add("b", "node", -1_000_000);
    scene.message("a", "b", 50, "ask", "");
    scene.message("b", "a", 50, "ask", "");
    scene.end(&[]);
    let trace = scene.load();
    assert_eq!(kinds(&trace), [FindingKind::Alignment; 2]);
    assert_eq!(trace.alignment().clocks.len(), 2);
    let offset = trace.alignment().clocks[1].offset_ns;
    assert!((offset.abs() - 1_000_000).abs() <= 50_000, "{offset}");
}

#[test]
fn a_torn_log_is_mended_and_its_tail_is_marked() {
    let scene = Scene::write();
    let path = scene.dir().join("node-3.1.govec");
    let bytes = std::fs::read(&path).unwrap();
    for cut in [1, 5, 12, 30] {
        std::fs::write(&path, &bytes[..bytes.len() - cut]).unwrap();
        let trace = scene.load();
        assert_eq!(kinds(&trace), [FindingKind::Torn, FindingKind::LostTail], "{cut}");
        assert!(process(&trace, "node-3.1").lost_tail);
        assert!(
            trace.findings()[0].text.contains("node-3.1.govec: its last event is there in part")
        );
    }
}

#[test]
fn a_process_that_was_killed_is_marked() {
    let scene = Scene::write();
    scene.edit("node-1", |lines| lines[..lines.len() - 2].to_vec());
    let trace = scene.load();
    assert!(only(&trace).text.contains("node-1.1: its log ends without its last word"));
    assert!(process(&trace, "node-1.1").note.contains("was killed, or still runs"));
}

#[test]
fn what_others_heard_of_a_lost_tail_is_counted() {
    let scene = Scene::write();
    scene.edit("node-1", |lines| lines[..6].to_vec());
    let trace = scene.load();
    let text = trace.findings().iter().map(|finding| format!("{finding}\n")).collect::<String>();
    assert!(
        text.contains(
            "the end of its log is gone: it ends at count 3, and others have heard \
     of count 9 (3 messages)"
        ),
        "{text}"
    );
}

#[test]
fn a_lost_head_is_marked() {
    let scene = Scene::write();
    scene.edit("node-1", |lines| lines[4..].to_vec());
    let trace = scene.load();
    let finding = only(&trace);
    assert_eq!(finding.kind, FindingKind::LostHead);
    assert_eq!(finding.text, "node-1.1: its first 2 events are gone (older files are removed)");
    assert_eq!(process(&trace, "node-1.1").lost_head, 2);
}

#[test]
fn a_missing_process_is_named_and_what_went_through_it_is_known() {
    let scene = Scene::write();
    std::fs::remove_file(scene.dir().join("node-1.1.govec")).unwrap();
    let trace = scene.load();
    let finding = only(&trace);
    assert_eq!(finding.host.as_deref(), Some("node-1.1"));
    assert!(finding.text.contains("there is no log of it, and 3 messages are of it received"));
    // The nodes still follow the client, and the client the node that answered.
    let heard: Vec<usize> = trace.heard.values().map(Vec::len).collect();
    assert_eq!(heard, [1, 1, 1]);
}

#[test]
fn of_a_long_life_the_last_files_are_read_and_still_say_whose_they_are() {
    use crate::{Bounds, Identity, Options, Recorder};
    let dir = tempfile::tempdir().unwrap();
    let bounds = Bounds { part_bytes: 2000, parts: 3 };
    let identity = Identity { role: "node".to_owned(), ..Identity::default() };
    let options = Options { bounds, ..Options::default() };
    let recorder = Recorder::start(dir.path(), "n", identity, options).unwrap();
    recorder.named(Some("n7"), "c1");
    for _ in 0..200 {
        recorder.local_event(Level::Info, "step", |_| ());
        recorder.flush();
    }
    // Killed: what was flushed is there, and no last word.
    std::mem::forget(recorder);
    let trace = Trace::load(&[dir.path().to_owned()], &Limits::default()).unwrap();
    assert_eq!(kinds(&trace), [FindingKind::LostHead, FindingKind::LostTail]);
    let process = process(&trace, "n.1");
    assert_eq!((process.role.as_str(), process.node.as_deref()), ("node", Some("n7")));
    let counts: Vec<u64> = trace.events().map(|event| event.count()).collect();
    let first = process.lost_head + 1;
    assert_eq!(counts, (first..first + counts.len() as u64).collect::<Vec<_>>());
    assert_eq!(trace.events().next_back().unwrap().kind(), "step");
}

#[test]
fn an_edited_log_is_told_from_a_torn_one() {
    let scene = Scene::write();
    scene.edit("node-1", |mut lines| {
        lines.drain(6..8);
        lines.insert(2, "somebody was here".to_owned());
        lines
    });
    let trace = scene.load();
    assert_eq!(kinds(&trace), [FindingKind::Edited; 2]);
    let text = &trace.findings()[0].text;
    assert!(
        text.starts_with("node-1.1.govec: 1 line is no part of an event (the first is line 3)"),
        "{text}"
    );
    let text = &trace.findings()[1].text;
    assert!(
        text.starts_with("node-1.1: 1 of its events are missing from the middle")
            || text.contains("(the first gap is 4)"),
        "{text}"
    );
}

#[test]
fn a_clock_that_cannot_be_is_found() {
    let scene = Scene::write();
    // The receipt of the write no longer knows the client's second event.
    scene.edit("node-1", |lines| {
        lines.into_iter().map(|line| line.replace("\"client-1.1\":2", "\"client-1.1\":1")).collect()
    });
    let trace = scene.load();
    let text = &trace.findings()[0].text;
    assert!(
        text.contains("node-1.1: its clock does not know what the sender of a message knew"),
        "{text}"
    );
    assert_eq!(trace.findings()[0].kind, FindingKind::Contradiction);
}

#[test]
fn a_receipt_before_its_send_loses_its_arrow() {
    let scene = Scene::write();
    // The client's write says that it is the answer to what came of it.
    scene.edit("client-1", |lines| {
        lines
            .into_iter()
            .map(|line| line.replace("write to=node-1.1", "write from=node-1.1:8 to=node-1.1"))
            .collect()
    });
    let trace = scene.load();
    let found = trace.findings().iter().any(|finding| {
        finding.kind == FindingKind::Contradiction && finding.text.contains("that cannot be")
    });
    assert!(found, "{:#?}", trace.findings());
    assert_eq!(trace.order.len(), trace.events.len());
}

#[test]
fn traces_of_two_clusters_are_told_apart() {
    let (one, other) = (Scene::write(), Scene::write());
    for name in ["client-1", "node-1", "node-2", "node-3"] {
        other.edit(name, |lines| {
            let other = |line: String| line.replace("c0ffee", "decaf").replacen("1764", "1765", 1);
            lines.into_iter().map(other).collect()
        });
    }
    let dirs = [one.dir().to_owned(), other.dir().to_owned()];
    let trace = Trace::load(&dirs, &Limits::default()).unwrap();
    assert_eq!(trace.processes().len(), 8);
    let mixed: Vec<_> =
        trace.findings().iter().filter(|finding| finding.kind == FindingKind::Mixed).collect();
    assert_eq!(mixed.len(), 5, "{mixed:#?}");
    assert!(
        mixed[4].text.starts_with("these are traces of 2 clusters: c0ffee (client-1.1, node-1.1")
    );
    // Messages stay within their cluster.
    for event in trace.events() {
        let send = event.from();
        assert!(send.is_none_or(|send| send.process().cluster == event.process().cluster));
    }
    // A directory that is named twice is read twice, and shown once.
    let twice = [one.dir().to_owned(), one.dir().to_owned()];
    let trace = Trace::load(&twice, &Limits::default()).unwrap();
    assert_eq!(trace.processes().len(), 4);
}

#[test]
fn nothing_to_read_is_an_error_that_helps() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let error = Trace::load(&[missing], &Limits::default()).err().unwrap().to_string();
    assert!(error.contains("there is no trace in") && error.contains("--trace DIR"), "{error}");
    assert!(error.contains("missing cannot be read"), "{error}");
}

#[test]
fn of_too_much_the_newest_is_read() {
    let scene = Scene::write();
    let limits = Limits { log_bytes_max: 2000, ..Limits::default() };
    let trace = Trace::load(&[scene.dir().to_owned()], &limits).unwrap();
    assert_eq!(trace.findings()[0].kind, FindingKind::LeftOut);
    assert!(trace.texts.len() < 2000);
    assert!(trace.events.len() > 8);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn an_intact_trace_has_nothing_wrong_and_all_in_causal_order(
        ahead in prop::array::uniform4(-20_000_000i64..20_000_000),
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let trace = scene_of(ahead, steps).load();
        prop_assert_eq!(trace.findings(), []);
        let mut done = vec![false; trace.events.len()];
        for &place in &trace.order {
            prop_assert!(trace.before(place).all(|before| done[before as usize]));
            done[place as usize] = true;
            let at = trace.events[place as usize].at;
            prop_assert!(trace.before(place).all(|before| trace.events[before as usize].at < at));
        }
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.1.govec"), &bytes).unwrap();
        std::fs::write(dir.path().join("a.1.trace.json"), &bytes).unwrap();
        let _ = Trace::load(&[dir.path().to_owned()], &Limits::default());
    }

    #[test]
    fn damage_is_found_and_never_panics(
        steps in prop::collection::vec(step(), 0..60),
        damage in prop::collection::vec((0usize..4, any::<u64>(), 0usize..6), 1..4),
    ) {
        let scene = scene_of([0; 4], steps);
        for (host, place, sort) in damage {
            disorder(&scene, host, place, sort);
        }
        let _ = scene.try_load();
    }
}
