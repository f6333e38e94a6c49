//! Seats: how many connections a process takes, and how many bytes of requests it holds for them,
//! over all of them together.
//!
//! A connection has a seat from its hello to its end. When all seats of clients are taken, the one
//! that was idle longest is given to the newcomer: whoever opens connections and leaves them lying
//! keeps nobody out. One with a call unanswered is never ended, and neither is a peer's.
//!
//! A seat holds the bytes of the requests that were handed out and not answered yet, and of a large
//! frame that is being read. When a service holds [`SERVICE_BYTES_MAX`], nothing is read for it any
//! more from connections that hold more than [`SHARE_BYTES`]: the greedy wait, the modest go on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Instant;

use super::hello::Service;

/// How many clients may be connected to one process at once. The next gets the place of the one
/// that was idle longest; where none is idle, it is told that the process is busy.
pub const CLIENT_CONNECTIONS_MAX: usize = 512;

/// How many connections from other processes of the cluster one process takes at once. Counted
/// apart, so that clients cannot shut the cluster's own out. The next is told that it is busy.
pub const PEER_CONNECTIONS_MAX: usize = 256;

/// When the requests of one service that are unanswered or being read come to this much, only
/// connections below their share are read from.
pub const SERVICE_BYTES_MAX: usize = 256 << 20;

/// What each connection may hold, however much the others do. Together with
/// [`SERVICE_BYTES_MAX`], and a frame of up to [`READ_CHUNK_BYTES`](super::connection::READ_CHUNK_BYTES)
/// each, all that the requests of one service can make a process hold.
pub const SHARE_BYTES: usize = 128 << 10;

/// The seats of the clients, or of the peers.
#[derive(Debug)]
pub(crate) struct Seats {
    seats_max: usize,
    /// Whether an idle connection is ended for a newcomer.
    ends_idle: bool,
    hall: Mutex<Hall>,
}

#[derive(Debug, Default)]
struct Hall {
    next: u64,
    taken: BTreeMap<u64, Taken>,
    /// By service, what its seats hold.
    held_bytes: BTreeMap<Service, usize>,
    /// Whether a seat may wait for bytes: else nobody is looked for at every answer.
    waits: bool,
}

#[derive(Debug)]
struct Taken {
    service: Service,
    /// Calls that were handed out and not answered.
    calls: usize,
    held_bytes: usize,
    /// When the last call was answered; at first, when the connection came.
    idle_since: Instant,
    /// Woken when the seat is lost, or, where it waits for that, when there are bytes again.
    waker: Option<Waker>,
    waits: bool,
}

impl Seats {
    pub(crate) fn of_clients() -> Arc<Self> {
        Self::new(CLIENT_CONNECTIONS_MAX, true)
    }

    pub(crate) fn of_peers() -> Arc<Self> {
        Self::new(PEER_CONNECTIONS_MAX, false)
    }

    pub(crate) fn new(seats_max: usize, ends_idle: bool) -> Arc<Self> {
        Arc::new(Self { seats_max, ends_idle, hall: Mutex::default() })
    }

    /// A seat for a connection to `service`; none where all are taken by others that may stay.
    pub(crate) fn take(self: &Arc<Self>, service: Service) -> Option<Seat> {
        let mut hall = self.hall();
        if hall.taken.len() >= self.seats_max {
            let idle = hall.taken.iter().filter(|(_, taken)| self.ends_idle && taken.calls == 0);
            let longest = idle.min_by_key(|(_, taken)| taken.idle_since).map(|(id, _)| *id)?;
            hall.leave(longest);
        }
        hall.next += 1;
        let id = hall.next;
        hall.taken.insert(
            id,
            Taken {
                service,
                calls: 0,
                held_bytes: 0,
                idle_since: Instant::now(),
                waker: None,
                waits: false,
            },
        );
        Some(Seat { seats: Arc::clone(self), id })
    }

    fn hall(&self) -> MutexGuard<'_, Hall> {
        // Nothing under this lock panics half-way.
        self.hall.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hall {
    fn leave(&mut self, id: u64) {
        let Some(mut left) = self.taken.remove(&id) else { return };
        if let Some(waker) = left.waker.take() {
            waker.wake();
        }
        self.release(left.service, left.held_bytes);
    }

    fn held(&self, service: Service) -> usize {
        self.held_bytes.get(&service).copied().unwrap_or_default()
    }

    /// Bytes are free again: whoever waits for some looks again.
    fn release(&mut self, service: Service, bytes: usize) {
        let held = self.held_bytes.entry(service).or_default();
        *held -= bytes;
        if bytes == 0 || *held >= SERVICE_BYTES_MAX || !self.waits {
            return;
        }
        self.waits = false;
        for waiting in self.taken.values_mut().filter(|it| it.waits) {
            if waiting.service != service {
                self.waits = true;
                continue;
            }
            waiting.waits = false;
            if let Some(waker) = waiting.waker.take() {
                waker.wake();
            }
        }
    }
}

/// One connection's seat. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Arc<Seats>,
    id: u64,
}

impl Seat {
    /// Whether the seat was given to somebody else. If not, the task is woken when it is.
    pub(crate) fn is_lost(&self, cx: &Context<'_>) -> bool {
        let mut hall = self.seats.hall();
        let Some(taken) = hall.taken.get_mut(&self.id) else { return true };
        taken.wake_by(cx);
        false
    }

    /// Whether so many bytes more may be held. If not, the task is woken when that may have
    /// changed.
    pub(crate) fn may_hold(&self, more_bytes: usize, cx: &Context<'_>) -> bool {
        let mut hall = self.seats.hall();
        let Some(taken) = hall.taken.get(&self.id) else { return true };
        let held_bytes = hall.held(taken.service);
        let may = taken.held_bytes + more_bytes <= SHARE_BYTES
            || held_bytes + more_bytes <= SERVICE_BYTES_MAX;
        if !may && let Some(taken) = hall.taken.get_mut(&self.id) {
            taken.waits = true;
            taken.wake_by(cx);
            hall.waits = true;
        }
        may
    }

    /// Holds bytes of a frame that is being read.
    pub(crate) fn hold(&self, bytes: usize) {
        self.change(|taken| taken.held_bytes += bytes);
    }

    /// Gives such bytes back.
    pub(crate) fn release(&self, bytes: usize) {
        self.change(|taken| taken.held_bytes -= bytes);
    }

    /// A request is handed out. True where one byte more may be held; else it is for
    /// [`may_hold`](Self::may_hold) to say when.
    pub(crate) fn begin_call(&self, bytes: usize) -> bool {
        self.change(|taken| {
            taken.calls += 1;
            taken.held_bytes += bytes;
        })
    }

    /// The answers to so many are here.
    pub(crate) fn end_calls(&self, calls: usize, bytes: usize, now: Instant) {
        self.change(|taken| {
            taken.calls -= calls;
            taken.held_bytes -= bytes;
            taken.idle_since = now;
        });
    }

    /// True where one byte more may be held than now.
    fn change(&self, change: impl FnOnce(&mut Taken)) -> bool {
        let mut hall = self.seats.hall();
        let Some(taken) = hall.taken.get_mut(&self.id) else { return true };
        let (service, before) = (taken.service, taken.held_bytes);
        change(taken);
        let after = taken.held_bytes;
        if after < before {
            hall.release(service, before - after);
            return true;
        }
        let held_bytes = hall.held_bytes.entry(service).or_default();
        *held_bytes += after - before;
        after < SHARE_BYTES || *held_bytes < SERVICE_BYTES_MAX
    }
}

impl Taken {
    fn wake_by(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.hall().leave(self.id);
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker_ref;

    use super::*;

    fn context() -> Context<'static> {
        Context::from_waker(noop_waker_ref())
    }

    #[test]
    fn the_one_idle_longest_makes_room_and_never_one_that_waits_for_an_answer() {
        let seats = Seats::new(3, true);
        let take = || seats.take(Service::Store);
        let (busy, idle, woken) = (take().unwrap(), take().unwrap(), take().unwrap());
        busy.begin_call(1);
        woken.begin_call(1);
        woken.end_calls(1, 1, Instant::now());
        let newcomer = take().unwrap();
        let lost = [&busy, &idle, &woken].map(|seat| seat.is_lost(&context()));
        assert_eq!(lost, [false, true, false]);
        // What a lost seat still does changes nothing.
        idle.begin_call(7);
        drop(idle);
        woken.begin_call(1);
        newcomer.begin_call(1);
        assert!(take().is_none(), "each waits for an answer");
        drop(woken);
        assert!(take().is_some());
    }

    #[test]
    fn peers_keep_their_seats() {
        let seats = Seats::new(1, false);
        let peer = seats.take(Service::Heartbeat).unwrap();
        assert!(seats.take(Service::Heartbeat).is_none());
        assert!(!peer.is_lost(&context()));
    }

    #[test]
    fn the_greedy_wait_and_the_modest_go_on() {
        let seats = Seats::new(9, true);
        let [greedy, modest] = [(); 2].map(|()| seats.take(Service::Store).unwrap());
        let other = seats.take(Service::Registry).unwrap();
        let cx = context();
        greedy.begin_call(SERVICE_BYTES_MAX);
        assert!(!greedy.may_hold(1, &cx));
        assert!(modest.may_hold(SHARE_BYTES, &cx) && !modest.may_hold(SHARE_BYTES + 1, &cx));
        assert!(other.may_hold(SHARE_BYTES + 1, &cx), "another service has bytes of its own");
        greedy.end_calls(1, SERVICE_BYTES_MAX, Instant::now());
        assert!(modest.may_hold(SHARE_BYTES + 1, &cx));
        // What a connection held goes with it.
        greedy.hold(SERVICE_BYTES_MAX);
        drop(greedy);
        assert!(modest.may_hold(SERVICE_BYTES_MAX, &cx));
    }
}
