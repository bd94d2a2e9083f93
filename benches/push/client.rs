//! The clients of one server, in a process of their own: they start it, measure it, check everything it sends, and end it.
//!
//! Apart from storms, one thread and one epoll: like the bare server, they must be lean, because they share the machine
//! with the server that is measured.

mod connection;
mod counter;
mod history;
mod lines;

use std::{
    ffi::OsString,
    io::{self, Read},
    mem,
    process::{Command, Stdio},
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use mio::{Events, Interest, Poll, Token, unix::SourceFd};

use self::{
    connection::{CLOSE, Connection, Heard, PONG, START},
    counter::Counter,
    lines::Lines,
};
use crate::{
    Result,
    load::{Kind, Load},
    progress::Progress,
    server::Server,
    storm::storm,
    table::count,
    times::Times,
};

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    load: Load,
    /// Handshakes in progress at once
    #[arg(long)]
    in_flight: usize,
    /// Seconds
    #[arg(long)]
    time_limit: u64,
    #[arg(last = true)]
    program: Vec<OsString>,
}

/// Clients say `start` one after another: those that say it at the same moment have all their notifications due at the
/// same moment, and then the last one's is late. If they are late by more than this, they don't catch up.
const HURRY: Duration = Duration::from_millis(2);

/// A notification counts as lost after this long without any progress.
const LOST: Duration = Duration::from_secs(20);

/// The token of standard input. All others are indices of connections.
const INPUT: Token = Token(usize::MAX);

pub(crate) fn run(options: &Options) -> Result<()> {
    let load = &options.load;
    let (program, arguments) = options.program.split_first().ok_or("no program")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .args(load.source())
        .stderr(Stdio::null());
    let mut server = Server::start(&mut command)?;
    let counters = || Clients::new(options, Counter::of(load));
    let lines = || Clients::new(options, Lines::default());
    let figures = match load.kind {
        Kind::Counter => counter::measure(&mut counters()?, &server),
        Kind::Hold => counter::hold(&mut counters()?, &server),
        Kind::Lines => lines::measure(&mut lines()?, &mut server),
        Kind::Burst => lines::burst(&mut lines()?, &mut server),
        Kind::History => history::measure(options, &mut server),
    }?;
    let figures: Vec<_> = figures.iter().map(ToString::to_string).collect();
    println!("{}", figures.join(" "));
    Ok(())
}

/// The median and the 99th percentile, in milliseconds.
fn percentiles(lateness: impl IntoIterator<Item = Duration>) -> [f64; 2] {
    let mut sorted: Vec<_> = lateness.into_iter().collect();
    sorted.sort_unstable();
    [50, 99].map(|percent| {
        let late = sorted.get(sorted.len() * percent / 100);
        late.copied().unwrap_or_default().as_secs_f64() * 1e3
    })
}

/// How clients check what they receive.
trait Check {
    /// The text before each number.
    const PREFIX: &'static [u8];

    /// Takes the text whose number the connection has just received. It arrived by `now`, or later while this process read
    /// from other connections.
    fn take(&mut self, connection: &Connection, now: &mut Instant) -> Result<()>;
}

struct Clients<C> {
    poll: Poll,
    events: Events,
    /// Larger than the largest frame.
    buffer: Vec<u8>,
    load: Load,
    in_flight: usize,
    deadline: Instant,
    connections: Vec<Connection>,
    progress: Arc<Progress>,
    lost: usize,
    out_of_sequence: usize,
    /// Whether the clients of all servers are ready to be measured.
    ready: bool,
    /// When the clients last woke up.
    now: Instant,
    check: C,
}

impl<C: Check> Clients<C> {
    fn new(options: &Options, check: C) -> Result<Self> {
        let poll = Poll::new()?;
        poll.registry()
            .register(&mut SourceFd(&0), INPUT, Interest::READABLE)?;
        let now = Instant::now();
        Ok(Self {
            poll,
            events: Events::with_capacity(1024),
            buffer: vec![0; 128 * 1024],
            load: options.load.clone(),
            in_flight: options.in_flight,
            deadline: now + Duration::from_secs(options.time_limit),
            connections: Vec::new(),
            progress: Arc::default(),
            lost: 0,
            out_of_sequence: 0,
            ready: false,
            now,
            check,
        })
    }

    /// Returns the server's descriptors and memory without connections. After its first client it has all the threads and
    /// descriptors that it needs for itself.
    fn warm_up(&mut self, server: &Server) -> Result<(usize, f64)> {
        self.storm(server, 1)?;
        let descriptors = server.descriptors()? - 1;
        self.leave(server, descriptors)?;
        Ok((descriptors, count(server.memory()?)))
    }

    /// Replaces the clients, which have left, by new ones.
    fn storm(&mut self, server: &Server, connections: usize) -> Result<Times> {
        self.connections.clear();
        let (streams, times) = storm(
            server,
            connections,
            self.in_flight,
            self.deadline,
            &self.progress,
        )?;
        for mut stream in streams {
            let token = Token(self.connections.len());
            self.poll
                .registry()
                .register(&mut stream, token, Interest::READABLE)?;
            self.connections.push(Connection::new(stream));
        }
        Ok(times)
    }

    /// Makes each client say `start`, evenly spread over time, and waits until all have an answer.
    fn start(&mut self, spread: Duration) -> Result<()> {
        self.progress.started.store(0, Relaxed);
        let step = spread / u32::try_from(self.connections.len().max(1))?;
        let mut due = Instant::now();
        for place in 0..self.connections.len() {
            self.turn_until(due)?;
            let now = Instant::now();
            let connection = &mut self.connections[place];
            // Taken before sending: no notification may arrive before this time.
            connection.started = Some(now);
            connection.send(START);
            due += step;
            if due + HURRY < now {
                due = now;
            }
        }
        while self.started() < self.open() {
            self.turn(self.deadline)?;
        }
        Ok(())
    }

    /// Waits until the clients of all servers are ready.
    fn wait_for_the_others(&mut self) -> Result<()> {
        println!("ready");
        while !self.ready {
            self.turn(self.deadline)?;
        }
        Ok(())
    }

    /// Closes all connections, and waits until the server has released them.
    fn leave(&mut self, server: &Server, descriptors: usize) -> Result<()> {
        for connection in &mut self.connections {
            connection.send(CLOSE);
            connection.leaving = true;
        }
        while self.open() > 0 {
            self.turn(self.deadline)?;
        }
        while server.descriptors()? > descriptors {
            self.in_time()?;
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn open(&self) -> usize {
        self.progress.open.load(Relaxed)
    }

    fn started(&self) -> usize {
        self.progress.started.load(Relaxed)
    }

    fn failed(&self) -> usize {
        self.progress.failed.load(Relaxed)
    }

    /// For loads whose figures don't count faults.
    fn without_faults(&self) -> Result<()> {
        match [self.failed(), self.lost, self.out_of_sequence] {
            [0, 0, 0] => Ok(()),
            faults => Err(format!("failed, lost, out of sequence: {faults:?}").into()),
        }
    }

    fn turn_until(&mut self, end: Instant) -> Result<()> {
        while Instant::now() < end {
            self.turn(end)?;
        }
        Ok(())
    }

    fn in_time(&self) -> Result<()> {
        if Instant::now() > self.deadline {
            return Err("out of time: measure less".into());
        }
        Ok(())
    }

    /// Waits for something to read, but not beyond `end`, and reads it.
    fn turn(&mut self, end: Instant) -> Result<()> {
        let end = end.min(self.deadline);
        let timeout = end.saturating_duration_since(Instant::now());
        self.poll.poll(&mut self.events, Some(timeout))?;
        self.now = Instant::now();
        self.in_time()?;
        let events = mem::replace(&mut self.events, Events::with_capacity(0));
        let mut buffer = mem::take(&mut self.buffer);
        for event in &events {
            match event.token() {
                INPUT => self.listen_to_bench()?,
                Token(place) => self.hear(place, &mut buffer)?,
            }
        }
        self.buffer = buffer;
        self.events = events;
        Ok(())
    }

    fn listen_to_bench(&mut self) -> Result<()> {
        if io::stdin().read(&mut [0])? == 0 {
            return Err("the bench has ended".into());
        }
        self.ready = true;
        Ok(())
    }

    fn hear(&mut self, place: usize, buffer: &mut [u8]) -> Result<()> {
        let connection = &mut self.connections[place];
        let Some(size) = connection.read(buffer) else {
            return Ok(());
        };
        let mut used = 0;
        while let Some((heard, length)) = Heard::parse(&buffer[used..size])? {
            used += length;
            match heard {
                Heard::Text(text) => {
                    self.out_of_sequence += usize::from(!connection.count::<C>(text)?);
                    self.check.take(connection, &mut self.now)?;
                }
                Heard::Ping => connection.send(PONG),
                Heard::Pong => {
                    self.progress.started.fetch_add(1, Relaxed);
                }
                Heard::Close(_) if connection.leaving => {}
                Heard::Close(code) => {
                    if self.failed() == 0 {
                        eprintln!("the server has closed a connection with {code}");
                    }
                    self.end(place);
                    return Ok(());
                }
            }
        }
        if size == 0 {
            self.end(place);
            return Ok(());
        }
        connection.keep(&buffer[used..size]);
        // There is no further event for the rest after a full buffer, or for an end that arrived with the Close.
        if size == buffer.len() || connection.leaving {
            return self.hear(place, buffer);
        }
        Ok(())
    }

    /// Ends a connection, which has failed unless the client is leaving.
    fn end(&mut self, place: usize) {
        let connection = &mut self.connections[place];
        connection.end();
        self.progress.open.fetch_sub(1, Relaxed);
        if !connection.leaving {
            self.progress.failed.fetch_add(1, Relaxed);
        }
    }
}
