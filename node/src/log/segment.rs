//! Segment files: their names, and the header that stands before their groups.
//!
//! ```text
//! magic "QUORLOG" 0     8
//! format u32            4
//! length of body u32    4
//! checksum u32          4   crc32c of format, length and body
//! body                      postcard of SegmentHeader
//! zeros                     up to 4 KiB
//! ```
//!
//! Numbers are little-endian. The first four fields, and the name of the magic, are the same in
//! every format for ever, so that each can tell that a file is of another.

use std::fmt;

use quorate_protocol::exact;
use quorate_protocol::ids::StoreId;
use quorate_protocol::version::Version;
use serde::{Deserialize, Serialize};

use super::Meta;

/// Where the groups begin.
pub(super) const HEADER_BYTES: usize = 4096;

/// The one format this program knows.
pub(super) const FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"QUORLOG\0";
const BODY_AT: usize = 20;

/// Everything needed to start at a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SegmentHeader {
    /// The store the log belongs to.
    pub(super) store: StoreId,
    /// The segment's number, also in its name.
    pub(super) number: u64,
    /// The segment before it in the chain; zero is none.
    pub(super) previous: u64,
    /// The file's length.
    pub(super) bytes: u64,
    /// The sequence number of its first group.
    pub(super) sequence: u64,
    /// The metadata at its beginning.
    pub(super) meta: Meta,
    /// The log's last entry at its beginning.
    pub(super) last: Version,
}

/// Why a header is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHeader {
    /// It was damaged.
    Damaged,
    /// It is undamaged and of a format this program does not know.
    Format(u32),
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut header = vec![0; BODY_AT];
        header[0..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        postcard::to_io(self, &mut header).expect("encoding into memory cannot fail");
        let length = u32::try_from(header.len() - BODY_AT).expect("a few dozen bytes");
        header[12..16].copy_from_slice(&length.to_le_bytes());
        let checksum = checksum(&header);
        header[16..20].copy_from_slice(&checksum.to_le_bytes());
        assert!(header.len() <= HEADER_BYTES, "a few dozen bytes");
        header.resize(HEADER_BYTES, 0);
        header
    }

    pub(super) fn decode(header: &[u8]) -> Result<Self, BadHeader> {
        let fixed = header.first_chunk::<BODY_AT>().ok_or(BadHeader::Damaged)?;
        let [format, length, sum] = [8, 12, 16].map(|at| {
            u32::from_le_bytes(*fixed[at..].first_chunk().expect("within the fixed part"))
        });
        let end = BODY_AT.saturating_add(length as usize);
        let whole = header.get(..end).ok_or(BadHeader::Damaged)?;
        if !fixed.starts_with(&MAGIC) || checksum(whole) != sum {
            return Err(BadHeader::Damaged);
        }
        if format != FORMAT {
            return Err(BadHeader::Format(format));
        }
        exact::decode(&whole[BODY_AT..]).ok_or(BadHeader::Damaged)
    }
}

/// Over a header whose body ends where `header` ends.
fn checksum(header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[8..16]), &header[BODY_AT..])
}

/// What the groups of a segment carry: another value for every segment there ever was.
pub(super) fn salt(store: StoreId, number: u64) -> u64 {
    let mut name = [0; 24];
    name[..16].copy_from_slice(&store.0.to_le_bytes());
    name[16..].copy_from_slice(&number.to_le_bytes());
    xxhash_rust::xxh3::xxh3_64(&name)
}

/// The name of a file in the log's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FileName {
    /// A segment.
    Segment(u64),
    /// A file to be overwritten; the number is that of the segment it was.
    Spare(u64),
    /// A segment that was not finished.
    New(u64),
    /// A segment that was set aside.
    Lost(u64),
}

impl FileName {
    /// `None`: not a file of the log.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (kind, number) = name.strip_suffix(".seg")?.split_once('-')?;
        let number = number.parse().ok()?;
        let parsed = match kind {
            "log" => Self::Segment(number),
            "spare" => Self::Spare(number),
            "new" => Self::New(number),
            "lost" => Self::Lost(number),
            _ => return None,
        };
        // A name written another way is not the log's: the file could not be found under it.
        (parsed.to_string() == name).then_some(parsed)
    }

    pub(super) fn number(self) -> u64 {
        match self {
            Self::Segment(number)
            | Self::Spare(number)
            | Self::New(number)
            | Self::Lost(number) => number,
        }
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Segment(_) => "log",
            Self::Spare(_) => "spare",
            Self::New(_) => "new",
            Self::Lost(_) => "lost",
        };
        write!(f, "{kind}-{:012}.seg", self.number())
    }
}

#[cfg(test)]
mod tests {
    use quorate_protocol::ids::{Epoch, History, NodeId};
    use quorate_protocol::version::Promise;

    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            store: StoreId(u128::MAX),
            number: u64::MAX,
            previous: u64::MAX,
            bytes: u64::MAX,
            sequence: u64::MAX,
            meta: Meta {
                history: History(u64::MAX),
                promised: Promise { epoch: Epoch(u64::MAX), coordinator: NodeId(u32::MAX) },
                durable_applied: Version::new(u64::MAX, u64::MAX),
                marked: true,
            },
            last: Version::new(u64::MAX, u64::MAX),
        }
    }

    #[test]
    fn a_header_comes_back_and_no_flip_goes_unnoticed() {
        let bytes = header().encode();
        assert_eq!(bytes.len(), HEADER_BYTES);
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header()));
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        for at in 0..=used {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                assert_eq!(SegmentHeader::decode(&bytes), Err(BadHeader::Damaged), "byte {at}");
            }
        }
        assert_eq!(SegmentHeader::decode(&bytes[..40]), Err(BadHeader::Damaged));
        assert_eq!(SegmentHeader::decode(&[]), Err(BadHeader::Damaged));
        assert_eq!(SegmentHeader::decode(&[0; HEADER_BYTES]), Err(BadHeader::Damaged));
    }

    #[test]
    fn a_later_format_is_told_from_damage() {
        let mut bytes = vec![0; BODY_AT];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&9u32.to_le_bytes());
        bytes[12..16].copy_from_slice(&4u32.to_le_bytes());
        bytes.extend_from_slice(b"what");
        let sum = checksum(&bytes);
        bytes[16..20].copy_from_slice(&sum.to_le_bytes());
        bytes.resize(HEADER_BYTES, 0);
        assert_eq!(SegmentHeader::decode(&bytes), Err(BadHeader::Format(9)));
    }

    #[test]
    fn names_are_read_as_written() {
        for name in
            [FileName::Segment(7), FileName::Spare(1), FileName::New(12), FileName::Lost(u64::MAX)]
        {
            assert_eq!(FileName::parse(&name.to_string()), Some(name));
        }
        assert_eq!(FileName::Segment(7).to_string(), "log-000000000007.seg");
        for other in ["log-7.seg", "log-+00000000007.seg", "log-x.seg", "LOCK", "a-1.seg", ""] {
            assert_eq!(FileName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn every_segment_has_a_salt_of_its_own() {
        let mut salts: Vec<u64> =
            (0..1000).flat_map(|n| [salt(StoreId(1), n), salt(StoreId(2), n)]).collect();
        salts.sort_unstable();
        salts.dedup();
        assert_eq!(salts.len(), 2000);
    }
}
