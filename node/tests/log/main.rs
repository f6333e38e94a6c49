//! The log against a simple model: crashes at any byte, flipped bytes, failing disks, real files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod crash;
mod damage;
mod errors;
mod hostile;
mod memory;
mod model;
mod real;
