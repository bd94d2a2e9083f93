//! A client to learn from: it says `start`, prints what it is pushed, and connects again when it loses the server.
//!
//! `cargo run --example client -- ws://localhost:8080/`

use std::{
    env,
    hash::{BuildHasher, RandomState},
    io,
    process::ExitCode,
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Error, Message, protocol::frame::coding::CloseCode},
};

/// The first pause before connecting again lasts at most this long. Each one after it may last twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// After a connection that lasted this long, the pauses are short again.
const STABLE: Duration = Duration::from_secs(10);

/// How long the server may be silent: it sends a ping when it has sent nothing for 20 s (`--keepalive`).
const SILENCE: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let url = env::args().nth(1);
    let url = url.as_deref().unwrap_or("ws://localhost:8080/");
    let mut pause = FIRST_PAUSE;
    loop {
        let connected = Instant::now();
        let end = receive(url).await;
        match &end {
            Ok(code) => eprintln!("closed with {code}"),
            Err(error) => eprintln!("{error}"),
        }
        if !may_succeed_later(&end) {
            return ExitCode::from(u8::from(!matches!(end, Ok(CloseCode::Normal))));
        }
        if connected.elapsed() > STABLE {
            pause = FIRST_PAUSE;
        }
        let random_pause = pause.mul_f64(random());
        eprintln!("connecting again in {:.1} s", random_pause.as_secs_f64());
        sleep(random_pause).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

/// Prints what is pushed, until the connection ends. Returns the server's close code.
async fn receive(url: &str) -> Result<CloseCode, Error> {
    let (mut socket, _) = in_time(connect_async(url)).await??;
    socket.send("start".into()).await?;
    let mut code = CloseCode::Abnormal;
    // Reading on after a ping or a Close frame sends the answer, which tungstenite has ready.
    while let Some(message) = in_time(socket.next()).await? {
        match message? {
            Message::Text(text) => println!("{text}"),
            Message::Close(frame) => code = frame.map_or(CloseCode::Status, |frame| frame.code),
            _ => {}
        }
    }
    Ok(code)
}

/// A server that is gone without a packet would be waited for without an end.
async fn in_time<T>(waiting: impl Future<Output = T>) -> Result<T, Error> {
    Ok(timeout(SILENCE, waiting).await.map_err(io::Error::from)?)
}

/// Not after 1000, when there is nothing left to push, nor when the server has found fault with the request.
fn may_succeed_later(end: &Result<CloseCode, Error>) -> bool {
    match end {
        Ok(code) => matches!(code, CloseCode::Away | CloseCode::Error | CloseCode::Again),
        Err(Error::Http(response)) => response.status().is_server_error(),
        Err(error) => matches!(error, Error::Io(_) | Error::Protocol(_)),
    }
}

/// From 0 to 1: clients that lose a server at the same time are not to come back at the same time. The standard library
/// has no random numbers but those that seed its hash maps.
fn random() -> f64 {
    let bits = RandomState::new().hash_one(());
    f64::from((bits >> 32) as u32) / f64::from(u32::MAX)
}
