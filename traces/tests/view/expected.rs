//! What the page should say of a document, found the slow way: by walking along every edge.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A document's edges.
pub(crate) struct Expected {
    process: Vec<usize>,
    names: Vec<String>,
    before: Vec<Vec<usize>>,
    after: Vec<Vec<usize>>,
    from: Vec<Option<usize>>,
}

/// Where every event stands to one of them.
pub(crate) struct Cone {
    event: usize,
    past: Vec<bool>,
    future: Vec<bool>,
}

impl Expected {
    pub(crate) fn new(document: &Value) -> Self {
        let column = |name: &str| -> Vec<i64> {
            let list = document["events"][name].as_array().unwrap();
            list.iter().map(|value| value.as_i64().unwrap()).collect()
        };
        let process: Vec<usize> = column("process").iter().map(|&p| p as usize).collect();
        let from: Vec<Option<usize>> =
            column("from").iter().map(|&f| usize::try_from(f).ok()).collect();
        let mut before = vec![Vec::new(); process.len()];
        let mut after = vec![Vec::new(); process.len()];
        let mut last = BTreeMap::new();
        for (event, &p) in process.iter().enumerate() {
            for earlier in last.insert(p, event).into_iter().chain(from[event]) {
                before[event].push(earlier);
                after[earlier].push(event);
            }
        }
        let names = document["processes"].as_array().unwrap();
        let names = names.iter().map(|p| p["name"].as_str().unwrap().to_owned()).collect();
        Self { process, names, before, after, from }
    }

    /// The send of a receive.
    pub(crate) fn from(&self, event: usize) -> Option<usize> {
        self.from[event]
    }

    pub(crate) fn cone(&self, event: usize) -> Cone {
        Cone { event, past: reached(&self.before, event), future: reached(&self.after, event) }
    }

    /// The event's clock: how many events of each process it has in its past, itself included.
    pub(crate) fn clock(&self, cone: &Cone) -> Value {
        let mut clock = Map::new();
        for (event, process) in self.process.iter().enumerate() {
            if cone.past[event] || event == cone.event {
                let count = clock.entry(self.names[*process].clone()).or_insert(0.into());
                *count = (count.as_u64().unwrap() + 1).into();
            }
        }
        clock.into()
    }
}

impl Cone {
    pub(crate) fn past(&self) -> usize {
        self.past.iter().filter(|&&is| is).count()
    }

    pub(crate) fn future(&self) -> usize {
        self.future.iter().filter(|&&is| is).count()
    }

    pub(crate) fn concurrent(&self) -> usize {
        self.past.len() - 1 - self.past() - self.future()
    }

    pub(crate) fn shade(&self, event: usize) -> &'static str {
        match (self.past[event], self.future[event]) {
            _ if event == self.event => "self",
            (true, _) => "past",
            (_, true) => "future",
            _ => "concurrent",
        }
    }
}

fn reached(edges: &[Vec<usize>], start: usize) -> Vec<bool> {
    let mut found = vec![false; edges.len()];
    let mut left = vec![start];
    while let Some(event) = left.pop() {
        for &next in &edges[event] {
            if !std::mem::replace(&mut found[next], true) {
                left.push(next);
            }
        }
    }
    found
}

/// A column of strings, one for each event; where there is none, an empty one.
pub(crate) fn strings_of(document: &Value, column: &str) -> Vec<String> {
    let strings = document["strings"].as_array().unwrap();
    let of = |index: &Value| {
        let index = usize::try_from(index.as_i64().unwrap()).ok()?;
        strings[index].as_str().map(str::to_owned)
    };
    let list = document["events"][column].as_array().unwrap();
    list.iter().map(|index| of(index).unwrap_or_default()).collect()
}
