//! A client's socket, with a limit for every wait.

use std::{net::SocketAddr, time::Duration};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout, timeout_at},
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use crate::Result;

/// How long the slowest answer may take, and how long the server may take to let go of a wave of clients.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) type Socket = WebSocketStream<TcpStream>;

pub(crate) async fn connect(server: SocketAddr) -> Result<Socket> {
    upgrade(TcpSocket::new_v4()?, server).await
}

pub(crate) async fn upgrade(socket: TcpSocket, server: SocketAddr) -> Result<Socket> {
    let upgrade = async {
        let stream = socket.connect(server).await?;
        let (socket, _) = client_async(format!("ws://{server}/"), stream).await?;
        Ok(socket)
    };
    timeout(PATIENCE, upgrade)
        .await
        .map_err(|_| "the handshake takes too long")?
}

pub(crate) async fn say(socket: &mut Socket, message: impl Into<Message>) -> Result<()> {
    Ok(socket.send(message.into()).await?)
}

/// The next message other than a ping.
pub(crate) async fn hear(socket: &mut Socket, until: Instant) -> Result<Message> {
    loop {
        match timeout_at(until, socket.next()).await {
            Ok(Some(Ok(Message::Ping(_)))) => {}
            Ok(Some(Ok(message))) => return Ok(message),
            ended => return Err(format!("heard {ended:?} instead of a message").into()),
        }
    }
}

pub(crate) async fn expect(socket: &mut Socket, due: Message) -> Result<()> {
    match hear(socket, Instant::now() + PATIENCE).await? {
        heard if heard == due => Ok(()),
        heard => Err(format!("heard {heard:?} instead of {due:?}").into()),
    }
}

/// Reads up to the server's Close frame, and returns its code.
pub(crate) async fn close_code(socket: &mut Socket) -> Result<Option<u16>> {
    loop {
        match hear(socket, Instant::now() + PATIENCE).await? {
            Message::Close(close) => return Ok(close.map(|close| close.code.into())),
            Message::Text(_) | Message::Pong(_) => {}
            heard => return Err(format!("heard {heard:?} instead of the end").into()),
        }
    }
}

pub(crate) async fn leave(mut socket: Socket) -> Result<()> {
    say(&mut socket, Message::Close(None)).await?;
    match close_code(&mut socket).await? {
        None => Ok(()),
        code => Err(format!("the answer to its Close has the code {code:?}").into()),
    }
}
