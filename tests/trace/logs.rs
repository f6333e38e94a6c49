//! The raw logs of a trace directory, and the laws of vector clocks.

use std::collections::BTreeMap;
use std::path::Path;

/// The counts of a clock.
pub(crate) type Clock = BTreeMap<String, u64>;

/// One event of a log.
pub(crate) struct Event {
    pub(crate) clock: Clock,
    /// Who sent the message that it received, and by which of its events.
    pub(crate) from: Option<(String, u64)>,
    pub(crate) said: String,
}

/// The events of each host, in the order of its files.
pub(crate) fn read(dir: &Path) -> BTreeMap<String, Vec<Event>> {
    let mut logs = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let Some(host) = name.strip_suffix(".govec") else { continue };
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(text.ends_with('\n') && lines.len().is_multiple_of(2), "{name} is torn");
        let event = |pair: &[&str]| event(host, pair[0], pair[1]);
        logs.insert(host.to_owned(), lines.chunks(2).map(event).collect());
    }
    logs
}

fn event(host: &str, first: &str, said: &str) -> Event {
    let mut words = first.splitn(3, ' ');
    let time = words.next().unwrap();
    assert!(time.parse::<u64>().is_ok(), "{first}");
    assert_eq!(words.next().unwrap(), host, "{first}");
    let clock = serde_json::from_str(words.next().unwrap()).unwrap();
    let from = said.split(' ').find_map(|word| word.strip_prefix("from="));
    let from = from.map(|from| {
        let (host, count) = from.rsplit_once(':').unwrap();
        (host.to_owned(), count.parse().unwrap())
    });
    Event { clock, from, said: said.to_owned() }
}

/// Every host counts its own events from 1 without a gap, forgets nothing, and knows after a
/// receipt whatever the sender knew; and nobody knows of an event that is in no log.
pub(crate) fn check(logs: &BTreeMap<String, Vec<Event>>) {
    for (host, events) in logs {
        let mut known = Clock::new();
        for (number, event) in (1..).zip(events) {
            let Event { clock, from, said } = event;
            assert_eq!(clock[host], number, "{host} has a gap before {said}");
            assert!(at_least(clock, &known), "{host} forgets something at {said}");
            known.clone_from(clock);
            for (other, count) in clock {
                let there = logs.get(other).map_or(0, Vec::len) as u64;
                assert!(*count <= there, "{host} knows of {other}:{count}, which no log has");
            }
            if let Some((sender, count)) = from {
                let sent = &logs[sender][*count as usize - 1];
                assert!(at_least(clock, &sent.clock), "{host} knows less than {sender} at {said}");
                assert!(sent.said.contains(" to=") || sent.said.contains(" dir="), "{}", sent.said);
            }
        }
    }
}

fn at_least(clock: &Clock, other: &Clock) -> bool {
    other.iter().all(|(host, count)| clock.get(host) >= Some(count))
}
