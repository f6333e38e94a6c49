//! What the targets share: how hostile bytes are given the checksums that let them get further,
//! and how much memory they took.
//!
//! Every target has the same two aims. Nothing that comes from outside may panic or take memory
//! without bound; and what is taken must be what was meant: it is encoded again, decoded again, and
//! compared.
//!
//! * [`mend`]: right checksums around bytes that are otherwise left as they are.
//! * [`directory`]: a log's directory as an input.
//!
//! The seeds are written by `examples/seeds/`, with the encoders of the product.

pub mod directory;
pub mod mend;

/// Takes the first byte off an input: the targets choose by it.
#[must_use]
pub fn choose(data: &[u8]) -> Option<(u8, &[u8])> {
    data.split_first().map(|(choice, rest)| (*choice, rest))
}

/// Checks what postcard made of `from` by what it makes of it again.
///
/// postcard takes numbers that are longer than they need be, so `from` may be longer; anything
/// else that differs was misread.
///
/// # Panics
/// When it was misread.
pub fn check_again(from: &[u8], again: &[u8]) {
    assert!(again.len() <= from.len(), "longer than what it came from");
    if again.len() == from.len() {
        assert_eq!(again, from, "of the same length, and not the same");
    }
}
