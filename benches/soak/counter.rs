//! Clients of all kinds, each with a counter of its own.

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
    Result, Tally,
    socket::{PATIENCE, close_code, connect, expect, hear, leave, say, upgrade},
};

pub(crate) const INTERVAL: Duration = Duration::from_secs(2);

/// One client, which reconnects whenever its behaviour ends its connection.
pub(crate) async fn live(server: SocketAddr, client: u64, until: Instant) -> Result<Tally> {
    let mut tally = Tally::default();
    sleep(Duration::from_millis(client % 1000)).await;
    while Instant::now() < until {
        let turn = client / 20 + tally.connections;
        let stay = Duration::from_secs(2 + turn % 7);
        let over = until.min(Instant::now() + stay);
        tally.connections += 1;
        let (behaviour, lived) = match client % 20 {
            0..10 => ("stays", listen(server, until, &mut tally).await),
            10 => ("reconnects", listen(server, over, &mut tally).await),
            11 | 12 => ("says wrong words", say_wrong_words(server, over).await),
            13 | 14 => (
                "says start in fragments",
                start_in_fragments(server, over).await,
            ),
            15 | 16 => (
                "breaks the protocol",
                break_protocol(server, turn, over).await,
            ),
            17 => ("resets", reset(server, over).await),
            18 => (
                "sends half a request",
                send_half_a_request(server, turn, over).await,
            ),
            _ => ("does not read", stall(server, over).await),
        };
        lived.map_err(|error| format!("a client that {behaviour}: {error}"))?;
    }
    Ok(tally)
}

/// Behaves well, and checks every notification.
async fn listen(server: SocketAddr, until: Instant, tally: &mut Tally) -> Result<()> {
    let mut socket = connect(server).await?;
    let mut due = Instant::now();
    say(&mut socket, "start").await?;
    for number in 1.. {
        let heard = hear(&mut socket, due + PATIENCE).await?;
        let now = Instant::now();
        if heard != Message::text(format!("Notification {number}")) || now < due {
            return Err(format!(
                "heard {heard:?} at {now:?}; Notification {number} was due at {due:?}"
            )
            .into());
        }
        let late = now - due;
        tally.late = tally.late.max(late);
        tally.notifications += 1;
        due += INTERVAL;
        // On a busy machine some are late. But if one is missing, all later ones are late by an interval.
        if due >= until && late < INTERVAL {
            break;
        }
        if due >= until + PATIENCE {
            return Err(format!("Notification {number} is still late by {late:?}").into());
        }
    }
    leave(socket).await
}

async fn say_wrong_words(server: SocketAddr, over: Instant) -> Result<()> {
    let mut socket = connect(server).await?;
    while Instant::now() < over {
        say(&mut socket, "please\u{1b}[31m\r\nstart").await?;
        let answer = Message::text("You did not say the magic word!");
        expect(&mut socket, answer).await?;
        sleep(Duration::from_millis(700)).await;
    }
    leave(socket).await
}

async fn start_in_fragments(server: SocketAddr, over: Instant) -> Result<()> {
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

/// Sends something else each turn that ends the connection, and checks the close code.
async fn break_protocol(server: SocketAddr, turn: u64, over: Instant) -> Result<()> {
    let frames: [(&[u8], u16); 6] = [
        (b"\x81\x05start", 1002),
        (b"\x89\xFE\x20\x00\0\0\0\0", 1009),
        (b"\x81\x82\0\0\0\0\xC3\x28", 1007),
        (b"\x81\xFF\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF\0\0\0\0", 1009),
        (b"\x82\x80\0\0\0\0", 1003),
        (b"\x88\x82\0\0\0\0\x0B\xB8", 3000),
    ];
    let (frame, code) = frames[usize::try_from(turn % 6)?];
    let mut socket = connect(server).await?;
    say(&mut socket, "start").await?;
    sleep_until(over).await;
    socket.get_mut().write_all(frame).await?;
    match close_code(&mut socket).await? {
        Some(heard) if heard == code => Ok(()),
        heard => {
            let frame = frame.escape_ascii();
            Err(format!("{frame} is answered with the close code {heard:?}").into())
        }
    }
}

async fn reset(server: SocketAddr, over: Instant) -> Result<()> {
    let mut socket = connect(server).await?;
    say(&mut socket, "start").await?;
    sleep_until(over).await;
    Ok(socket.get_ref().set_zero_linger()?)
}

/// Leaves before or after the server answers, in turn.
async fn send_half_a_request(server: SocketAddr, turn: u64, over: Instant) -> Result<()> {
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
    match timeout(PATIENCE, talk).await?? {
        answer if answer.is_empty() || answer.starts_with("HTTP/1.1 408 ") => Ok(()),
        answer => Err(format!("half a request is answered with {answer:?}").into()),
    }
}

/// Sends pings without reading the pongs, then reads without answering until the server closes the connection.
async fn stall(server: SocketAddr, over: Instant) -> Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_send_buffer_size(4096)?;
    socket.set_recv_buffer_size(4096)?;
    let mut socket = upgrade(socket, server).await?;
    let pings = async {
        while say(&mut socket, Message::Ping(vec![0; 125].into()))
            .await
            .is_ok()
        {}
    };
    let _ = timeout_at(over, pings).await;
    // Without reading, it would be kept for a minute. A reset ends it too.
    let mut stream = socket.into_inner();
    let end = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
    end.map_or(Err("the server keeps it".into()), |_| Ok(()))
}
