//! Groups: what one `write` becomes on disk.
//!
//! ```text
//! magic "QGRP"          4
//! checksum u32          4   crc32c of everything behind it, to the end of the group
//! salt u64              8   the segment's
//! sequence u64          8   one higher than that of the group before
//! length of items u32   4
//! length of batches u32 4
//! items                     postcard, one for each op, in order
//! batches                   the frames of each append, verbatim, one behind the other
//! ```
//!
//! Numbers are little-endian. Items stand apart from batches so that a group is written from
//! where its parts are: items from one small buffer, each batch from the message it came in.

use bytes::Bytes;
use quorate_protocol::ids::History;
use quorate_protocol::version::{Promise, Version};
use serde::{Deserialize, Serialize};

use super::LogOp;

const MAGIC: [u8; 4] = *b"QGRP";
const HEADER_BYTES: usize = 32;

/// No group is longer: no call may write more at once.
pub const GROUP_BYTES_MAX: usize = 128 << 20;

/// An op as written; an append's batch stands elsewhere. The order of the variants is part of
/// the format.
#[derive(Serialize, Deserialize)]
enum Item {
    Promise(Promise),
    Append { prev: Version, last: Version, bytes: u32 },
    Rebase(Version),
    DurableApplied(Version),
    Mark(bool),
    History(History),
}

impl Item {
    fn of(op: &LogOp) -> Self {
        match op {
            LogOp::Promise(promise) => Self::Promise(*promise),
            LogOp::Append { prev, batch, last } => {
                let bytes = u32::try_from(batch.len()).expect("bounded by GROUP_BYTES_MAX");
                Self::Append { prev: *prev, last: *last, bytes }
            }
            LogOp::Rebase(base) => Self::Rebase(*base),
            LogOp::DurableApplied(applied) => Self::DurableApplied(*applied),
            LogOp::Mark(marked) => Self::Mark(*marked),
            LogOp::History(history) => Self::History(*history),
        }
    }
}

/// The batches of `ops`, in order.
pub(super) fn batches(ops: &[LogOp]) -> impl Iterator<Item = &Bytes> {
    ops.iter().filter_map(|op| match op {
        LogOp::Append { batch, .. } => Some(batch),
        _ => None,
    })
}

/// Puts everything but the batches into `head`, with a header to be sealed. Returns how long the
/// group is, batches included.
pub(super) fn lay_out(head: &mut Vec<u8>, ops: &[LogOp]) -> usize {
    let batches: usize = batches(ops).map(Bytes::len).sum();
    assert!(
        batches <= GROUP_BYTES_MAX,
        "a group of {batches} bytes; {GROUP_BYTES_MAX} is the most"
    );
    head.clear();
    head.resize(HEADER_BYTES, 0);
    for op in ops {
        postcard::to_io(&Item::of(op), &mut *head).expect("encoding into memory cannot fail");
    }
    let total = head.len() + batches;
    assert!(total <= GROUP_BYTES_MAX, "a group of {total} bytes; {GROUP_BYTES_MAX} is the most");
    let length = |bytes: usize| u32::try_from(bytes).expect("bounded above").to_le_bytes();
    let items = head.len() - HEADER_BYTES;
    head[24..28].copy_from_slice(&length(items));
    head[28..32].copy_from_slice(&length(batches));
    total
}

/// Completes the header that `lay_out` began.
pub(super) fn seal(head: &mut [u8], ops: &[LogOp], salt: u64, sequence: u64) {
    head[0..4].copy_from_slice(&MAGIC);
    head[8..16].copy_from_slice(&salt.to_le_bytes());
    head[16..24].copy_from_slice(&sequence.to_le_bytes());
    let items = crc32c::crc32c(&head[8..]);
    let checksum = batches(ops).fold(items, |sum, batch| crc32c::crc32c_append(sum, batch));
    head[4..8].copy_from_slice(&checksum.to_le_bytes());
}

/// The header of a group of this segment, whether or not the rest is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) sequence: u64,
    checksum: u32,
    items: u32,
    batches: u32,
}

impl Header {
    /// The header at the beginning of `bytes`, if there is one of this segment.
    pub(super) fn find(bytes: &[u8], salt: u64) -> Option<Self> {
        let header = bytes.first_chunk::<HEADER_BYTES>()?;
        if !header.starts_with(&MAGIC) || long(&header[8..]) != salt {
            return None;
        }
        Some(Self {
            sequence: long(&header[16..]),
            checksum: short(&header[4..]),
            items: short(&header[24..]),
            batches: short(&header[28..]),
        })
    }

    /// How long the group is.
    pub(super) fn group_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.items) + u64::from(self.batches)
    }

    /// Where the batches begin, counted from the group's beginning.
    pub(super) fn batches_at(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.items)
    }

    /// The group at the beginning of `bytes`, whose header this is, if it is whole.
    pub(super) fn whole<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let length = usize::try_from(self.group_bytes()).ok()?;
        let group = bytes.get(..length).filter(|group| group.len() <= GROUP_BYTES_MAX)?;
        (crc32c::crc32c(&group[8..]) == self.checksum).then_some(group)
    }

    /// The ops of a whole group. `None`: no log of this format wrote it.
    pub(super) fn ops(&self, group: &Bytes) -> Option<Vec<LogOp>> {
        let batches_at = usize::try_from(self.batches_at()).ok()?;
        let mut items = group.get(HEADER_BYTES..batches_at)?;
        let mut batches = group.slice(batches_at..);
        let mut ops = Vec::new();
        while !items.is_empty() {
            let (item, rest) = postcard::take_from_bytes(items).ok()?;
            items = rest;
            ops.push(match item {
                Item::Promise(promise) => LogOp::Promise(promise),
                Item::Append { prev, last, bytes } => {
                    let bytes = usize::try_from(bytes).ok().filter(|it| *it <= batches.len())?;
                    LogOp::Append { prev, batch: batches.split_to(bytes), last }
                }
                Item::Rebase(base) => LogOp::Rebase(base),
                Item::DurableApplied(applied) => LogOp::DurableApplied(applied),
                Item::Mark(marked) => LogOp::Mark(marked),
                Item::History(history) => LogOp::History(history),
            });
        }
        batches.is_empty().then_some(ops)
    }
}

/// Whether a whole group of this segment, with this sequence number or a higher one, begins
/// anywhere in `bytes`.
pub(super) fn any_within(bytes: &[u8], salt: u64, sequence: u64) -> bool {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == MAGIC[0]) {
        rest = &rest[at..];
        let whole = Header::find(rest, salt)
            .is_some_and(|header| header.sequence >= sequence && header.whole(rest).is_some());
        if whole {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

fn short(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(*bytes.first_chunk().expect("within a header"))
}

fn long(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(*bytes.first_chunk().expect("within a header"))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;
    use quorate_protocol::entry::Entry;
    use quorate_protocol::ids::{Epoch, NodeId};

    use super::*;

    const SALT: u64 = 77;

    fn ops() -> Vec<LogOp> {
        let batch = |index| {
            let mut batch = BytesMut::new();
            Entry::barrier(Version::new(3, index)).encode(&mut batch);
            batch.freeze()
        };
        vec![
            LogOp::Promise(Promise { epoch: Epoch(3), coordinator: NodeId(1) }),
            LogOp::Append { prev: Version::ZERO, batch: batch(1), last: Version::new(3, 1) },
            LogOp::DurableApplied(Version::new(3, 1)),
            LogOp::Append { prev: Version::new(3, 1), batch: batch(2), last: Version::new(3, 2) },
            LogOp::Append {
                prev: Version::new(3, 1),
                batch: Bytes::new(),
                last: Version::new(3, 1),
            },
            LogOp::Rebase(Version::new(2, 9)),
            LogOp::Mark(true),
            LogOp::History(History(4)),
        ]
    }

    fn group(sequence: u64) -> Vec<u8> {
        let (mut bytes, ops) = (Vec::new(), ops());
        let total = lay_out(&mut bytes, &ops);
        seal(&mut bytes, &ops, SALT, sequence);
        batches(&ops).for_each(|batch| bytes.extend_from_slice(batch));
        assert_eq!(bytes.len(), total);
        bytes
    }

    #[test]
    fn a_group_comes_back_as_it_was() {
        let mut bytes = group(5);
        let length = bytes.len();
        bytes.extend_from_slice(b"what is behind it");
        let header = Header::find(&bytes, SALT).unwrap();
        assert_eq!((header.sequence, header.group_bytes()), (5, length as u64));
        let whole = header.whole(&bytes).unwrap();
        assert_eq!(header.ops(&Bytes::copy_from_slice(whole)), Some(ops()));
        assert_eq!(Header::find(&bytes, SALT + 1), None);
    }

    #[test]
    fn a_group_is_found_at_any_byte() {
        let bytes = [&b"QQGRPQ"[..], &group(5), b"Q"].concat();
        assert!(any_within(&bytes, SALT, 5));
        assert!(!any_within(&bytes, SALT, 6), "an older group says nothing");
        assert!(!any_within(&bytes, SALT + 1, 5), "another segment's group says nothing");
        assert!(!any_within(&bytes[..bytes.len() - 2], SALT, 5));
        assert!(!any_within(&bytes[7..], SALT, 5));
    }

    proptest! {
        #[test]
        fn no_flip_goes_unnoticed(at in any::<prop::sample::Index>(), flip in 1u8..) {
            let mut bytes = group(5);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let header = Header::find(&bytes, SALT);
            prop_assert!(header.and_then(|header| header.whole(&bytes)).is_none());
        }

        #[test]
        fn garbage_never_panics(
            mut bytes in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            if bytes.len() >= HEADER_BYTES {
                bytes[0..4].copy_from_slice(&MAGIC);
                bytes[8..16].copy_from_slice(&SALT.to_le_bytes());
            }
            if let Some(header) = Header::find(&bytes, SALT) {
                let _ = header.whole(&bytes);
                let _ = header.ops(&Bytes::from(bytes));
            }
        }
    }
}
