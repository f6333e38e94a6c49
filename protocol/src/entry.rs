//! Entries: client requests as ordered, and the bytes they are kept and sent as.
//!
//! A *frame* is one entry with its length and checksum. The coordinator encodes each entry once;
//! the same bytes go to every member and into every log, checked at each step. A *batch* is
//! frames one behind the other.
//!
//! ```text
//! frame:  length of body u32 LE | crc32c of body u32 LE | body (postcard of Entry)
//! ```

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::exact;
use crate::ids::{ClientId, Index, RequestNumber};
use crate::mutations::Mutations;
use crate::record::{Key, Value};
use crate::version::Version;

/// What stands before an entry's body.
pub const FRAME_HEADER_BYTES: usize = 8;

/// No entry's body is longer. A value of the largest size with its key fits.
pub const FRAME_BODY_BYTES_MAX: usize = 24 << 20;

/// No entry changes more keys.
pub const MUTATIONS_MAX: usize = 4_096;

/// What the entries of one batch may take in memory, besides their keys and values: those are no
/// longer than the batch. As much as 8 MiB of the smallest entries come to; a batch of a coordinator
/// is shorter, or it is one large entry.
pub const BATCH_MEMORY_MAX: usize = 128 << 20;

/// Names one request for ever, through any number of retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Token {
    /// The client that made the request.
    pub client: ClientId,
    /// The client's own count.
    pub request: RequestNumber,
    /// The newest committed index the client knew when it first sent the request. Once the
    /// dedup window has moved past it, a token that is not found gets `Expired`, never a second
    /// execution (design §4).
    pub born: Index,
}

impl Token {
    /// The part that identifies the request; `born` only dates it.
    #[must_use]
    pub fn id(&self) -> TokenId {
        TokenId { client: self.client, request: self.request }
    }
}

/// Short: the client's own eight digits are enough to tell it from the others of a trace.
impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}.{}", (self.client.0 >> 96) as u32, self.request.0)
    }
}

/// What the dedup table is keyed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenId {
    /// The client that made the request.
    pub client: ClientId,
    /// The client's own count.
    pub request: RequestNumber,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mutation {
    /// The key now holds this value.
    Put {
        /// The key.
        key: Key,
        /// Its new value.
        value: Value,
        /// When the record is due to be deleted, in milliseconds since 1970. Nothing sets it yet.
        expires: Option<u64>,
    },
    /// The key now holds nothing.
    Delete {
        /// The key.
        key: Key,
    },
}

impl Mutation {
    /// The key it changes.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// What the client is told once the entry is committed. Fixed when the entry is ordered, so
/// that a retry gets the first answer, also from the next coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The first entry of an epoch; nobody asked for it.
    Barrier,
    /// The value was written.
    Written,
    /// The key was there and is now deleted.
    Deleted,
    /// The key to delete was not there (S002-45).
    Missing,
    /// Copies that differed without a majority were deleted (`divergence = delete`).
    Cleared,
}

/// One request as ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place.
    pub version: Version,
    /// The request it came from; a barrier has none.
    pub token: Option<Token>,
    /// What it came to.
    pub mutations: Mutations,
    /// What the client is told.
    pub answer: Answer,
}

impl Entry {
    /// The first entry of an epoch.
    #[must_use]
    pub fn barrier(version: Version) -> Self {
        Self { version, token: None, mutations: Mutations::default(), answer: Answer::Barrier }
    }

    /// Appends this entry's frame to a batch.
    ///
    /// # Panics
    /// When the entry is longer than [`FRAME_BODY_BYTES_MAX`]: sizes are checked before ordering.
    pub fn encode(&self, batch: &mut BytesMut) {
        let start = batch.len();
        batch.put_bytes(0, FRAME_HEADER_BYTES);
        let mut body = batch.split_off(start + FRAME_HEADER_BYTES).writer();
        postcard::to_io(self, &mut body).expect("encoding into memory cannot fail");
        let body = body.into_inner();
        assert!(body.len() <= FRAME_BODY_BYTES_MAX, "sizes are checked before ordering");
        let length = u32::try_from(body.len()).expect("bounded above");
        batch[start..start + 4].copy_from_slice(&length.to_le_bytes());
        batch[start + 4..start + 8].copy_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        batch.unsplit(body);
    }
}

/// What is wrong with a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBatch {
    /// The bytes end within a frame.
    #[error("the batch ends within a frame, at byte {at}")]
    Torn {
        /// Where the frame begins.
        at: usize,
    },
    /// A frame claims a length over the bound.
    #[error("a frame of {length} bytes at byte {at}; {max} is the most", max = FRAME_BODY_BYTES_MAX)]
    TooLong {
        /// Where the frame begins.
        at: usize,
        /// What it claims.
        length: usize,
    },
    /// A frame's checksum or encoding is wrong.
    #[error("a damaged frame at byte {at}")]
    Damaged {
        /// Where the frame begins.
        at: usize,
    },
    /// An entry does not follow the one before it.
    #[error("entry {found} cannot follow {before}")]
    OutOfOrder {
        /// The version before.
        before: Version,
        /// The version found.
        found: Version,
    },
    /// More entries than a batch has.
    #[error("the entries up to byte {at} take more than {BATCH_MEMORY_MAX} bytes of memory")]
    TooMany {
        /// Where the frame ends that is one too many.
        at: usize,
    },
}

/// One frame of a batch, checked and decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The entry.
    pub entry: Entry,
    /// Where its frame begins in the batch.
    pub start: usize,
    /// Where its frame ends in the batch.
    pub end: usize,
}

/// Reads the frames of a batch one after the other, checking each.
///
/// Keys and values are parts of the batch, and keep all of it in memory: whoever keeps one for long
/// keeps a copy.
#[derive(Clone, Debug)]
pub struct Frames {
    batch: Bytes,
    at: usize,
}

impl Frames {
    /// The frames of `batch`.
    #[must_use]
    pub fn new(batch: Bytes) -> Self {
        Self { batch, at: 0 }
    }

    /// The next frame; `None` at the end of the batch.
    fn read(&mut self) -> Result<Option<Frame>, BadBatch> {
        let at = self.at;
        let left = &self.batch[at..];
        if left.is_empty() {
            return Ok(None);
        }
        let Some((header, _)) = left.split_first_chunk::<FRAME_HEADER_BYTES>() else {
            return Err(BadBatch::Torn { at });
        };
        let (length, checksum) = split_header(*header);
        if length > FRAME_BODY_BYTES_MAX {
            return Err(BadBatch::TooLong { at, length });
        }
        let (start, end) = (at + FRAME_HEADER_BYTES, at + FRAME_HEADER_BYTES + length);
        if end > self.batch.len() {
            return Err(BadBatch::Torn { at });
        }
        let body = &self.batch[start..end];
        if crc32c::crc32c(body) != checksum {
            return Err(BadBatch::Damaged { at });
        }
        let entry: EntryIn<'_> = exact::decode(body).ok_or(BadBatch::Damaged { at })?;
        let entry = entry.part_of(&self.batch);
        self.at = end;
        Ok(Some(Frame { entry, start: at, end }))
    }
}

/// An entry as it stands in its bytes. As [`Entry`], field by field.
#[derive(Deserialize)]
struct EntryIn<'a> {
    version: Version,
    token: Option<Token>,
    #[serde(borrow)]
    mutations: Mutations<MutationIn<'a>>,
    answer: Answer,
}

/// As [`Mutation`], field by field.
#[derive(Deserialize)]
enum MutationIn<'a> {
    Put { key: &'a [u8], value: &'a [u8], expires: Option<u64> },
    Delete { key: &'a [u8] },
}

impl EntryIn<'_> {
    /// The entry, with parts of the batch that it stands in.
    fn part_of(self, batch: &Bytes) -> Entry {
        let Self { version, token, mutations, answer } = self;
        let mutations = mutations.map(|mutation| match mutation {
            MutationIn::Put { key, value, expires } => Mutation::Put {
                key: batch.slice_ref(key).into(),
                value: batch.slice_ref(value).into(),
                expires,
            },
            MutationIn::Delete { key } => Mutation::Delete { key: batch.slice_ref(key).into() },
        });
        Entry { version, token, mutations, answer }
    }
}

/// A frame header's two numbers: the body's length and checksum.
#[must_use]
pub fn split_header(header: [u8; FRAME_HEADER_BYTES]) -> (usize, u32) {
    let [a, b, c, d, e, f, g, h] = header;
    (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]))
}

impl Iterator for Frames {
    type Item = Result<Frame, BadBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.read().transpose();
        if matches!(item, Some(Err(_))) {
            // Nothing behind a bad frame can be trusted.
            self.at = self.batch.len();
        }
        item
    }
}

/// How many frames `batch` says that it has, as far as their lengths can be followed.
pub(crate) fn count_frames(batch: &[u8]) -> usize {
    let (mut rest, mut count) = (batch, 0);
    while let Some((header, behind)) = rest.split_first_chunk::<FRAME_HEADER_BYTES>() {
        let Some(next) = behind.get(split_header(*header).0..) else { break };
        (rest, count) = (next, count + 1);
    }
    count
}

/// Checks that the entries of `batch` are whole and follow `prev` one by one, and decodes them.
///
/// # Errors
/// The first thing wrong with the batch; nothing of a bad batch may be used.
pub fn decode_batch(prev: Version, batch: &Bytes) -> Result<Vec<Frame>, BadBatch> {
    let mut before = prev;
    let count = count_frames(batch);
    let mut memory = count.saturating_mul(size_of::<Frame>());
    // A batch of more is refused below, when its first entry is decoded.
    let mut frames = Vec::with_capacity(count.min(BATCH_MEMORY_MAX / size_of::<Frame>()));
    for frame in Frames::new(batch.clone()) {
        let frame = frame?;
        memory += frame.entry.mutations.memory_bytes();
        if memory > BATCH_MEMORY_MAX {
            return Err(BadBatch::TooMany { at: frame.end });
        }
        let found = frame.entry.version;
        if !found.index.follows(before.index) || found.epoch < before.epoch {
            return Err(BadBatch::OutOfOrder { before, found });
        }
        before = found;
        frames.push(frame);
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(epoch: u64, index: u64, value: &[u8]) -> Entry {
        Entry {
            version: Version::new(epoch, index),
            token: Some(Token {
                client: ClientId(7),
                request: RequestNumber(index),
                born: Index(1),
            }),
            mutations: Mutations::from(Mutation::Put {
                key: Key::from("k"),
                value: Value::from(value.to_vec()),
                expires: None,
            }),
            answer: Answer::Written,
        }
    }

    fn batch(entries: &[Entry]) -> Bytes {
        let mut batch = BytesMut::new();
        for entry in entries {
            entry.encode(&mut batch);
        }
        batch.freeze()
    }

    #[test]
    fn a_batch_comes_back_as_it_was() {
        let entries = [Entry::barrier(Version::new(2, 5)), entry(2, 6, b"x"), entry(2, 7, b"")];
        let frames = decode_batch(Version::new(1, 4), &batch(&entries)).unwrap();
        assert_eq!(frames.iter().map(|f| f.entry.clone()).collect::<Vec<_>>(), entries);
        assert!(frames.windows(2).all(|pair| pair[0].end == pair[1].start));
    }

    #[test]
    fn a_byte_behind_an_entry_is_damage() {
        let mut bytes = batch(&[entry(2, 5, b"x")]).to_vec();
        bytes.push(0);
        let body = bytes.split_off(FRAME_HEADER_BYTES);
        let length = u32::try_from(body.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes[4..].copy_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        bytes.extend(body);
        let error = decode_batch(Version::new(1, 4), &Bytes::from(bytes)).unwrap_err();
        assert_eq!(error, BadBatch::Damaged { at: 0 });
    }

    #[test]
    fn nothing_follows_the_last_number_there_is() {
        let batch = batch(&[entry(2, 1, b""), entry(2, 2, b"")]);
        let prev = Version::new(1, u64::MAX);
        let error = decode_batch(prev, &batch).unwrap_err();
        assert_eq!(error, BadBatch::OutOfOrder { before: prev, found: Version::new(2, 1) });
    }

    #[test]
    fn entries_out_of_order_are_refused() {
        let skip = batch(&[entry(2, 5, b""), entry(2, 7, b"")]);
        let fall = batch(&[entry(2, 5, b""), entry(1, 6, b"")]);
        for bad in [skip, fall] {
            let error = decode_batch(Version::new(1, 4), &bad).unwrap_err();
            assert!(matches!(error, BadBatch::OutOfOrder { .. }), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_cut_and_no_flip_goes_unnoticed(
            values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6),
            at in any::<prop::sample::Index>(),
            flip in 1u8..,
            cut in any::<bool>(),
        ) {
            let entries: Vec<_> =
                values.iter().enumerate().map(|(i, v)| entry(1, i as u64 + 1, v)).collect();
            let whole = batch(&entries);
            let at = at.index(whole.len());
            let mut bytes = whole.to_vec();
            if cut { bytes.truncate(at) } else { bytes[at] ^= flip }
            if let Ok(frames) = decode_batch(Version::ZERO, &Bytes::from(bytes)) {
                // A cut between two frames leaves a shorter batch that is whole.
                prop_assert!(cut && frames.len() < entries.len());
            }
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_batch(Version::ZERO, &Bytes::from(bytes));
        }
    }
}
