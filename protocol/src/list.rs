//! Lists that a peer sends, bounded where they are decoded.
//!
//! One byte of a frame may be one element, and an element in memory is up to a hundred times as
//! much: a frame says how much memory it takes only where its lists have an end. Each list of a
//! message names its own, which no honest sender comes near.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Decodes a list, and refuses one of more than `MAX` elements before it takes memory for it.
///
/// # Errors
/// When it is longer, or not one.
pub fn at_most<'de, D, T, const MAX: usize>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    from.deserialize_seq(Bounded::<T, MAX>(PhantomData))
}

struct Bounded<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Bounded<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let claimed = list.size_hint().unwrap_or_default();
        if claimed > MAX {
            return Err(A::Error::invalid_length(claimed, &self));
        }
        let mut elements = Vec::with_capacity(claimed);
        while let Some(element) = list.next_element()? {
            if elements.len() == MAX {
                return Err(A::Error::invalid_length(MAX + 1, &self));
            }
            elements.push(element);
        }
        Ok(elements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Three(#[serde(deserialize_with = "at_most::<_, _, 3>")] Vec<u8>);

    #[test]
    fn one_more_than_the_bound_is_refused() {
        assert_eq!(postcard::from_bytes::<Three>(&[3, 7, 8, 9]), Ok(Three(vec![7, 8, 9])));
        assert!(postcard::from_bytes::<Three>(&[4, 7, 8, 9, 9]).is_err());
        assert!(postcard::from_bytes::<Three>(&[3, 7, 8]).is_err(), "fewer than it says");
    }
}
