//! A storm of clients: as many handshakes as the server takes, from every core at once.
//!
//! The kernel does more work to connect than to accept, so one thread of clients would be slower than the server. If the
//! clients share the server's cores, their own work lowers the rate, for wspush and the reference alike.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    num::NonZero,
    sync::atomic::Ordering::Relaxed,
    thread,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net};

use crate::{
    Result,
    progress::Progress,
    server::Server,
    times::{Times, running},
};

/// The bench fails after this long without an answer.
const ANSWER: Duration = Duration::from_secs(10);

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: YSBzYW1wbGUgMTYgYnl0ZQ==\r\n\r\n";
const ACCEPT: &[u8] = b"zkTGI6zVrOIDXiC4vnn1Rf37YFw=";

/// Connects as fast as the server accepts, with `in_flight` handshakes at once over all threads. Returns the connections
/// that the server upgraded.
pub(crate) fn storm(
    server: &Server,
    connections: usize,
    in_flight: usize,
    deadline: Instant,
    progress: &Progress,
) -> Result<(Vec<net::TcpStream>, Times)> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let begin = Instant::now();
    let before = Times::now(begin, server)?;
    let shares = thread::scope(|scope| {
        let start = |thread| {
            let share = connections * (thread + 1) / threads - connections * thread / threads;
            let in_flight = in_flight.div_ceil(threads);
            scope.spawn(move || connect_all(server.address, share, in_flight, deadline, progress))
        };
        let running: Vec<_> = (0..threads).map(start).collect();
        let ended = running
            .into_iter()
            .map(|thread| thread.join().map_err(|_| "a client panicked")?);
        ended.collect::<Result<Vec<_>>>()
    })?;
    let mut times = Times::now(begin, server)?.since(before);
    times.client = shares.iter().map(|share| share.1).max().unwrap_or_default();
    let streams = shares.into_iter().flat_map(|share| share.0);
    Ok((streams.collect(), times))
}

/// Runs one thread's clients. Also returns their CPU time.
fn connect_all(
    server: SocketAddr,
    connections: usize,
    in_flight: usize,
    deadline: Instant,
    progress: &Progress,
) -> Result<(Vec<net::TcpStream>, Duration)> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(in_flight);
    let mut streams = Vec::with_capacity(connections);
    let mut done = 0;
    let mut refused = None;
    while done < connections {
        while streams.len() < connections.min(done + in_flight) {
            let mut stream = connect(server)?;
            let token = Token(streams.len());
            poll.registry()
                .register(&mut stream, token, Interest::READABLE)?;
            streams.push(Some(stream));
        }
        poll.poll(&mut events, Some(ANSWER))?;
        if Instant::now() > deadline {
            return Err(format!("out of time after {done} of {connections} connections").into());
        }
        if events.is_empty() {
            return Err("the server accepts no connection".into());
        }
        for event in &events {
            let place = &mut streams[event.token().0];
            let Some(mut stream) = place.take() else {
                continue;
            };
            done += 1;
            match take_answer(&mut stream) {
                Ok(()) => {
                    *place = Some(stream);
                    progress.open.fetch_add(1, Relaxed);
                }
                // Report only the last one: the reason is usually the same.
                Err(error) => {
                    refused = Some(error);
                    progress.failed.fetch_add(1, Relaxed);
                }
            }
        }
    }
    if let Some(error) = refused {
        eprintln!("no connection: {error}");
    }
    let mut streams: Vec<_> = streams.into_iter().flatten().collect();
    for stream in &mut streams {
        poll.registry().deregister(stream)?;
    }
    Ok((streams, running()?))
}

/// Connects and sends the request.
fn connect(server: SocketAddr) -> Result<net::TcpStream> {
    // On loopback this returns at once.
    let mut stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    stream.write_all(REQUEST)?;
    Ok(net::TcpStream::from_std(stream))
}

fn take_answer(stream: &mut net::TcpStream) -> Result<()> {
    let mut buffer = [0; 512];
    let size = stream.read(&mut buffer)?;
    let answer = &buffer[..size];
    let accepted = answer.windows(ACCEPT.len()).any(|window| window == ACCEPT);
    // It arrives in one piece, because the server writes it in one.
    if answer.starts_with(b"HTTP/1.1 101 ") && answer.ends_with(b"\r\n\r\n") && accepted {
        Ok(())
    } else {
        Err(format!(
            "{:?} is not the right answer",
            String::from_utf8_lossy(answer)
        )
        .into())
    }
}
