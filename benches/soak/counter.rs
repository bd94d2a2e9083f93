//! Clients of all manners, each with a counter of its own.

#[allow(dead_code, reason = "shared with the property tests")]
#[path = "../../tests/contract/model/frame.rs"]
mod frame;

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

use crate::{
    Tally,
    socket::{PATIENCE, connect, expect, hear, leave, say, upgrade},
};

pub(crate) const INTERVAL: Duration = Duration::from_secs(2);

/// One client, which connects again as often as its manners end its connection.
pub(crate) async fn live(server: SocketAddr, client: u64, until: Instant) -> Result<Tally, String> {
    let mut tally = Tally::default();
    sleep(Duration::from_millis(client % 1000)).await;
    while Instant::now() < until {
        let turn = client / 20 + tally.connections;
        let stay = Duration::from_secs(2 + turn % 7);
        let over = until.min(Instant::now() + stay);
        tally.connections += 1;
        let (manner, lived) = match client % 20 {
            0..10 => ("stays", listen(server, until, &mut tally).await),
            10 => ("comes again", listen(server, over, &mut tally).await),
            11 | 12 => ("says wrong words", say_wrong_words(server, over).await),
            13 | 14 => (
                "says start in fragments",
                start_in_fragments(server, over).await,
            ),
            15 | 16 => ("offends", offend(server, turn, over).await),
            17 => ("resets", reset(server, over).await),
            18 => (
                "says half a handshake",
                begin_handshake(server, turn, over).await,
            ),
            _ => ("does not read", stall(server, over).await),
        };
        lived.map_err(|error| format!("a client that {manner}: {error}"))?;
    }
    Ok(tally)
}

/// Behaves well, and checks every notification.
async fn listen(server: SocketAddr, until: Instant, tally: &mut Tally) -> Result<(), String> {
    let mut socket = connect(server).await?;
    let mut due = Instant::now();
    say(&mut socket, "start").await?;
    for number in 1.. {
        let heard = hear(&mut socket, due + PATIENCE).await?;
        let now = Instant::now();
        if heard != Message::text(format!("Notification {number}")) || now < due {
            return Err(format!(
                "heard {heard:?} at {now:?}, and Notification {number} was due at {due:?}"
            ));
        }
        let late = now - due;
        tally.late = tally.late.max(late);
        tally.notifications += 1;
        due += INTERVAL;
        // A busy machine makes some late, but after one is left out, all the others are late by an interval.
        if due >= until && late < INTERVAL {
            break;
        }
        if due >= until + PATIENCE {
            return Err(format!("Notification {number} is still late by {late:?}"));
        }
    }
    leave(socket).await
}

async fn say_wrong_words(server: SocketAddr, over: Instant) -> Result<(), String> {
    let mut socket = connect(server).await?;
    while Instant::now() < over {
        say(&mut socket, "please\u{1b}[31m\r\nstart").await?;
        expect(
            &mut socket,
            Message::text("You did not say the magic word!"),
        )
        .await?;
        sleep(Duration::from_millis(700)).await;
    }
    leave(socket).await
}

async fn start_in_fragments(server: SocketAddr, over: Instant) -> Result<(), String> {
    let mut socket = connect(server).await?;
    let fragment = |text: &'static str, opcode, last| {
        Message::Frame(Frame::message(text, OpCode::Data(opcode), last))
    };
    say(&mut socket, fragment("st", Data::Text, false)).await?;
    while Instant::now() < over {
        say(&mut socket, Message::Ping("between".into())).await?;
        expect(&mut socket, Message::Pong("between".into())).await?;
        sleep(Duration::from_millis(300)).await;
    }
    say(&mut socket, fragment("art", Data::Continue, true)).await?;
    expect(&mut socket, Message::text("Notification 1")).await?;
    leave(socket).await
}

/// Breaks the rules, each time another one, and checks the close code.
async fn offend(server: SocketAddr, turn: u64, over: Instant) -> Result<(), String> {
    let offences: [(&[u8], u16); 6] = [
        (b"\x81\x05start", 1002),
        (b"\x89\xFE\x20\x00\0\0\0\0", 1009),
        (b"\x81\x82\0\0\0\0\xC3\x28", 1007),
        (b"\x81\xFF\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF\0\0\0\0", 1009),
        (b"\x82\x80\0\0\0\0", 1003),
        (b"\x88\x82\0\0\0\0\x0B\xB8", 3000),
    ];
    let (bytes, code) = offences[usize::try_from(turn % 6).unwrap_or(0)];
    let mut socket = connect(server).await?;
    say(&mut socket, "start").await?;
    sleep_until(over).await;
    let mut stream = socket.into_inner();
    let mut heard = Vec::new();
    let talk = async {
        stream.write_all(bytes).await?;
        stream.read_to_end(&mut heard).await
    };
    let read = timeout(PATIENCE, talk).await;
    let frames = frame::read_frames(&[(Duration::ZERO, heard)], false);
    match frames.last().and_then(frame::Frame::close_code) {
        Some(heard) if heard == code => Ok(()),
        _ => Err(format!(
            "{} is closed with {frames:?} and {read:?}",
            bytes.escape_ascii()
        )),
    }
}

async fn reset(server: SocketAddr, over: Instant) -> Result<(), String> {
    let mut socket = connect(server).await?;
    say(&mut socket, "start").await?;
    sleep_until(over).await;
    socket
        .get_ref()
        .set_zero_linger()
        .map_err(|error| error.to_string())
}

/// Says half a handshake, and leaves before the server answers or after.
async fn begin_handshake(server: SocketAddr, turn: u64, over: Instant) -> Result<(), String> {
    let talk = async {
        let mut stream = TcpStream::connect(server).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.exam").await?;
        let mut answer = String::new();
        if turn.is_multiple_of(2) {
            sleep_until(over).await;
        } else {
            stream.read_to_string(&mut answer).await?;
        }
        Ok::<_, io::Error>(answer)
    };
    match timeout(PATIENCE, talk).await {
        Ok(Ok(answer)) if answer.is_empty() || answer.starts_with("HTTP/1.1 408 ") => Ok(()),
        answer => Err(format!("half a handshake is answered with {answer:?}")),
    }
}

/// Pings without reading the pongs, then reads without answering, until the server has had enough.
async fn stall(server: SocketAddr, over: Instant) -> Result<(), String> {
    let small = || {
        let socket = TcpSocket::new_v4()?;
        socket.set_send_buffer_size(4096)?;
        socket.set_recv_buffer_size(4096)?;
        Ok(socket)
    };
    let socket = small().map_err(|error: io::Error| error.to_string())?;
    let mut socket = upgrade(socket, server).await?;
    let pings = async {
        while say(&mut socket, Message::Ping(vec![0; 125].into()))
            .await
            .is_ok()
        {}
    };
    let _ = timeout_at(over, pings).await;
    // As long as it did not read, it would be kept for a minute. A reset ends it too.
    let mut stream = socket.into_inner();
    let end = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
    end.map_or(Err("it is kept".into()), |_| Ok(()))
}
