//! Frames: what flows after the hello.
//!
//! ```text
//! frame:  length u32 LE | flags u8 | [stamp length u16 LE | stamp] | payload
//! ```
//!
//! The length counts everything behind it and is checked before anything is read or allocated
//! for it. Flag 1 says that a stamp stands before the payload
//! ([`quorate_traces::Stamp`]): a process that is traced puts it on and reads it, any other skips
//! it. It counts towards the frame's length. Any other flag is an error: what it means cannot be guessed. The payload is one message in
//! [`wire`](super::wire)'s form, encoded with postcard, and nothing behind it.

use std::io;

use bytes::{Buf, BufMut, BytesMut};
use postcard::ser_flavors::Flavor;
use quorate_traces::Stamp;
use quorate_traces::stamp::STAMP_BYTES_MAX;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// No frame is longer, its length field apart. A batch of entries, which is itself bounded far
/// below, fits with everything around it.
pub const FRAME_BYTES_MAX: usize = 32 << 20;

const LENGTH_BYTES: usize = 4;
const FLAG_STAMPED: u8 = 1;
const STAMP_LENGTH_BYTES: usize = 2;

/// What ended a connection, or kept one message off it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The connection failed.
    #[error("the connection failed: {why}")]
    Io {
        /// What kind of failure it was.
        kind: io::ErrorKind,
        /// The system's words for it.
        why: String,
    },
    /// The connection ended within a frame.
    #[error("the connection ended within a frame")]
    Torn,
    /// The peer took nothing for too long while there was something to send.
    #[error("the peer has taken no byte for {after_ms} ms; its process or the network is stuck")]
    Stalled {
        /// How long that was.
        after_ms: u64,
    },
    /// The peer began a frame and did not end it in time.
    #[error(
        "a frame was begun and not ended within {after_ms} ms; the network is too slow or stuck"
    )]
    Slow {
        /// How long the wait was.
        after_ms: u64,
    },
    /// The connection had to make room.
    #[error("it was idle longest when another connection needed its place")]
    Unseated,
    /// A frame over the bound.
    #[error(
        "a frame of {length} bytes or more; {FRAME_BYTES_MAX} is the most, so send less in one message"
    )]
    TooLong {
        /// What the peer claims, or what one of ours would come to at least.
        length: usize,
    },
    /// A frame this code cannot read.
    #[error(
        "the peer sent a frame that is not one of this protocol ({what}); both ends must run the same version"
    )]
    Bad {
        /// What is wrong with it.
        what: String,
    },
    /// One of our own messages that cannot be encoded.
    #[error("the message cannot be encoded: {what}")]
    Unencodable {
        /// What is wrong with it.
        what: String,
    },
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        Self::Io { kind: error.kind(), why: error.to_string() }
    }
}

/// Appends one frame to `buffer`, encoded in place: `Bytes` in the message are copied once.
/// On an error the buffer is as it was.
pub(crate) fn encode<M: Serialize>(
    message: &M,
    stamp: Option<&Stamp>,
    buffer: &mut BytesMut,
) -> Result<(), FrameError> {
    let start = buffer.len();
    buffer.put_u32_le(0);
    let encoded = put_stamp(stamp, buffer).and_then(|()| {
        let body = Bounded { buffer, end_max: start + LENGTH_BYTES + FRAME_BYTES_MAX };
        postcard::serialize_with_flavor(message, body)
    });
    let length = buffer.len() - start - LENGTH_BYTES;
    if let Err(error) = encoded {
        buffer.truncate(start);
        return Err(match error {
            postcard::Error::SerializeBufferFull => FrameError::TooLong { length },
            other => FrameError::Unencodable { what: other.to_string() },
        });
    }
    let length = u32::try_from(length).expect("bounded while it was encoded");
    buffer[start..start + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// Puts the flags, and the stamp where there is one.
fn put_stamp(stamp: Option<&Stamp>, buffer: &mut BytesMut) -> postcard::Result<()> {
    let Some(stamp) = stamp else {
        buffer.put_u8(0);
        return Ok(());
    };
    buffer.put_u8(FLAG_STAMPED);
    let start = buffer.len() + STAMP_LENGTH_BYTES;
    buffer.put_u16_le(0);
    let end_max = start + STAMP_BYTES_MAX;
    postcard::serialize_with_flavor(stamp, Bounded { buffer, end_max })?;
    let length = u16::try_from(buffer.len() - start).expect("a stamp is shorter than that");
    buffer[start - STAMP_LENGTH_BYTES..start].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// Takes the first frame off `buffer`, if it is all there. Where somebody wants its stamp, and it
/// has one that can be read, that is put into `stamp`.
///
/// `Ok(Err(n))` says that at least `n` more bytes are needed.
pub(crate) fn decode<M: DeserializeOwned>(
    buffer: &mut BytesMut,
    stamp: Option<&mut Option<Stamp>>,
) -> Result<Result<M, usize>, FrameError> {
    let Some(length) = buffer.first_chunk::<LENGTH_BYTES>() else {
        return Ok(Err(LENGTH_BYTES - buffer.len()));
    };
    let length = u32::from_le_bytes(*length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong { length });
    }
    let Some(frame) = buffer.get(LENGTH_BYTES..LENGTH_BYTES + length) else {
        return Ok(Err(LENGTH_BYTES + length - buffer.len()));
    };
    let (stamped, payload) = split(frame)?;
    let message = decode_payload(payload)?;
    if let Some(stamp) = stamp {
        // One that cannot be read is as good as none: a trace is no reason to end a connection.
        *stamp = postcard::from_bytes(stamped).ok();
    }
    buffer.advance(LENGTH_BYTES + length);
    Ok(Ok(message))
}

/// A frame's stamp, empty where it has none, and what stands behind it.
fn split(frame: &[u8]) -> Result<(&[u8], &[u8]), FrameError> {
    let bad = |what: &str| FrameError::Bad { what: what.to_owned() };
    let (&flags, rest) = frame.split_first().ok_or_else(|| bad("it is empty"))?;
    match flags {
        0 => Ok((&[], rest)),
        FLAG_STAMPED => {
            let (length, rest) =
                rest.split_first_chunk::<STAMP_LENGTH_BYTES>().ok_or_else(|| bad("no stamp"))?;
            let length = usize::from(u16::from_le_bytes(*length));
            if length > STAMP_BYTES_MAX {
                return Err(bad("its stamp is over the bound"));
            }
            rest.split_at_checked(length).ok_or_else(|| bad("it ends within its stamp"))
        }
        _ => Err(FrameError::Bad { what: format!("unknown flags {flags:#04x}") }),
    }
}

fn decode_payload<M: DeserializeOwned>(payload: &[u8]) -> Result<M, FrameError> {
    match postcard::take_from_bytes(payload) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => {
            Err(FrameError::Bad { what: format!("{} bytes behind the message", rest.len()) })
        }
        Err(error) => Err(FrameError::Bad { what: error.to_string() }),
    }
}

/// Where postcard writes to: the end of a buffer, up to a bound.
struct Bounded<'a> {
    buffer: &'a mut BytesMut,
    end_max: usize,
}

impl Flavor for Bounded<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        if self.buffer.len() == self.end_max {
            return Err(postcard::Error::SerializeBufferFull);
        }
        self.buffer.put_u8(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if self.end_max - self.buffer.len() < bytes.len() {
            return Err(postcard::Error::SerializeBufferFull);
        }
        self.buffer.put_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Note {
        number: u64,
        body: Bytes,
    }

    fn note(number: u64, body: &[u8]) -> Note {
        Note { number, body: Bytes::copy_from_slice(body) }
    }

    fn frames(notes: &[Note]) -> BytesMut {
        let mut buffer = BytesMut::new();
        for note in notes {
            encode(note, None, &mut buffer).unwrap();
        }
        buffer
    }

    #[test]
    fn the_layout_is_what_the_head_says() {
        let expected = [&[5, 0, 0, 0][..], &[0], &[7], &[2, b'h', b'i']].concat();
        assert_eq!(frames(&[note(7, b"hi")])[..], expected);
    }

    #[test]
    fn a_stamp_comes_back_for_who_wants_it() {
        let host = quorate_traces::Host::new("node-1.2").unwrap();
        let mut clock = quorate_traces::VectorClock::new();
        clock.tick(&host);
        let stamp = Stamp::of(&host, &clock).unwrap();
        let mut buffer = BytesMut::new();
        encode(&note(7, b"hi"), Some(&stamp), &mut buffer).unwrap();
        encode(&note(8, b""), None, &mut buffer).unwrap();
        let mut skipped = buffer.clone();
        assert_eq!(decode(&mut skipped, None), Ok(Ok(note(7, b"hi"))));

        let mut taken = None;
        assert_eq!(decode(&mut buffer, Some(&mut taken)), Ok(Ok(note(7, b"hi"))));
        assert_eq!(taken, Some(stamp));
        assert_eq!(decode(&mut buffer, Some(&mut taken)), Ok(Ok(note(8, b""))));
        assert_eq!(taken, None);
    }

    #[test]
    fn a_stamp_is_skipped() {
        let stamped = [&[10, 0, 0, 0][..], &[1], &[3, 0], b"???", &[7], &[2, b'h', b'i']].concat();
        let mut buffer = BytesMut::from(&stamped[..]);
        let mut wanted = BytesMut::from(&stamped[..]);
        assert_eq!(decode(&mut buffer, None), Ok(Ok(note(7, b"hi"))));
        assert!(buffer.is_empty());

        let mut stamp = None;
        assert_eq!(decode(&mut wanted, Some(&mut stamp)), Ok(Ok(note(7, b"hi"))));
        assert_eq!(stamp, None, "nobody can read it");
    }

    #[test]
    fn bad_frames_say_what_is_wrong() {
        let cases: [(&[u8], &str); 7] = [
            (&[0, 0, 0, 0], "it is empty"),
            (&[1, 0, 0, 0, 1], "no stamp"),
            (&[3, 0, 0, 0, 1, 9, 0], "ends within its stamp"),
            (&[3, 0, 0, 0, 1, 255, 255], "stamp is over the bound"),
            (&[2, 0, 0, 0, 2, 0], "unknown flags 0x02"),
            (&[4, 0, 0, 0, 0, 7, 0, 1], "1 bytes behind the message"),
            (&[4, 0, 0, 0, 0, 7, 200, 1], "not one of this protocol"),
        ];
        for (bytes, expected) in cases {
            let error = decode::<Note>(&mut BytesMut::from(bytes), None).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_length_is_checked_before_anything_is_read_for_it() {
        for length in [FRAME_BYTES_MAX as u32 + 1, u32::MAX] {
            let mut buffer = BytesMut::from(&length.to_le_bytes()[..]);
            let error = decode::<Note>(&mut buffer, None).unwrap_err();
            assert_eq!(error, FrameError::TooLong { length: length as usize });
        }
        let mut buffer = BytesMut::from(&(FRAME_BYTES_MAX as u32).to_le_bytes()[..]);
        assert_eq!(decode::<Note>(&mut buffer, None), Ok(Err(FRAME_BYTES_MAX)));
    }

    #[test]
    fn a_message_over_the_bound_leaves_the_buffer_as_it_was() {
        let mut buffer = frames(&[note(1, b"before")]);
        let whole = buffer.clone();
        let large = note(2, &vec![0; FRAME_BYTES_MAX]);
        assert!(matches!(encode(&large, None, &mut buffer), Err(FrameError::TooLong { .. })));
        assert_eq!(buffer, whole);
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in_wherever_the_bytes_are_split(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..8),
            piece_bytes in 1usize..40,
        ) {
            let notes: Vec<_> =
                bodies.iter().enumerate().map(|(n, body)| note(n as u64, body)).collect();
            let (mut buffer, mut out) = (BytesMut::new(), Vec::new());
            for piece in frames(&notes).chunks(piece_bytes) {
                buffer.put_slice(piece);
                while let Ok(note) = decode::<Note>(&mut buffer, None).unwrap() {
                    out.push(note);
                }
            }
            prop_assert_eq!(out, notes);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Ok(_)) = decode::<Note>(&mut buffer, None) {}
            // And again behind a length that is right.
            let mut framed = BytesMut::from(&(bytes.len() as u32).to_le_bytes()[..]);
            framed.put_slice(&bytes);
            let _ = decode::<Note>(&mut framed, None);
        }
    }
}
