//! What happened before what: vector clocks, the stamps messages carry, and Chrome traces.
//!
//! Processes on different machines share no clock, so a log of each says little about the order
//! of things between them. A *vector clock* does: every process counts its own events, every
//! message carries what its sender had counted, and the receiver takes the higher of each count.
//! Of two events one then came before the other exactly when its counts are all lower or equal;
//! where neither is so, they were concurrent.
//!
//! In every process a [`Recorder`] writes a log of sends, receipts and local events, and a
//! [`ChromeTrace`] writes spans.
//!
//! The modules, in reading order:
//!
//! * [`clock`]: hosts, and the clocks with their partial order.
//! * [`stamp`]: what a message carries, bounded when it is decoded.
//! * [`level`]: how much an event matters.
//! * [`record`]: the log of one process.
//! * [`chrome`]: the spans of one process.
//!
//! What is deliberately absent: this crate knows nothing of the store, its messages or its
//! processes, opens no socket, and has no clock but the system's.
//!
//! ```
//! use quorate_traces::{Identity, Level, Options, Recorder};
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
//! bob.flush();
//! let log = std::fs::read_to_string(bob.file())?;
//! assert!(log.contains(r#" bob.1 {"alice.1":2, "bob.1":3}"#));
//! # Ok(())
//! # }
//! ```

pub mod clock;
pub mod stamp;
pub mod level;
pub mod record;
pub mod chrome;

pub use chrome::{ChromeTrace, TraceError};
pub use clock::{BadHost, Host, VectorClock};
pub use level::Level;
pub use record::{Bounds, Fields, Identity, Options, Recorder};
pub use stamp::{BadStamp, Stamp};
