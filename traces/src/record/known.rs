//! What one process knows, as a clock and as the text of it.

use crate::clock::{CLOCK_HOSTS_MAX, Host, VectorClock};
use crate::stamp::{STAMP_HOSTS_MAX, Stamp};

/// The clock of one process, kept together with its text: most events raise one count by one,
/// and then only its digits are written anew.
///
/// Invariants: the entries are in the order of the hosts' names, one of them is the process's
/// own, there are at most [`CLOCK_HOSTS_MAX`], and `text` is what
/// [`VectorClock`] would display.
pub(crate) struct Known {
    entries: Vec<Entry>,
    /// The place of the process's own entry.
    own: usize,
    text: Vec<u8>,
    /// How often any count has risen.
    rises: u64,
}

struct Entry {
    host: Host,
    count: u64,
    /// Where the digits of the count stand in the text.
    digits: std::ops::Range<usize>,
    /// Which of all rises was this entry's last.
    risen: u64,
}

impl Known {
    /// A process that knows nothing.
    pub(crate) fn new(host: Host) -> Self {
        let own = Entry { host, count: 0, digits: 0..0, risen: 0 };
        Self { entries: vec![own], own: 0, text: Vec::new(), rises: 0 }
    }

    /// The process.
    pub(crate) fn host(&self) -> &Host {
        &self.entries[self.own].host
    }

    /// The clock as the trace viewers read it. Nothing before the first event.
    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Counts one event of the process.
    pub(crate) fn tick(&mut self) -> u64 {
        self.raise(self.own, self.entries[self.own].count.saturating_add(1));
        self.entries[self.own].count
    }

    /// Learns what the sender of a message knew. A host that is new is left out where the clock
    /// is full: its messages can still be paired, by the names of their events.
    pub(crate) fn learn(&mut self, stamp: &VectorClock) {
        let mut place = 0;
        for (host, count) in stamp.iter() {
            while self.entries.get(place).is_some_and(|entry| entry.host < *host) {
                place += 1;
            }
            match self.entries.get(place) {
                // Nobody knows more of this process than it does itself: who says so means another
                // of its name.
                Some(entry)
                    if entry.host == *host && (place == self.own || entry.count >= count) => {}
                Some(entry) if entry.host == *host => self.raise(place, count),
                _ if self.entries.len() < CLOCK_HOSTS_MAX => {
                    self.rises += 1;
                    let host = host.clone();
                    let entry = Entry { host, count, digits: 0..0, risen: self.rises };
                    self.entries.insert(place, entry);
                    self.own += usize::from(place <= self.own);
                    self.text.clear();
                }
                _ => {}
            }
        }
        if self.text.is_empty() {
            self.write_all();
        }
    }

    /// The stamp of a message sent now. Where too many hosts are known it carries those of which
    /// news came last.
    pub(crate) fn stamp(&self) -> Stamp {
        let mut risen: Vec<u64> = Vec::new();
        if self.entries.len() > STAMP_HOSTS_MAX {
            risen.extend(self.entries.iter().map(|entry| entry.risen));
            risen.sort_unstable();
        }
        // The process's own count rose last of all, so it is among these.
        let since = risen.len().checked_sub(STAMP_HOSTS_MAX).map_or(0, |place| risen[place]);
        let news = self.entries.iter().filter(|entry| entry.risen >= since && entry.count > 0);
        let mut counts = Vec::with_capacity(self.entries.len().min(STAMP_HOSTS_MAX));
        counts.extend(news.map(|entry| (entry.host.clone(), entry.count)));
        let clock = VectorClock::from_sorted(counts);
        Stamp::new(self.host().clone(), clock).expect("it is sent after a tick, and cut to size")
    }

    fn raise(&mut self, place: usize, count: u64) {
        self.rises += 1;
        let entry = &mut self.entries[place];
        (entry.count, entry.risen) = (count, self.rises);
        let mut digits = [0; DIGITS_MAX];
        let digits = decimal(count, &mut digits);
        match self.text.get_mut(entry.digits.clone()) {
            Some(written) if written.len() == digits.len() => written.copy_from_slice(digits),
            // Longer by a digit, once in ten times as many events; or not written yet.
            _ => self.write_all(),
        }
    }

    fn write_all(&mut self) {
        self.text.clear();
        self.text.push(b'{');
        for (place, entry) in self.entries.iter_mut().enumerate() {
            let before: &[u8] = if place == 0 { b"\"" } else { b", \"" };
            self.text.extend_from_slice(before);
            self.text.extend_from_slice(entry.host.as_str().as_bytes());
            self.text.extend_from_slice(b"\":");
            let start = self.text.len();
            self.text.extend_from_slice(decimal(entry.count, &mut [0; DIGITS_MAX]));
            entry.digits = start..self.text.len();
        }
        self.text.push(b'}');
    }
}

/// The digits of the highest number.
pub(crate) const DIGITS_MAX: usize = 20;

/// Writes a number at the end of `space`.
pub(crate) fn decimal(mut number: u64, space: &mut [u8; DIGITS_MAX]) -> &[u8] {
    let mut start = DIGITS_MAX;
    loop {
        start -= 1;
        space[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &space[start..];
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(name: &str) -> Host {
        Host::new(name).unwrap()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Tick,
        Receive(VectorClock),
    }

    fn step() -> impl Strategy<Value = Step> {
        let stamp = prop::collection::vec(("[a-p]", 1u64..2000), 0..8).prop_map(|counts| {
            let counts = counts.into_iter().map(|(name, count)| (host(&name), count));
            VectorClock::from_counts(counts.collect()).unwrap()
        });
        prop_oneof![Just(Step::Tick), stamp.prop_map(Step::Receive)]
    }

    proptest! {
        #[test]
        fn the_text_is_that_of_the_clock(steps in prop::collection::vec(step(), 0..60)) {
            let me = host("h");
            let (mut known, mut clock) = (Known::new(me.clone()), VectorClock::new());
            for step in steps {
                if let Step::Receive(stamp) = step {
                    known.learn(&stamp);
                    clock.receive(&me, &stamp);
                } else {
                    clock.tick(&me);
                }
                prop_assert_eq!(known.tick(), clock.get(&me));
                prop_assert_eq!(std::str::from_utf8(known.text()).unwrap(), clock.to_string());
                let stamp = known.stamp();
                prop_assert_eq!((stamp.clock(), stamp.host()), (&clock, &me));
            }
        }
    }

    #[test]
    fn a_full_clock_goes_on_and_a_stamp_carries_the_latest_news() {
        let me = host("zz");
        let mut known = Known::new(me.clone());
        for number in 0..CLOCK_HOSTS_MAX + 10 {
            let count = vec![(host(&format!("h{number:03}")), 5)];
            known.learn(&VectorClock::from_counts(count).unwrap());
            known.tick();
        }
        assert_eq!(known.entries.len(), CLOCK_HOSTS_MAX);
        let stamp = known.stamp();
        assert_eq!(stamp.clock().len(), STAMP_HOSTS_MAX);
        assert_eq!(stamp.count(), 266);
        assert_eq!(stamp.clock().get(&host("h254")), 5, "the last that found room");
        assert_eq!(stamp.clock().get(&host("h000")), 0);
        known.learn(&VectorClock::from_counts(vec![(host("h000"), 6)]).unwrap());
        known.tick();
        assert_eq!(known.stamp().clock().get(&host("h000")), 6);
    }

    #[test]
    fn numbers_are_written_whole() {
        for number in [0, 9, 10, 1_234_567_890, u64::MAX] {
            let written = decimal(number, &mut [0; DIGITS_MAX]).to_vec();
            assert_eq!(String::from_utf8(written).unwrap(), number.to_string());
        }
    }
}
