//! A log's directory as an input: short enough for a fuzzer, and any directory there is.

use quorate_node::log::torn::TornDisk;
use serde::{Deserialize, Serialize};

use crate::mend;

/// The store that the logs belong to.
pub const STORE: u128 = 0xfeed;

/// No file is made longer.
const FILE_BYTES_MAX: usize = 64 << 10;

/// No directory is made of more files.
const FILES_MAX: usize = 16;

const HEADER_BYTES: usize = 4096;

/// A file of a log, its zeros left out.
#[derive(Debug, Serialize, Deserialize)]
pub struct File {
    /// 0 to 3 for the four kinds; others are of no log.
    kind: u8,
    number: u64,
    /// Whether its checksums are righted.
    mended: bool,
    /// The file's length.
    bytes: u32,
    /// What it begins with.
    header: Vec<u8>,
    /// What stands where its groups begin.
    groups: Vec<u8>,
}

const KINDS: [&str; 4] = ["log", "spare", "new", "lost"];

impl File {
    fn name(&self) -> String {
        let kind = KINDS.get(usize::from(self.kind)).unwrap_or(&"other");
        format!("{kind}-{:012}.seg", self.number)
    }

    fn content(&self) -> Vec<u8> {
        let mut content = vec![0; (self.bytes as usize).min(FILE_BYTES_MAX)];
        // A file to be overwritten holds no group of the segment that it becomes: none has been that
        // segment before. Only a forger could put one there, so those files hold none at all.
        let nothing = Vec::new();
        let is_reused = matches!(self.kind, 1 | 2);
        let groups = if is_reused { &nothing } else { &self.groups };
        for (at, part) in [(0, &self.header), (HEADER_BYTES, groups)] {
            if let Some(place) = content.get_mut(at..) {
                let fits = place.len().min(part.len());
                place[..fits].copy_from_slice(&part[..fits]);
            }
        }
        if self.mended {
            mend::segment(&mut content, STORE, self.number);
        }
        content
    }
}

/// The directory that an input says.
#[must_use]
pub fn decode(input: &[u8]) -> Option<TornDisk> {
    let files: Vec<File> = postcard::from_bytes(input).ok()?;
    let disk = TornDisk::default();
    for file in files.iter().take(FILES_MAX) {
        disk.put(&file.name(), &file.content());
    }
    Some(disk)
}

/// The input that says the directory on `disk`.
///
/// # Panics
/// When there is a file that is not a log's.
#[must_use]
pub fn encode(disk: &TornDisk, mended: bool) -> Vec<u8> {
    let file = |(name, content): (String, Vec<u8>)| {
        let (kind, number) = name.strip_suffix(".seg").unwrap().split_once('-').unwrap();
        let kind = KINDS.iter().position(|it| *it == kind).unwrap();
        let (header, groups) = content.split_at(HEADER_BYTES);
        File {
            kind: u8::try_from(kind).unwrap(),
            number: number.parse().unwrap(),
            mended,
            bytes: u32::try_from(content.len()).unwrap(),
            header: trimmed(header),
            groups: trimmed(groups),
        }
    };
    let files: Vec<File> = disk.contents().into_iter().map(file).collect();
    postcard::to_stdvec(&files).unwrap()
}

/// The bytes without the zeros at their end.
fn trimmed(bytes: &[u8]) -> Vec<u8> {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    bytes[..end].to_vec()
}
