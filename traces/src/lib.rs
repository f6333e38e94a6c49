//! What happened before what: vector clocks, the stamps messages carry, and Chrome traces.
//!
//! Processes on different machines share no clock, so a log of each says little about the order
//! of things between them. A *vector clock* does: every process counts its own events, every
//! message carries what its sender had counted, and the receiver takes the higher of each count.
//! Of two events one then came before the other exactly when its counts are all lower or equal;
//! where neither is so, they were concurrent.
//!
//! The crate has two halves. *Recording*, in every process: a [`Recorder`] writes a log of sends,
//! receipts and local events, and a [`ChromeTrace`] writes spans. *Reading*, afterwards: a
//! [`Trace`] brings the logs of all processes together, mends what is torn, aligns the clocks of
//! the machines, and is printed for Chrome and Perfetto, for ShiViz and TSViz, in words, or as the
//! data of a page.
//!
//! The modules, in reading order:
//!
//! * [`clock`]: hosts, and the clocks with their partial order.
//! * [`stamp`]: what a message carries, bounded when it is decoded.
//! * [`level`]: how much an event matters.
//! * [`record`]: the log of one process.
//! * [`events`]: the events of `tracing`, in the log of one process.
//! * [`chrome`]: the spans of one process.
//! * [`read`]: the logs of all processes, as one trace.
//! * [`mod@print`]: the forms in which a trace is shown.
//! * [`view`]: the page that shows a trace as a space-time diagram.
//!
//! What is deliberately absent: this crate knows nothing of the store, its messages or its
//! processes, opens no socket, and has no clock but the system's.
//!
//! ```
//! use quorate_traces::print::{Question, explain};
//! use quorate_traces::{Identity, Level, Limits, Options, Recorder, Trace};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path();
//! // Two processes; each would have a recorder of its own.
//! let alice = Recorder::start(dir, "alice", Identity::default(), Options::default())?;
//! let bob = Recorder::start(dir, "bob", Identity::default(), Options::default())?;
//!
//! // Alice sends: the message carries the stamp, and leaves after the flush.
//! let stamp = alice.prepare_send(Level::Debug, "greet", |out| {
//!     out.field("to", bob.host()).field("key", "k").words("hello");
//! });
//! alice.flush();
//!
//! // Bob does something of his own: concurrent. Then he receives: later.
//! bob.local_event(Level::Info, "think", |out| {
//!     out.field("key", "k");
//! });
//! if let Some(stamp) = &stamp {
//!     bob.unpack_receive(stamp, Level::Debug, "greet", |_| ());
//! }
//! drop((alice, bob));
//!
//! // Afterwards, anywhere: what happened to the key.
//! let trace = Trace::load(&[dir.to_owned()], &Limits::default())?;
//! assert!(trace.findings().is_empty());
//! let mut story = Vec::new();
//! explain(&trace, &Question::Key("k".to_owned()), &mut story)?;
//! let story = String::from_utf8(story)?;
//! assert!(story.contains("alice.1 sent the message greet to bob.1"));
//! assert!(story.contains("concurrent with 1: neither knew of the other"));
//! # Ok(())
//! # }
//! ```

pub mod clock;
pub mod stamp;
pub mod level;
pub mod record;
pub mod events;
pub mod chrome;
pub mod read;
pub mod print;
pub mod view;

pub use chrome::{ChromeTrace, TraceError};
pub use clock::{BadHost, Host, VectorClock};
pub use events::EventLayer;
pub use level::Level;
pub use read::{Finding, Limits, LoadError, Trace};
pub use record::{Bounds, Fields, Identity, Options, Recorder};
pub use stamp::{BadStamp, Stamp};
