//! Showing a trace: for Chrome and Perfetto, for ShiViz and TSViz, in words, and as the data of
//! a page.

mod clocks;
mod covering;
mod explain;
mod merge;
mod page;
mod shiviz;

pub use explain::{ELECTION_KINDS, Question, explain};
pub use merge::{Merged, merge};
pub use page::page;
pub use shiviz::{SHIVIZ_PARSER, shiviz};

#[cfg(test)]
mod tests;
