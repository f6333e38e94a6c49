//! One request through all its attempts, to whoever coordinates.
//!
//! The rules, which are the client's half of design §4:
//!
//! * An attempt that could not be sent was certainly not applied. An attempt that was sent and has
//!   no answer may have been, for ever: from then on the request is `unanswered`.
//! * An attempt is never taken back. It runs on as a task of its own, up to its deadline, while
//!   the request tries elsewhere; if it brings an answer after all, that is taken.
//! * An attempt that takes long is not repeated at the same coordinator; the request looks whether
//!   another one was named meanwhile, and goes there. The exception is one whose *connection* is dead:
//!   a connection may have lost its other end without a word (a host that went away, a gateway that
//!   forgot), and would be silent for ever. So the coordinator is asked something that takes it
//!   nothing; where nothing at all comes back, the attempt is made again on a new connection.

use std::time::Duration;

use quorate_protocol::ids::{Epoch, NodeId};
use quorate_protocol::rpc::store::Refused;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::finder::{Finder, Target};
use crate::wire::{Fault, StoreLink};

/// An attempt unanswered for this long makes the finder look whether the coordinator changed, and
/// whether the connection to it is still one; and again after each further such time.
const PATIENCE: Duration = Duration::from_millis(150);

/// An answer within this of the deadline was made when it had come, as the other end counts.
const LATE: Duration = Duration::from_millis(5);

/// The most attempts of one request left behind and still looked after.
const LEFT_MAX: usize = 16;

/// What one reply means.
pub(crate) enum Verdict<T> {
    /// That is the answer.
    Done(T),
    /// This attempt was certainly not applied.
    Refused(Refused),
    /// This attempt may or may not be applied.
    Unknown,
    /// It cannot be told any more.
    Expired,
}

/// Why a request ended without an answer.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) end: End,
    /// At least one attempt was sent and never got a definite answer.
    pub(crate) unanswered: bool,
}

/// How a request ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Trying again would bring the same.
    Refused(Refused),
    /// It cannot be sent at all, for this reason.
    Unsendable(String),
    /// See [`Verdict::Expired`].
    Expired,
    /// The deadline came; this stood in the way last.
    Late(String),
}

/// A request to the coordinator. `send` makes one attempt; it is called once per attempt.
pub(crate) struct Drive<'a, Send> {
    pub(crate) finder: &'a Finder,
    pub(crate) deadline: Instant,
    /// Seeds the backoff.
    pub(crate) seed: u64,
    pub(crate) send: Send,
}

impl<Send, Attempt, T> Drive<'_, Send>
where
    Send: Fn(StoreLink) -> Attempt,
    Attempt: Future<Output = Result<Verdict<T>, Fault>> + std::marker::Send + 'static,
    T: std::marker::Send + 'static,
{
    /// Tries until there is an answer or the deadline comes. `sent_before` says whether the
    /// request may have been sent by somebody else already. The answer comes with the node that
    /// gave it.
    pub(crate) async fn run(self, sent_before: bool) -> Result<(NodeId, T), Failed> {
        let mut backoff = Backoff::new(self.seed);
        let mut newest = Epoch::default();
        let mut free_hop = true;
        let mut why = None;
        let mut left = Left { calls: Vec::new(), unanswered: sent_before };
        let end = loop {
            if let Some(answer) = left.harvest().await {
                return Ok(answer);
            }
            let Some(target) = self.finder.target(self.deadline).await else {
                break End::Late(why.unwrap_or_else(|| self.finder.why_none()));
            };
            if target.epoch > newest {
                newest = target.epoch;
                free_hop = true;
                backoff.reset();
            }
            let generation = target.generation;
            match self.attempt(&target, &mut left).await {
                Attempted::Reply(Verdict::Done(answer)) => return Ok((target.node, answer)),
                Attempted::Reply(Verdict::Expired) => break End::Expired,
                Attempted::Reply(Verdict::Unknown) => {
                    left.unanswered = true;
                    why = Some(format!("{} could not tell", target.node));
                    self.pause(&mut backoff, Some(generation)).await;
                }
                Attempted::Reply(Verdict::Refused(refused)) => {
                    let time_left = self.deadline.saturating_duration_since(Instant::now());
                    why = Some(match refused {
                        // Also what a coordinator says to what it finds too late.
                        Refused::NotServing if time_left <= LATE => {
                            let Target { node, address, .. } = &target;
                            format!("{node} at {address} did not get to it in the time given")
                        }
                        _ => refused.to_string(),
                    });
                    match refused {
                        Refused::NotCoordinator { hint } => {
                            match hint {
                                Some(hint) => self.finder.suggest(generation, hint),
                                None => self.finder.doubt(generation),
                            }
                            // One hint is followed at once; two nodes that point at each other
                            // are not run between.
                            if !std::mem::take(&mut free_hop) {
                                self.pause(&mut backoff, None).await;
                            }
                        }
                        Refused::NotServing | Refused::Busy | Refused::Damaged => {
                            self.finder.doubt(generation);
                            self.pause(&mut backoff, Some(generation)).await;
                        }
                        Refused::InvalidKey { .. }
                        | Refused::InvalidValue { .. }
                        | Refused::NoMajority { .. } => break End::Refused(refused),
                    }
                }
                Attempted::Fault(fault) => {
                    if let Some(why) = fault.unsendable() {
                        break End::Unsendable(why);
                    }
                    left.unanswered |= fault.perhaps_sent();
                    why = Some(fault.to_string());
                    self.finder.doubt(generation);
                    self.pause(&mut backoff, Some(generation)).await;
                }
                Attempted::Left => {
                    why = Some(format!("no answer from {} at {}", target.node, target.address));
                }
            }
            if Instant::now() >= self.deadline {
                break End::Late(why.unwrap_or_else(|| self.finder.why_none()));
            }
        };
        match left.harvest().await {
            Some(answer) => Ok(answer),
            None => Err(Failed { end, unanswered: left.unanswered || !left.calls.is_empty() }),
        }
    }

    /// One attempt. It is left behind when another coordinator is named, or when its connection was
    /// given up.
    async fn attempt(&self, target: &Target, left: &mut Left<T>) -> Attempted<T> {
        // A task of its own: whatever becomes of this request, the call is not cancelled. It ends
        // by itself, at the deadline at the latest.
        let link = self.finder.wire.store(&target.address);
        let silences = link.silences();
        let mut call = tokio::spawn((self.send)(link.clone()));
        loop {
            tokio::select! {
                answer = &mut call => return match answer {
                    Ok(Ok(verdict)) => Attempted::Reply(verdict),
                    Ok(Err(fault)) => Attempted::Fault(fault),
                    // The runtime is shutting down.
                    Err(_) => Attempted::Fault(Fault::Nonsense),
                },
                () = self.finder.changed(target.generation) => {
                    left.push(target.node, call);
                    return Attempted::Left;
                }
                () = tokio::time::sleep(PATIENCE) => {
                    if link.silences() != silences {
                        left.push(target.node, call);
                        return Attempted::Left;
                    }
                    self.finder.look();
                    self.finder.probe(&target.address);
                }
            }
        }
    }

    /// Waits a little, or until another target than that of `generation` is named.
    async fn pause(&self, backoff: &mut Backoff, generation: Option<u64>) {
        let wait = tokio::time::sleep(backoff.wait());
        match generation {
            None => wait.await,
            Some(generation) => tokio::select! {
                () = wait => {}
                () = self.finder.changed(generation) => {}
            },
        }
    }
}

/// An attempt under way.
type Call<T> = JoinHandle<Result<Verdict<T>, Fault>>;

/// What an attempt came to.
enum Attempted<T> {
    Reply(Verdict<T>),
    Fault(Fault),
    /// Still under way, elsewhere than where it should be.
    Left,
}

/// The attempts left behind.
struct Left<T> {
    /// At most [`LEFT_MAX`].
    calls: Vec<(NodeId, Call<T>)>,
    /// One was sent and ended without a definite answer.
    unanswered: bool,
}

impl<T> Left<T> {
    fn push(&mut self, node: NodeId, call: Call<T>) {
        if self.calls.len() >= LEFT_MAX {
            // It runs on; only its answer is not waited for any more.
            self.calls.remove(0);
            self.unanswered = true;
        }
        self.calls.push((node, call));
    }

    /// Looks at those that have ended: perhaps one brought the answer after all.
    async fn harvest(&mut self) -> Option<(NodeId, T)> {
        let mut at = 0;
        while let Some((_, call)) = self.calls.get(at) {
            if !call.is_finished() {
                at += 1;
                continue;
            }
            let (node, call) = self.calls.swap_remove(at);
            match call.await {
                Ok(Ok(Verdict::Done(answer))) => return Some((node, answer)),
                Ok(Ok(Verdict::Refused(_))) => {}
                Ok(Ok(Verdict::Unknown | Verdict::Expired)) | Err(_) => self.unanswered = true,
                Ok(Err(fault)) => self.unanswered |= fault.perhaps_sent(),
            }
        }
        None
    }
}
