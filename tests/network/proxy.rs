//! A proxy between all hosts, which has every connection late, lossy or half open as it is told.
//!
//! It stands in the hub and takes the connections to every address that is advertised; the processes
//! themselves listen at other addresses, which only the proxy dials (see [`hosts`](crate::hosts)). So
//! whoever calls whom, the proxy is in between, and knows both: the caller by where the connection
//! comes from, the other by the address that was called.
//!
//! A line has two directions, each with a [`Line`] of its own. What TCP would make of a bad network is
//! done to the bytes of a connection: pieces are late, a lost piece holds up all that follow until it
//! is sent again, after many losses in a row the connection is reset, and on a dead line everything
//! waits. A connection may also become *half open*, and stays so when its line is mended: see [`Fate`].

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use quorate_protocol::seeded::Seeded;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::hosts::{HIDDEN, HUB, Host};

/// Where everything listens.
pub(crate) const PORT: u16 = 4747;

/// A piece is at most this long: what a network may lose at once.
const PIECE_BYTES_MAX: usize = 16 << 10;

/// How many pieces are on their way in one direction of one connection. Then the sender waits.
const PIECES_MAX: usize = 128;

/// How long it takes until a lost piece is sent again, doubled with each loss in a row: as TCP has it.
const SENT_AGAIN_MS: u64 = 200;

/// A connection is reset when a piece was lost this often.
const LOSSES_MAX: u32 = 6;

/// How one direction of a line is. The default is a good one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Line {
    /// How late everything is,
    pub(crate) delay_ms: u64,
    /// and how much later at the most, by chance. The order stays.
    pub(crate) jitter_ms: u64,
    /// How many of a thousand pieces are lost.
    pub(crate) lost_per_mille: u64,
    /// How many of a thousand pieces have their connection reset at both ends, and are gone.
    pub(crate) reset_per_mille: u64,
    /// Nothing arrives any more, until it is mended.
    pub(crate) is_dead: bool,
}

/// What becomes of one connection, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// All is well.
    Carried,
    /// The end at this host was reset. The other end hears nothing of it, nor of anything else:
    /// whatever it sends goes nowhere.
    GoneAt(Host),
    /// Nothing that this host sends arrives any more, not even that it closed. It hears the other.
    Unheard(Host),
}

/// The proxy, on a thread of its own. Ends when dropped, and all connections with it.
#[derive(Debug)]
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What the proxy and the test know.
#[derive(Debug)]
struct Shared {
    lines: watch::Sender<BTreeMap<(Host, Host), Line>>,
    connections: Mutex<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    count: u64,
    open: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    caller: Host,
    called: Host,
    fate: watch::Sender<Fate>,
}

impl Proxy {
    /// Takes connections in this thread's network namespace.
    pub(crate) fn start() -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
        listener.set_nonblocking(true)?;
        let (lines, connections) = (watch::Sender::default(), Mutex::default());
        let shared = Arc::new(Shared { lines, connections });
        let (stop, stopped) = oneshot::channel();
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("proxy".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let tasks = tokio::task::LocalSet::new();
            tasks.block_on(&runtime.unwrap(), async {
                tokio::select! {
                    () = accept(TcpListener::from_std(listener).unwrap(), theirs) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { shared, stop: Some(stop), thread: Some(thread) })
    }

    /// How the direction from one host to another is from now on.
    pub(crate) fn set(&self, from: Host, to: Host, line: Line) {
        self.shared.lines.send_modify(|lines| {
            lines.insert((from, to), line);
        });
    }

    /// All lines are good again. What is half open stays so.
    pub(crate) fn heal(&self) {
        self.shared.lines.send_modify(BTreeMap::clear);
    }

    /// The end at `gone` of every connection between the two is reset, and the other end never
    /// hears of it. New connections are as good as ever. Says how many there were; those that were half
    /// open before stay as they are.
    pub(crate) fn lose_ends(&self, gone: Host, other: Host) -> usize {
        self.shared.decide(gone, other, Fate::GoneAt(gone))
    }

    /// Nothing that `from` says on any connection that is open now reaches `to` any more.
    pub(crate) fn silence(&self, from: Host, to: Host) -> usize {
        self.shared.decide(from, to, Fate::Unheard(from))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        let panicked = ended.is_some_and(|ended| ended.is_err());
        assert!(!panicked || std::thread::panicking(), "the proxy panicked");
    }
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().expect("nobody panics with it")
    }

    fn decide(&self, one: Host, other: Host, fate: Fate) -> usize {
        let connections = self.connections();
        let between = connections.open.values().filter(|open| {
            let ends = (open.caller, open.called);
            ends == (one, other) || ends == (other, one)
        });
        let whole: Vec<_> = between.filter(|open| *open.fate.borrow() == Fate::Carried).collect();
        whole.iter().for_each(|open| _ = open.fate.send_replace(fate));
        whole.len()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (near, peer) = listener.accept().await.expect("a proxy can accept");
        let Ok(called) = near.local_addr() else { continue };
        let (caller, called) = (caller_at(peer), called_at(called));
        let (fate, fates) = watch::channel(Fate::Carried);
        let mut connections = shared.connections();
        connections.count += 1;
        let number = connections.count;
        connections.open.insert(number, Open { caller, called, fate });
        drop(connections);
        let shared = Arc::clone(&shared);
        tokio::task::spawn_local(async move {
            carry(near, (caller, called), number, fates, &shared).await;
            shared.connections().open.remove(&number);
        });
    }
}

/// Carries one connection from its beginning to its end.
async fn carry(
    near: TcpStream,
    (caller, called): (Host, Host),
    number: u64,
    mut fates: watch::Receiver<Fate>,
    shared: &Shared,
) {
    let lane = |from, to, seed| Lane {
        ends: (from, to),
        lines: shared.lines.subscribe(),
        chance: Seeded::new(seed),
        due: Instant::now(),
        unheard: Rc::default(),
    };
    let mut there = lane(caller, called, 2 * number);
    let mut back = lane(called, caller, 2 * number + 1);
    // The call itself has to arrive, and its answer.
    for lane in [&mut there, &mut back] {
        if !lane.pass().await {
            return reset(near);
        }
    }
    let Ok(far) = TcpStream::connect((called.hidden_ip(), PORT)).await else {
        return reset(near);
    };
    if near.set_nodelay(true).is_err() || far.set_nodelay(true).is_err() {
        return;
    }
    let unheard = [(caller, Rc::clone(&there.unheard)), (called, Rc::clone(&back.unheard))];
    let end = {
        let (mut there, mut back) =
            (Box::pin(there.run(&near, &far)), Box::pin(back.run(&far, &near)));
        let (mut there_ended, mut back_ended) = (false, false);
        loop {
            tokio::select! {
                end = &mut there, if !there_ended => match end {
                    End::Closed => there_ended = true,
                    End::Broken => break *fates.borrow(),
                },
                end = &mut back, if !back_ended => match end {
                    End::Closed => back_ended = true,
                    End::Broken => break *fates.borrow(),
                },
                Ok(()) = fates.changed() => match *fates.borrow_and_update() {
                    Fate::Unheard(host) => {
                        unheard.iter().filter(|(end, _)| *end == host).for_each(|(_, is)| is.set(true));
                    }
                    fate => break fate,
                }
            }
            if there_ended && back_ended {
                return;
            }
        }
    };
    match end {
        Fate::Carried => {
            reset(near);
            reset(far);
        }
        Fate::GoneAt(gone) | Fate::Unheard(gone) => {
            let (gone, kept) = if gone == caller { (near, far) } else { (far, near) };
            reset(gone);
            swallow(kept).await;
        }
    }
}

/// How a direction of a connection ended.
enum End {
    /// The sender closed it, and the receiver was told.
    Closed,
    /// The sender is gone, and its line has carried that; or the network gave up.
    Broken,
}

/// What is on its way.
enum Piece {
    Bytes(Vec<u8>),
    /// The sender has said everything.
    Close,
    /// The sender is gone.
    Reset,
}

/// One direction of one connection.
struct Lane {
    ends: (Host, Host),
    lines: watch::Receiver<BTreeMap<(Host, Host), Line>>,
    chance: Seeded,
    /// When what was sent last arrives: nothing overtakes it.
    due: Instant,
    /// Nothing arrives any more, for good.
    unheard: Rc<Cell<bool>>,
}

impl Lane {
    fn line(&self) -> Line {
        self.lines.borrow().get(&self.ends).copied().unwrap_or_default()
    }

    /// When a piece that is sent now arrives; `None` where it ends the connection.
    fn send(&mut self) -> Option<Instant> {
        let line = self.line();
        if self.chance.below(1_000) < line.reset_per_mille {
            return None;
        }
        let mut late = line.delay_ms + self.chance.below(line.jitter_ms + 1);
        let mut losses = 0;
        while self.chance.below(1_000) < line.lost_per_mille {
            late += SENT_AGAIN_MS << losses;
            losses += 1;
            if losses == LOSSES_MAX {
                return None;
            }
        }
        self.due = self.due.max(Instant::now() + Duration::from_millis(late));
        Some(self.due)
    }

    /// Waits while the line is dead.
    async fn alive(lines: &mut watch::Receiver<BTreeMap<(Host, Host), Line>>, ends: (Host, Host)) {
        let is_alive =
            |lines: &BTreeMap<_, Line>| lines.get(&ends).is_none_or(|line| !line.is_dead);
        // An error is the end of the proxy.
        let _ = lines.wait_for(is_alive).await;
    }

    /// Has something without a length arrive. False where it does not.
    async fn pass(&mut self) -> bool {
        let Some(due) = self.send() else { return false };
        at(due).await;
        Self::alive(&mut self.lines, self.ends).await;
        true
    }

    /// Carries everything from one end to the other.
    async fn run(mut self, from: &TcpStream, to: &TcpStream) -> End {
        let (sent, arriving) = mpsc::channel(PIECES_MAX);
        let (lines, ends, unheard) = (self.lines.clone(), self.ends, Rc::clone(&self.unheard));
        let reading = async move {
            let mut room = vec![0; PIECE_BYTES_MAX];
            loop {
                let piece = match read(from, &mut room).await {
                    Ok(0) => Piece::Close,
                    Ok(read) => Piece::Bytes(room[..read].to_vec()),
                    Err(_) => Piece::Reset,
                };
                let is_last = !matches!(piece, Piece::Bytes(_));
                let Some(due) = self.send() else { return End::Broken };
                // The other half ends last.
                let _ = sent.send((due, piece)).await;
                if is_last {
                    return End::Closed;
                }
            }
        };
        let writing = deliver(to, arriving, lines, ends, unheard);
        let (mut reading, mut writing) = (std::pin::pin!(reading), std::pin::pin!(writing));
        tokio::select! {
            read = &mut reading => match read {
                End::Closed => writing.await,
                End::Broken => End::Broken,
            },
            written = &mut writing => written,
        }
    }
}

/// Hands over what arrives, when it is due.
async fn deliver(
    to: &TcpStream,
    mut arriving: mpsc::Receiver<(Instant, Piece)>,
    mut lines: watch::Receiver<BTreeMap<(Host, Host), Line>>,
    ends: (Host, Host),
    unheard: Rc<Cell<bool>>,
) -> End {
    // Nobody is there any more. The sender hears it on the other lane, as late as it is.
    let mut is_gone = false;
    while let Some((due, piece)) = arriving.recv().await {
        at(due).await;
        Lane::alive(&mut lines, ends).await;
        if unheard.get() {
            continue;
        }
        match piece {
            Piece::Bytes(bytes) => is_gone = is_gone || write(to, &bytes).await.is_err(),
            Piece::Close => {
                // It may be gone already.
                let _ = SockRef::from(to).shutdown(Shutdown::Write);
                return End::Closed;
            }
            Piece::Reset => return End::Broken,
        }
    }
    // The sender closed it and nobody was told.
    End::Broken
}

/// Waits until then; not at all where that has been: a timer takes a millisecond at least.
async fn at(due: Instant) {
    if due > Instant::now() {
        tokio::time::sleep_until(due).await;
    }
}

/// Reads on as long as there is somebody, and tells nobody.
async fn swallow(kept: TcpStream) {
    let mut room = vec![0; PIECE_BYTES_MAX];
    while read(&kept, &mut room).await.is_ok_and(|read| read > 0) {}
}

async fn read(from: &TcpStream, room: &mut [u8]) -> io::Result<usize> {
    loop {
        from.readable().await?;
        match from.try_read(room) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

async fn write(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Closes one end so that whoever is there is told at once that something broke.
fn reset(end: TcpStream) {
    // It may be gone already.
    let _ = SockRef::from(&end).set_linger(Some(Duration::ZERO));
    drop(end);
}

/// Who calls from there: a host from its hidden address, or a client in the hub.
fn caller_at(address: SocketAddr) -> Host {
    match address.ip() {
        IpAddr::V4(ip) if ip.octets()[..3] == HIDDEN => Host(ip.octets()[3]),
        _ => HUB,
    }
}

/// Whose advertised address this is.
fn called_at(address: SocketAddr) -> Host {
    match address.ip() {
        IpAddr::V4(ip) => Host(ip.octets()[3]),
        IpAddr::V6(_) => HUB,
    }
}
