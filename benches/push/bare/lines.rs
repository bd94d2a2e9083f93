//! The lines of standard input: one frame each, built once and sent to one client after another.
//!
//! The slowest client holds up all others: the next line waits until every client has the whole last one.

use std::{
    io::{self, ErrorKind, Read, Write},
    mem,
    os::fd::AsFd,
    time::Duration,
};

use mio::{Interest, Registry, Token, unix::pipe::Receiver};
use tokio_tungstenite::tungstenite::protocol::frame::{
    Frame,
    coding::{Data, OpCode},
};

use super::{Connection, Connections, Source};
use crate::Result;

/// How much to read at once.
const CHUNK: usize = 4096;

pub(super) struct Lines {
    input: Receiver,
    chunk: Vec<u8>,
    /// What has been read but not sent yet.
    read: Vec<u8>,
    /// Descriptors of the clients that have not got all of the last line.
    behind: Vec<usize>,
}

impl Lines {
    pub(super) fn of_standard_input(registry: &Registry) -> Result<Self> {
        let mut input = Receiver::from(io::stdin().as_fd().try_clone_to_owned()?);
        input.set_nonblocking(true)?;
        registry.register(&mut input, Token(usize::MAX), Interest::READABLE)?;
        Ok(Self {
            input,
            chunk: vec![0; CHUNK],
            read: Vec::new(),
            behind: Vec::new(),
        })
    }

    fn send(&mut self, frame: &[u8], connections: &mut Connections) {
        for (descriptor, place) in connections.iter_mut().enumerate() {
            if let Some(connection) = place.as_mut().filter(|connection| connection.number > 0)
                && !send(connection, frame)
            {
                self.behind.push(descriptor);
            }
        }
    }
}

impl Source for Lines {
    fn start(&mut self, connection: &mut Connection, _: u32) {
        connection.number = 1;
    }

    fn push(&mut self, connections: &mut Connections) -> Result<Option<Duration>> {
        self.behind.retain(|&descriptor| {
            let connection = connections[descriptor].as_mut();
            connection.is_some_and(|connection| {
                let rest = mem::take(&mut connection.rest);
                !send(connection, &rest)
            })
        });
        let mut sent = 0;
        while self.behind.is_empty() {
            let rest = &self.read[sent..];
            let Some(length) = rest.iter().position(|&byte| byte == b'\n') else {
                break;
            };
            let frame = frame(&rest[..length])?;
            sent += length + 1;
            self.send(&frame, connections);
        }
        self.read.drain(..sent);
        if !self.behind.is_empty() {
            // The server wakes up when one of them has room.
            return Ok(None);
        }
        match self.input.read(&mut self.chunk) {
            // The end of the input.
            Ok(0) => Ok(None),
            Ok(size) => {
                self.read.extend_from_slice(&self.chunk[..size]);
                Ok(Some(Duration::ZERO))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Returns whether everything fitted into the kernel's buffer. An error shows again when the connection is read.
fn send(connection: &mut Connection, bytes: &[u8]) -> bool {
    let sent = match connection.stream.write(bytes) {
        Ok(sent) => sent,
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        Err(_) => return true,
    };
    connection.rest = bytes[sent..].to_vec();
    connection.rest.is_empty()
}

fn frame(line: &[u8]) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    Frame::message(line.to_vec(), OpCode::Data(Data::Text), true).format(&mut frame)?;
    Ok(frame)
}
