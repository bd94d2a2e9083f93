//! A client's socket, which gives up in time.

use std::{net::SocketAddr, time::Duration};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout, timeout_at},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message},
};

/// How long the slowest answer may take, and the server to be rid of a wave of clients.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) type Socket = WebSocketStream<TcpStream>;

pub(crate) async fn connect(server: SocketAddr) -> Result<Socket, String> {
    let socket = TcpSocket::new_v4().map_err(|error| error.to_string())?;
    upgrade(socket, server).await
}

pub(crate) async fn upgrade(socket: TcpSocket, server: SocketAddr) -> Result<Socket, String> {
    let upgrading = async {
        let stream = socket.connect(server).await?;
        let (socket, _) = client_async(format!("ws://{server}/"), stream).await?;
        Ok::<_, Error>(socket)
    };
    match timeout(PATIENCE, upgrading).await {
        Ok(upgraded) => upgraded.map_err(|error| format!("no handshake: {error}")),
        Err(_) => Err("no handshake in time".into()),
    }
}

pub(crate) async fn say(socket: &mut Socket, message: impl Into<Message>) -> Result<(), String> {
    socket
        .send(message.into())
        .await
        .map_err(|error| format!("can't write: {error}"))
}

/// The next message that is no ping.
pub(crate) async fn hear(socket: &mut Socket, until: Instant) -> Result<Message, String> {
    loop {
        match timeout_at(until, socket.next()).await {
            Ok(Some(Ok(Message::Ping(_)))) => {}
            Ok(Some(Ok(message))) => return Ok(message),
            ended => return Err(format!("heard {ended:?} instead of a message")),
        }
    }
}

pub(crate) async fn expect(socket: &mut Socket, due: Message) -> Result<(), String> {
    match hear(socket, Instant::now() + PATIENCE).await? {
        heard if heard == due => Ok(()),
        heard => Err(format!("heard {heard:?} instead of {due:?}")),
    }
}

pub(crate) async fn leave(mut socket: Socket) -> Result<(), String> {
    say(&mut socket, Message::Close(None)).await?;
    loop {
        match hear(&mut socket, Instant::now() + PATIENCE).await? {
            Message::Close(None) => return Ok(()),
            Message::Text(_) | Message::Pong(_) => {}
            heard => return Err(format!("heard {heard:?} instead of the end")),
        }
    }
}
