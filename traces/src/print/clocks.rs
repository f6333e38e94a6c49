//! The clocks of all events, told anew from their order: without gaps, and of the processes that
//! are there.

use std::collections::HashMap;

use crate::read::Trace;

/// The clock of an event: of each process how many of its events it follows, itself included.
/// The events of a process are counted from the first that is there.
pub(crate) type Counts = Vec<u32>;

/// Goes through all events in order, each with its clock.
///
/// Memory: a clock for each process, and for each message that is under way.
pub(crate) fn with_clocks<E>(
    trace: &Trace,
    mut each: impl FnMut(u32, &Counts) -> Result<(), E>,
) -> Result<(), E> {
    let mut readers: HashMap<u32, u32> = HashMap::new();
    for &place in &trace.order {
        for before in others(trace, place) {
            *readers.entry(before).or_default() += 1;
        }
    }
    let mut clocks = vec![vec![0; trace.processes.len()]; trace.processes.len()];
    let mut sent: HashMap<u32, Counts> = HashMap::new();
    for &place in &trace.order {
        let process = trace.events[place as usize].process as usize;
        for before in others(trace, place) {
            let (clock, known) = (&mut clocks[process], &sent[&before]);
            clock.iter_mut().zip(known).for_each(|(mine, theirs)| *mine = (*mine).max(*theirs));
            let left = readers.get_mut(&before).expect("it is one of them");
            *left -= 1;
            if *left == 0 {
                sent.remove(&before);
            }
        }
        let first = trace.processes[process].events.start;
        clocks[process][process] = place - first as u32 + 1;
        each(place, &clocks[process])?;
        if readers.get(&place).is_some_and(|&left| left > 0) {
            sent.insert(place, clocks[process].clone());
        }
    }
    Ok(())
}

/// The events of other processes that an event follows directly.
fn others(trace: &Trace, place: u32) -> impl Iterator<Item = u32> + '_ {
    let own = trace.events[place as usize].process;
    trace.before(place).filter(move |&before| trace.events[before as usize].process != own)
}
