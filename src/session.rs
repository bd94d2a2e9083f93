//! The conversation after the handshake: what is sent when, and what is answered to what (RFC 6455 §5). The ways to end
//! are in `close`.

mod close;
mod keepalive;
mod socket;

use std::{
    convert::Infallible,
    future::pending,
    net::SocketAddr,
    pin::{Pin, pin},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    select,
    sync::watch,
    time::{Instant, Sleep},
};
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tracing::debug;

pub(crate) use self::close::CloseReason;
use self::{
    close::NO_BINARY,
    keepalive::{Keepalive, Verdict},
    socket::Socket,
};
use crate::{
    io::ActivityStream,
    notifications::{Notification, Source},
};

const START: &str = "start";
const WRONG_WORD: &str = "You did not say the magic word!";

/// How many bytes of notifications are written at once: the kernel's send buffer takes no more.
const BATCH_LIMIT: usize = 16 * 1024;

/// What the server asks of its sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(crate) enum Shutdown {
    No,
    /// Close, but send those clients that have said `start` what their source still has.
    WhenSourceEnds,
    Now,
}

impl Shutdown {
    /// Waits until at least this much is asked, or the server is gone.
    pub(crate) async fn wait(self, mut asked: watch::Receiver<Self>) {
        let _ = asked.wait_for(|asked| *asked >= self).await;
    }
}

/// One client's conversation, from the end of its handshake to the last that it is sent.
pub(crate) struct Session<'a, S, N> {
    socket: Socket<S>,
    peer: SocketAddr,
    keepalive: Keepalive,
    /// When to check on the client.
    timer: Pin<&'a mut Sleep>,
    /// Where notifications come from, until the connection closes.
    source: Option<N>,
    has_started: bool,
    /// How many notifications were sent.
    pub(crate) pushed: u64,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin, N: Source> Session<'a, S, N> {
    pub(crate) async fn new(
        stream: ActivityStream<S>,
        peer: SocketAddr,
        source: N,
        keepalive: Duration,
        timer: Pin<&'a mut Sleep>,
    ) -> Self {
        Self {
            socket: Socket::new(stream).await,
            peer,
            keepalive: Keepalive::new(keepalive),
            timer,
            source: Some(source),
            has_started: false,
            pushed: 0,
        }
    }

    /// Waits for whichever comes first, again and again, until one side ends it: the next notification, a message from
    /// the client, the time to check on a silent client, the server's shutdown.
    pub(crate) async fn run(
        &mut self,
        shutdown: &watch::Receiver<Shutdown>,
    ) -> Result<Infallible, CloseReason> {
        let mut stopping = pin!(Shutdown::WhenSourceEnds.wait(shutdown.clone()));
        self.check_keepalive()?;
        loop {
            select! {
                notification = next(&mut self.source, self.has_started) => {
                    self.push(notification?).await?;
                }
                message = self.socket.recv() => {
                    self.on_message(message?)?;
                    self.flush().await?;
                }
                () = self.timer.as_mut() => {
                    self.check_keepalive()?;
                    self.flush().await?;
                }
                () = &mut stopping => {
                    if !self.has_started || *shutdown.borrow() == Shutdown::Now {
                        return Err(CloseReason::stopping());
                    }
                    stopping.set(Shutdown::Now.wait(shutdown.clone()));
                }
            }
        }
    }

    /// Sends the notification, and with it what else is there already.
    async fn push(&mut self, notification: Notification) -> Result<(), CloseReason> {
        let mut next = Some(notification);
        let mut size = 0;
        while let Some(notification) = next {
            size += self.socket.push(notification);
            self.pushed += 1;
            let source = self.source.as_mut().filter(|_| size < BATCH_LIMIT);
            next = source.and_then(Source::try_next);
        }
        self.flush().await
    }

    fn on_message(&mut self, message: Message) -> Result<(), CloseReason> {
        match message {
            Message::Text(text) => self.on_text(&text),
            Message::Binary(_) => {
                self.socket.send(Message::text(NO_BINARY))?;
                Err(CloseReason::binary())
            }
            Message::Close(frame) => Err(CloseReason::ByClient(frame.map(|frame| frame.code))),
            // tungstenite has an answer to a ping ready.
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
        if let Some(source) = &mut self.source {
            source.start();
        }
        Ok(())
    }

    fn check_keepalive(&mut self) -> Result<(), CloseReason> {
        let (last_read, last_write) = (self.socket.last_read(), self.socket.last_write());
        let (verdict, next) = self.keepalive.check(last_read, last_write);
        self.timer.as_mut().reset(next);
        match verdict {
            Verdict::Active => Ok(()),
            Verdict::SendPing => self.socket.send(Message::Ping(Bytes::new())),
            Verdict::Dead => Err(CloseReason::PingTimeout),
        }
    }

    /// Sends the client the reason, if it is still there, and lets it close too.
    pub(crate) async fn close(&mut self, reason: &CloseReason) {
        // Others are not to wait for what this client takes no more.
        self.source = None;
        let sent = match reason {
            CloseReason::Disconnected(_) | CloseReason::PingTimeout | CloseReason::WriteTimeout => {
                return;
            }
            // tungstenite has answered already.
            CloseReason::ByClient(_) => Ok(()),
            CloseReason::ByServer(frame) => self.socket.send(Message::Close(Some(frame.clone()))),
        };
        // What fails here has no consequence: the connection is over.
        if sent.is_ok() && self.flush().await.is_ok() {
            self.socket.linger().await;
        }
    }

    /// Sends what is queued. Nearly every write goes at once, and sets no timer.
    async fn flush(&mut self) -> Result<(), CloseReason> {
        if self.socket.try_flush().await? {
            return Ok(());
        }
        if let Some(source) = &mut self.source {
            source.pause();
        }
        let paused = Instant::now();
        // In a box, to take no memory while the client reads.
        Box::pin(self.socket.flush()).await?;
        if let Some(source) = &mut self.source {
            source.resume();
        }
        // A client was not silent while nobody listened.
        let due = self.timer.deadline() + paused.elapsed();
        self.timer.as_mut().reset(due);
        Ok(())
    }
}

/// The next notification; none comes before `start`.
async fn next<N: Source>(
    source: &mut Option<N>,
    has_started: bool,
) -> Result<Notification, CloseReason> {
    match source {
        Some(source) if has_started => Ok(source.next().await?),
        _ => pending().await,
    }
}
