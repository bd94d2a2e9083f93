//! The clients of one server, in a process of their own: they start it, measure it, check all that it sends, and end it.
//!
//! One thread and one epoll, storms aside, as lean as the bare server, since both share the machine with what is measured.

use std::{
    ffi::OsString,
    io::{self, ErrorKind, Read, Write},
    mem, thread,
    time::{Duration, Instant},
};

use clap::Args;
use mio::{Events, Interest, Poll, Token, net::TcpStream, unix::SourceFd};

use crate::{
    Result,
    server::{Server, Times},
    storm::storm,
    table::{Figures, count},
};

#[derive(Args)]
pub(crate) struct Options {
    #[arg(long)]
    connections: usize,
    #[arg(long)]
    interval: f64,
    /// In seconds.
    #[arg(long)]
    time_limit: u64,
    #[arg(last = true)]
    program: Vec<OsString>,
}

/// How long the streaming connections are measured.
const WINDOW: Duration = Duration::from_secs(5);

/// How long the clients take to say `start`, one after another, at least.
const SPREAD: Duration = Duration::from_secs(2);

/// How far behind they may fall and still make up for it. Those that say `start` in the same moment are due in the same
/// moment ever after, and the last of them late.
const HURRY: Duration = Duration::from_millis(2);

/// What has not come this long after all was measured counts as lost.
const LOST: Duration = Duration::from_secs(20);

// The client's frames, all masked with 0 (RFC 6455 §5.3 wants chance for the sake of proxies, and here are none).
const START: &[u8] = b"\x81\x85\0\0\0\0start";
const PONG: &[u8] = b"\x8a\x80\0\0\0\0";
const CLOSE: &[u8] = b"\x88\x80\0\0\0\0";

/// The token of standard input; the others are places in the list of connections.
const INPUT: Token = Token(usize::MAX);

pub(crate) fn run(options: &Options) -> Result<()> {
    let server = Server::start(&options.program, options.interval)?;
    let mut clients = Clients::new(options)?;
    let figures = measure(&mut clients, &server, options.connections)?;
    println!("{}", figures.map(|figure| figure.to_string()).join(" "));
    Ok(())
}

/// Two waves of clients come and go.
fn measure(clients: &mut Clients, server: &Server, connections: usize) -> Result<Figures> {
    let each = 1.0 / count(connections);
    // A server that has let one client in has all the threads and descriptors that it needs for itself.
    clients.storm(server, 1)?;
    let descriptors = server.descriptors()? - 1;
    clients.leave(server, descriptors)?;
    let fresh = server.resident()?;

    let first = clients.storm(server, connections)?;
    clients.start()?;
    println!("streaming");
    while !clients.told {
        clients.turn(None)?;
    }
    let streaming = clients.stream(server)?;
    let grown = server.resident()? - fresh;
    clients.leave(server, descriptors)?;
    let after_first = server.resident()?;
    let mut lateness = mem::take(&mut clients.lateness);

    let second = clients.storm(server, connections)?;
    clients.start()?;
    clients.leave(server, descriptors)?;
    let after_second = server.resident()?;

    let in_storms = |figure| second.unless_saturated(first.unless_saturated(figure));
    let storms = first.clock + second.clock;
    let notifications = count(lateness.len());
    lateness.sort_unstable();
    let at = |percent| streaming.unless_starved(f64::from(percentile(&lateness, percent)) / 1e3);
    Ok([
        in_storms(2.0 / each / storms.as_secs_f64()),
        (first.server + second.server).as_secs_f64() * 1e6 * each / 2.0,
        streaming.unless_saturated(streaming.server.as_secs_f64() * 1e6 / notifications),
        at(50),
        at(99),
        grown * each,
        after_first / 1024.0,
        after_second / 1024.0,
        (after_second - after_first) / 1024.0,
    ])
}

fn percentile(sorted: &[u32], percent: usize) -> u32 {
    let place = sorted.len() * percent / 100;
    sorted.get(place).copied().unwrap_or_default()
}

struct Connection {
    /// None when the server has closed it after a Close.
    stream: Option<TcpStream>,
    /// Whether it has sent a Close.
    leaving: bool,
    started: Option<Instant>,
    /// How many notifications came.
    received: u32,
    /// The start of a frame whose end has not come yet.
    rest: Vec<u8>,
}

struct Clients {
    poll: Poll,
    events: Events,
    interval: Duration,
    deadline: Instant,
    connections: Vec<Connection>,
    /// How many are sent notifications, have left.
    streaming: usize,
    left: usize,
    /// Whether the bench has said to go on.
    told: bool,
    /// How late each notification came, in microseconds, while that is measured.
    lateness: Vec<u32>,
    measuring: bool,
    /// When the clients woke: what they then find to read had come by that time.
    now: Instant,
}

impl Clients {
    fn new(options: &Options) -> Result<Self> {
        let poll = Poll::new()?;
        poll.registry()
            .register(&mut SourceFd(&0), INPUT, Interest::READABLE)?;
        let now = Instant::now();
        Ok(Self {
            poll,
            events: Events::with_capacity(1024),
            interval: Duration::from_secs_f64(options.interval),
            deadline: now + Duration::from_secs(options.time_limit),
            connections: Vec::new(),
            streaming: 0,
            left: 0,
            told: false,
            lateness: Vec::new(),
            measuring: false,
            now,
        })
    }

    /// Has new clients take the place of those that have left.
    fn storm(&mut self, server: &Server, connections: usize) -> Result<Times> {
        self.connections.clear();
        (self.streaming, self.left) = (0, 0);
        let (streams, times) = storm(server, connections)?;
        for mut stream in streams {
            let token = Token(self.connections.len());
            self.poll
                .registry()
                .register(&mut stream, token, Interest::READABLE)?;
            self.connections.push(Connection {
                stream: Some(stream),
                leaving: false,
                started: None,
                received: 0,
                rest: Vec::new(),
            });
        }
        Ok(times)
    }

    /// Lets each say `start`, evenly spread, and waits until all are sent notifications.
    fn start(&mut self) -> Result<()> {
        let step = self
            .interval
            .max(SPREAD)
            .div_f64(count(self.connections.len()));
        let mut due = Instant::now();
        for place in 0..self.connections.len() {
            self.turn_until(due)?;
            let now = Instant::now();
            let connection = &mut self.connections[place];
            // Before it is sent: no notification may come before that.
            connection.started = Some(now);
            connection.send(START)?;
            due += step;
            if due + HURRY < now {
                due = now;
            }
        }
        while self.streaming < self.connections.len() {
            self.turn(None)?;
        }
        Ok(())
    }

    /// Measures while all are sent notifications.
    fn stream(&mut self, server: &Server) -> Result<Times> {
        let begin = Instant::now();
        let before = Times::now(begin, server)?;
        self.measuring = true;
        self.turn_until(begin + WINDOW)?;
        self.measuring = false;
        let times = Times::now(begin, server)?.since(before);
        self.catch_up()?;
        Ok(times)
    }

    /// Waits until all that was due by now has come. On a machine that does not keep pace that takes a while.
    fn catch_up(&mut self) -> Result<()> {
        let end = Instant::now();
        for place in 0..self.connections.len() {
            loop {
                let connection = &self.connections[place];
                let number = connection.received + 1;
                if connection.due(self.interval, number)? > end {
                    break;
                }
                if end.elapsed() > LOST {
                    return Err(format!("notification {number} is lost").into());
                }
                self.turn(Some(end + LOST))?;
            }
        }
        Ok(())
    }

    /// Closes them all, and waits until the server holds none any more.
    fn leave(&mut self, server: &Server, descriptors: usize) -> Result<()> {
        for connection in &mut self.connections {
            connection.send(CLOSE)?;
            connection.leaving = true;
        }
        while self.left < self.connections.len() {
            self.turn(None)?;
        }
        while server.descriptors()? > descriptors {
            self.in_time()?;
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn turn_until(&mut self, end: Instant) -> Result<()> {
        while Instant::now() < end {
            self.turn(Some(end))?;
        }
        Ok(())
    }

    fn in_time(&self) -> Result<()> {
        if Instant::now() > self.deadline {
            return Err("the time of the bench is up: measure less".into());
        }
        Ok(())
    }

    /// Waits for something to read, until `end` or for a while, and reads it.
    fn turn(&mut self, end: Option<Instant>) -> Result<()> {
        let end = end.unwrap_or(self.deadline).min(self.deadline);
        let timeout = end.saturating_duration_since(Instant::now());
        self.poll.poll(&mut self.events, Some(timeout))?;
        self.now = Instant::now();
        self.in_time()?;
        let events = mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            match event.token() {
                INPUT => self.hear_the_bench()?,
                Token(place) => self.hear(place)?,
            }
        }
        self.events = events;
        Ok(())
    }

    fn hear_the_bench(&mut self) -> Result<()> {
        if io::stdin().read(&mut [0])? == 0 {
            return Err("the bench has ended".into());
        }
        self.told = true;
        Ok(())
    }

    fn hear(&mut self, place: usize) -> Result<()> {
        let mut buffer = [0; 16 * 1024];
        let connection = &mut self.connections[place];
        let kept = connection.rest.len();
        buffer[..kept].copy_from_slice(&connection.rest);
        let Some(stream) = &mut connection.stream else {
            return Ok(());
        };
        let size = match stream.read(&mut buffer[kept..]) {
            Ok(0) if connection.leaving => {
                connection.stream = None;
                self.left += 1;
                return Ok(());
            }
            Ok(0) => return Err("the server has closed a connection".into()),
            Ok(size) => kept + size,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let used = self.take(place, &buffer[..size])?;
        let rest = &mut self.connections[place].rest;
        rest.clear();
        rest.extend_from_slice(&buffer[used..size]);
        // No other event tells of what a full buffer left, or of an end that came along with the Close.
        if size == buffer.len() || self.connections[place].leaving {
            return self.hear(place);
        }
        Ok(())
    }

    /// Takes the whole frames, and tells how many bytes these were.
    fn take(&mut self, place: usize, data: &[u8]) -> Result<usize> {
        let mut used = 0;
        while let [opcode, length @ ..=125, rest @ ..] = &data[used..] {
            let length = usize::from(*length);
            let Some(payload) = rest.get(..length) else {
                break;
            };
            used += 2 + length;
            match opcode {
                0x81 => self.take_notification(place, payload)?,
                0x89 if payload.is_empty() => self.connections[place].send(PONG)?,
                0x88 if self.connections[place].leaving => {}
                _ => return Err(format!("unexpected frame {opcode:#x}, {payload:?}").into()),
            }
        }
        Ok(used)
    }

    fn take_notification(&mut self, place: usize, text: &[u8]) -> Result<()> {
        let connection = &mut self.connections[place];
        connection.received += 1;
        let number = connection.received;
        let due = connection.due(self.interval, number)?;
        let said = text.strip_prefix(b"Notification ").unwrap_or_default();
        if str::from_utf8(said)?.parse() != Ok(number) {
            let text = String::from_utf8_lossy(text);
            return Err(format!("{text:?} instead of number {number}").into());
        }
        // It may have come while others were read.
        if due > self.now {
            self.now = Instant::now();
        }
        let Some(late) = self.now.checked_duration_since(due) else {
            return Err(format!("notification {number} came too early").into());
        };
        self.streaming += usize::from(number == 1);
        if self.measuring {
            self.lateness.push(u32::try_from(late.as_micros())?);
        }
        Ok(())
    }
}

impl Connection {
    fn send(&mut self, frame: &[u8]) -> Result<()> {
        let stream = self.stream.as_mut().ok_or("no connection")?;
        Ok(stream.write_all(frame)?)
    }

    fn due(&self, interval: Duration, number: u32) -> Result<Instant> {
        let started = self.started.ok_or("a notification before start")?;
        Ok(started + interval * (number - 1))
    }
}
