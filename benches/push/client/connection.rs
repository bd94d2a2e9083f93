//! One client's connection, and the frames on it.

use std::{
    io::{ErrorKind, Read, Write},
    mem,
    time::Instant,
};

use mio::net::TcpStream;

use super::Check;
use crate::Result;

// The client's frames, all masked with 0. RFC 6455 §5.3 asks for a random mask because of proxies; there are none here.

/// With a ping, because `start` itself has no answer if the server pushes lines.
pub(super) const START: &[u8] = b"\x81\x85\0\0\0\0start\x89\x80\0\0\0\0";
pub(super) const PONG: &[u8] = b"\x8a\x80\0\0\0\0";
pub(super) const CLOSE: &[u8] = b"\x88\x80\0\0\0\0";

pub(super) struct Connection {
    /// `None` once it has ended.
    stream: Option<TcpStream>,
    /// Whether it has sent a Close.
    pub(super) leaving: bool,
    pub(super) started: Option<Instant>,
    /// The number in the last text.
    pub(super) received: u32,
    /// Whether the first text may have any number.
    pub(super) may_start_anywhere: bool,
    /// The start of an incomplete frame.
    rest: Vec<u8>,
}

impl Connection {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream: Some(stream),
            leaving: false,
            started: None,
            received: 0,
            may_start_anywhere: false,
            rest: Vec::new(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    pub(super) fn end(&mut self) {
        self.stream = None;
    }

    /// Ignores errors, which show again when the connection is read.
    pub(super) fn send(&mut self, frame: &[u8]) {
        if let Some(stream) = &mut self.stream {
            let _ = stream.write_all(frame);
        }
    }

    /// Fills the buffer with what was kept before and what has arrived. Returns the length, 0 at the end, or `None` if
    /// nothing has arrived.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let stream = self.stream.as_mut()?;
        let kept = self.rest.len();
        buffer[..kept].copy_from_slice(&self.rest);
        match stream.read(&mut buffer[kept..]) {
            Ok(size @ 1..) => Some(kept + size),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            // End of file or a reset.
            _ => Some(0),
        }
    }

    pub(super) fn keep(&mut self, rest: &[u8]) {
        // Keeps no more capacity than needed, because lines may be long.
        self.rest = rest.to_vec();
    }

    /// Returns whether the number in the text is the next one.
    pub(super) fn count<C: Check>(&mut self, text: &[u8]) -> Result<bool> {
        let number = text.strip_prefix(C::PREFIX).unwrap_or_default();
        let number = number.split(|&byte| byte == b' ').next();
        let number = str::from_utf8(number.unwrap_or_default())?.parse();
        let number = number.map_err(|_| format!("{:?} was sent", text.escape_ascii()))?;
        let last = mem::replace(&mut self.received, number);
        Ok(mem::take(&mut self.may_start_anywhere) || number == last + 1)
    }
}

/// A frame from the server.
pub(super) enum Heard<'a> {
    Text(&'a [u8]),
    Ping,
    Pong,
    Close(u16),
}

impl<'a> Heard<'a> {
    /// The first frame in the data and its length, if it is complete.
    pub(super) fn parse(data: &'a [u8]) -> Result<Option<(Self, usize)>> {
        let (opcode, header, length) = match *data {
            [opcode, length @ ..126, ..] => (opcode, 2, usize::from(length)),
            [opcode, 126, a, b, ..] => (opcode, 4, u16::from_be_bytes([a, b]).into()),
            [opcode, 127, 0, 0, 0, 0, 0, a, b, c, ..] => {
                let length = u32::from_be_bytes([0, a, b, c]);
                (opcode, 10, usize::try_from(length)?)
            }
            _ => return Ok(None),
        };
        let Some(payload) = data.get(header..header + length) else {
            return Ok(None);
        };
        let heard = match (opcode, payload) {
            (0x81, text) => Self::Text(text),
            (0x89, []) => Self::Ping,
            (0x8a, []) => Self::Pong,
            (0x88, []) => Self::Close(1005),
            (0x88, &[a, b, ..]) => Self::Close(u16::from_be_bytes([a, b])),
            _ => return Err(format!("unexpected frame {opcode:#x}, {payload:?}").into()),
        };
        Ok(Some((heard, header + length)))
    }
}
