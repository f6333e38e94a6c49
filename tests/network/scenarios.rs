//! The claims. Each breaks something under the load, sees to it that the load goes on where it should,
//! and mends it; what must hold afterwards is the same for all and is looked at by [`Scene::end`].

use std::collections::BTreeSet;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use quorate_protocol::seeded::Seeded;
use rustix::process::Signal;

use crate::cluster::{Cluster, Files, HEALED_MAX, SERVER, hosts};
use crate::hosts::{Between, Host, Network};
use crate::lines;
use crate::load::{Figures, Load};
use crate::small_disk::SmallDisk;
use crate::sync_error::SyncError;

/// How many changes show that a cluster goes on.
pub(crate) const SOME: usize = 200;

/// A cluster under load, and what is to happen to it.
pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    pub(crate) load: Load,
    pub(crate) chance: Seeded,
    /// Processes killed with -9.
    pub(crate) kills: usize,
    /// A disk that must outlive the processes on it.
    disk: Option<SmallDisk>,
}

/// Why a machine does not allow a scenario.
pub(crate) type Skipped = String;

impl Scene {
    /// Three nodes and their clients, where the choices are those of `seed`.
    pub(crate) async fn set(between: Between, files: Files, seed: u64) -> Self {
        let network = Network::enter(&hosts(), between).unwrap();
        let cluster = Cluster::start(network, files, 3).await;
        let load = Load::start(&cluster, seed).await;
        load.goes_on(SOME).await;
        Self { cluster, load, chance: Seeded::new(seed), kills: 0, disk: None }
    }

    /// Everything is mended: waits until every node is a member and the load goes on; then every
    /// acknowledged change must be there, on every node, and all answers must have an order.
    pub(crate) async fn end(self) -> Figures {
        self.cluster.healed().await;
        self.load.goes_on(SOME).await;
        let (contents, figures) = self.load.finish(self.cluster.dir()).await;
        self.cluster.all_hold(&contents).await;
        self.cluster.end();
        figures
    }

    /// It is whole again, and goes on.
    pub(crate) async fn healed(&self) {
        self.cluster.healed().await;
        self.load.goes_on(SOME).await;
    }

    /// kill -9, and the same process again once the others go on.
    async fn kill_and_restart(&mut self, host: Host) {
        self.cluster.kill(host);
        self.kills += 1;
        self.load.goes_on(SOME).await;
        self.cluster.restart(host).await;
    }

    /// A follower, by chance.
    pub(crate) async fn follower(&mut self) -> Host {
        let followers = self.cluster.followers().await;
        *self.chance.pick(&followers).expect("there are two")
    }
}

pub(crate) async fn any_one_process_may_be_killed(scene: &mut Scene) -> Result<(), Skipped> {
    let coordinator = scene.cluster.coordinator().await;
    let follower = scene.follower().await;
    for host in [coordinator, follower, SERVER] {
        scene.kill_and_restart(host).await;
        scene.healed().await;
    }
    Ok(())
}

pub(crate) async fn all_processes_may_be_killed_at_once(scene: &mut Scene) -> Result<(), Skipped> {
    for _ in 0..2 {
        let all = scene.cluster.all();
        scene.cluster.kill_everything();
        scene.kills += all.len();
        for host in all {
            scene.cluster.restart(host).await;
        }
        scene.healed().await;
    }
    Ok(())
}

pub(crate) async fn any_one_process_may_stand_still(scene: &mut Scene) -> Result<(), Skipped> {
    stand_still(scene, 1_000, 4_000).await;
    Ok(())
}

pub(crate) async fn any_one_process_may_stand_still_for_long(
    scene: &mut Scene,
) -> Result<(), Skipped> {
    stand_still(scene, 5_000, 30_000).await;
    Ok(())
}

/// Stops coordinator, follower and server where they are, each for as long as `least_ms` to `most_ms`.
async fn stand_still(scene: &mut Scene, least_ms: u64, most_ms: u64) {
    let coordinator = scene.cluster.coordinator().await;
    let follower = scene.follower().await;
    for host in [coordinator, follower, SERVER] {
        let pause_ms = least_ms + scene.chance.below(most_ms - least_ms + 1);
        scene.cluster.process(host).pause().await;
        lasts(Duration::from_millis(pause_ms)).await;
        scene.load.goes_on(SOME).await;
        scene.cluster.process(host).signal(Signal::CONT);
        scene.healed().await;
    }
}

pub(crate) async fn a_line_may_be_cut_in_one_direction(scene: &mut Scene) -> Result<(), Skipped> {
    for n in 0..4 {
        let coordinator = scene.cluster.coordinator().await;
        let follower = scene.follower().await;
        let pairs = [
            (coordinator, follower),
            (follower, coordinator),
            (coordinator, SERVER),
            (SERVER, coordinator),
        ];
        let (from, to) = pairs[n];
        scene.cluster.network.cut(from, to);
        lasts(Duration::from_millis(1_000 + scene.chance.below(2_000))).await;
        scene.load.goes_on(SOME).await;
        scene.healed().await;
    }
    Ok(())
}

pub(crate) async fn a_line_may_be_cut_in_both_directions(scene: &mut Scene) -> Result<(), Skipped> {
    for n in 0..3 {
        let coordinator = scene.cluster.coordinator().await;
        let followers = scene.cluster.followers().await;
        let pairs =
            [(coordinator, followers[0]), (coordinator, SERVER), (followers[0], followers[1])];
        let (one, other) = pairs[n];
        scene.cluster.network.cut_both(one, other);
        lasts(Duration::from_millis(1_000 + scene.chance.below(2_000))).await;
        scene.load.goes_on(SOME).await;
        scene.healed().await;
    }
    Ok(())
}

pub(crate) async fn a_process_may_be_cut_off(scene: &mut Scene) -> Result<(), Skipped> {
    for n in 0..3 {
        let coordinator = scene.cluster.coordinator().await;
        let alone = [coordinator, scene.follower().await, SERVER][n];
        for other in scene.cluster.all().into_iter().filter(|other| *other != alone) {
            scene.cluster.network.cut_both(alone, other);
        }
        lasts(Duration::from_millis(1_000 + scene.chance.below(2_000))).await;
        scene.load.goes_on(SOME).await;
        scene.healed().await;
    }
    Ok(())
}

pub(crate) async fn nodes_may_be_restarted_one_after_the_other(
    scene: &mut Scene,
) -> Result<(), Skipped> {
    for host in scene.cluster.nodes() {
        scene.cluster.stop(host).await;
        scene.load.goes_on(SOME).await;
        scene.cluster.restart(host).await;
        scene.healed().await;
    }
    Ok(())
}

pub(crate) async fn the_server_may_be_away(scene: &mut Scene) -> Result<(), Skipped> {
    outage(scene, Duration::from_secs(5)).await;
    Ok(())
}

pub(crate) async fn the_server_may_be_away_for_a_minute(scene: &mut Scene) -> Result<(), Skipped> {
    outage(scene, Duration::from_secs(60)).await;
    Ok(())
}

async fn outage(scene: &mut Scene, length: Duration) {
    let view = scene.cluster.healed().await;
    scene.cluster.kill(SERVER);
    scene.kills += 1;
    let back = Instant::now() + length;
    while Instant::now() < back {
        scene.load.goes_on(SOME).await;
    }
    // Nobody can have been elected meanwhile. Once it is back, somebody may be: who reaches it before
    // the coordinator does reports that the coordinator has lost it (docs/protocol.md, section 5).
    scene.cluster.everyone_knows(&view).await;
    scene.cluster.restart(SERVER).await;
    scene.healed().await;
}

pub(crate) async fn a_disk_may_be_full(scene: &mut Scene) -> Result<(), Skipped> {
    // Room for the first file of a log, not for the second.
    let disk = SmallDisk::mount(28).ok_or("no small disk can be mounted")?;
    let host = scene.cluster.join_with(disk.path().join("node")).await;
    let disk = scene.disk.insert(disk);
    scene.cluster.healed().await;
    scene.load.value_bytes(128 << 10);
    let status = scene.cluster.ended(host).await;
    scene.load.value_bytes(64);
    let said = scene.cluster.last_words(host);
    assert!(status.code().is_some_and(|code| code > 0), "{host:?} ended with {status}: {said}");
    assert!(said.contains("No space left"), "{host:?} ended with {status}: {said}");
    scene.load.goes_on(SOME).await;
    disk.resize(400);
    scene.cluster.restart(host).await;
    scene.healed().await;
    Ok(())
}

pub(crate) async fn a_disk_may_fail_to_sync(scene: &mut Scene) -> Result<(), Skipped> {
    // The state is synced seldom, with a few calls each time.
    for (n, (call, often)) in [("fdatasync", 20), ("fsync", 3)].repeat(2).into_iter().enumerate() {
        let coordinator = scene.cluster.coordinator().await;
        let host = [coordinator, scene.follower().await][n / 2];
        let pid = scene.cluster.process(host).pid();
        let when = 1 + scene.chance.below(often);
        let _strace = SyncError::attach(pid, call, when).await?;
        let status = scene.cluster.ended(host).await;
        let said = scene.cluster.last_words(host);
        assert!(status.code().is_some_and(|code| code > 0), "{host:?} ended with {status}: {said}");
        scene.load.goes_on(SOME).await;
        scene.cluster.restart(host).await;
        scene.healed().await;
    }
    Ok(())
}

pub(crate) async fn a_bit_of_a_stopped_node_may_flip(scene: &mut Scene) -> Result<(), Skipped> {
    for _ in 0..4 {
        damage(scene, flip).await;
    }
    Ok(())
}

pub(crate) async fn a_file_of_a_stopped_node_may_be_cut_short(
    scene: &mut Scene,
) -> Result<(), Skipped> {
    for _ in 0..4 {
        damage(scene, cut_short).await;
    }
    Ok(())
}

/// Damages one file of a killed node. It comes back by itself.
async fn damage(scene: &mut Scene, how: fn(&Path, u64, &mut Seeded) -> String) {
    let host = *scene.chance.pick(&scene.cluster.nodes()).expect("there are three");
    scene.cluster.kill(host);
    scene.kills += 1;
    let dir = scene.cluster.data(host).join(["log", "state"][scene.chance.below(2) as usize]);
    let files = written(&dir);
    let (path, bytes) = scene.chance.pick(&files).expect("there are some");
    let done = how(path, *bytes, &mut scene.chance);
    eprintln!("  {done} of {}, of which {bytes} were written", path.display());
    scene.load.goes_on(SOME).await;
    scene.cluster.restart(host).await;
    scene.healed().await;
}

pub(crate) async fn a_line_may_be_slow(scene: &mut Scene) -> Result<(), Skipped> {
    let coordinator = scene.cluster.coordinator().await;
    let follower = scene.follower().await;
    for (host, rate) in [(follower, "64kbit"), (coordinator, "2mbit")] {
        scene.cluster.network.limit(host, rate)?;
        scene.load.value_bytes(1 << 10);
        scene.load.goes_on(2 * SOME).await;
        scene.load.value_bytes(64);
        scene.healed().await;
    }
    Ok(())
}

pub(crate) async fn processes_may_be_killed_again_and_again(
    scene: &mut Scene,
) -> Result<(), Skipped> {
    kill_again_and_again(scene, 40).await;
    Ok(())
}

pub(crate) async fn processes_may_be_killed_five_hundred_times(
    scene: &mut Scene,
) -> Result<(), Skipped> {
    kill_again_and_again(scene, 500).await;
    Ok(())
}

/// Kills while much is written and the files are small, so that logs go from file to file, states from
/// table to table, and who was away copies. No kill waits for the last one to be mended.
async fn kill_again_and_again(scene: &mut Scene, kills: usize) {
    let client = scene.cluster.client().await;
    // What a log may take depends on the largest values.
    let settings =
        [("value_bytes_max", "64KiB"), ("log_tail_bytes", "1MiB"), ("log_bytes_max", "64MiB")];
    for (name, value) in settings {
        client.set_setting(name, value, HEALED_MAX).await.unwrap();
    }
    scene.load.value_bytes(16 << 10);
    while scene.kills < kills {
        let all = scene.cluster.all();
        // One by chance most of the time; else two at once, or all.
        let victims = match scene.chance.below(10) {
            0 => all,
            1..3 => {
                let first = *scene.chance.pick(&all).expect("there are some");
                let others: Vec<_> = all.into_iter().filter(|host| *host != first).collect();
                vec![first, *scene.chance.pick(&others).expect("there are some")]
            }
            _ => vec![*scene.chance.pick(&all).expect("there are some")],
        };
        for host in &victims {
            scene.cluster.kill(*host);
        }
        scene.kills += victims.len();
        for host in victims {
            scene.cluster.restart(host).await;
        }
        let more = 1 + scene.chance.below(40);
        scene.load.goes_on(usize::try_from(more).unwrap()).await;
    }
    for host in scene.cluster.nodes() {
        let data = scene.cluster.data(host);
        let [segment, table] = ["log", "state"].map(|part| newest(&data.join(part)));
        eprintln!("  {host:?} came to segment {segment} and table {table}");
        assert!(segment >= 10 && table >= 5, "the files are not small");
    }
}

pub(crate) async fn everything_may_happen_at_once(scene: &mut Scene) -> Result<(), Skipped> {
    everything(scene).await;
    Ok(())
}

/// Five nodes, and one fault after the other by chance, whether the last is mended or not.
pub(crate) async fn everything(scene: &mut Scene) {
    const STEPS: usize = 40;
    // Behind the proxy, there are four kinds more.
    let kinds = if scene.cluster.network.has_proxy() { 12 } else { 8 };
    for _ in 0..2 {
        scene.cluster.join().await;
    }
    scene.cluster.healed().await;
    let mut still = BTreeSet::new();
    for _ in 0..STEPS {
        let all = scene.cluster.all();
        let host = *scene.chance.pick(&all).expect("there are some");
        let other = *scene.chance.pick(&all).expect("there are some");
        match scene.chance.below(kinds) {
            0 | 1 if scene.cluster.is_up(host) => {
                scene.cluster.kill(host);
                scene.kills += 1;
                still.remove(&host);
            }
            2 if scene.cluster.is_up(host) => {
                scene.cluster.process(host).pause().await;
                still.insert(host);
            }
            3 => move_on(&scene.cluster, &mut still),
            4 if host != other => scene.cluster.network.cut(host, other),
            5 => scene.cluster.network.heal(),
            kind @ 8.. => lines::disturb(scene, kind - 8).await,
            _ if !scene.cluster.is_up(host) => scene.cluster.restart(host).await,
            _ => {}
        }
        lasts(Duration::from_millis(scene.chance.below(600))).await;
    }
    move_on(&scene.cluster, &mut still);
    for host in scene.cluster.all() {
        if !scene.cluster.is_up(host) {
            scene.cluster.restart(host).await;
        }
    }
}

/// Whoever stands still continues.
fn move_on(cluster: &Cluster, still: &mut BTreeSet<Host>) {
    for host in std::mem::take(still) {
        cluster.process(host).signal(Signal::CONT);
    }
}

/// The length of a fault: nothing is waited for.
pub(crate) async fn lasts(length: Duration) {
    tokio::time::sleep(length).await;
}

/// Flips one bit of the `written` bytes of a file; says which.
fn flip(path: &Path, written: u64, chance: &mut Seeded) -> String {
    let (at, bit) = (chance.below(written), chance.below(8));
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
    file.sync_all().unwrap();
    format!("flipped bit {bit} of byte {at}")
}

/// Leaves some of the `written` bytes of a file; says how many.
fn cut_short(path: &Path, written: u64, chance: &mut Seeded) -> String {
    let left = chance.below(written);
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(left).unwrap();
    file.sync_all().unwrap();
    format!("left {left} bytes")
}

/// Every file in use below the `dir` of a stopped process, in order, with how much was written to it:
/// files of the log end in zeros.
fn written(dir: &Path) -> Vec<(PathBuf, u64)> {
    let with_length = |path: PathBuf| {
        let bytes = std::fs::read(&path).unwrap();
        bytes.iter().rposition(|byte| *byte != 0).map(|last| (path, last as u64 + 1))
    };
    files(dir).into_iter().filter_map(with_length).collect()
}

/// The highest number in the name of any file below `dir`: how many there were so far.
fn newest(dir: &Path) -> u64 {
    let numbers = files(dir).into_iter().filter_map(|path| {
        let name = path.file_stem()?.to_string_lossy().into_owned();
        name.trim_start_matches("log-").parse().ok()
    });
    numbers.max().unwrap_or_default()
}

/// The names of every file in use below `dir`, in order: one that was found damaged before lies beside
/// the others under another name. A process that runs removes and renames while they are listed, so that
/// a directory may be gone and a file be gone when the names are read.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        let entries = match std::fs::read_dir(&dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => entries.unwrap(),
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if !path.file_name().unwrap().to_string_lossy().starts_with("lost-") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
