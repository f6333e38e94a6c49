use std::fs;

use tracing_subscriber::Registry;
use tracing_subscriber::prelude::*;

use super::*;
use crate::record::{Identity, Options};

fn recorder(dir: &Path) -> Recorder {
    Recorder::start(dir, "n", Identity::default(), Options::default()).unwrap()
}

fn entries(file: &Path) -> Vec<serde_json::Value> {
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

/// Waits for what another thread is about to do.
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn siblings_have_ids_of_their_own_and_the_file_says_whose_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = recorder(dir.path());
    let (layer, trace) = ChromeTrace::beside(&recorder, SpanOptions::default()).unwrap();
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::with_default(subscriber, || {
        let one = tracing::info_span!(parent: None, "append", to = 1);
        let other = tracing::info_span!(parent: None, "append", to = 2);
        drop((one, other));
    });
    let file = trace.file();
    drop(trace);
    let entries = entries(&file);
    assert_eq!(entries[0]["args"]["name"], "n.1");
    assert!(entries[0]["args"]["start_unix_ns"].as_str().unwrap().parse::<u64>().is_ok());
    let ids: std::collections::BTreeSet<_> = entries
        .iter()
        .filter(|entry| entry["ph"] == "b")
        .map(|entry| entry["id"].as_u64())
        .collect();
    assert_eq!(ids.len(), 2);
}

#[test]
fn a_trace_without_spans_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let started = ChromeTrace::beside::<Registry>(&recorder(dir.path()), SpanOptions::default());
    let file = started.unwrap().1.file();
    assert_eq!(entries(&file).len(), 1);
}

#[test]
fn what_a_killed_process_leaves_is_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let (layer, trace) =
        ChromeTrace::beside(&recorder(dir.path()), SpanOptions::default()).unwrap();
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::with_default(subscriber, || {
        drop(tracing::info_span!(parent: None, "step"));
        let file = trace.file();
        // Nothing flushes and nothing is dropped.
        wait_for("the span is written", || {
            fs::read_to_string(&file).unwrap().matches("step").count() == 2
        });
    });
}

#[test]
fn where_too_much_waits_whole_spans_are_left_out_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let telling = told.clone();
    let on_trouble: OnTrouble =
        Arc::new(move |words| telling.lock().unwrap().push(words.to_owned()));
    let options =
        SpanOptions { waiting_max: 100, on_trouble: Some(on_trouble), ..SpanOptions::default() };
    let (layer, trace) = ChromeTrace::beside(&recorder(dir.path()), options).unwrap();
    let file = trace.file();
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::with_default(subscriber, || {
        let span = |step| tracing::info_span!(parent: None, "step", step);
        let kept: Vec<_> = (0..10).map(span).collect();
        // As if the writing thread had much to do.
        trace.shared.sent.fetch_add(1000, Ordering::Relaxed);
        let not_kept: Vec<_> = (0..40).map(span).collect();
        drop((kept, not_kept));
    });
    assert_eq!(trace.left_out(), 40);
    wait_for("it is said", || !told.lock().unwrap().is_empty());
    drop(trace);
    let entries = entries(&file);
    let count = |phase: &str| entries.iter().filter(|entry| entry["ph"] == phase).count() as u64;
    assert_eq!((count("b"), count("e")), (10, 10));
    let told = told.lock().unwrap();
    assert!(told[0].starts_with("n.1: spans are left out"), "{told:?}");
    assert_eq!(told[1], "n.1: 40 spans were left out of the trace");
}

#[test]
fn a_full_file_is_followed_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let options =
        SpanOptions { bounds: Bounds { part_bytes: 2000, parts: 2 }, ..SpanOptions::default() };
    let (layer, trace) = ChromeTrace::beside(&recorder(dir.path()), options).unwrap();
    let first = trace.file();
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::with_default(subscriber, || {
        // With the third file, or a later one by the time that it is looked at.
        wait_for("the oldest is removed", || {
            for _ in 0..20 {
                drop(tracing::info_span!(parent: None, "step"));
            }
            !first.exists()
        });
    });
    let last = trace.file();
    drop(trace);
    assert!(last > first.with_file_name("n.1.0003"), "{last:?}");
    assert_eq!(entries(&last)[0]["name"], "process_name");
}

#[test]
fn a_full_disk_ends_the_trace_and_not_the_process() {
    let Ok(full) = File::options().write(true).open("/dev/full") else { return };
    let shared = Arc::new(Shared::new(PathBuf::new()));
    let mut writer = SpanFile::new(full, &SpanHead::default(), &shared);
    writer.write_all(b"[\n{\"lost\":1}").unwrap();
    assert!(shared.failed.load(Ordering::Relaxed));
    writer.write_all(b",\n{\"lost\":2}").unwrap();
    assert!(!shared.enter(100), "no more spans are taken");
}
