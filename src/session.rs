//! The conversation after the handshake: which message gets which answer, and when notifications go out (RFC 6455 §5). The
//! ways to end it are in `close`.

mod close;
mod keepalive;
mod socket;

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::{Pin, pin},
};

use futures_util::FutureExt;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    select,
    task::coop::consume_budget,
    time::{Instant, Sleep},
};
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_util::sync::CancellationToken;
use tracing::debug;

pub(crate) use self::{close::CloseReason, keepalive::Keepalive, socket::Socket};
use self::{close::NO_BINARY, keepalive::Verdict};
use crate::{
    io::MAX_FRAMES,
    notifications::{Notification, Source},
};

const START: &str = "start";
const WRONG_WORD: &str = "You did not say the magic word!";

/// How many bytes of notifications are written at once: the kernel's send buffer takes no more.
const BATCH_SIZE: usize = 16 * 1024;

/// The two steps of a shutdown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shutdown {
    /// No new clients. Started ones receive what their source still has, the others are closed with 1001.
    pub(crate) draining: CancellationToken,
    /// Started clients are closed with 1001 too.
    pub(crate) closing: CancellationToken,
}

/// One client's conversation, from the end of the handshake to the Close frame.
pub(crate) struct Session<'a, S, N> {
    pub(crate) socket: Socket<S>,
    pub(crate) peer: &'a SocketAddr,
    pub(crate) shutdown: &'a Shutdown,
    pub(crate) keepalive: Keepalive<'a>,
    /// When to check the keepalive.
    pub(crate) timer: Pin<&'a mut Sleep>,
    pub(crate) source: N,
    pub(crate) has_started: bool,
    /// How many notifications were sent.
    pub(crate) pushed: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin, N: Source> Session<'_, S, N> {
    /// Handles whatever comes first, until the connection has to end:
    ///
    /// - the next notification, once the client has started,
    /// - a message from the client,
    /// - the time to check the keepalive,
    /// - the server's shutdown.
    pub(crate) async fn run(&mut self) -> Result<Infallible, CloseReason> {
        let mut shutdown = pin!(self.shutdown.draining.cancelled());
        self.check_keepalive()?;
        loop {
            select! {
                notification = self.source.next(), if self.has_started => self.push(notification?),
                message = self.socket.recv() => self.on_message(message?)?,
                () = self.timer.as_mut() => self.check_keepalive()?,
                () = &mut shutdown => {
                    if !self.has_started || self.shutdown.closing.is_cancelled() {
                        return Err(CloseReason::stopping());
                    }
                    shutdown.set(self.shutdown.closing.cancelled());
                }
            }
            self.flush().await?;
            // A client that sends without a pause must not keep its thread from other clients.
            consume_budget().await;
        }
    }

    /// Queues the notification, and others that are ready.
    fn push(&mut self, notification: Notification) {
        let mut next = Some(notification);
        let (mut size, mut count) = (0, 0);
        while let Some(notification) = next {
            size += self.socket.push(notification);
            self.pushed += 1;
            count += 1;
            next = if size < BATCH_SIZE && count < MAX_FRAMES {
                self.source.try_next()
            } else {
                None
            };
        }
    }

    fn on_message(&mut self, message: Message) -> Result<(), CloseReason> {
        match message {
            Message::Text(text) => self.on_text(&text),
            Message::Binary(_) => {
                self.socket.send(Message::text(NO_BINARY))?;
                Err(CloseReason::binary())
            }
            Message::Close(frame) => Err(CloseReason::ByClient(frame.map(|frame| frame.code))),
            // tungstenite has queued the pong.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(()),
        }
    }

    fn on_text(&mut self, text: &str) -> Result<(), CloseReason> {
        debug!(peer = %self.peer, ?text, "received text");
        if self.has_started {
            return Ok(());
        }
        if text.trim_matches(['\r', '\n']) != START {
            return self.socket.send(Message::text(WRONG_WORD));
        }
        self.has_started = true;
        self.source.start();
        Ok(())
    }

    fn check_keepalive(&mut self) -> Result<(), CloseReason> {
        let (last_read, last_write) = (self.socket.last_read(), self.socket.last_write());
        let (verdict, next_check) = self.keepalive.check(last_read, last_write);
        self.timer.as_mut().reset(next_check);
        match verdict {
            Verdict::Wait => Ok(()),
            Verdict::Ping => self.socket.send(Message::Ping(Bytes::new())),
            Verdict::Drop => self.read_before_drop(last_read),
        }
    }

    /// Reads once more: the socket may have become ready together with the timer.
    fn read_before_drop(&mut self, last_read: Instant) -> Result<(), CloseReason> {
        let message = self.socket.recv().now_or_never();
        if self.socket.last_read() == last_read {
            return Err(CloseReason::PingTimeout);
        }
        message.map_or(Ok(()), |message| self.on_message(message?))
    }

    /// Sends the reason to the client if it is still there, and waits for it to close too.
    pub(crate) async fn close(self, reason: &CloseReason) {
        let mut socket = self.socket;
        // Other clients must not wait for this one any more.
        drop(self.source);
        let sent = match reason {
            CloseReason::Disconnected(_) | CloseReason::PingTimeout | CloseReason::WriteTimeout => {
                return;
            }
            // tungstenite has queued the answer.
            CloseReason::ByClient(_) => Ok(()),
            CloseReason::ByServer(frame) => socket.send(Message::Close(Some(frame.clone()))),
        };
        // Errors don't matter: the connection is over.
        if sent.is_ok() && socket.flush().await.is_ok() {
            if reason.is_behind() {
                socket.wait_for_close().await;
            }
            socket.linger().await;
        }
    }

    /// Sends what is queued. Nearly every write succeeds at once and needs no timer.
    async fn flush(&mut self) -> Result<(), CloseReason> {
        if self.socket.try_flush().await? {
            return Ok(());
        }
        let paused = Instant::now();
        if self.has_started {
            self.source.pause();
        }
        // Boxed, to take no memory while the client reads.
        Box::pin(self.socket.flush()).await?;
        if self.has_started {
            self.source.resume();
        }
        // The server did not listen meanwhile, so the client was not silent.
        let due = self.timer.deadline() + paused.elapsed();
        self.timer.as_mut().reset(due);
        Ok(())
    }
}
