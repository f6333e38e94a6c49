//! Machines: their processes begin, do what they do now and then, and end.

use quorate_protocol::seeded::Seeded;
use quorate_protocol::time::{Millis, Moment};
use quorate_protocol::version::Version;

use super::{Due, Habits, TICK_MS, World};
use crate::chance::Chance;
use crate::check::Checks;
use crate::host::Host;
use crate::host::process::{Count, Out, Process};
use crate::message::{End, Party, Request, Response, Then};
use crate::server::ServerOut;

impl World {
    pub(crate) fn host(&mut self, host: u32) -> &mut Host {
        self.hosts.get_mut(&host).expect("hosts are never taken away")
    }

    pub(crate) fn start(&mut self, host: u32) {
        let Self { hosts, plan, chance, now, .. } = self;
        let it = hosts.get_mut(&host).expect("hosts are never taken away");
        if it.process.is_some() {
            return;
        }
        it.is_off = false;
        match it.start(*now, plan, chance) {
            Ok(started) => {
                let (life, address) = (it.life, it.address());
                if started.rot {
                    self.figures.count("rot found");
                }
                if let Some(node) = it.node() {
                    self.checks.durable.written(node, &started.entries);
                    self.checks.durable.copied(node, started.applied);
                }
                if let Some((left, found)) = &started.metas {
                    self.checks.promises.found(&address, left, found);
                }
                let now = self.now;
                self.checks.story.say(|| format!("{now} {address} starts"));
                self.figures.count("start");
                self.habits.insert(host, Habits::default());
                self.after_ms(1, Due::HostTick { host, life });
                self.with(host, |_, _, _, _| ());
            }
            Err(why) => self.does_not_start(host, &why),
        }
    }

    /// While its disk fails a node may fail to start as well; once that is over it must.
    pub(super) fn does_not_start(&mut self, host: u32, why: &str) {
        let it = self.host(host);
        if it.disk_is_healthy() {
            return self.trouble(format!("h{host} does not start: {why}"));
        }
        it.ended();
        it.mend_disk();
        self.figures.count("start failed");
        self.after_ms(50, Due::Start { host });
    }

    /// Ends a process without a word; it comes back later.
    pub(crate) fn kill(&mut self, host: u32, power: bool) -> bool {
        let Self { hosts, chance, .. } = self;
        let it = hosts.get_mut(&host).expect("hosts are never taken away");
        if it.process.is_none() {
            return false;
        }
        if power {
            it.cut_power(chance);
            it.is_off = true;
        } else {
            it.kill(chance);
        }
        let away = self.chance.between(1, self.plan.away_ms);
        self.after_ms(away, Due::Start { host });
        if !power {
            self.connections_close(End::Host(host));
        }
        true
    }

    pub(crate) fn stop_in_order(&mut self, host: u32) -> bool {
        let runs = self.hosts[&host].process.as_ref().is_some_and(|it| !it.is_stopping());
        if runs {
            self.with(host, |process, _, now, _| process.stop(now));
        }
        runs
    }

    /// A process ended by itself.
    pub(super) fn ended(&mut self, host: u32, why: &str) {
        let now = self.now;
        self.checks.story.say(|| format!("{now} h{host} ends: {why}"));
        let it = self.host(host);
        it.ended();
        it.mend_disk();
        let away = self.chance.between(1, self.plan.away_ms);
        self.after_ms(away, Due::Start { host });
        self.connections_close(End::Host(host));
    }

    pub(crate) fn start_server(&mut self) {
        if !self.server.is_up() {
            self.server.start(self.now, &mut self.chance);
            self.after_ms(1, Due::ServerTick { life: self.server.life });
        }
    }

    pub(crate) fn kill_server(&mut self, away_ms: u64) -> bool {
        if !self.server.is_up() {
            return false;
        }
        self.server.crash(&mut self.chance, &mut self.checks);
        self.after_ms(away_ms, Due::ServerStart);
        self.connections_close(End::Server);
        true
    }

    pub(super) fn host_tick(&mut self, host: u32, life: u64) {
        self.after_ms(TICK_MS, Due::HostTick { host, life });
        let now = self.now;
        let mut habits = self.habits.get(&host).copied().unwrap_or_default();
        let beats = now >= habits.beats_at;
        let keeps_up = now >= habits.keeps_up_at;
        if keeps_up {
            let pause = self.chance.between(20, self.plan.disk.state_sync_ms);
            habits.keeps_up_at = now + Millis(pause);
        }
        if beats && let Some(process) = &self.hosts[&host].process {
            habits.beats_at = now + process.heartbeat();
        }
        self.habits.insert(host, habits);
        self.with(host, |process, _, now, chance| {
            process.tick();
            if beats {
                process.beat();
            }
            if keeps_up {
                process.keep_up(now, chance);
            }
        });
        let it = self.host(host);
        let local = it.clock.now(now);
        if it.process.as_ref().is_some_and(|process| process.may_end(local)) {
            if let Some(state) = it.process.as_ref().map(|it| it.state().clone()) {
                it.on_disk().sync(&state);
            }
            self.ended(host, "stopped in order");
        }
    }

    /// Lets a process do something, and carries out what comes of it.
    pub(super) fn with(
        &mut self,
        host: u32,
        act: impl FnOnce(&mut Process, &mut Checks, Moment, &mut Seeded),
    ) {
        let Some(it) = self.hosts.get_mut(&host) else { return };
        let (now, life) = (it.clock.now(self.now), it.life);
        let Some(process) = &mut it.process else { return };
        act(process, &mut self.checks, now, &mut self.chance);
        let out = process.settle(now, &mut self.checks, &mut self.chance);
        let party = Party { end: End::Host(host), life };
        for out in out {
            self.carry_out(party, host, out);
        }
    }

    pub(super) fn carry_out(&mut self, party: Party, host: u32, out: Out) {
        match out {
            Out::Call { to, node, request, then, patience_ms } => {
                self.call_node(party, &to, node, request, then, patience_ms);
            }
            Out::Server { request, then, after_ms: 0 } => self.call_server(party, request, then),
            Out::Server { request, then, after_ms } => {
                self.after_ms(after_ms, Due::AskServer { party, request, then });
            }
            Out::Answer(call, response) => self.answer(party.end, call, response),
            Out::LogBusy => {
                let (low, high) = self.plan.disk.sync_us;
                let span = if self.healed { low } else { self.chance.between(low, high) };
                let it = &self.hosts[&host];
                let at = Moment(self.now.0 + span * it.slowness).max(it.stalled_until);
                self.at(at, Due::LogDone { host, life: party.life });
            }
            Out::Identify(cluster, node) => self.host(host).identify(cluster, node),
            Out::Fed { sync } => self.fed(host, party.life, sync),
            Out::Adopted => {
                let it = self.host(host);
                if let Some(state) = it.process.as_ref().map(|process| process.state().clone()) {
                    let applied = state.applied;
                    it.on_disk().sync(&state);
                    it.on_disk().older = None;
                    if let Some(node) = it.node() {
                        self.checks.durable.copied(node, applied);
                    }
                }
            }
            Out::CopyRests => {
                let rest = self.chance.between(1, 40);
                self.after_ms(rest, Due::CopyRested { host, life: party.life });
            }
            Out::Counted(count) => self.figures.count(name_of(count)),
            Out::Broken(why) => self.trouble(format!("h{host}: {why}")),
            Out::Died(why) => {
                if why.starts_with(crate::host::carry::REFUSED) {
                    self.trouble(format!("h{host}: {why}"));
                }
                self.figures.count("gave up");
                self.ended(host, &why);
            }
        }
    }

    /// The state's engine was given all there is, and syncs it or not.
    pub(super) fn fed(&mut self, host: u32, life: u64, sync: bool) {
        let it = self.host(host);
        let Some(state) = it.process.as_ref().map(|process| process.state().clone()) else {
            return;
        };
        let applied = state.applied;
        it.on_disk().fed = Some(state);
        if sync {
            let span = self.chance.between(1, 15);
            self.after_ms(span, Due::StateSynced { host, life, applied });
        }
    }

    pub(super) fn state_synced(&mut self, host: u32, applied: Version) {
        let it = self.host(host);
        if let Some(fed) = it.on_disk().fed.take_if(|fed| fed.applied == applied) {
            it.on_disk().sync(&fed);
            self.with(host, |process, _, _, _| {
                process.synced = applied;
                process.node_event(quorate_node::core::event::Event::DurableApplied(applied));
            });
        }
    }

    pub(super) fn carry_out_server(&mut self, out: Vec<ServerOut>) {
        use quorate_server::core::effect::Effect;
        let party = Party { end: End::Server, life: self.server.life };
        let patience_ms = self.plan.settings.suspect_after_ms.0;
        for out in out {
            self.checks.story.say(|| format!("    server -> {out:?}"));
            match out {
                ServerOut::Answer(call, answer) => {
                    self.answer(End::Server, call, Response::Registry(answer));
                }
                ServerOut::DiskBusy => {
                    let (low, high) = self.plan.disk.sync_us;
                    let span = if self.healed { low } else { self.chance.between(low, high) };
                    let at = Moment(self.now.0 + span);
                    self.at(at, Due::ServerDisk { life: party.life });
                }
                ServerOut::Stopped(why) => self.trouble(format!("the server stopped: {why}")),
                ServerOut::Effect(Effect::Survey { round, nodes }) => {
                    for (node, to) in nodes {
                        let then = Then::Surveyed(round, node);
                        self.call_node(party, &to, node, Request::Survey, then, patience_ms);
                    }
                }
                ServerOut::Effect(Effect::Appoint { node, address, appointment }) => {
                    let then = Then::Appointed(appointment.view.epoch);
                    let request = Request::Appoint(appointment);
                    self.call_node(party, &address, node, request, then, patience_ms);
                }
                ServerOut::Effect(Effect::Announce { nodes, announcement }) => {
                    for (node, to) in nodes {
                        let request = Request::Announce(announcement.clone());
                        self.call_node(party, &to, node, request, Then::Nothing, patience_ms);
                    }
                }
                ServerOut::Effect(_) => {}
            }
        }
    }
}

fn name_of(count: Count) -> &'static str {
    match count {
        Count::Serving => "serving",
        Count::SteppedDown => "stepped down",
        Count::Copy => "copy",
        Count::WholeCopy => "whole copy",
        Count::Repair => "repair",
        Count::Marked => "marked",
        Count::LogDropped => "log dropped",
        Count::Sweep => "sweep",
        Count::NoRoom => "no room",
    }
}
