//! The claims about lines that are late, lose what they carry, or keep only one end of a connection:
//! those that take the proxy.

use std::time::{Duration, Instant};

use crate::ask;
use crate::cluster::{HEALED_MAX, SERVER};
use crate::hosts::{HUB, Host};
use crate::process::within;
use crate::proxy::Line;
use crate::scenarios::{SOME, Scene, Skipped, everything, lasts};

impl Scene {
    /// Every host, and the clients.
    fn everybody(&self) -> Vec<Host> {
        self.cluster.all().into_iter().chain([HUB]).collect()
    }

    /// Has these directions be so for one or two seconds under load.
    async fn endure(&mut self, directions: &[(Host, Host)], line: Line) {
        for (from, to) in directions {
            self.cluster.network.proxy().set(*from, *to, line);
        }
        lasts(Duration::from_millis(1_000 + self.chance.below(1_000))).await;
        self.load.goes_on(SOME).await;
        self.healed().await;
    }

    /// The directions to try one by one: between coordinator and follower, coordinator and server.
    async fn directions(&mut self) -> [(Host, Host); 4] {
        let (coordinator, follower) = (self.cluster.coordinator().await, self.follower().await);
        let pairs = [(coordinator, follower), (coordinator, SERVER)];
        [pairs[0], flipped(pairs[0]), pairs[1], flipped(pairs[1])]
    }

    /// Both directions between any two.
    fn all_directions(&self) -> Vec<(Host, Host)> {
        let everybody = self.everybody();
        let from_one = |from: &Host| {
            let from = *from;
            let others = everybody.iter().copied().filter(move |to| *to != from);
            others.map(move |to| (from, to)).collect::<Vec<_>>()
        };
        everybody.iter().flat_map(from_one).collect()
    }
}

fn flipped((one, other): (Host, Host)) -> (Host, Host) {
    (other, one)
}

pub(crate) async fn a_line_may_be_late(scene: &mut Scene) -> Result<(), Skipped> {
    the_proxy_does_as_it_is_told(scene).await;
    // The first is later than the silence after which somebody is suspected.
    for n in 0..4 {
        let (direction, delay_ms) = (scene.directions().await[n], [800, 100][n % 2]);
        let line = Line { delay_ms, jitter_ms: delay_ms / 2, ..Line::default() };
        scene.endure(&[direction], line).await;
    }
    let all = scene.all_directions();
    scene.endure(&all, Line { delay_ms: 10, jitter_ms: 20, ..Line::default() }).await;
    Ok(())
}

/// A fault that does nothing would prove nothing: each is looked at once from outside.
async fn the_proxy_does_as_it_is_told(scene: &Scene) {
    let (network, server) = (&scene.cluster.network, SERVER.address());
    let late = Duration::from_millis(300);
    let line = |line| network.proxy().set(HUB, SERVER, line);
    line(Line { delay_ms: 300, ..Line::default() });
    let begun = Instant::now();
    ask::server(&server).await.unwrap();
    assert!(begun.elapsed() >= late, "it answered after {:?}", begun.elapsed());
    line(Line { lost_per_mille: 1_000, ..Line::default() });
    ask::server(&server).await.unwrap_err();
    line(Line { reset_per_mille: 1_000, ..Line::default() });
    ask::server(&server).await.unwrap_err();
    network.cut(HUB, SERVER);
    ask::server(&server).await.unwrap_err();
    network.heal();
    network.cut(SERVER, HUB);
    ask::server(&server).await.unwrap_err();
    network.heal();
    ask::server(&server).await.unwrap();
}

pub(crate) async fn a_line_may_lose_what_it_carries(scene: &mut Scene) -> Result<(), Skipped> {
    let lossy = Line { lost_per_mille: 100, ..Line::default() };
    let breaking = Line { reset_per_mille: 20, ..Line::default() };
    for n in 0..4 {
        let direction = scene.directions().await[n];
        // Another one for each, seed after seed.
        let line = [lossy, breaking][scene.chance.below(2) as usize];
        scene.endure(&[direction], line).await;
    }
    let all = scene.all_directions();
    let poor = Line { lost_per_mille: 10, reset_per_mille: 2, jitter_ms: 5, ..Line::default() };
    scene.endure(&all, poor).await;
    Ok(())
}

pub(crate) async fn a_connection_may_be_half_open(scene: &mut Scene) -> Result<(), Skipped> {
    for n in 0..6 {
        let coordinator = scene.cluster.coordinator().await;
        let other = [scene.follower().await, SERVER, HUB][n / 2];
        let (one, other) = [(coordinator, other), (other, coordinator)][n % 2];
        let is_gone = scene.chance.below(2) == 0;
        let proxy = scene.cluster.network.proxy();
        let asked = Instant::now();
        // They may have none that is whole, where the last is half open and not yet replaced.
        let what = format!("{one:?} and {other:?} are connected");
        let connections = within(HEALED_MAX, &what, async || {
            match if is_gone { proxy.lose_ends(one, other) } else { proxy.silence(one, other) } {
                0 => Err("they are not".to_owned()),
                connections => Ok(connections),
            }
        });
        let connections = connections.await;
        let (waited, begun) = (asked.elapsed(), Instant::now());
        lasts(Duration::from_millis(500 + scene.chance.below(1_000))).await;
        scene.load.goes_on(SOME).await;
        // What is half open stays so meanwhile, until somebody notices.
        scene.healed().await;
        let (what, took) = (if is_gone { "gone" } else { "unheard" }, begun.elapsed());
        eprintln!(
            "  {one:?} {what} for {other:?}: {connections} connections after {waited:.1?}, whole \
             after {took:.1?}"
        );
    }
    Ok(())
}

pub(crate) async fn everything_may_happen_to_lines_at_once(
    scene: &mut Scene,
) -> Result<(), Skipped> {
    everything(scene).await;
    Ok(())
}

/// One of four kinds of faults, on a line between any two.
pub(crate) async fn disturb(scene: &mut Scene, kind: u64) {
    let everybody = scene.everybody();
    let one = *scene.chance.pick(&everybody).expect("there are some");
    let other = *scene.chance.pick(&everybody).expect("there are some");
    let (much, proxy) = (scene.chance.below(500), scene.cluster.network.proxy());
    match kind {
        0 => proxy.set(one, other, Line { delay_ms: much, jitter_ms: much, ..Line::default() }),
        1 => proxy.set(
            one,
            other,
            Line { lost_per_mille: much, reset_per_mille: much / 10, ..Line::default() },
        ),
        2 => drop(proxy.lose_ends(one, other)),
        _ => drop(proxy.silence(one, other)),
    }
}
