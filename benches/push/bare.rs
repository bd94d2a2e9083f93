//! The reference: the same work with next to nothing around it.
//!
//! One thread, one epoll, one send for each notification, some thirty bytes for each connection. What it leaves out is
//! what makes a server: limits, timeouts, refusals, most of RFC 6455.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use clap::Args;
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use tokio::runtime::Builder;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use wspush::{HostPort, listen};

use crate::Result;

#[derive(Args)]
pub(crate) struct Options {
    #[arg(long)]
    listen: HostPort,
    #[arg(long)]
    interval: f64,
}

/// No connection has descriptor 0.
const LISTENER: Token = Token(0);

struct Connection {
    stream: TcpStream,
    /// The number of its next notification, 0 before `start`.
    number: u32,
    /// When that is due, in nanoseconds since the server's begin.
    due: u64,
}

struct Server {
    poll: Poll,
    listener: TcpListener,
    begin: Instant,
    interval: u64,
    /// By descriptor.
    connections: Vec<Option<Connection>>,
    /// What is due when for which descriptor. All intervals being equal, what is put in last is due last.
    queue: VecDeque<(u64, u32)>,
}

/// Serves until it is killed.
pub(crate) fn run(options: &Options) -> Result<()> {
    // As wspush does: with mio's backlog of 128, clients in a storm wait a second to try again.
    let listeners = Builder::new_current_thread()
        .enable_io()
        .build()?
        .block_on(listen(&options.listen))?;
    let listener = listeners.into_iter().next().ok_or("no address")?;
    let mut listener = TcpListener::from_std(listener.into_std()?);
    println!("ws://{}/", listener.local_addr()?);
    let poll = Poll::new()?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let interval = Duration::from_secs_f64(options.interval).as_nanos();
    let mut server = Server {
        poll,
        listener,
        begin: Instant::now(),
        interval: interval.try_into()?,
        connections: Vec::new(),
        queue: VecDeque::new(),
    };
    let mut events = Events::with_capacity(1024);
    loop {
        let timeout = server.push_due();
        server.poll.poll(&mut events, timeout)?;
        for event in &events {
            match event.token() {
                LISTENER => server.accept()?,
                Token(descriptor) => server.hear(descriptor)?,
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
                .register(&mut stream, Token(descriptor), Interest::READABLE)?;
            if self.connections.len() <= descriptor {
                self.connections.resize_with(descriptor + 1, || None);
            }
            self.connections[descriptor] = Some(Connection {
                stream,
                number: 0,
                due: 0,
            });
        }
    }

    /// Takes what the clients of this bench say, each in one piece: the request, `start`, Close.
    fn hear(&mut self, descriptor: usize) -> Result<()> {
        let Some(connection) = &mut self.connections[descriptor] else {
            return Ok(());
        };
        let mut buffer = [0; 512];
        let size = connection.stream.read(&mut buffer).unwrap_or(0);
        match &buffer[..size] {
            [b'G', ..] => connection.stream.write_all(&answer(&buffer[..size])?)?,
            [0x81, 0x85, masked @ ..] if masked.len() == 9 => {
                let said = [0, 1, 2, 3, 4].map(|i| masked[4 + i] ^ masked[i % 4]);
                if said == *b"start" {
                    connection.number = 1;
                    connection.due = nanoseconds(self.begin);
                    self.queue
                        .push_front((connection.due, u32::try_from(descriptor)?));
                }
            }
            // A Close, or the end.
            _ => {
                let _ = connection.stream.write(&[0x88, 0]);
                self.connections[descriptor] = None;
            }
        }
        Ok(())
    }

    /// Sends what is due, and tells how long until the next is.
    fn push_due(&mut self) -> Option<Duration> {
        let now = nanoseconds(self.begin);
        while let Some(&(due, descriptor)) = self.queue.front() {
            if due > now {
                return Some(Duration::from_nanos(due - now));
            }
            self.queue.pop_front();
            let place = &mut self.connections[descriptor as usize];
            // It may be gone, and another have its descriptor.
            if let Some(connection) = place.as_mut().filter(|connection| connection.due == due) {
                if push(connection).is_err() {
                    *place = None;
                    continue;
                }
                connection.due += self.interval;
                self.queue.push_back((connection.due, descriptor));
            }
        }
        None
    }
}

fn push(connection: &mut Connection) -> Result<()> {
    let mut frame = [0; 32];
    let mut rest = &mut frame[2..];
    write!(rest, "Notification {}", connection.number)?;
    let length = 30 - rest.len();
    frame[0] = 0x81;
    frame[1] = length.try_into()?;
    connection.number += 1;
    Ok(connection.stream.write_all(&frame[..2 + length])?)
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

fn nanoseconds(since: Instant) -> u64 {
    // Enough for five hundred years.
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
