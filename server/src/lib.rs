//! The server of Quorate: the registry that says who coordinates.
//!
//! One small process with a well-known address. Nodes register here and get a number; clients
//! ask here where to go; when a coordinator falls silent, its members say so here, and the server
//! appoints another. It never sees a key or a value, and reads and writes do not pass through it:
//! while it is away, everything goes on except changes of who coordinates and who counts.
//!
//! How it is laid out, in reading order:
//!
//! * [`core`]: every decision, as a pure state machine; start at its head.
//! * [`store`]: the one state file, checksummed and replaced whole, in a locked directory.
//! * [`mod@run`]: the shell around the core: one loop, sockets, and a thread for the disk.
//! * [`mod@abandon`]: the operator's way out when disks do not come back.
//!
//! What it does not do: it does not replicate itself. Its file is the cluster's root of trust, to
//! be backed up never and kept always: a server that comes back with an *older* file notices
//! by the first epoch it hears and never issued, and stops.

pub mod core;
pub mod store;
mod disk;
mod calls;
mod nodes;
pub mod run;
pub mod abandon;

pub use abandon::{Abandon, abandon, abandon_preview};
pub use run::{Config, Error, Server, run};
