//! The limit: what a durable write by majority costs where nothing but the kernel and the disk work.
//!
//! One echo round trip over TCP (the client's), and then the slower of one fdatasync into a
//! preallocated file (the coordinator's) and one round trip to a peer that does such an fdatasync
//! before it answers. Sockets and files are blocking, and the peers are processes of their own.
//!
//! The limit leaves out that all of this happens on one machine at once. So the same is measured as a
//! whole besides: *the barest write*, by three processes that do nothing but what a durable write by
//! majority needs (`lead`). A member of theirs waits for its disk, and would answer nobody where that
//! hangs. So there is a third measurement, in which each member has a thread for its log, as a node
//! needs (`follow`).

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, poll};
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
    /// The barest write as a whole; results from before it was measured have none.
    #[serde(default)]
    pub(crate) bare_us: Option<f64>,
    /// The same with a thread for each log; likewise.
    #[serde(default)]
    pub(crate) threaded_us: Option<f64>,
}

impl Limit {
    pub(crate) fn total_us(&self) -> f64 {
        self.echo_us + self.fdatasync_us.max(self.peer_us)
    }
}

/// Measures each of the three for that long.
pub(crate) fn measure(ground: &Ground, round: u32, window: Duration) -> Result<Limit> {
    let dir = ground.empty("limit")?;
    let ports = free_ports(8)?;
    let this = std::env::current_exe()?;
    let mut peers = Processes::new(ground);
    let peer = |port: u16| vec!["peer".to_owned(), port.to_string()];
    peers.start(&this, &peer(ports[0]), &dir)?;
    let mut durable = peer(ports[1]);
    durable.push(dir.join("peer").display().to_string());
    peers.start(&this, &durable, &dir)?;
    for (trio, threads) in [(&ports[2..5], false), (&ports[5..8], true)] {
        for (port, members) in [(trio[0], &[][..]), (trio[1], &[]), (trio[2], &trio[..2])] {
            let mut args = peer(port);
            args.push(dir.join(format!("bare-{port}")).display().to_string());
            args.extend(members.iter().map(|member| format!("--member={member}")));
            args.extend(threads.then(|| "--log-thread".to_owned()));
            peers.start(&this, &args, &dir)?;
        }
    }

    let (mut echo, mut synced) = (dial(ports[0])?, dial(ports[1])?);
    let mut log = Log::create(&dir.join("own"))?;
    let echo = repeat(window, || exchange(&mut echo))?;
    let fdatasync = repeat(window, || log.append())?;
    let peer = repeat(window, || exchange(&mut synced))?;
    let (mut bare, mut threaded) = (dial(ports[4])?, dial(ports[7])?);
    let bare = repeat(window, || exchange(&mut bare))?;
    let threaded = repeat(window, || exchange(&mut threaded))?;
    let median = |taken: &Histogram<u64>| taken.value_at_quantile(0.5) as f64 / 1_000.0;
    let (echo_us, fdatasync_us, peer_us) = (median(&echo), median(&fdatasync), median(&peer));
    let (bare_us, threaded_us) = (Some(median(&bare)), Some(median(&threaded)));
    Ok(Limit { round, echo_us, fdatasync_us, peer_us, bare_us, threaded_us })
}

/// A peer: answers whatever comes, after it is durable where there is a file, and on two of three where
/// there are members. One connection, and it ends with it.
pub(crate) fn peer(
    port: u16,
    file: Option<PathBuf>,
    members: &[u16],
    log_thread: bool,
) -> Result<()> {
    let mut log = file.map(|path| Log::create(&path)).transpose()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let members: Vec<_> = members.iter().map(|port| dial(*port)).collect::<Result<_>>()?;
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    if let Some(log) = log.take_if(|_| log_thread || !members.is_empty()) {
        return match &members[..] {
            [one, other] => lead(stream, log, one.try_clone()?, other.try_clone()?),
            _ => follow(stream, log),
        };
    }
    let mut message = [0; VALUE_BYTES];
    while stream.read_exact(&mut message).is_ok() {
        if let Some(log) = &mut log {
            log.append()?;
        }
        stream.write_all(&message)?;
    }
    Ok(())
}

/// A thread that appends to a log whenever it is told to, and says when that is durable.
struct Logging {
    appends: mpsc::Sender<()>,
    appended: UnixStream,
    thread: JoinHandle<Result<()>>,
}

impl Logging {
    fn start(mut log: Log) -> Result<Self> {
        let (appended, mut synced) = UnixStream::pair()?;
        let (appends, wanted) = mpsc::channel();
        let thread = std::thread::spawn(move || -> Result<()> {
            for () in wanted {
                log.append()?;
                synced.write_all(&[1])?;
            }
            Ok(())
        });
        Ok(Self { appends, appended, thread })
    }

    fn append(&self) -> Result<()> {
        self.appends.send(()).context("the log failed")
    }

    fn end(self) -> Result<()> {
        drop(self.appends);
        self.thread.join().map_err(|_| anyhow::anyhow!("the log panicked"))?
    }
}

/// Which of these can be read, as soon as one can.
fn ready<const N: usize>(sockets: [&dyn AsFd; N]) -> Result<[bool; N]> {
    let mut waits = sockets.map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN));
    poll(&mut waits, None)?;
    Ok(waits.map(|wait| !wait.revents().is_empty()))
}

/// A member that could do other things while its disk works: it waits for both.
fn follow(mut leader: TcpStream, log: Log) -> Result<()> {
    let mut logging = Logging::start(log)?;
    let mut message = [0; VALUE_BYTES];
    loop {
        let [asked, appended] = ready([&leader, &logging.appended])?;
        if appended {
            logging.appended.read_exact(&mut [0])?;
            leader.write_all(&message)?;
        }
        if asked {
            if leader.read_exact(&mut message).is_err() {
                return logging.end();
            }
            logging.append()?;
        }
    }
}

/// The barest coordinator: gives what comes to two members and to a thread that syncs its own log, and
/// answers when two of the three are done. One write at a time.
fn lead(mut client: TcpStream, log: Log, one: TcpStream, other: TcpStream) -> Result<()> {
    let mut logging = Logging::start(log)?;
    let mut members = [one, other];
    let mut message = [0; VALUE_BYTES];
    let mut done = [0u64; 3];
    let mut writes = 0u64;
    while client.read_exact(&mut message).is_ok() {
        writes += 1;
        logging.append()?;
        for member in &mut members {
            member.write_all(&message)?;
        }
        while done.iter().filter(|done| **done >= writes).count() < 2 {
            let ready = ready([&members[0], &members[1], &logging.appended])?;
            if ready[2] {
                logging.appended.read_exact(&mut [0])?;
                done[2] += 1;
            }
            for at in [0, 1] {
                if ready[at] {
                    members[at].read_exact(&mut message)?;
                    done[at] += 1;
                }
            }
        }
        client.write_all(&message)?;
    }
    logging.end()
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
