//! Frames (RFC 6455 §5).

use std::time::Duration;

/// The largest frame, and message, that a client may send.
pub(crate) const LIMIT: u64 = 4096;

pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;

/// The flag of the last frame of a message.
pub(crate) const FIN: u8 = 0x80;

/// A frame without its payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) fin: bool,
    pub(crate) rsv: u8,
    pub(crate) opcode: u8,
    pub(crate) mask: Option<[u8; 4]>,
    pub(crate) length: u64,
}

impl Header {
    /// The header at the start of `bytes` and its size, if it is complete.
    pub(crate) fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let (&[first, second], rest) = bytes.split_first_chunk()?;
        let (length, extended) = match second & 0x7F {
            126 => (u16::from_be_bytes(*rest.first_chunk()?).into(), 2),
            127 => (u64::from_be_bytes(*rest.first_chunk()?), 8),
            length => (length.into(), 0),
        };
        let mask = match second & 0x80 {
            0 => None,
            _ => Some(*rest.get(extended..)?.first_chunk()?),
        };
        let header = Self {
            fin: first & 0x80 != 0,
            rsv: first >> 4 & 7,
            opcode: first & 0xF,
            mask,
            length,
        };
        Some((header, 2 + extended + if mask.is_some() { 4 } else { 0 }))
    }

    /// A client's header with this first byte.
    fn masked(first: u8, length: usize) -> Self {
        Self {
            fin: first & FIN != 0,
            rsv: first >> 4 & 7,
            opcode: first & 0xF,
            mask: Some([0x37, 0xFA, 0x21, 0x3D]),
            length: length as u64,
        }
    }

    /// The frame on the wire.
    pub(crate) fn frame(&self, payload: &[u8]) -> Vec<u8> {
        let mut payload = payload.to_vec();
        mask(&mut payload, self.mask.unwrap_or_default());
        [self.format(), payload].concat()
    }

    /// The header on the wire, with the shortest form of its length.
    pub(crate) fn format(&self) -> Vec<u8> {
        let bit = if self.mask.is_some() { 0x80 } else { 0 };
        let mut bytes = vec![u8::from(self.fin) << 7 | self.rsv << 4 | self.opcode];
        match (u8::try_from(self.length), u16::try_from(self.length)) {
            (Ok(length @ ..126), _) => bytes.push(bit + length),
            (_, Ok(length)) => {
                bytes.push(bit + 126);
                bytes.extend(length.to_be_bytes());
            }
            _ => {
                bytes.push(bit + 127);
                bytes.extend(self.length.to_be_bytes());
            }
        }
        bytes.extend(self.mask.iter().flatten());
        bytes
    }
}

/// A client's frame. Its first byte is an opcode, with [`FIN`] for the last frame of a message.
pub(crate) fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    Header::masked(first, payload.len()).frame(payload)
}

/// Masks or unmasks the payload.
pub(crate) fn mask(payload: &mut [u8], mask: [u8; 4]) {
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Whether a Close frame may hold the code (RFC 6455 §7.4, and the codes registered with IANA since).
pub(crate) fn may_close_with(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1013 | UNSURE_CODE | 3000..=4999)
}

/// Registered with IANA like 1012 and 1013, but unknown to many implementations: answering it with 1002 is right too.
pub(crate) const UNSURE_CODE: u16 = 1014;

/// A frame of the server, and when its last byte came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) at: Duration,
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn close_code(&self) -> Option<u16> {
        self.payload
            .first_chunk()
            .map(|code| u16::from_be_bytes(*code))
    }
}

/// Reads the server's bytes as frames.
///
/// # Panics
///
/// If there is anything but unmasked, unfragmented texts and control frames, or anything after a Close frame. The last frame
/// may be incomplete only if the client left in the middle of it.
pub(crate) fn read_frames(heard: &[(Duration, Vec<u8>)], may_be_cut: bool) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    let mut bytes = Vec::new();
    for (at, piece) in heard {
        bytes.extend(piece);
        while let Some((header, payload)) = take_frame(&mut bytes) {
            let after_close = frames.last().is_some_and(|frame| frame.opcode == CLOSE);
            assert!(!after_close, "{header:?} after a Close frame");
            check_frame(header, &payload);
            frames.push(Frame {
                at: *at,
                opcode: header.opcode,
                payload,
            });
        }
    }
    let is_cut = !bytes.is_empty();
    assert!(!is_cut || may_be_cut, "incomplete frame: {bytes:?}");
    frames
}

/// Removes and returns the first frame if it is complete.
fn take_frame(bytes: &mut Vec<u8>) -> Option<(Header, Vec<u8>)> {
    let (header, size) = Header::parse(bytes)?;
    let end = size + usize::try_from(header.length).expect("a frame is small");
    let payload = bytes.get(size..end)?.to_vec();
    let is_shortest = bytes[..size] == header.format();
    assert!(is_shortest, "{header:?} has too long a length");
    bytes.drain(..end);
    Some((header, payload))
}

fn check_frame(header: Header, payload: &[u8]) {
    assert!(
        header.fin && header.rsv == 0 && header.mask.is_none(),
        "{header:?}"
    );
    match header.opcode {
        TEXT => assert!(str::from_utf8(payload).is_ok(), "{payload:?}"),
        PING | PONG => assert!(payload.len() <= 125),
        CLOSE => {
            assert!(payload.len() <= 125);
            if let Some((code, reason)) = payload.split_first_chunk() {
                assert!(may_close_with(u16::from_be_bytes(*code)), "{code:?}");
                assert!(str::from_utf8(reason).is_ok(), "{reason:?}");
            } else {
                assert!(payload.is_empty(), "{payload:?} is no close code");
            }
        }
        _ => panic!("{header:?} is neither text nor control"),
    }
}
