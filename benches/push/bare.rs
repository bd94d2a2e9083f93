//! The reference server: the same work with next to nothing around it.
//!
//! One thread, one epoll, one send per notification, about fifty bytes per connection. It leaves out what makes a server:
//! limits, timeouts, refusals, most of RFC 6455.

mod counter;
mod lines;

use std::{
    io::{ErrorKind, Read, Write},
    os::fd::AsRawFd,
    time::Duration,
};

use clap::Args;
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use tokio::runtime::Builder;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use wspush::listen;

use self::{counter::Counter, lines::Lines};
use crate::Result;

/// The options of wspush that the bench uses.
#[derive(Args)]
pub(crate) struct Options {
    #[arg(long)]
    listen: String,
    #[arg(long, required_unless_present = "stdin")]
    interval: Option<f64>,
    #[arg(long)]
    stdin: bool,
}

/// No connection has descriptor 0.
const LISTENER: Token = Token(0);

/// Its connections, by descriptor.
type Connections = Vec<Option<Connection>>;

struct Connection {
    stream: TcpStream,
    /// The number of the next notification, 0 before `start`.
    number: u32,
    /// When the next notification is due, in nanoseconds since the server started.
    due: u64,
    /// Bytes that did not fit into the kernel's buffer.
    rest: Vec<u8>,
}

/// Where notifications come from.
trait Source {
    /// The client with this descriptor said `start`.
    fn start(&mut self, connection: &mut Connection, descriptor: u32);

    /// Sends everything that is due. Returns the time until the next notification, if known.
    fn push(&mut self, connections: &mut Connections) -> Result<Option<Duration>>;
}

struct Server {
    poll: Poll,
    listener: TcpListener,
    interest: Interest,
    connections: Connections,
    source: Box<dyn Source>,
}

/// Serves until killed.
pub(crate) fn run(options: &Options) -> Result<()> {
    // With wspush's backlog: with mio's of 128, clients in a storm wait a second before they try again.
    let listeners = Builder::new_current_thread()
        .enable_io()
        .build()?
        .block_on(listen(&options.listen))?;
    let listener = listeners.into_iter().next().ok_or("no address")?;
    let mut listener = TcpListener::from_std(listener.into_std()?);
    println!("ws://{}/", listener.local_addr()?);
    let poll = Poll::new()?;
    let registry = poll.registry();
    registry.register(&mut listener, LISTENER, Interest::READABLE)?;
    let (source, interest): (Box<dyn Source>, _) = match options.interval {
        Some(interval) => (Box::new(Counter::every(interval)?), Interest::READABLE),
        None => (
            Box::new(Lines::of_standard_input(registry)?),
            Interest::READABLE | Interest::WRITABLE,
        ),
    };
    let mut server = Server {
        poll,
        listener,
        interest,
        connections: Vec::new(),
        source,
    };
    let mut events = Events::with_capacity(1024);
    loop {
        let timeout = server.source.push(&mut server.connections)?;
        server.poll.poll(&mut events, timeout)?;
        for event in &events {
            match event.token() {
                LISTENER => server.accept()?,
                Token(descriptor) if event.is_readable() => server.hear(descriptor)?,
                _ => {}
            }
        }
    }
}

impl Server {
    fn accept(&mut self) -> Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let descriptor = usize::try_from(stream.as_raw_fd())?;
            self.poll
                .registry()
                .register(&mut stream, Token(descriptor), self.interest)?;
            if self.connections.len() <= descriptor {
                self.connections.resize_with(descriptor + 1, || None);
            }
            self.connections[descriptor] = Some(Connection {
                stream,
                number: 0,
                due: 0,
                rest: Vec::new(),
            });
        }
    }

    /// Handles what the clients of this bench send, each in one piece: the request, `start` with a ping, Close.
    fn hear(&mut self, descriptor: usize) -> Result<()> {
        let place = self.connections.get_mut(descriptor);
        // Otherwise the event is that of standard input.
        let Some(Some(connection)) = place else {
            return Ok(());
        };
        let mut buffer = [0; 512];
        let size = connection.stream.read(&mut buffer).unwrap_or(0);
        match &buffer[..size] {
            [b'G', ..] => connection.stream.write_all(&answer(&buffer[..size])?)?,
            [0x81, 0x85, masked @ ..] if masked.len() > 9 => {
                let said = [0, 1, 2, 3, 4].map(|i| masked[4 + i] ^ masked[i % 4]);
                if said == *b"start" {
                    self.source.start(connection, u32::try_from(descriptor)?);
                    connection.stream.write_all(b"\x8a\0")?;
                }
            }
            // A Close or end of file.
            _ => {
                let _ = connection.stream.write(b"\x88\0");
                self.connections[descriptor] = None;
            }
        }
        Ok(())
    }
}

fn answer(request: &[u8]) -> Result<Vec<u8>> {
    let request = str::from_utf8(request)?;
    let key = request
        .lines()
        .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))
        .ok_or("no key")?;
    let accept = derive_accept_key(key.as_bytes());
    Ok(format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n").into_bytes())
}
