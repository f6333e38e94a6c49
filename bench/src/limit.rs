//! The limit: what a durable write by majority costs where nothing but the kernel and the disk work.
//!
//! One echo round trip over TCP (the client's), and then the slower of one fdatasync into a
//! preallocated file (the coordinator's) and one round trip to a peer that does such an fdatasync
//! before it answers. Sockets and files are blocking, and the peers are processes of their own.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::data::VALUE_BYTES;
use crate::ground::{Ground, free_ports};
use crate::load::histogram;
use crate::processes::Processes;

/// The file is this long, filled with zeroes, and written from the front again at its end.
const FILE_BYTES: u64 = 8 << 20;

/// How much one append writes: a value and what comes around it.
const RECORD_BYTES: usize = 512;

/// How long a peer may take to listen.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Medians, in microseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Limit {
    pub(crate) round: u32,
    pub(crate) echo_us: f64,
    pub(crate) fdatasync_us: f64,
    pub(crate) peer_us: f64,
}

impl Limit {
    pub(crate) fn total_us(&self) -> f64 {
        self.echo_us + self.fdatasync_us.max(self.peer_us)
    }
}

/// Measures each of the three for that long.
pub(crate) fn measure(ground: &Ground, round: u32, window: Duration) -> Result<Limit> {
    let dir = ground.empty("limit")?;
    let ports = free_ports(2)?;
    let this = std::env::current_exe()?;
    let mut peers = Processes::new(ground);
    let peer = |port: u16| vec!["peer".to_owned(), port.to_string()];
    peers.start(&this, &peer(ports[0]), &dir)?;
    let mut durable = peer(ports[1]);
    durable.push(dir.join("peer").display().to_string());
    peers.start(&this, &durable, &dir)?;

    let (mut echo, mut synced) = (dial(ports[0])?, dial(ports[1])?);
    let mut log = Log::create(&dir.join("own"))?;
    let echo = repeat(window, || exchange(&mut echo))?;
    let fdatasync = repeat(window, || log.append())?;
    let peer = repeat(window, || exchange(&mut synced))?;
    let median = |taken: &Histogram<u64>| taken.value_at_quantile(0.5) as f64 / 1_000.0;
    let (echo_us, fdatasync_us, peer_us) = (median(&echo), median(&fdatasync), median(&peer));
    Ok(Limit { round, echo_us, fdatasync_us, peer_us })
}

/// A peer: answers whatever comes, after it is durable where there is a file. One connection, and it
/// ends with it.
pub(crate) fn peer(port: u16, file: Option<PathBuf>) -> Result<()> {
    let mut log = file.map(|path| Log::create(&path)).transpose()?;
    let (mut stream, _) = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?.accept()?;
    stream.set_nodelay(true)?;
    let mut message = [0; VALUE_BYTES];
    while stream.read_exact(&mut message).is_ok() {
        if let Some(log) = &mut log {
            log.append()?;
        }
        stream.write_all(&message)?;
    }
    Ok(())
}

fn dial(port: u16) -> Result<TcpStream> {
    let began = Instant::now();
    loop {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) if began.elapsed() > START_PATIENCE => {
                return Err(error).context("a peer does not listen");
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn exchange(stream: &mut TcpStream) -> Result<()> {
    let mut message = [7; VALUE_BYTES];
    stream.write_all(&message)?;
    stream.read_exact(&mut message)?;
    Ok(())
}

fn repeat(window: Duration, mut once: impl FnMut() -> Result<()>) -> Result<Histogram<u64>> {
    let mut taken = histogram()?;
    let began = Instant::now();
    while began.elapsed() < window {
        let from = Instant::now();
        once()?;
        taken.saturating_record(u64::try_from(from.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(taken)
}

struct Log {
    file: File,
    at: u64,
}

impl Log {
    fn create(path: &Path) -> Result<Self> {
        let mut file = File::create(path)?;
        let zeroes = vec![0; 1 << 20];
        for _ in 0..FILE_BYTES >> 20 {
            file.write_all(&zeroes)?;
        }
        file.sync_all()?;
        Ok(Self { file, at: 0 })
    }

    fn append(&mut self) -> Result<()> {
        self.file.write_all_at(&[1; RECORD_BYTES], self.at)?;
        self.file.sync_data()?;
        self.at = (self.at + RECORD_BYTES as u64) % FILE_BYTES;
        Ok(())
    }
}
