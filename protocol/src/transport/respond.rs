//! The way back for answers: from whoever has one, on any thread, to the connection that waits for it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Instant;

use postcard::ser_flavors::Size;
use serde::Serialize;
use tarpc::ServerError;

use super::wire::unanswered;

/// When the answers of one connection that wait for their client come to this much, further ones
/// are dropped, and their requests are told that no answer will come. Requests are small and many
/// fit into one read, while the length of an answer shows when it is there: a client that asks for
/// thousands of large values and reads none would else make a process hold them all.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A queue that grew beyond so many answers gives its memory back when it is empty.
const QUEUE_KEPT: usize = 64;

/// The way back for one answer. May be kept for as long as the answer takes, and be given to
/// another thread. Dropped unused, it tells the client that no answer will come.
pub struct Responder<Resp> {
    id: u64,
    /// How long the request's frame was.
    bytes: usize,
    deadline: Instant,
    answers: Arc<Answers<Resp>>,
    is_used: bool,
}

/// An answer on its way from its responder to its connection.
#[derive(Debug)]
pub(super) struct Answer<Resp> {
    pub(super) id: u64,
    /// How long the request's frame was.
    pub(super) bytes: usize,
    /// How long the answer itself is.
    answer_bytes: usize,
    pub(super) message: Result<Resp, ServerError>,
}

/// The answers to one connection's requests that wait to be put out.
pub(super) struct Answers<Resp> {
    queue: Mutex<Queue<Resp>>,
}

struct Queue<Resp> {
    /// No more than there are unanswered requests.
    answers: VecDeque<Answer<Resp>>,
    /// What they come to on the wire: no more than [`ANSWER_BYTES_MAX`] but for a single one.
    bytes: usize,
    /// The connection, while it waits for an answer.
    waits: Option<Waker>,
    /// The connection is gone.
    is_closed: bool,
}

impl<Resp> Answers<Resp> {
    pub(super) fn new() -> Arc<Self> {
        let (answers, waits) = (VecDeque::new(), None);
        let queue = Queue { answers, bytes: 0, waits, is_closed: false };
        Arc::new(Self { queue: Mutex::new(queue) })
    }

    /// A responder for a request.
    pub(super) fn responder(
        self: &Arc<Self>,
        id: u64,
        bytes: usize,
        deadline: Instant,
    ) -> Responder<Resp> {
        Responder { id, bytes, deadline, answers: Arc::clone(self), is_used: false }
    }

    /// Takes the next answer. Where there is none, the task is woken when there is.
    pub(super) fn next(&self, cx: &Context<'_>) -> Option<Answer<Resp>> {
        let mut queue = self.queue();
        let next = queue.answers.pop_front();
        match &next {
            Some(answer) => {
                queue.bytes -= answer.answer_bytes;
                if queue.answers.is_empty() && queue.answers.capacity() > QUEUE_KEPT {
                    queue.answers = VecDeque::new();
                }
            }
            None if queue.waits.as_ref().is_some_and(|it| it.will_wake(cx.waker())) => {}
            None => queue.waits = Some(cx.waker().clone()),
        }
        next
    }

    /// Nobody takes any more: what is here and what comes is dropped.
    pub(super) fn close(&self) {
        let mut queue = self.queue();
        queue.is_closed = true;
        let left = (std::mem::take(&mut queue.answers), queue.waits.take());
        drop(queue);
        drop(left);
    }

    /// Puts an answer, unless too much waits; then it is given back.
    fn put(&self, answer: Answer<Resp>) -> Option<Answer<Resp>> {
        let mut queue = self.queue();
        let bytes = queue.bytes + answer.answer_bytes;
        if queue.is_closed
            || (queue.bytes > 0 && bytes > ANSWER_BYTES_MAX && answer.answer_bytes > 0)
        {
            return Some(answer);
        }
        queue.bytes = bytes;
        queue.answers.push_back(answer);
        let waits = queue.waits.take();
        drop(queue);
        if let Some(waits) = waits {
            waits.wake();
        }
        None
    }

    fn queue(&self) -> MutexGuard<'_, Queue<Resp>> {
        // Nothing under this lock panics half-way.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Resp: Serialize> Responder<Resp> {
    /// Answers the request. Where the client no longer waits, or leaves too many answers lying,
    /// nothing happens, or it is told that no answer will come.
    pub fn send(mut self, answer: Resp) {
        let answer_bytes = length(&answer);
        self.put(Ok(answer), answer_bytes);
    }
}

impl<Resp> Responder<Resp> {
    /// When the client stops waiting.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether it is worth while to make an answer that is long: less than half of
    /// [`ANSWER_BYTES_MAX`] waits. Where it is not, let go of the responder.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.answers.queue().bytes < ANSWER_BYTES_MAX / 2
    }

    /// Where there is no room, nothing is used, and the client is told when this is dropped.
    fn put(&mut self, message: Result<Resp, ServerError>, answer_bytes: usize) {
        let answer = Answer { id: self.id, bytes: self.bytes, answer_bytes, message };
        self.is_used = self.answers.put(answer).is_none();
    }
}

impl<Resp> Drop for Responder<Resp> {
    fn drop(&mut self) {
        if !self.is_used {
            self.put(Err(unanswered()), 0);
        }
    }
}

impl<Resp> fmt::Debug for Responder<Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder")
            .field("id", &self.id)
            .field("bytes", &self.bytes)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// How long an answer is on the wire; byte strings in it are counted, not looked at.
fn length(answer: &impl Serialize) -> usize {
    // What cannot be encoded is found out, and told, where it is.
    postcard::serialize_with_flavor(answer, Size::default()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn responders(answers: &Arc<Answers<u64>>, count: u64) -> Vec<Responder<u64>> {
        (0..count).map(|id| answers.responder(id, 1, Instant::now())).collect()
    }

    #[test]
    fn who_found_no_answer_is_woken_once_however_many_come() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let cx = Context::from_waker(&waker);
        let answers = Answers::new();
        for round in 1..4 {
            let mut responders = responders(&answers, 100);
            assert!(answers.next(&cx).is_none());
            drop(responders.pop());
            for responder in responders {
                responder.send(7);
            }
            assert_eq!(count.0.load(Ordering::Relaxed), round);
            let taken = std::iter::from_fn(|| answers.next(&cx));
            assert_eq!(taken.map(|answer| answer.message).filter(|it| *it == Ok(7)).count(), 99);
        }
    }

    #[test]
    fn a_queue_gives_its_memory_back_and_without_a_connection_takes_none() {
        let cx = Context::from_waker(Waker::noop());
        let answers = Answers::new();
        let late = responders(&answers, 10);
        for responder in responders(&answers, 100 * QUEUE_KEPT as u64) {
            responder.send(7);
        }
        assert_eq!(answers.queue().bytes, 100 * QUEUE_KEPT);
        while answers.next(&cx).is_some() {}
        assert_eq!(answers.queue().bytes, 0);
        assert!(answers.queue().answers.capacity() <= QUEUE_KEPT);

        responders(&answers, 1).pop().unwrap().send(7);
        answers.close();
        for responder in late {
            responder.send(7);
        }
        assert!(answers.next(&cx).is_none());
        assert_eq!(answers.queue().answers.capacity(), 0);
    }
}
