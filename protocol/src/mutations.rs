//! The changes of one entry: nearly always one, which then needs no memory of its own.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::entry::{MUTATIONS_MAX, Mutation};

/// Changes that are made together, encoded as a list of at most [`MUTATIONS_MAX`].
#[derive(Clone, PartialEq, Eq)]
pub struct Mutations<M = Mutation>(Few<M>);

/// `Many` never has exactly one, so that equal lists are equal.
#[derive(Clone, PartialEq, Eq)]
enum Few<M> {
    One(M),
    Many(Vec<M>),
}

impl<M> Mutations<M> {
    /// What they take in memory besides themselves, their keys and values.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        match &self.0 {
            Few::One(_) => 0,
            Few::Many(many) => many.capacity() * size_of::<M>(),
        }
    }

    /// What `change` makes of each.
    pub(crate) fn map<N>(self, change: impl FnMut(M) -> N) -> Mutations<N> {
        let mut change = change;
        Mutations(match self.0 {
            Few::One(one) => Few::One(change(one)),
            Few::Many(many) => Few::Many(many.into_iter().map(change).collect()),
        })
    }
}

impl<M> Default for Mutations<M> {
    fn default() -> Self {
        Self(Few::Many(Vec::new()))
    }
}

impl<M> From<M> for Mutations<M> {
    fn from(one: M) -> Self {
        Self(Few::One(one))
    }
}

impl<M> From<Vec<M>> for Mutations<M> {
    fn from(mut many: Vec<M>) -> Self {
        match many.pop() {
            Some(one) if many.is_empty() => Self(Few::One(one)),
            Some(last) => {
                many.push(last);
                Self(Few::Many(many))
            }
            None => Self::default(),
        }
    }
}

impl<M> Deref for Mutations<M> {
    type Target = [M];

    fn deref(&self) -> &[M] {
        match &self.0 {
            Few::One(one) => std::slice::from_ref(one),
            Few::Many(many) => many,
        }
    }
}

impl<'a, M> IntoIterator for &'a Mutations<M> {
    type Item = &'a M;
    type IntoIter = std::slice::Iter<'a, M>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<M: fmt::Debug> fmt::Debug for Mutations<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl<M: Serialize> Serialize for Mutations<M> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self)
    }
}

impl<'de, M: Deserialize<'de>> Deserialize<'de> for Mutations<M> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(Listed(PhantomData))
    }
}

struct Listed<M>(PhantomData<M>);

impl<'de, M: Deserialize<'de>> Visitor<'de> for Listed<M> {
    type Value = Mutations<M>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MUTATIONS_MAX}")
    }

    /// The bound holds before memory is taken for the list.
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Mutations<M>, A::Error> {
        let claimed = list.size_hint().unwrap_or_default();
        if claimed > MUTATIONS_MAX {
            return Err(A::Error::invalid_length(claimed, &self));
        }
        if claimed == 1
            && let Some(one) = list.next_element::<M>()?
        {
            return Ok(one.into());
        }
        let mut many = Vec::with_capacity(claimed);
        while let Some(one) = list.next_element()? {
            if many.len() == MUTATIONS_MAX {
                return Err(A::Error::invalid_length(MUTATIONS_MAX + 1, &self));
            }
            many.push(one);
        }
        Ok(many.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_encoded_as_a_list() {
        for count in [0u8, 1, 2, 5] {
            let list: Vec<u8> = (0..count).collect();
            let mutations = Mutations::from(list.clone());
            assert_eq!(&mutations[..], &list[..]);
            assert_eq!(format!("{mutations:?}"), format!("{list:?}"));
            let bytes = postcard::to_stdvec(&list).unwrap();
            assert_eq!(postcard::to_stdvec(&mutations).unwrap(), bytes);
            assert_eq!(postcard::from_bytes::<Mutations<u8>>(&bytes), Ok(mutations));
        }
        assert_eq!(Mutations::from(7u8), Mutations::from(vec![7u8]));
    }

    #[test]
    fn one_more_than_the_bound_is_refused() {
        for (count, is_taken) in [(MUTATIONS_MAX, true), (MUTATIONS_MAX + 1, false)] {
            let bytes = postcard::to_stdvec(&vec![0u8; count]).unwrap();
            assert_eq!(postcard::from_bytes::<Mutations<u8>>(&bytes).is_ok(), is_taken);
        }
    }
}
