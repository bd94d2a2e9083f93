//! The conversation after the handshake: what is said to what (RFC 6455 §5). The ways to end stand in `end`.

pub(crate) mod close;
pub(crate) mod keepalive;

use std::{
    convert::Infallible,
    future::{Future, pending},
    net::SocketAddr,
    pin::Pin,
    task::Poll,
    time::Duration,
};

use futures_util::{SinkExt, StreamExt, poll};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    select,
    task::unconstrained,
    time::{Instant, Sleep, timeout_at},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Bytes, Message, Utf8Bytes, protocol::CloseFrame},
};
use tracing::debug;

use crate::{
    io::{ActivityStream, WRITE_TIMEOUT, linger},
    notifications::Source,
    session::close::{CloseReason, NO_BINARY},
    session::keepalive::{Keepalive, SILENCE, Verdict},
};

const START: &str = "start";
const WRONG_WORD: &str = "You did not say the magic word!";

/// One client's conversation, from the end of its handshake to the last that it is told.
pub(crate) struct Session<'a, S, N> {
    socket: WebSocketStream<ActivityStream<S>>,
    peer: &'a SocketAddr,
    /// When to check on the client.
    timer: Pin<&'a mut Sleep>,
    keepalive: Keepalive,
    /// Where notifications come from, once the client has said `start`.
    source: Option<N>,
    /// How many notifications were sent.
    pub(crate) pushed: u64,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin, N: Source> Session<'a, S, N> {
    pub(crate) fn new(
        socket: WebSocketStream<ActivityStream<S>>,
        peer: &'a SocketAddr,
        timer: Pin<&'a mut Sleep>,
    ) -> Self {
        Self {
            socket,
            peer,
            timer,
            keepalive: Keepalive::default(),
            source: None,
            pushed: 0,
        }
    }

    /// Waits for whichever comes first, again and again, until one side ends it: the next notification, a message from
    /// the client, the time to check on a silent client, the server's stopping.
    pub(crate) async fn run(
        &mut self,
        start: impl Fn() -> N,
        mut stopping: impl Future<Output = ()> + Unpin,
    ) -> Result<Infallible, CloseReason> {
        let heard = self.socket.get_ref().last_read();
        self.timer.as_mut().reset(heard + SILENCE);
        loop {
            select! {
                text = next(&mut self.source) => {
                    self.queue(Message::Text(text.ok_or(CloseReason::EXHAUSTED)?))?;
                    self.flush().await?;
                    self.pushed += 1;
                }
                message = self.socket.next() => {
                    self.on_message(message.ok_or(CloseReason::Disconnected(None))??, &start)?;
                    self.flush().await?;
                }
                () = self.timer.as_mut() => {
                    self.check_keepalive()?;
                    self.flush().await?;
                }
                () = &mut stopping => return Err(CloseReason::STOPPING),
            }
        }
    }

    fn on_message(&mut self, message: Message, start: impl Fn() -> N) -> Result<(), CloseReason> {
        match message {
            Message::Text(text) => self.on_text(&text, start),
            Message::Binary(_) => {
                self.queue(Message::text(NO_BINARY))?;
                Err(CloseReason::BINARY)
            }
            Message::Close(frame) => Err(CloseReason::ByClient(frame.map(|frame| frame.code))),
            // tungstenite has an answer to a ping ready.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(()),
        }
    }

    fn on_text(&mut self, text: &str, start: impl Fn() -> N) -> Result<(), CloseReason> {
        debug!(peer = %self.peer, ?text, "received text");
        if self.source.is_some() {
            return Ok(());
        }
        if text.trim_matches(['\r', '\n']) != START {
            return self.queue(Message::text(WRONG_WORD));
        }
        self.source = Some(start());
        Ok(())
    }

    fn check_keepalive(&mut self) -> Result<(), CloseReason> {
        let heard = self.socket.get_ref().last_read();
        let (verdict, due) = self.keepalive.check(heard, self.timer.deadline());
        self.timer.as_mut().reset(due);
        match verdict {
            Verdict::Active => Ok(()),
            Verdict::SendPing => self.queue(Message::Ping(Bytes::new())),
            Verdict::Dead => Err(CloseReason::PingTimeout),
        }
    }

    /// Tells the client why, if it is still there to be told, and lets it close too.
    pub(crate) async fn close(&mut self, end: &CloseReason) {
        let said = match end {
            CloseReason::Disconnected(_) | CloseReason::PingTimeout | CloseReason::WriteTimeout => {
                return;
            }
            // tungstenite has answered already.
            CloseReason::ByClient(_) => Ok(()),
            CloseReason::ByServer(code, reason) => self.queue(Message::Close(Some(CloseFrame {
                code: *code,
                reason: reason.as_ref().into(),
            }))),
        };
        // What fails here has no consequence: the connection is over.
        if said.is_ok() && self.flush().await.is_ok() {
            linger(self.socket.get_mut()).await;
        }
    }

    /// Hands a message to the socket, which keeps what it can't send at once.
    fn queue(&mut self, message: Message) -> Result<(), CloseReason> {
        Ok(self.socket.start_send_unpin(message)?)
    }

    /// Finishes sending what was said and what tungstenite has answered.
    async fn flush(&mut self) -> Result<(), CloseReason> {
        // Nearly every write goes at once, and sets no timer. One that tokio's budget for the task put off would look like
        // a client that does not read.
        if let Poll::Ready(result) = poll!(unconstrained(self.socket.flush())) {
            return Ok(result?);
        }
        let waiting = Instant::now();
        let mut since = waiting;
        loop {
            // In a box, to take no memory while the client reads.
            let flushed = Box::pin(timeout_at(since + WRITE_TIMEOUT, self.socket.flush())).await;
            if let Ok(result) = flushed {
                self.after_stall(waiting.elapsed());
                return Ok(result?);
            }
            let written = self.socket.get_ref().last_write();
            if written <= since {
                return Err(CloseReason::WriteTimeout);
            }
            since = written;
        }
    }

    /// The client kept a write waiting and reads again: what came due meanwhile is left out, and the check on a silent
    /// client is put off by the time in which nobody listened.
    fn after_stall(&mut self, waited: Duration) {
        if let Some(source) = &mut self.source {
            source.skip_missed();
        }
        let due = self.timer.deadline() + waited;
        self.timer.as_mut().reset(due);
    }
}

/// The next notification, or for ever nothing before `start`.
async fn next<N: Source>(source: &mut Option<N>) -> Option<Utf8Bytes> {
    match source {
        Some(source) => source.next().await,
        None => pending().await,
    }
}
