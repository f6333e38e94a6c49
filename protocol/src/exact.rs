//! Decoding all of some bytes, or nothing.
//!
//! `postcard::from_bytes` leaves what it does not need, in silence. What is kept under a checksum
//! has exactly the bytes that were written: more of them are another version's, or nobody's.

use serde::Deserialize;

/// What `bytes` encode; `None` where that is nothing, or some of them are left over.
#[must_use]
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((decoded, [])) => Some(decoded),
        Ok(_) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_more_or_less_is_nothing() {
        assert_eq!(decode::<(u8, bool)>(&[7, 1]), Some((7, true)));
        for wrong in [&[7, 1, 0][..], &[7], &[]] {
            assert_eq!(decode::<(u8, bool)>(wrong), None, "{wrong:?}");
        }
    }
}
