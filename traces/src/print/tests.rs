//! The printed forms of small scenes, and whether those who read them would take them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::read::Trace;
use crate::read::scene::{BEGIN_NS, Scene, disorder, scene_of, step};

mod chrome_rules;
mod shiviz_rules;

/// Compares with a file of `golden/`; `UPDATE_GOLDENFILES=1` writes it anew.
fn golden(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/print/golden").join(name);
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(text == expected, "{name} differs; UPDATE_GOLDENFILES=1 writes it anew:\n{text}");
}

fn merged(trace: &Trace) -> (String, Merged) {
    let mut out = Vec::new();
    let merged = merge(trace, &mut out).unwrap();
    (String::from_utf8(out).unwrap(), merged)
}

fn shivized(trace: &Trace) -> String {
    let mut out = Vec::new();
    shiviz(trace, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn paged(trace: &Trace) -> String {
    let mut out = Vec::new();
    page(trace, "a \"scene\"", &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn explained(trace: &Trace, question: &Question) -> String {
    let mut out = Vec::new();
    explain(trace, question, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// Spans of `node-1` as tracing-chrome writes them: one ends, one does not, one ends only, and
/// the last line is there in part.
fn write_spans(scene: &Scene) {
    let spans = format!(
        r#"[
{{"ph":"M","pid":1,"name":"process_name","args":{{"name":"node-1.1","start_unix_ns":"{BEGIN_NS}"}}}},
{{"args":{{"name":"main"}},"name":"thread_name","ph":"M","pid":1,"tid":0}},
{{"args":{{"request":"\"c1..0.1\"","version":"7"}},"cat":"quorate","id":9,"name":"order","ph":"b","pid":1,"tid":0,"ts":100.5}},
{{"args":{{"request":"\"c1..0.1\""}},"cat":"quorate","id":4,"name":"append","ph":"b","pid":1,"tid":0,"ts":110.0}},
{{"cat":"quorate","id":9,"name":"order","ph":"e","pid":1,"tid":0,"ts":200.25}},
{{"cat":"quorate","id":77,"name":"gone","ph":"e","pid":1,"tid":0,"ts":201.0}},
{{"cat":"quorate","id":9,"name":"order","ph":"b","pid":1,"tid":0,"ts":300.5}},
{{"cat":"quorate","id":9,"name":"order","ph":"e","pid":1,"tid":0,"ts":301.5}},
{{"cat":"quorate","id":9,"na"#
    );
    std::fs::write(scene.dir().join("node-1.1.trace.json"), spans).unwrap();
}

/// Whatever is printed of a trace, its readers take it.
fn check(trace: &Trace) {
    let (text, merged) = merged(trace);
    let counted = chrome_rules::check(&text);
    assert_eq!((merged.events, merged.arrows, merged.spans), counted);
    shiviz_rules::check(&shivized(trace));
    check_page(&paged(trace));
    for question in [Question::Key("k".to_owned()), Question::election()] {
        explained(trace, &question);
    }
}

/// The columns are of one length, and every index is of something.
fn check_page(text: &str) {
    let page: Value = serde_json::from_str(text).unwrap();
    let column = |of: &str, name: &str| page[of][name].as_array().unwrap().clone();
    let ints = |of: &str, name: &str| -> Vec<i64> {
        column(of, name).iter().map(|value| value.as_i64().unwrap()).collect()
    };
    let count = |name: &str| page[name].as_array().unwrap().len() as i64;
    let (events, at) = (column("events", "process").len(), column("events", "at"));
    assert!(at.is_sorted_by(|a, b| a.as_f64() <= b.as_f64()));
    let bounds = [
        ("process", 0, count("processes")),
        ("kind", 0, count("kinds")),
        ("level", 0, 5),
        ("from", -1, events as i64),
        ("text", 0, count("strings")),
        ("key", -1, count("strings")),
        ("request", -1, count("strings")),
    ];
    for (name, least, over) in bounds {
        let values = ints("events", name);
        assert_eq!(values.len(), events, "{name}");
        assert!(values.iter().all(|value| (least..over).contains(value)), "{name}");
    }
    assert!(ints("events", "from").iter().zip(0..).all(|(&from, own)| from < own));
    let spans = column("spans", "name").len();
    for name in ["process", "start", "end", "request", "text"] {
        assert_eq!(column("spans", name).len(), spans, "{name}");
    }
    assert!(page["findings"].as_array().unwrap().iter().all(Value::is_string));
}

#[test]
fn a_write_is_told_in_every_form() {
    let scene = Scene::write();
    write_spans(&scene);
    let trace = scene.load();
    check(&trace);
    let (text, merged) = merged(&trace);
    golden("merge.json", &text);
    let counts =
        (merged.processes, merged.arrows, merged.spans, merged.unfinished, merged.ends_only);
    assert_eq!(counts, (4, 7, 3, 1, 1));
    golden("shiviz.log", &shivized(&trace));
    golden("page.json", &paged(&trace));
    golden("key.txt", &explained(&trace, &Question::Key("k".to_owned())));
    golden("request.txt", &explained(&trace, &Question::Request("c1..0.1".to_owned())));
    golden("election.txt", &explained(&trace, &Question::election()));
    golden("alignment.txt", &trace.alignment().to_string());
    assert_eq!(trace.findings(), []);
}

#[test]
fn of_an_intact_trace_the_clocks_are_as_they_were_written() {
    let scene = Scene::write();
    let text = shivized(&scene.load());
    for name in ["client-1", "node-1", "node-2", "node-3"] {
        let path = scene.dir().join(format!("{name}.1.govec"));
        let log = std::fs::read_to_string(path).unwrap();
        let own = format!(" {name}.1 {{");
        let clocks = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| line.contains(&own));
            lines.map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
        };
        assert_eq!(clocks(&text), clocks(&log));
    }
}

#[test]
fn who_is_not_in_the_trace_is_said() {
    let trace = Scene::write().load();
    let text = explained(&trace, &Question::Key("other".to_owned()));
    assert_eq!(text, "There is no event of the key \"other\" in this trace.\nKeys in it: k\n");
    let text = explained(&trace, &Question::Request("r".to_owned()));
    assert!(text.contains("Requests are named like this: c1..0.1"), "{text}");
}

#[test]
fn what_is_missing_leaves_no_trace_that_is_refused() {
    for name in ["client-1", "node-1", "node-2", "node-3"] {
        let scene = Scene::write();
        std::fs::remove_file(scene.dir().join(format!("{name}.1.govec"))).unwrap();
        check(&scene.load());
        let scene = Scene::write();
        scene.edit(name, |lines| lines[4..].to_vec());
        let trace = scene.load();
        check(&trace);
        let hosts: BTreeSet<_> = trace.events().map(|event| event.process().host.clone()).collect();
        assert_eq!(hosts.len(), 4);
    }
}

#[test]
fn a_time_that_cannot_be_does_not_stretch_the_trace() {
    let is_time = |line: &str| line.starts_with("1764");
    // One event's time lost its first digit.
    let scene = Scene::write();
    scene.edit("node-3", |mut lines| {
        lines[2].remove(0);
        lines
    });
    let trace = scene.load();
    check(&trace);
    let found = trace.findings().iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("node-3.1: 1 event has a time that cannot be (the first at count 2)")
    );

    // A machine whose clock says 1970, with messages both ways, and one with none.
    for name in ["node-2", "node-3"] {
        let scene = Scene::write();
        scene.edit(name, |lines| {
            let early = |line: String| if is_time(&line) { line[4..].to_owned() } else { line };
            lines.into_iter().map(early).collect()
        });
        let trace = scene.load();
        check(&trace);
        assert!(trace.events().all(|event| event.at_ns() < 10_000_000_000));
    }
}

#[test]
fn spans_that_were_recorded_are_merged() {
    use tracing_subscriber::prelude::*;
    let dir = tempfile::tempdir().unwrap();
    let recorder = crate::Recorder::start(
        dir.path(),
        "n",
        crate::Identity::default(),
        crate::Options::default(),
    );
    let recorder = recorder.unwrap();
    let (layer, spans) =
        crate::ChromeTrace::beside(&recorder, crate::chrome::SpanOptions::default()).unwrap();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        let one = tracing::info_span!(parent: None, "append", request = "c1..0.1", to = 1);
        let other = tracing::info_span!(parent: None, "append", request = %"c1..0.1", to = 2);
        drop((one, other));
    });
    drop((spans, recorder));
    let trace = Trace::load(&[dir.path().to_owned()], &crate::Limits::default()).unwrap();
    check(&trace);
    let merged = merged(&trace).1;
    assert_eq!((merged.spans, merged.unfinished), (2, 0));
    assert_eq!(merged.findings, []);
    let (spans, findings) = trace.read_spans();
    assert_eq!(findings, []);
    for span in spans {
        assert_eq!((span.name.as_str(), span.request.as_deref()), ("append", Some("c1..0.1")));
        // Both are on the clock of the log.
        assert!((0..=trace.last_of(0)).contains(&span.start_ns) && span.start_ns <= span.end_ns);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_trace_is_taken_by_its_readers(
        ahead in prop::array::uniform4(-20_000_000i64..20_000_000),
        steps in prop::collection::vec(step(), 0..60),
        damage in prop::option::of((0usize..4, any::<u64>(), 0usize..6)),
    ) {
        let scene = scene_of(ahead, steps);
        if let Some((host, place, sort)) = damage {
            disorder(&scene, host, place, sort);
        }
        if let Ok(trace) = scene.try_load() {
            check(&trace);
        }
    }
}

/// From its ordering on, a request is one of many entries; the story of it goes on with theirs.
#[test]
fn a_story_goes_on_with_the_entries_that_a_request_became() {
    let mut scene = Scene::new();
    scene.add("node-1", "node", 0).add("node-2", "node", 0);
    for (number, key) in [(1, "a"), (2, "b"), (3, "a")] {
        scene.after(10).step("node-1", "order", |out| {
            out.field("key", key).field("request", format!("c1..0.{number}"));
            out.field("version", format!("4.{}", 6 + number));
        });
    }
    let append = |scene: &mut Scene, prev: u64, entries: u64| {
        let recorder = scene.recorder("node-1").clone();
        let stamp = recorder.prepare_send(crate::Level::Debug, "append", |out| {
            out.field("to", "node-2.1")
                .field("prev", format!("4.{prev}"))
                .field("entries", entries);
        });
        scene.after(10).recorder("node-2").unpack_receive(
            &stamp.unwrap(),
            crate::Level::Debug,
            "append",
            |out| {
                out.field("prev", format!("4.{prev}")).field("entries", entries);
            },
        );
    };
    append(&mut scene, 6, 2);
    append(&mut scene, 8, 1);
    append(&mut scene, 9, 0);
    for (prev, last) in [(6, 8), (8, 9)] {
        scene.after(10).step("node-2", "fsync", |out| {
            out.field("prev", format!("4.{prev}")).field("version", format!("4.{last}"));
        });
    }
    for last in [6, 8, 9, 12] {
        scene.after(10).step("node-1", "commit", |out| {
            out.field("version", format!("4.{last}"));
        });
    }
    scene.end(&[]);
    let trace = scene.load();
    let told = |request: &str| {
        let story = explained(&trace, &Question::Request(request.to_owned()));
        let steps =
            story.lines().filter_map(|line| line.split_once(": ").map(|it| it.1.to_owned()));
        let steps = steps.filter(|step| step.contains("4."));
        steps.map(|step| step.replace("request=c1..0.", "r")).collect::<Vec<_>>()
    };
    let both = "prev=4.6, entries=2";
    assert_eq!(
        told("c1..0.2"),
        ["key=b, r2, version=4.8", both, both, "prev=4.6, version=4.8", "version=4.8",]
    );
    // The story of a key has all of its entries, and each step once.
    let story = explained(&trace, &Question::Key("a".to_owned()));
    for (part, times) in [("— order", 2), ("— fsync", 2), ("— commit", 2), ("entries=0", 0)] {
        assert_eq!(story.matches(part).count(), times, "{part} in\n{story}");
    }
}

/// What a coordinator ordered and nobody else took is lost; the next one's entry has its place.
#[test]
fn a_lost_entry_has_no_part_in_what_came_into_its_place() {
    let mut scene = Scene::new();
    scene.add("node-1", "node", 0).add("node-2", "node", 0);
    for (node, version, request) in
        [("node-1", "4.8", 1), ("node-1", "4.9", 2), ("node-2", "5.10", 3)]
    {
        scene.after(10).step(node, "order", |out| {
            out.field("key", "k").field("request", format!("c1..0.{request}"));
            out.field("version", version);
        });
    }
    // The barrier of epoch 5 stands where 4.9 stood.
    for (epoch, prev, last) in [("e4", "4.7", "4.8"), ("e5", "4.8", "5.9"), ("e5", "5.9", "5.10")] {
        scene.after(10).step("node-2", "append", |out| {
            out.field("epoch", epoch).field("prev", prev).field("entries", 1);
        });
        scene.after(10).step("node-2", "fsync", |out| {
            out.field("prev", prev).field("version", last);
        });
    }
    scene.after(10).step("node-2", "commit", |out| {
        out.field("version", "5.10");
    });
    scene.end(&[]);
    let trace = scene.load();
    for (request, appends, commits) in [(1, 1, 1), (2, 0, 0), (3, 1, 1)] {
        let story = explained(&trace, &Question::Request(format!("c1..0.{request}")));
        for (part, times) in [("— append", appends), ("— fsync", appends), ("— commit", commits)]
        {
            assert_eq!(story.matches(part).count(), times, "{part} of {request} in\n{story}");
        }
    }
}
