//! What happened before what: vector clocks, the stamps messages carry, and Chrome traces.
//!
//! Processes on different machines share no clock, so a log of each says little about the order
//! of things between them. A *vector clock* does: every process counts its own events, every
//! message carries what its sender had counted, and the receiver takes the higher of each count.
//! Of two events one then came before the other exactly when its counts are all lower or equal;
//! where neither is so, they were concurrent.
//!
//! The modules, in reading order:
//!
//! * [`clock`]: hosts, and the clocks with their partial order.
//! * [`stamp`]: what a message carries, bounded when it is decoded.
//! * [`level`]: how much an event matters.
//! * [`chrome`]: one trace file a process, for `chrome://tracing` or Perfetto.
//!
//! What is deliberately absent: this crate knows nothing of the store, its messages or its
//! processes. It writes no log of its own yet: the calls that prepare a send, take a receipt and
//! keep a log of both will stand between [`stamp`] and [`chrome`].
//!
//! ```
//! use quorate_traces::{Host, Stamp, VectorClock};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (alice, bob) = (Host::new("alice")?, Host::new("bob")?);
//! let (mut at_alice, mut at_bob) = (VectorClock::new(), VectorClock::new());
//!
//! // Alice sends; the message carries her clock.
//! at_alice.tick(&alice);
//! let stamp = Stamp::of(&alice, &at_alice)?;
//!
//! // Bob does something of his own: concurrent. Then he receives: later.
//! at_bob.tick(&bob);
//! assert_eq!(at_bob.partial_cmp(stamp.clock()), None);
//! at_bob.receive(&bob, stamp.clock());
//! assert!(at_bob > at_alice);
//! assert_eq!(at_bob.to_string(), r#"{"alice":1, "bob":2}"#);
//! # Ok(())
//! # }
//! ```

pub mod clock;
pub mod stamp;
pub mod level;
pub mod chrome;

pub use chrome::{ChromeTrace, TraceError};
pub use clock::{BadHost, Host, VectorClock};
pub use level::Level;
pub use stamp::{BadStamp, Stamp};
