//! One machine with a node on it: a disk that tears, a clock of its own, and at most one process.

pub(crate) mod carry;
pub(crate) mod copy;
pub(crate) mod log;
pub(crate) mod process;
pub(crate) mod state;

use quorate_node::core::recover::reconcile;
use quorate_node::core::replica::Recovered;
use quorate_node::log::disk::{DiskLog, DiskOptions};
use quorate_node::log::memory::MemoryLog;
use quorate_node::log::torn::TornDisk;
use quorate_node::log::{Log, Meta};
use quorate_protocol::entry::{Entry, decode_batch};
use quorate_protocol::ids::{ClusterId, Index, NodeId, ProcessId, StoreId};
use quorate_protocol::seeded::Seeded;
use quorate_protocol::time::Moment;
use quorate_protocol::version::Version;

use crate::chance::Chance;
use crate::plan::Plan;
use process::Process;
use state::{OnDisk, State};

/// How often damage to the log is that all of it is gone.
const GONE_ONE_IN: usize = 16;

/// A clock that runs at its own rate and now and then jumps, always forward.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    rate_permille: u64,
    offset_us: u64,
}

impl Clock {
    pub(crate) fn new(plan: &Plan, chance: &mut Seeded) -> Self {
        let rate_permille =
            if plan.wild_clocks { chance.one_of(&[500, 900, 1_000, 1_100, 1_700]) } else { 1_000 };
        Self { rate_permille, offset_us: chance.below(1_000_000_000) }
    }

    pub(crate) fn now(&self, at: Moment) -> Moment {
        Moment(at.0 * self.rate_permille / 1_000 + self.offset_us)
    }

    pub(crate) fn jump(&mut self, ms: u64) {
        self.offset_us += ms * 1_000;
    }
}

/// A machine.
pub(crate) struct Host {
    pub(crate) name: u32,
    pub(crate) clock: Clock,
    pub(crate) process: Option<Process>,
    /// Rises with each process: what is meant for an earlier one reaches nobody.
    pub(crate) life: u64,
    /// Off: it answers nothing, not even that nobody listens.
    pub(crate) is_off: bool,
    /// Its process stands still until then.
    pub(crate) frozen_until: Option<Moment>,
    /// Syncs take this many times as long as planned.
    pub(crate) slowness: u64,
    /// No sync ends before this.
    pub(crate) stalled_until: Moment,
    disk: TornDisk,
    on_disk: OnDisk,
    store: StoreId,
    identity: Option<(ClusterId, NodeId)>,
    /// The state is known to be damaged: the next start sets it aside.
    state_lost: bool,
    /// A sync is going to fail, or there is no room.
    disk_fails: bool,
    /// What the log said when the process ended last, to compare with at the next start.
    left: Option<Meta>,
}

/// What a start came to.
pub(crate) struct Started {
    /// Damage was found in the log.
    pub(crate) rot: bool,
    /// What the log said when the process before ended, and what it says now.
    pub(crate) metas: Option<(Meta, Meta)>,
    /// What is on disk: the entries of the log, and up to where the state is.
    pub(crate) entries: Vec<Version>,
    pub(crate) applied: Version,
}

impl Host {
    pub(crate) fn new(name: u32, plan: &Plan, chance: &mut Seeded) -> Self {
        Self {
            name,
            clock: Clock::new(plan, chance),
            process: None,
            life: 0,
            is_off: false,
            frozen_until: None,
            slowness: 1,
            stalled_until: Moment(0),
            disk: TornDisk::default(),
            on_disk: OnDisk::default(),
            store: mint(chance),
            identity: None,
            state_lost: false,
            disk_fails: false,
            left: None,
        }
    }

    pub(crate) fn address(&self) -> String {
        address(self.name)
    }

    pub(crate) fn store(&self) -> StoreId {
        self.store
    }

    /// The number the node has, if it has ever registered.
    pub(crate) fn node(&self) -> Option<NodeId> {
        self.identity.map(|(_, node)| node)
    }

    pub(crate) fn identify(&mut self, cluster: ClusterId, node: NodeId) {
        self.identity = Some((cluster, node));
    }

    pub(crate) fn on_disk(&mut self) -> &mut OnDisk {
        &mut self.on_disk
    }

    // What ails the disk.

    /// The sync after the next `syncs` fails.
    pub(crate) fn fail_sync_after(&mut self, syncs: u64) {
        self.disk_fails = true;
        self.disk.fail_sync_after(syncs);
    }

    /// There is no room for another file.
    pub(crate) fn fill_disk(&mut self) {
        self.disk_fails = true;
        self.disk.set_room(Some(0));
    }

    pub(crate) fn disk_is_healthy(&self) -> bool {
        !self.disk_fails
    }

    pub(crate) fn mend_disk(&mut self) {
        self.disk_fails = false;
        self.disk.set_room(None);
        self.disk.fail_sync_after(u64::MAX);
    }

    /// Starts a process on what is on the disk.
    ///
    /// # Errors
    /// When the log does not open, which no fault of ours may bring about.
    pub(crate) fn start(
        &mut self,
        now: Moment,
        plan: &Plan,
        chance: &mut Seeded,
    ) -> Result<Started, String> {
        self.life += 1;
        if plan.memory {
            (self.store, self.identity) = (mint(chance), None);
            self.on_disk = OnDisk::default();
            let log: Box<dyn Log> = Box::new(MemoryLog::new());
            self.process = Some(self.run(now, plan, log, State::default(), Vec::new())?);
            return Ok(Started {
                rot: false,
                metas: None,
                entries: Vec::new(),
                applied: Version::ZERO,
            });
        }
        let options = DiskOptions { segment_bytes: plan.disk.segment_bytes, ..self.log_options() };
        let (mut log, report) =
            DiskLog::open(self.disk.files(), options).map_err(|why| why.to_string())?;
        let lost = std::mem::take(&mut self.state_lost);
        if lost {
            self.on_disk.synced = State::empty(log.meta().history);
        }
        let state = self.on_disk.synced.clone();
        let ops = reconcile(log.meta(), log.shape(), (state.history, state.applied), lost);
        if !ops.is_empty() {
            log.write(&ops).map_err(|why| why.to_string())?;
        }
        self.on_disk.sync(&state);
        let (shape, applied) = (log.shape(), state.applied);
        let started = Started {
            rot: report.rot.is_some(),
            metas: self.left.take().map(|left| (left, *log.meta())),
            entries: (shape.base().index.0 + 1..=shape.last().index.0)
                .filter_map(|index| shape.version_at(Index(index)))
                .collect(),
            applied,
        };
        let entries = read_all(&log, applied)?;
        self.process = Some(self.run(now, plan, Box::new(log), state, entries)?);
        Ok(started)
    }

    /// Who has a number has begun a log.
    fn log_options(&self) -> DiskOptions {
        DiskOptions { begun: self.identity.is_some(), ..DiskOptions::new(self.store) }
    }

    fn run(
        &self,
        now: Moment,
        plan: &Plan,
        log: Box<dyn Log>,
        mut state: State,
        entries: Vec<Entry>,
    ) -> Result<Process, String> {
        let (meta, on_disk) = (*log.meta(), state.applied);
        for entry in entries.iter().take_while(|it| it.version <= meta.durable_applied) {
            if entry.version.index != state.applied.index.next() {
                return Err(format!("{} does not follow {}", entry.version, state.applied));
            }
            state.apply(entry, plan.settings.dedup_window);
        }
        let found = Recovered {
            shape: log.shape().clone(),
            history: meta.history,
            promised: meta.promised,
            marked: meta.marked,
            applied: state.applied,
            durable_applied: meta.durable_applied.min(on_disk),
            remembered: meta.durable_applied,
            half_copied: state.newest > state.applied,
        };
        let seat = process::Seat {
            address: self.address(),
            store: self.store,
            durable: !plan.memory,
            identity: self.identity,
            process: ProcessId(u128::from(self.name) << 64 | u128::from(self.life)),
        };
        let is_ahead = state.applied > on_disk;
        let mut process = Process::new(self.clock.now(now), seat, plan, found, log, state, entries);
        // What was replayed is not on disk.
        (process.dirty, process.synced) = (is_ahead, on_disk);
        Ok(process)
    }

    /// The process is killed; the machine goes on. What the log was doing was done, or in part.
    pub(crate) fn kill(&mut self, chance: &mut Seeded) {
        self.finish_in_part(chance);
        self.disk.kill();
        self.crash_state(chance);
    }

    /// The power fails.
    pub(crate) fn cut_power(&mut self, chance: &mut Seeded) {
        self.finish_in_part(chance);
        self.disk.crash(chance);
        self.crash_state(chance);
    }

    /// Some of what was given to the log gets there, the last of it perhaps torn.
    fn finish_in_part(&mut self, chance: &mut Seeded) {
        self.frozen_until = None;
        let Some(mut process) = self.process.take() else { return };
        self.left = Some(*process.log.meta());
        if chance.percent(50) {
            self.disk.fail_power_after(chance.below(4));
            process.log_some(chance);
        }
    }

    fn crash_state(&mut self, chance: &mut Seeded) {
        if let Some(fed) = self.on_disk.fed.take()
            && chance.percent(50)
        {
            self.on_disk.synced = fed;
        }
    }

    /// The process ended by itself, in order or because it could not go on.
    pub(crate) fn ended(&mut self) {
        if let Some(process) = self.process.take() {
            self.left = Some(*process.log.meta());
        }
        self.disk.kill();
        self.on_disk.fed = None;
    }

    // Damage. Only to a stopped node.

    /// Everything on the disk is gone; what starts next is a new node.
    pub(crate) fn wipe(&mut self, chance: &mut Seeded) {
        self.disk = TornDisk::default();
        self.on_disk = OnDisk::default();
        (self.store, self.identity, self.left) = (mint(chance), None, None);
    }

    /// The state fails its checksums.
    pub(crate) fn lose_state(&mut self) {
        self.state_lost = true;
    }

    /// The state opens at an older point than it was at. `false`: there is none.
    pub(crate) fn age_state(&mut self) -> bool {
        let Some(older) = self.on_disk.older.take() else { return false };
        self.on_disk.synced = older;
        true
    }

    /// Flips a bit of the log, if that is damage that can be told from a torn end; now and then all
    /// of it is gone. What the log cannot notice by itself is outside what is promised (see
    /// `quorate_node::log`).
    pub(crate) fn flip_log(&mut self, chance: &mut Seeded) -> bool {
        let names: Vec<(String, usize)> = self
            .disk
            .contents()
            .into_iter()
            .filter(|(name, _)| name.starts_with("log-"))
            .map(|(name, bytes)| (name, written(&bytes)))
            .collect();
        if names.is_empty() {
            return false;
        }
        let (name, bytes) = chance.one_of(&names);
        let offset = usize::try_from(chance.below(bytes.max(1) as u64)).unwrap_or(0);
        let bits = 1 << chance.below(8);
        if offset % GONE_ONE_IN == 0 && self.identity.is_some() {
            return self.disk.contents().keys().all(|name| self.disk.take(name));
        }
        let before = self.last_of_log();
        if !self.disk.flip(&name, offset, bits) {
            return false;
        }
        let after = self.last_of_log();
        let noticed = after.as_ref().is_some_and(|(_, rot)| *rot);
        let harmless = matches!((&before, &after), (Some(a), Some(b)) if a == b);
        if !noticed && !harmless {
            let _ = self.disk.flip(&name, offset, bits);
            return false;
        }
        noticed
    }

    /// Where the log ends, what it promised, and whether damage is noticed in it.
    fn last_of_log(&self) -> Option<((Version, Meta), bool)> {
        let (look, report) = DiskLog::look(self.disk.files(), self.log_options()).ok()?;
        Some(((look.shape().last(), *look.meta()), report.rot.is_some()))
    }
}

/// How much of a segment was written: what follows is zeros.
fn written(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1)
}

fn read_all(log: &dyn Log, from: Version) -> Result<Vec<Entry>, String> {
    if from.index < log.shape().base().index {
        return Err(format!("the log begins at {}, the state ends at {from}", log.shape().base()));
    }
    let batch = log.read(from.index, usize::MAX).map_err(|why| why.to_string())?;
    let frames = decode_batch(from, &batch).map_err(|why| why.to_string())?;
    Ok(frames.into_iter().map(|frame| frame.entry).collect())
}

pub(crate) fn address(name: u32) -> String {
    format!("h{name}:1")
}

/// The machine that an address names.
pub(crate) fn host_of(address: &str) -> Option<u32> {
    address.strip_prefix('h')?.strip_suffix(":1")?.parse().ok()
}

fn mint(chance: &mut Seeded) -> StoreId {
    StoreId(u128::from(chance.next_u64()) << 64 | u128::from(chance.next_u64()))
}
