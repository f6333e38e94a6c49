//! Finding one's way through frames without decoding entries.

use quorate_protocol::entry::{FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES, split_header};
use quorate_protocol::version::Version;

/// How long the frame is that begins here, header included; `None` where that is not a frame's
/// beginning.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let (body, _) = split_header(*bytes.first_chunk::<FRAME_HEADER_BYTES>()?);
    (body <= FRAME_BODY_BYTES_MAX).then_some(FRAME_HEADER_BYTES + body)
}

/// The version of the entry in this frame. An entry's encoding begins with it.
pub(super) fn version(frame: &[u8]) -> Option<Version> {
    let body = frame.get(FRAME_HEADER_BYTES..)?;
    postcard::take_from_bytes(body).ok().map(|(version, _)| version)
}

/// Whether this is exactly one frame, undamaged, of the entry with this version.
pub(super) fn is_whole(frame: &[u8], expected: Version) -> bool {
    let Some((header, body)) = frame.split_first_chunk::<FRAME_HEADER_BYTES>() else {
        return false;
    };
    split_header(*header) == (body.len(), crc32c::crc32c(body)) && version(frame) == Some(expected)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use quorate_protocol::entry::Entry;

    use super::*;

    #[test]
    fn a_frame_tells_its_length_and_version() {
        let at = Version::new(300, 70_000);
        let mut frame = BytesMut::new();
        Entry::barrier(at).encode(&mut frame);
        assert_eq!(length(&frame), Some(frame.len()));
        assert_eq!(version(&frame), Some(at));
        assert!(is_whole(&frame, at));
        assert!(!is_whole(&frame, Version::new(300, 70_001)));
        assert!(!is_whole(&frame[..frame.len() - 1], at));
        assert_eq!(length(&frame[..7]), None);
        assert_eq!(length(&[0xff; 8]), None);
    }
}
