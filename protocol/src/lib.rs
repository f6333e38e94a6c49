//! What the parts of Quorate say to each other, and the words they say it in.
//!
//! Ids, versions, views and entries are the nouns; [`rpc`] holds the calls; [`transport`] carries
//! them. Everything here is plain data and arithmetic, except the transport, which is the one
//! place that knows of sockets.
//!
//! The modules, in reading order:
//!
//! * [`ids`], [`version`], [`view`], [`quorum`]: who, when, and how many.
//! * [`record`], [`entry`]: what is kept, and the one encoding it is kept and sent in.
//! * [`exact`], [`list`]: decoding all of some bytes, and lists that have an end.
//! * [`settings`]: what an operator may change.
//! * [`time`], [`seeded`]: time and chance as numbers handed in, for the pure cores.
//! * [`mutant`]: deliberate bugs, for the simulator alone.
//! * [`rpc`]: the messages, by service.
//! * [`transport`]: hello, frames, codec, deadlines.
//!
//! What is deliberately absent: decisions. Who may do what, and when, is told in the cores of
//! `server`, `coordinator` and `node`.

pub mod ids;
pub mod version;
pub mod quorum;
pub mod view;
pub mod record;
pub mod entry;
pub mod exact;
pub mod list;
pub mod settings;
pub mod time;
pub mod seeded;
pub mod mutant;
pub mod mutations;
pub mod rpc;
pub mod transport;
