//! What a seed decides before anything runs: how large the cluster is, how bad the network, which
//! faults there are at all.
//!
//! Each run has only some kinds of faults, and at its own rate: a run in which everything fails at
//! once visits fewer states than many runs that each exaggerate something.

use quorate_protocol::seeded::Seeded;
use quorate_protocol::settings::Settings;
use quorate_protocol::time::Millis;

use crate::chance::Chance;
use crate::faults::Fault;

/// The plan of one run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// How many nodes there are at the start.
    pub(crate) nodes: u32,
    /// How many there may come to be.
    pub(crate) nodes_max: u32,
    pub(crate) clients: usize,
    pub(crate) keys: u64,
    /// Nodes keep everything in memory: a process that ends has lost it.
    pub(crate) memory: bool,
    pub(crate) settings: Settings,
    pub(crate) network: Network,
    pub(crate) disk: Disk,
    /// Clocks run at different rates and jump.
    pub(crate) wild_clocks: bool,
    /// How long faults go on.
    pub(crate) trouble_ms: u64,
    /// The longest time between two faults.
    pub(crate) fault_gap_ms: u64,
    /// The longest time for which a process stays away.
    pub(crate) away_ms: u64,
    /// The kinds of faults of this run; a kind that stands twice is twice as frequent.
    pub(crate) faults: Vec<Fault>,
    /// The longest pause between two requests of a client.
    pub(crate) think_ms: u64,
}

/// How the network behaves while there is trouble.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    /// Messages lost one by one, of a thousand.
    pub(crate) loss_permille: u64,
    /// Messages that arrive twice, of a thousand.
    pub(crate) twice_permille: u64,
    /// Messages of one link arrive in the order sent.
    pub(crate) in_order: bool,
    pub(crate) latency_us: (u64, u64),
    /// Messages that take much longer, of a thousand.
    pub(crate) late_permille: u64,
}

/// How disks behave while there is trouble.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) sync_us: (u64, u64),
    pub(crate) segment_bytes: u64,
    /// How often the state is synced, at the most.
    pub(crate) state_sync_ms: u64,
}

impl Plan {
    pub(crate) fn new(chance: &mut Seeded) -> Self {
        let damages = chance.percent(20);
        let memory = !damages && chance.percent(8);
        let nodes = chance.one_of(&[1, 2, 3, 3, 3, 3, 3, 4, 4, 5, 5]);
        let nodes = if memory || damages { nodes.max(3) } else { nodes };
        let network = Network {
            loss_permille: chance.one_of(&[0, 0, 5, 20, 60]),
            twice_permille: chance.one_of(&[0, 0, 10, 50]),
            in_order: chance.percent(65),
            latency_us: chance.one_of(&[(50, 300), (200, 2_000), (500, 12_000)]),
            late_permille: chance.one_of(&[0, 5, 40]),
        };
        let disk = Disk {
            sync_us: chance.one_of(&[(100, 400), (200, 4_000), (2_000, 25_000)]),
            segment_bytes: chance.one_of(&[8 << 10, 12 << 10, 32 << 10]),
            state_sync_ms: chance.one_of(&[60, 250, 1_200]),
        };
        Self {
            nodes,
            nodes_max: nodes + 2,
            clients: chance.one_of(&[2, 3, 4, 5]),
            keys: chance.one_of(&[1, 2, 4]),
            memory,
            settings: settings(chance, disk.segment_bytes),
            network,
            disk,
            wild_clocks: chance.percent(30),
            trouble_ms: chance.one_of(&[3_000, 5_000, 8_000]),
            fault_gap_ms: if damages {
                chance.one_of(&[150, 500])
            } else {
                chance.one_of(&[120, 400, 1_200])
            },
            away_ms: chance.one_of(&[80, 600, 2_500]),
            faults: if damages { damage(chance) } else { faults(chance) },
            think_ms: chance.one_of(&[2, 10, 40]),
        }
    }
}

/// Defaults, but for bounds so small that a short run meets them.
fn settings(chance: &mut Seeded, segment_bytes: u64) -> Settings {
    let log_tail_bytes = segment_bytes * chance.one_of(&[1, 2, 8]);
    Settings {
        key_pattern: String::new(),
        dedup_window: chance.one_of(&[60, 250, 250, 4_096, 4_096, 4_096]),
        tombstone_retention_ms: Millis(chance.one_of(&[0, 100, 2_000])),
        log_tail_bytes,
        log_bytes_max: (log_tail_bytes * 4).max(256 << 10),
        stop_grace_ms: Millis(4_000),
        stop_timeout_ms: Millis(2_000),
        ..Settings::default()
    }
}

/// A run about data that is lost: with too much else the cluster would hardly ever be whole, which
/// is when another node's may be.
fn damage(chance: &mut Seeded) -> Vec<Fault> {
    let mut faults = Fault::DAMAGE.to_vec();
    // While one comes back without what it had, another lags, and a third is away.
    faults.extend([Fault::Amnesia, Fault::Amnesia, Fault::Heal, Fault::Heal, Fault::SlowDisk]);
    let others = [Fault::Kill, Fault::Pause, Fault::CutTwoWay, Fault::Stop, Fault::SlowLink];
    faults.extend(others.into_iter().filter(|_| chance.percent(40)));
    faults
}

fn faults(chance: &mut Seeded) -> Vec<Fault> {
    let most = chance.one_of(&[25, 50, 80]);
    let mut faults = Vec::new();
    for fault in Fault::ALL {
        if chance.percent(most) {
            let weight = chance.between(1, 3);
            faults.extend(std::iter::repeat_n(*fault, usize::try_from(weight).unwrap_or(1)));
        }
    }
    if faults.is_empty() {
        faults.push(Fault::Kill);
    }
    faults
}
