//! What goes wrong, and its end.
//!
//! Faults that only stop or delay things come at any time. Damage to what a node has on disk comes
//! one node at a time, when every node is a member and has what the last damage took from one:
//! a quorum store survives the loss of a minority's data, not of everybody's in turn.

use quorate_protocol::time::{Millis, Moment};

use crate::chance::Chance;
use crate::host::Host;
use crate::message::End;
use crate::world::{Due, World};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A process is killed, and started again later.
    Kill,
    /// A machine loses its power.
    Power,
    /// All machines lose their power at once, the server's included.
    PowerAll,
    /// All nodes are killed at once.
    KillAll,
    /// A process stands still for longer than every timeout.
    Pause,
    /// A machine's clock jumps forward.
    ClockJump,
    /// Nothing gets from one machine to another.
    CutOneWay,
    /// Nothing gets from one machine to another, nor back.
    CutTwoWay,
    /// A machine hears nobody, and nobody hears it.
    Isolate,
    /// Each node hears a majority, and no two the same one.
    Ring,
    /// The machines are in two camps.
    Split,
    /// A link holds back everything for a while, and then delivers it.
    Clog,
    /// A link's connections break in the middle of whatever they carry.
    Reset,
    /// A machine's network is slow.
    SlowLink,
    /// A disk is slow.
    SlowDisk,
    /// A disk stands still for a while.
    StallDisk,
    /// A sync fails: the process ends.
    FailSync,
    /// A disk is full for a while: the process ends, and cannot go on before there is room.
    FullDisk,
    /// A planned stop.
    Stop,
    /// The server is killed, and started again at once or later.
    ServerKill,
    /// The server is away for long.
    ServerOutage,
    /// The server hears some machines no more, nor they it.
    ServerCut,
    /// Another machine joins.
    Join,
    /// A bit of a stopped node's log flips.
    FlipLog,
    /// A record of a state cannot be read any more.
    DamageRecord,
    /// A stopped node's state fails its checksums as a whole.
    LoseState,
    /// A stopped node's state opens at an older point than it was at.
    AgeState,
    /// A node's disk is replaced by an empty one.
    Wipe,
    /// One node lags; then another loses the end of its log, and a third, which holds all that it
    /// lost, is away.
    Amnesia,
    /// Every cut and clog ends.
    Heal,
}

impl Fault {
    /// Every kind.
    pub(crate) const ALL: &'static [Self] = &[
        Self::Kill,
        Self::Power,
        Self::PowerAll,
        Self::KillAll,
        Self::Pause,
        Self::ClockJump,
        Self::CutOneWay,
        Self::CutTwoWay,
        Self::Isolate,
        Self::Ring,
        Self::Split,
        Self::Clog,
        Self::Reset,
        Self::SlowLink,
        Self::SlowDisk,
        Self::StallDisk,
        Self::FailSync,
        Self::FullDisk,
        Self::Stop,
        Self::ServerKill,
        Self::ServerOutage,
        Self::ServerCut,
        Self::Join,
        Self::FlipLog,
        Self::DamageRecord,
        Self::LoseState,
        Self::AgeState,
        Self::Wipe,
        Self::Amnesia,
        Self::Heal,
    ];

    /// Those that take away what a node promised to keep.
    pub(crate) const DAMAGE: &'static [Self] = &[
        Self::FlipLog,
        Self::DamageRecord,
        Self::LoseState,
        Self::AgeState,
        Self::Wipe,
        Self::Amnesia,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Power => "power",
            Self::PowerAll => "power-all",
            Self::KillAll => "kill-all",
            Self::Pause => "pause",
            Self::ClockJump => "clock-jump",
            Self::CutOneWay => "cut-one-way",
            Self::CutTwoWay => "cut",
            Self::Isolate => "isolate",
            Self::Ring => "ring",
            Self::Split => "split",
            Self::Clog => "clog",
            Self::Reset => "reset",
            Self::SlowLink => "slow-link",
            Self::SlowDisk => "slow-disk",
            Self::StallDisk => "stall-disk",
            Self::FailSync => "fail-sync",
            Self::FullDisk => "full-disk",
            Self::Stop => "stop",
            Self::ServerKill => "server-kill",
            Self::ServerOutage => "server-outage",
            Self::ServerCut => "server-cut",
            Self::Join => "join",
            Self::FlipLog => "flip-log",
            Self::DamageRecord => "damage-record",
            Self::LoseState => "lose-state",
            Self::AgeState => "age-state",
            Self::Wipe => "wipe",
            Self::Amnesia => "amnesia",
            Self::Heal => "heal",
        }
    }

    /// Whether it takes away what a node promised to keep.
    fn is_damage(self, memory: bool) -> bool {
        match self {
            _ if Self::DAMAGE.contains(&self) => true,
            // A memory node that ends has lost everything.
            Self::Kill | Self::Power | Self::Stop | Self::FailSync | Self::FullDisk => memory,
            _ => false,
        }
    }
}

impl World {
    /// One thing goes wrong, and the next is planned.
    pub(crate) fn fault(&mut self) {
        if self.healed {
            return;
        }
        let fault = {
            let faults = self.plan.faults.clone();
            self.chance.one_of(&faults)
        };
        let host = self.any_host();
        if self.is_allowed(fault, host) && self.strike(fault, host) {
            let now = self.now;
            self.checks.story.say(|| format!("{now} fault {} at h{host}", fault.name()));
            self.figures.fault(fault.name());
            if fault.is_damage(self.plan.memory) {
                self.damaged = Some(self.frontier());
                self.damages += 1;
            }
        }
        let gap = self.chance.between(1, self.plan.fault_gap_ms);
        self.after_ms(gap, Due::Fault);
    }

    fn any_host(&mut self) -> u32 {
        let hosts: Vec<u32> = self.hosts.keys().copied().collect();
        self.chance.one_of(&hosts)
    }

    fn is_allowed(&self, fault: Fault, host: u32) -> bool {
        let memory = self.plan.memory;
        match fault {
            Fault::PowerAll | Fault::KillAll => !memory,
            _ if memory && Fault::DAMAGE.contains(&fault) && fault != Fault::DamageRecord => false,
            _ => !fault.is_damage(memory) || self.may_damage(host),
        }
    }

    /// Whether the loss of one node's data can be survived now: all nodes are members, run, and
    /// hold what the last damage took.
    fn may_damage(&self, host: u32) -> bool {
        let Some(state) = self.server.state() else { return false };
        let Some(view) = &state.active else { return false };
        let settled = state.proposed.is_none() && state.directory.values().all(|it| !it.marked);
        let since = self.damaged.unwrap_or_default();
        let whole = self.hosts.values().all(|it| {
            it.process.as_ref().is_some_and(|process| {
                let node = process.node();
                node.node().is_some_and(|node| view.members.contains(node))
                    && node.is_registered()
                    && !node.replica().marked()
                    && !node.replica().is_copying()
                    && node.replica().durable_applied().index >= since.index
                    && !process.state().is_damaged()
                    && !process.is_stopping()
            })
        });
        settled && whole && view.members.len() >= 3 && self.hosts.contains_key(&host)
    }

    /// Carries a fault out. `false`: there was nothing to be done.
    fn strike(&mut self, fault: Fault, host: u32) -> bool {
        let end = End::Host(host);
        match fault {
            Fault::Kill => self.kill(host, false),
            Fault::Power => self.kill(host, true),
            Fault::PowerAll => {
                self.kill_server(0);
                self.hosts.keys().copied().collect::<Vec<_>>().into_iter().for_each(|host| {
                    self.kill(host, true);
                });
                true
            }
            Fault::KillAll => {
                self.hosts.keys().copied().collect::<Vec<_>>().into_iter().for_each(|host| {
                    self.kill(host, false);
                });
                true
            }
            Fault::Pause => self.pause(host),
            Fault::ClockJump => {
                let ms = self.chance.one_of(&[5, 300, 4_000]);
                self.host(host).clock.jump(ms);
                true
            }
            Fault::CutOneWay | Fault::CutTwoWay => {
                let other = End::Host(self.any_host());
                self.net.cut(end, other);
                if fault == Fault::CutTwoWay {
                    self.net.cut(other, end);
                }
                end != other
            }
            Fault::Isolate => {
                self.isolate(host);
                true
            }
            Fault::Ring => self.ring(),
            Fault::Split => self.split(),
            Fault::Clog => {
                let other = End::Host(self.any_host());
                let until = self.now + Millis(self.chance.between(20, 1_500));
                self.net.clog(end, other, until);
                true
            }
            Fault::Reset => {
                let ends = self.ends();
                let other = self.chance.one_of(&ends);
                self.reset(end, other);
                true
            }
            Fault::SlowLink => {
                let ms = self.chance.one_of(&[0, 20, 90]);
                self.net.slow(end, ms);
                true
            }
            Fault::SlowDisk | Fault::StallDisk | Fault::FailSync | Fault::FullDisk => {
                self.ail_disk(fault, host);
                true
            }
            Fault::Stop => self.stop_in_order(host),
            Fault::ServerKill => {
                let away = self.chance.one_of(&[0, 50, 700]);
                self.kill_server(away)
            }
            Fault::ServerOutage => self.kill_server(2_000),
            Fault::ServerCut => {
                for other in self.ends() {
                    if self.chance.percent(50) {
                        self.net.cut(End::Server, other);
                        self.net.cut(other, End::Server);
                    }
                }
                true
            }
            Fault::Join => self.join(),
            Fault::Heal => {
                self.net.heal();
                true
            }
            Fault::DamageRecord => self.damage_record(host),
            Fault::Amnesia => {
                self.isolate(host);
                let after = self.chance.between(30, 400);
                let damages = self.damages + 1;
                self.after_ms(after, Due::Amnesia { lags: host, damages });
                true
            }
            Fault::FlipLog | Fault::LoseState | Fault::AgeState | Fault::Wipe => {
                let power = self.chance.percent(50);
                self.kill(host, power) && self.damage_disk(fault, host)
            }
        }
    }

    /// A disk is slow, stands still, fails, or is full.
    fn ail_disk(&mut self, fault: Fault, host: u32) {
        match fault {
            Fault::SlowDisk => {
                self.host(host).slowness = self.chance.one_of(&[1, 8, 40]);
            }
            Fault::StallDisk => {
                let until = self.now + Millis(self.chance.between(100, 4_000));
                self.host(host).stalled_until = until;
            }
            Fault::FailSync => {
                let syncs = self.chance.below(3);
                self.host(host).fail_sync_after(syncs);
            }
            Fault::FullDisk => {
                self.host(host).fill_disk();
            }
            _ => {}
        }
    }

    fn isolate(&mut self, host: u32) {
        let end = End::Host(host);
        for other in self.ends() {
            self.net.cut(end, other);
            self.net.cut(other, end);
        }
    }

    /// While `lags` hears nothing, one of the others loses the end of its log, and another is away.
    pub(crate) fn amnesia(&mut self, lags: u32) {
        let others: Vec<u32> = self.hosts.keys().copied().filter(|host| *host != lags).collect();
        let loses = self.chance.one_of(&others);
        let away = self.chance.one_of(&others);
        if self.healed || loses == away || !self.holds_all(away) {
            return;
        }
        if self.kill(loses, true) && self.damage_disk(Fault::FlipLog, loses) {
            self.kill(away, true);
            self.net.heal();
            self.figures.count("amnesiac");
        }
    }

    /// Whether a machine's node runs, and is a member of the one view that there is.
    fn holds_all(&self, host: u32) -> bool {
        let node = self.hosts[&host].process.as_ref().and_then(|process| process.node().node());
        let Some(state) = self.server.state() else { return false };
        let view = state.active.as_ref().filter(|_| state.proposed.is_none());
        node.zip(view).is_some_and(|(node, view)| view.members.contains(node))
    }

    fn damage_disk(&mut self, fault: Fault, host: u32) -> bool {
        let Self { hosts, chance, .. } = self;
        let Some(it) = hosts.get_mut(&host) else { return false };
        match fault {
            Fault::FlipLog => it.flip_log(chance),
            Fault::LoseState => {
                it.lose_state();
                true
            }
            Fault::AgeState => it.age_state(),
            Fault::Wipe => {
                it.wipe(chance);
                true
            }
            _ => false,
        }
    }

    fn damage_record(&mut self, host: u32) -> bool {
        let key = crate::client::key(self.chance.below(self.plan.keys));
        let process = self.host(host).process.as_mut();
        process.is_some_and(|process| process.state_mut().damage(&key))
    }

    fn pause(&mut self, host: u32) -> bool {
        let until = self.now + Millis(self.chance.between(200, 5_000));
        let it = self.host(host);
        let runs = it.process.is_some() && it.frozen_until.is_none();
        if runs {
            it.frozen_until = Some(until);
        }
        runs
    }

    fn ends(&self) -> Vec<End> {
        self.hosts.keys().map(|host| End::Host(*host)).chain([End::Server]).collect()
    }

    /// Each host hears its neighbours only.
    fn ring(&mut self) -> bool {
        let hosts: Vec<u32> = self.hosts.keys().copied().collect();
        let reach = hosts.len() / 4 + 1;
        for (a, one) in hosts.iter().enumerate() {
            for (b, other) in hosts.iter().enumerate() {
                let apart = a.abs_diff(b).min(hosts.len() - a.abs_diff(b));
                if apart > reach {
                    self.net.cut(End::Host(*one), End::Host(*other));
                }
            }
        }
        hosts.len() > 3
    }

    fn split(&mut self) -> bool {
        let ends = self.ends();
        let side: Vec<bool> = ends.iter().map(|_| self.chance.percent(50)).collect();
        for (a, one) in ends.iter().enumerate() {
            for (b, other) in ends.iter().enumerate() {
                if side[a] != side[b] {
                    self.net.cut(*one, *other);
                }
            }
        }
        true
    }

    fn join(&mut self) -> bool {
        let next = self.hosts.keys().max().map_or(1, |host| host + 1);
        if self.hosts.len() as u32 >= self.plan.nodes_max {
            return false;
        }
        let host = Host::new(next, &self.plan, &mut self.chance);
        self.hosts.insert(next, host);
        self.after_ms(1, Due::Start { host: next });
        true
    }

    /// Everything that ails the world ends, but for what was lost.
    pub(crate) fn heal(&mut self) {
        self.healed = true;
        self.net.heal();
        self.net.calm();
        let now = self.now;
        self.checks.story.say(|| format!("{now} healed"));
        for host in self.hosts.values_mut() {
            host.slowness = 1;
            host.stalled_until = Moment(0);
            host.is_off = false;
            host.mend_disk();
        }
        for host in self.hosts.keys().copied().collect::<Vec<_>>() {
            self.host(host).frozen_until = None;
            self.start(host);
        }
        self.start_server();
    }
}
