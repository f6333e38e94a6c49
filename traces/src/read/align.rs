//! The clocks of machines against each other.
//!
//! A message is received after it was sent. Of a message from machine A to machine B, sent when
//! A's clock showed `s` and received when B's showed `r`, this says that what must be added to
//! A's clock is at most `r - s` more than what must be added to B's. The messages of a whole trace
//! give one such bound for each pair of machines and direction: a system of difference
//! constraints, solved by shortest paths. What is left open is the uncertainty; the middle of it
//! is taken, which satisfies every bound when anything does.
//!
//! Where the bounds contradict each other (clocks that drift, or were set while they ran) the
//! least is given up that makes them agree, and said.
//!
//! Processes on one machine share its clock: the log names the boot of the machine. Where
//! messages between them say otherwise, each is taken to have a clock of its own.

use std::collections::BTreeMap;
use std::fmt;

use super::finding::{Finding, FindingKind, duration, many};
use super::{FAR_NS, NO_EVENT, Trace};

/// Two processes that share a clock may have read it this much apart.
const SHARED_CLOCK_NS: i64 = 100_000;

/// How often bounds are loosened until they agree; more contradictions are left to the order.
const LOOSENED_MAX: usize = 200;

/// The clocks of a trace, and how far they are apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alignment {
    /// One for each machine, the reference first.
    pub clocks: Vec<Clock>,
}

/// The clock of one machine, or of one process whose machine is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clock {
    /// The machine, or the process.
    pub name: String,
    /// The names of the processes that read it.
    pub hosts: Vec<String>,
    /// The clock that it is measured against.
    pub reference: String,
    /// What is added to it.
    pub offset_ns: i64,
    /// The least and the most that the messages allow, where they say.
    pub least_ns: Option<i64>,
    /// The most that the messages allow, where they say.
    pub most_ns: Option<i64>,
    /// How many messages to and from other clocks there are.
    pub messages: usize,
}

/// A line for each clock.
impl fmt::Display for Alignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.clocks.iter().map(|clock| clock.name.len()).max().unwrap_or(0);
        for clock in &self.clocks {
            write!(f, "{:width$}  ", clock.name)?;
            if clock.reference == clock.name {
                writeln!(
                    f,
                    "the clock that others are measured against ({})",
                    many(clock.hosts.len(), "process")
                )?;
                continue;
            }
            let sign = if clock.offset_ns < 0 { "" } else { "+" };
            write!(f, "{sign}{} to {}", duration(clock.offset_ns), clock.reference)?;
            match (clock.least_ns, clock.most_ns) {
                (Some(least), Some(most)) => {
                    let open = most.saturating_sub(least).max(0);
                    writeln!(
                        f,
                        ", right to ±{} ({})",
                        duration((open + 1) / 2),
                        many(clock.messages, "message")
                    )?;
                }
                (None, Some(most)) => {
                    writeln!(f, ", at most {}: messages went one way only", duration(most))?;
                }
                (Some(least), None) => {
                    writeln!(f, ", at least {}: messages went one way only", duration(least))?;
                }
                (None, None) => writeln!(f, ": no message tells")?,
            }
        }
        Ok(())
    }
}

/// What the messages from one clock to another say: by how much the one's offset is at most more
/// than the other's.
#[derive(Clone, Copy)]
struct Bound {
    most: i64,
    messages: usize,
}

type Bounds = BTreeMap<(usize, usize), Bound>;

/// Finds the offset of every process.
pub(crate) fn align(trace: &mut Trace) {
    let mut of_process = shared_clocks(trace);
    let apart = split(trace, &mut of_process);
    let clocks = of_process.iter().max().map_or(0, |last| last + 1);
    let mut bounds = collect(trace, &of_process);
    let names = names(trace, &of_process, clocks);
    for host in apart {
        let text = "its messages contradict the clock it shares with others of its machine: it is \
         taken to have one of its own";
        trace.findings.push(Finding::of(FindingKind::Alignment, &host, text));
    }
    loosen(&mut bounds, clocks, &names, &mut trace.findings);
    trace.alignment = solve(trace, &of_process, &bounds, &names);
    for clock in &trace.alignment.clocks {
        if clock.offset_ns.unsigned_abs() > FAR_NS {
            let days = clock.offset_ns / (24 * 3600 * 1_000_000_000);
            let text = format!("the clock of {} is {} days off", clock.name, days.abs());
            trace.findings.push(Finding::new(FindingKind::Alignment, text));
        }
    }
    let offsets: BTreeMap<&str, i64> =
        trace.alignment.clocks.iter().map(|clock| (clock.name.as_str(), clock.offset_ns)).collect();
    for (process, clock) in trace.processes.iter_mut().zip(&of_process) {
        process.offset_ns = offsets.get(names[*clock].as_str()).copied().unwrap_or(0);
    }
}

/// Numbers the clocks that processes read.
fn shared_clocks(trace: &Trace) -> Vec<usize> {
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    let number = |process: &super::Process| {
        let machine = process.boot.clone().or_else(|| process.machine.clone());
        let key = machine.map_or_else(|| format!("p {}", process.host), |name| format!("m {name}"));
        let next = numbers.len();
        *numbers.entry(key).or_insert(next)
    };
    trace.processes.iter().map(number).collect()
}

/// Gives processes of one machine clocks of their own where they do not share one; returns which.
fn split(trace: &Trace, of_process: &mut [usize]) -> Vec<String> {
    let alone: Vec<usize> = (0..trace.processes.len()).collect();
    let mut wrong = vec![false; of_process.iter().max().map_or(0, |last| last + 1)];
    for ((from, to), bound) in collect(trace, &alone) {
        if of_process[from] == of_process[to] && bound.most < -SHARED_CLOCK_NS {
            wrong[of_process[from]] = true;
        }
    }
    let mut next = wrong.len();
    let mut apart = Vec::new();
    for (process, clock) in of_process.iter_mut().enumerate() {
        if wrong[*clock] {
            *clock = next;
            next += 1;
            apart.push(trace.processes[process].host.clone());
        }
    }
    // The numbers that nobody has any more are closed up.
    let used: std::collections::BTreeSet<usize> = of_process.iter().copied().collect();
    let renumbered: BTreeMap<usize, usize> = used.into_iter().zip(0..).collect();
    for clock in of_process.iter_mut() {
        *clock = renumbered[clock];
    }
    apart
}

/// The bounds of all messages between different clocks.
fn collect(trace: &Trace, of_process: &[usize]) -> Bounds {
    let mut bounds = Bounds::new();
    for event in trace.events.iter().filter(|event| event.from != NO_EVENT) {
        let send = &trace.events[event.from as usize];
        let pair = (of_process[send.process as usize], of_process[event.process as usize]);
        if pair.0 != pair.1 {
            // Times are below `i64::MAX`, so the difference is in range.
            let most = event.unix_ns as i64 - send.unix_ns as i64;
            let bound = bounds.entry(pair).or_insert(Bound { most, messages: 0 });
            bound.most = bound.most.min(most);
            bound.messages += 1;
        }
    }
    bounds
}

/// The machine where it is one, else the process. Two machines of one name get the boot behind it.
fn names(trace: &Trace, of_process: &[usize], clocks: usize) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for clock in 0..clocks {
        let mut of_clock =
            trace.processes.iter().zip(of_process).filter(|(_, of)| **of == clock).map(|of| of.0);
        let first = of_clock.next().expect("a clock has a process");
        let alone = of_clock.next().is_none();
        let machine = first.machine.as_ref().or(first.boot.as_ref());
        let name = match machine {
            Some(machine) if !names.contains(machine) => machine.clone(),
            Some(machine) if !alone => format!("{machine} ({})", first.host),
            _ => first.host.clone(),
        };
        names.push(name);
    }
    names
}

/// Of each clock what it showed in the middle of a process.
fn middles(trace: &Trace, of_process: &[usize], clocks: usize) -> Vec<u64> {
    let mut middles = vec![0; clocks];
    for (process, clock) in trace.processes.iter().zip(of_process) {
        let range = &process.events;
        middles[*clock] = trace.events[range.start + range.len() / 2].unix_ns;
    }
    middles
}

/// The edge of a shortest path: what the offset of `to` is at most more than that of `from`.
#[derive(Clone, Copy)]
struct Edge {
    from: usize,
    to: usize,
    weight: i64,
}

fn edges(bounds: &Bounds) -> Vec<Edge> {
    let edge =
        |(&(a, b), bound): (&(usize, usize), &Bound)| Edge { from: b, to: a, weight: bound.most };
    bounds.iter().map(edge).collect()
}

/// Loosens bounds until they agree: of every circle of them that contradicts itself, each by the
/// same.
fn loosen(bounds: &mut Bounds, clocks: usize, names: &[String], findings: &mut Vec<Finding>) {
    let mut loosened: BTreeMap<(usize, usize), i64> = BTreeMap::new();
    for _ in 0..LOOSENED_MAX {
        let Some(circle) = negative_circle(&edges(bounds), clocks) else { break };
        let sum: i64 = circle.iter().fold(0, |sum, edge| sum.saturating_add(edge.weight));
        let each = sum / circle.len() as i64 - 1;
        for edge in circle {
            let pair = (edge.to, edge.from);
            let bound = bounds.get_mut(&pair).expect("an edge is a bound");
            bound.most = bound.most.saturating_sub(each);
            let sorted = (pair.0.min(pair.1), pair.0.max(pair.1));
            let most = loosened.entry(sorted).or_default();
            *most = most.saturating_sub(each);
        }
    }
    for ((a, b), by) in loosened {
        let text = format!(
            "the messages between {} and {} contradict each other by {}: a clock drifts or was \
            set; times between the two are right to about that only",
            names[a],
            names[b],
            duration(by)
        );
        findings.push(Finding::new(FindingKind::Alignment, text));
    }
}

/// A circle of edges whose weights are negative together.
fn negative_circle(edges: &[Edge], clocks: usize) -> Option<Vec<Edge>> {
    let mut distance = vec![0i64; clocks];
    let mut by: Vec<Option<Edge>> = vec![None; clocks];
    let mut changed = None;
    for _ in 0..=clocks {
        changed = None;
        for edge in edges {
            let through = distance[edge.from].saturating_add(edge.weight);
            if through < distance[edge.to] {
                distance[edge.to] = through;
                by[edge.to] = Some(*edge);
                changed = Some(edge.to);
            }
        }
        changed?;
    }
    // Whoever still changes is behind a circle; as many steps back as there are clocks lead into it.
    let mut at = changed?;
    for _ in 0..clocks {
        at = by[at]?.from;
    }
    let (start, mut circle) = (at, Vec::new());
    loop {
        let edge = by[at]?;
        circle.push(edge);
        at = edge.from;
        if at == start {
            return Some(circle);
        }
    }
}

/// The shortest paths to each clock from those whose distance is given, along the edges or
/// against them.
fn shortest(edges: &[Edge], mut distance: Vec<Option<i64>>, against: bool) -> Vec<Option<i64>> {
    for _ in 0..distance.len() {
        let mut changed = false;
        for edge in edges {
            let (from, to) = if against { (edge.to, edge.from) } else { (edge.from, edge.to) };
            let through = distance[from].map(|far| far.saturating_add(edge.weight));
            if let Some(through) = through
                && distance[to].is_none_or(|known| through < known)
            {
                distance[to] = Some(through);
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    distance
}

/// The least and the most that each offset can be, where those of some clocks are taken.
fn open(edges: &[Edge], taken: &[Option<i64>]) -> Vec<(Option<i64>, Option<i64>)> {
    let most = shortest(edges, taken.to_vec(), false);
    let minus = taken.iter().map(|offset| offset.map(i64::saturating_neg)).collect();
    let least = shortest(edges, minus, true);
    least.iter().map(|far| far.map(i64::saturating_neg)).zip(most).collect()
}

/// Measures every clock against the one with the most messages; clocks that no message connects
/// with it against one of their own.
///
/// Clocks with messages both ways go to the middle of what is open, all at once: those middles
/// agree with every bound between them. Of the others one after the other is taken as it shows,
/// as far as the bounds and those taken before allow: that leaves room for all.
fn solve(trace: &Trace, of_process: &[usize], bounds: &Bounds, names: &[String]) -> Alignment {
    let edges = edges(bounds);
    let mut messages = vec![0; names.len()];
    for (&(a, b), bound) in bounds {
        messages[a] += bound.messages;
        messages[b] += bound.messages;
    }
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by_key(|&clock| (std::cmp::Reverse(messages[clock]), clock));
    let middles = middles(trace, of_process, names.len());
    let first = order.first().map_or(0, |&first| middles[first]);
    // What is added to a clock where no message tells: nothing, unless it is far off.
    let as_shown = |clock: usize| {
        let far = first.abs_diff(middles[clock]) > FAR_NS;
        if far { first as i64 - middles[clock] as i64 } else { 0 }
    };
    let mut taken: Vec<Option<i64>> = vec![None; names.len()];
    let mut clocks = Vec::new();
    let mut take = |clock: usize, reference: usize, offset_ns, (least_ns, most_ns)| {
        let of_clock = trace.processes.iter().zip(of_process).filter(|(_, of)| **of == clock);
        clocks.push(Clock {
            name: names[clock].clone(),
            hosts: of_clock.map(|(process, _)| process.host.clone()).collect(),
            reference: names[reference].clone(),
            offset_ns,
            least_ns,
            most_ns,
            messages: messages[clock],
        });
    };
    while let Some(&reference) = order.iter().find(|&&clock| taken[clock].is_none()) {
        let mut known = vec![None; names.len()];
        known[reference] = Some(as_shown(reference));
        take(reference, reference, as_shown(reference), (Some(0), Some(0)));
        let allowed = open(&edges, &known);
        for &clock in &order {
            if let (None, (Some(least), Some(most))) = (known[clock], allowed[clock]) {
                let middle = least.saturating_add(most.saturating_sub(least) / 2);
                known[clock] = Some(middle);
                take(clock, reference, middle, allowed[clock]);
            }
        }
        loop {
            let allowed = open(&edges, &known);
            let next = order
                .iter()
                .copied()
                .find(|&clock| known[clock].is_none() && allowed[clock] != (None, None));
            let Some(clock) = next else { break };
            let (least, most) = allowed[clock];
            let offset = as_shown(clock);
            let offset = offset.max(least.unwrap_or(offset)).min(most.unwrap_or(i64::MAX));
            known[clock] = Some(offset);
            take(clock, reference, offset, allowed[clock]);
        }
        for (taken, known) in taken.iter_mut().zip(known) {
            *taken = taken.or(known);
        }
    }
    Alignment { clocks }
}
