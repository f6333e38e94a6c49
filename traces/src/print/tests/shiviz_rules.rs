//! What ShiViz and TSViz refuse, in their words: the rules of their `LogParser`,
//! `VectorTimestamp` and `ModelGraph`, the step-by-step check among them that ShiViz has but does
//! not call.

use std::collections::BTreeMap;

use regex::RegexBuilder;

type Clock = BTreeMap<String, u64>;

/// Checks a file as it is uploaded: the expression, the delimiter, and the log.
pub(super) fn check(file: &str) {
    let mut lines = file.splitn(3, '\n');
    let parser = lines.next().unwrap().trim();
    assert_eq!(lines.next().unwrap().trim(), "", "one execution: no delimiter");
    let log = lines.next().unwrap().trim();
    let hosts = parse(parser, log);
    let sizes: BTreeMap<&str, u64> =
        hosts.iter().map(|(host, events)| (host.as_str(), events.len() as u64)).collect();
    for (host, events) in &hosts {
        let mut known = Clock::new();
        for (number, (_, clock)) in (1..).zip(events) {
            if number == 1 {
                assert_eq!(clock[host], 1, "Logical clock values for each host must start at 1.");
            }
            assert_eq!(clock[host], number, "must increase monotonically by 1: {host}");
            for (other, &time) in clock.iter().filter(|(other, _)| *other != host) {
                if known.get(other).is_some_and(|&before| before >= time) {
                    continue;
                }
                known.insert(other.clone(), time);
                let size = sizes.get(other.as_str());
                let size = *size.unwrap_or_else(|| panic!("unrecognized host {other:?}"));
                assert!((1..=size).contains(&time), "invalid clock value {time} for {other:?}");
            }
        }
    }
    step_through(&hosts);
}

/// The events of each host, with their times, in the order of its clock.
fn parse(parser: &str, log: &str) -> BTreeMap<String, Vec<(String, Clock)>> {
    // Their groups are all of the expression's parentheses: none is escaped, none without a name.
    assert_eq!(parser.matches('(').count(), parser.matches("(?<").count());
    let expression = RegexBuilder::new(parser).multi_line(true).build().unwrap();
    let names: Vec<_> = expression.capture_names().flatten().collect();
    for name in ["clock", "host", "event", "timestamp"] {
        assert!(names.contains(&name), "does not have the necessary named capture groups");
    }
    let mut hosts: BTreeMap<String, Vec<(String, Clock)>> = BTreeMap::new();
    let (mut end, mut digits) = (0, None);
    for found in expression.captures_iter(log) {
        let whole = found.get(0).unwrap();
        assert_eq!(log[end..whole.start()].trim(), "", "no line is skipped");
        end = whole.end();
        // In their language a dot is no line end, and there are more of those.
        assert!(!whole.as_str().contains(['\r', '\u{2028}', '\u{2029}']));
        let clock: Clock = serde_json::from_str(&found["clock"]).unwrap();
        let host = found["host"].to_owned();
        assert!(clock.contains_key(&host), "Local host {host:?} is missing from timestamp");
        assert!(clock.values().all(|&count| count > 0));
        // TSViz compares times as texts, and leaves their first three digits out.
        let time = found["timestamp"].to_owned();
        assert_eq!(*digits.get_or_insert(time.len()), time.len());
        assert!(time.len() > 3);
        hosts.entry(host).or_default().push((time, clock));
    }
    assert_eq!(log[end..].trim(), "", "no line is skipped");
    assert!(!hosts.is_empty(), "does not capture any events");
    for (host, events) in &mut hosts {
        events.sort_by_key(|(_, clock)| clock[host]);
        assert!(events.is_sorted_by(|a, b| a.0 <= b.0), "the time of {host} runs backwards");
    }
    hosts
}

/// Every clock is what its event's own host and parents give, and there is an order of all.
fn step_through(hosts: &BTreeMap<String, Vec<(String, Clock)>>) {
    let mut next: BTreeMap<&str, usize> = hosts.keys().map(|host| (host.as_str(), 0)).collect();
    loop {
        let ready = next.iter().find(|(host, number)| {
            hosts[**host].get(**number).is_some_and(|(_, clock)| {
                clock
                    .iter()
                    .all(|(other, &time)| other == *host || next[other.as_str()] as u64 >= time)
            })
        });
        let Some((&host, &number)) = ready else { break };
        let (_, clock) = &hosts[host][number];
        let mut should_be = Clock::from([(host.to_owned(), number as u64 + 1)]);
        let before = number.checked_sub(1).map(|before| &hosts[host][before].1);
        let parents = clock.iter().filter(|(other, _)| *other != host);
        let parents = parents.map(|(other, &time)| &hosts[other][time as usize - 1].1);
        for known in before.into_iter().chain(parents) {
            for (other, &time) in known {
                let most = should_be.entry(other.clone()).or_default();
                *most = time.max(*most);
            }
        }
        assert_eq!(*clock, should_be, "an impermissible vector clock");
        next.insert(host, number + 1);
    }
    for (host, events) in hosts {
        assert_eq!(next[host.as_str()], events.len(), "The log is intransitive.");
    }
}
