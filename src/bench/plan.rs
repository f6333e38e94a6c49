//! What is to be measured, checked as a whole.

use std::time::Duration;

use crate::args::{Bench, CONNECTIONS_MAX, Level, Workload};
use crate::bench::value::STAMP_BYTES;
use crate::exit::Failure;

/// Every key of a bench begins with this, so that it touches no other.
pub(crate) const PREFIX: &str = "bench/";

/// How many of 100 requests are reads where it is not said.
const READS_DEFAULT: u8 = 50;

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) workload: Workload,
    /// How many of 100 requests are reads.
    pub(crate) reads_percent: u8,
    pub(crate) value_bytes: usize,
    pub(crate) keys: u32,
    pub(crate) clients: u32,
    pub(crate) connections: u32,
    pub(crate) level: Level,
    pub(crate) warmup: Duration,
    pub(crate) duration: Duration,
    /// Requests a second over all clients; `None` is the closed loop.
    pub(crate) rate: Option<u32>,
    pub(crate) timeout: Duration,
    pub(crate) verify: bool,
}

impl Plan {
    /// What was typed, if it can be meant together.
    ///
    /// # Errors
    /// When it cannot, with the flag to change.
    pub(crate) fn new(typed: &Bench) -> Result<Self, Failure> {
        let reads_percent = match (typed.workload, typed.reads) {
            (Workload::Mixed | Workload::Zipf, reads) => reads.unwrap_or(READS_DEFAULT),
            (_, Some(_)) => {
                return Err(Failure::usage(
                    "--reads is for mixed and zipf; leave it out, or say --workload mixed",
                ));
            }
            (Workload::Write, None) => 0,
            (Workload::Read, None) => 100,
        };
        let connections = typed.connections.unwrap_or(typed.clients.min(CONNECTIONS_MAX));
        if connections > typed.clients {
            return Err(Failure::usage(format!(
                "--connections {connections} is more than there are clients to use them; say \
                 --clients {connections} or more, or fewer connections"
            )));
        }
        let value_bytes = usize::try_from(typed.value_bytes).expect("within its bounds");
        if typed.verify && value_bytes < STAMP_BYTES {
            return Err(Failure::usage(format!(
                "--verify writes into each value whose it is: say --value-bytes {STAMP_BYTES} or \
                 more"
            )));
        }
        if typed.verify && typed.keys < typed.clients {
            return Err(Failure::usage(format!(
                "--verify gives each client keys of its own: say --keys {} or more, or fewer \
                 --clients",
                typed.clients
            )));
        }
        Ok(Self {
            workload: typed.workload,
            reads_percent,
            value_bytes,
            keys: typed.keys,
            clients: typed.clients,
            connections,
            level: typed.how.level,
            warmup: typed.warmup,
            duration: typed.duration,
            rate: typed.rate,
            timeout: typed.timeout,
            verify: typed.verify,
        })
    }

    /// Whether the keys must be there before it begins.
    pub(crate) fn loads_first(&self) -> bool {
        self.reads_percent > 0 || self.verify
    }

    /// The keys that this client asks for: all, or, where answers are checked, its own.
    pub(crate) fn keys_of(&self, client: u32) -> Keys {
        match self.verify {
            false => Keys { first: 0, step: 1, count: self.keys },
            true => Keys {
                first: client,
                step: self.clients,
                count: (self.keys - client).div_ceil(self.clients),
            },
        }
    }

    /// Who may write this key where answers are checked, and which of its keys it is.
    pub(crate) fn owner(&self, key: u32) -> (u32, u32) {
        (key % self.clients, key / self.clients)
    }

    /// The workload in words.
    pub(crate) fn title(&self) -> String {
        let keys = format!("{} keys", grouped(u64::from(self.keys)));
        let what = match self.workload {
            Workload::Write => "writes".to_owned(),
            Workload::Read => "reads".to_owned(),
            Workload::Mixed | Workload::Zipf => format!("{} % reads", self.reads_percent),
        };
        let how = match (self.workload, self.verify) {
            (Workload::Zipf, false) => "few far more often than the rest (zipf)",
            (Workload::Zipf, true) => "few of each client's own far more often (zipf)",
            (_, false) => "all equally often",
            (_, true) => "each client its own, equally often",
        };
        format!("{what}, {}-byte values, {keys}, {how}", grouped(self.value_bytes as u64))
    }

    /// Who asks, and how sure reads are.
    pub(crate) fn setting(&self) -> String {
        let counted = |n: u32, what: &str| {
            format!("{} {what}{}", grouped(u64::from(n)), if n == 1 { "" } else { "s" })
        };
        let shared = match self.connections {
            1 if self.clients > 1 => "1 connection for all of them".to_owned(),
            n if n == self.clients && n > 1 => "one connection each".to_owned(),
            n => counted(n, "connection"),
        };
        let reads = match (self.reads_percent, self.level) {
            (0, _) => "",
            (_, Level::Majority) => ", majority reads",
            (_, Level::Weak) => ", weak reads",
        };
        format!("{}, {shared}{reads}", counted(self.clients, "client"))
    }
}

/// The keys of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    first: u32,
    step: u32,
    pub(crate) count: u32,
}

impl Keys {
    /// The number of the key at this place.
    pub(crate) fn at(&self, place: u32) -> u32 {
        self.first + place * self.step
    }
}

/// What a key is called.
pub(crate) fn key_name(key: u32) -> String {
    format!("{PREFIX}{key:08}")
}

/// A number as people read it.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Command, Typed};
    use crate::exit::Code;

    pub(crate) fn plan(args: &[&str]) -> Result<Plan, Failure> {
        let typed = Typed::try_parse_from([&["quorate", "bench"], args].concat()).unwrap();
        let Command::Bench(typed) = typed.command else { panic!("a bench") };
        Plan::new(&typed)
    }

    #[test]
    fn what_cannot_be_meant_together_is_told_with_the_flag_to_change() {
        let table: [(&[&str], &str); 5] = [
            (&["--reads", "10"], "--workload mixed"),
            (&["--workload", "read", "--reads", "10"], "--workload mixed"),
            (&["--clients", "4", "--connections", "5"], "--clients 5"),
            (&["--verify", "--value-bytes", "8"], "--value-bytes 32"),
            (&["--verify", "--keys", "63"], "--keys 64"),
        ];
        for (args, word) in table {
            let failure = plan(args).unwrap_err();
            assert_eq!(failure.code, Code::Usage, "{args:?}");
            assert!(failure.to_string().contains(word), "{args:?}: {failure}");
        }
    }

    #[test]
    fn what_is_left_out_follows_from_the_rest() {
        let table: [(&[&str], u8, u32, bool); 6] = [
            (&[], 0, 64, false),
            (&["--verify"], 0, 64, true),
            (&["--workload", "read"], 100, 64, true),
            (&["--workload", "mixed", "--clients", "4096"], 50, 500, true),
            (&["--workload", "zipf", "--reads", "95", "--connections", "1"], 95, 1, true),
            (&["--workload", "mixed", "--reads", "0"], 0, 64, false),
        ];
        for (args, reads, connections, loads) in table {
            let plan = plan(args).unwrap();
            let came = (plan.reads_percent, plan.connections, plan.loads_first());
            assert_eq!(came, (reads, connections, loads), "{args:?}");
        }
    }

    #[test]
    fn where_answers_are_checked_every_key_has_one_client() {
        let plan = plan(&["--verify", "--keys", "10", "--clients", "4"]).unwrap();
        let mut all = Vec::new();
        for client in 0..4 {
            let keys = plan.keys_of(client);
            for place in 0..keys.count {
                assert_eq!(plan.owner(keys.at(place)), (client, place));
                all.push(keys.at(place));
            }
        }
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
        assert_eq!(super::tests::plan(&["--keys", "10"]).unwrap().keys_of(3).count, 10);
    }

    #[test]
    fn it_is_told_in_words() {
        let plan = plan(&["--workload", "zipf", "--reads", "95", "--connections", "8"]).unwrap();
        let title = "95 % reads, 256-byte values, 20,000 keys, few far more often than the rest \
                     (zipf)";
        assert_eq!(plan.title(), title);
        assert_eq!(plan.setting(), "64 clients, 8 connections, majority reads");
        assert_eq!(super::tests::plan(&[]).unwrap().setting(), "64 clients, one connection each");
        let one = super::tests::plan(&["--clients", "1"]).unwrap();
        assert_eq!(one.setting(), "1 client, 1 connection");
    }

    #[test]
    fn numbers_are_grouped() {
        let table = [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")];
        for (number, text) in table {
            assert_eq!(grouped(number), text);
        }
    }
}
