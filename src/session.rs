//! The conversation after the handshake: what is said to what, and the close code of each way to end (RFC 6455 §5–7).

use std::{
    fmt,
    future::{Future, pending},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    select,
    time::sleep,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Bytes, Error as WsError, Message, Utf8Bytes,
        error::ProtocolError,
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};
use tracing::debug;

use crate::{
    liveness::{Heard, Liveness, SILENCE, Verdict},
    notifications::Source,
    write::in_time,
};

/// The largest frame and message that a client may send: `start` needs 5 bytes, `wrong words` a line.
const MESSAGE_LIMIT: usize = 4 * 1024;

/// Room for `start` and for pongs. Allocated for each connection, and reserved again for what is larger.
const READ_BUFFER: usize = 128;

/// The write buffer holds one message at a time, and a pong: every message is flushed before the next one.
const WRITE_LIMIT: usize = 64 * 1024;

const START: &str = "start";
const WRONG_WORD: &str = "You did not say the magic word!";
const NO_BINARY: &str = "server doesn't support binary messages";

/// A WebSocket whose stream knows when it was last heard from.
pub(crate) type Socket<S> = WebSocketStream<Heard<S>>;

/// Limits for tungstenite, whose default buffers are 128 KiB and whose default message limit is 64 MiB.
pub(crate) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_LIMIT)
        .max_frame_size(Some(MESSAGE_LIMIT))
        .max_message_size(Some(MESSAGE_LIMIT))
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The client sent a Close frame, and was sent its code back.
    Closed(Option<CloseCode>),
    /// The client sent a binary message.
    Binary,
    /// The client sent what RFC 6455 or a limit forbids.
    Failed(CloseCode, String),
    /// There is nothing more to push.
    Exhausted,
    /// The server is stopping.
    Stopping,
    /// The client is gone without a Close frame: end of file, or an error of its socket.
    Vanished(Option<io::ErrorKind>),
    /// Nothing came from the client for twice [`SILENCE`].
    Silent,
    /// A write made no way for [`WRITE_TIMEOUT`](crate::write::WRITE_TIMEOUT).
    Stalled,
}

impl End {
    /// What the client is told (RFC 6455 §7.4.1): nothing when it has closed, or can't be told any more.
    pub(crate) fn close_frame(&self) -> Option<CloseFrame> {
        let (code, reason) = match self {
            Self::Closed(_) | Self::Vanished(_) | Self::Silent | Self::Stalled => return None,
            Self::Binary => (CloseCode::Unsupported, NO_BINARY.into()),
            Self::Failed(code, reason) => (*code, reason.into()),
            Self::Exhausted => (CloseCode::Normal, Utf8Bytes::default()),
            Self::Stopping => (CloseCode::Away, "the server is stopping".into()),
        };
        Some(CloseFrame { code, reason })
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(Some(code)) => write!(f, "the client closed with {code}"),
            Self::Closed(None) => write!(f, "the client closed"),
            Self::Binary => write!(f, "closed with 1003: binary message"),
            Self::Failed(code, reason) => write!(f, "closed with {code}: {reason}"),
            Self::Exhausted => write!(f, "closed with 1000: nothing more to push"),
            Self::Stopping => write!(f, "closed with 1001: the server is stopping"),
            Self::Vanished(None) => write!(f, "the client vanished: end of file"),
            Self::Vanished(Some(error)) => write!(f, "the client vanished: {error}"),
            Self::Silent => write!(f, "the client is silent"),
            Self::Stalled => write!(f, "the client does not read"),
        }
    }
}

/// tungstenite tells of its errors but closes for none of them.
impl From<WsError> for End {
    fn from(error: WsError) -> Self {
        match error {
            WsError::Io(error) if error.kind() == io::ErrorKind::TimedOut => Self::Stalled,
            WsError::Io(error) => Self::Vanished(Some(error.kind())),
            WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Vanished(None),
            WsError::Protocol(error) => Self::Failed(CloseCode::Protocol, error.to_string()),
            WsError::Utf8(_) => Self::Failed(CloseCode::Invalid, "text must be UTF-8".into()),
            WsError::Capacity(error) => Self::Failed(CloseCode::Size, error.to_string()),
            error => Self::Failed(CloseCode::Error, error.to_string()),
        }
    }
}

/// One client's conversation, from the end of its handshake to the end of what it says.
pub(crate) struct Session<'a, S, N> {
    pub(crate) socket: &'a mut Socket<S>,
    pub(crate) peer: SocketAddr,
    /// Where notifications come from, once the client has said `start`.
    pub(crate) source: Option<N>,
    /// How many notifications were sent.
    pub(crate) pushed: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin, N: Source> Session<'_, S, N> {
    /// Waits for whichever comes first, again and again: the next notification, a message from the client, the
    /// alarm that looks after a silent client, the server's stopping.
    pub(crate) async fn run(
        &mut self,
        start: impl Fn() -> N,
        mut stopping: Pin<&mut impl Future<Output = ()>>,
    ) -> End {
        let mut liveness = Liveness::default();
        let mut alarm = pin!(sleep(SILENCE));
        loop {
            let step = select! {
                text = next(&mut self.source) => self.push(text).await,
                message = self.socket.next() => self.hear(message, &start).await,
                () = &mut alarm => {
                    let (verdict, again) = liveness.judge(self.socket.get_ref().last());
                    alarm.as_mut().reset(again);
                    self.look_after(verdict).await
                }
                () = &mut stopping => Err(End::Stopping),
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    async fn push(&mut self, text: Option<Utf8Bytes>) -> Result<(), End> {
        let text = text.ok_or(End::Exhausted)?;
        let waited = self.send(Message::Text(text)).await?;
        self.pushed += 1;
        if waited && let Some(source) = &mut self.source {
            source.skip_missed();
        }
        Ok(())
    }

    async fn hear(
        &mut self,
        message: Option<Result<Message, WsError>>,
        start: impl Fn() -> N,
    ) -> Result<(), End> {
        match message.ok_or(End::Vanished(None))?? {
            Message::Text(text) => self.hear_text(&text, start).await,
            Message::Binary(_) => {
                self.send(Message::text(NO_BINARY)).await?;
                Err(End::Binary)
            }
            // The answers to both are tungstenite's: they wait to be flushed.
            Message::Ping(_) => self.flush().await,
            Message::Close(frame) => {
                self.flush().await?;
                Err(End::Closed(frame.map(|frame| frame.code)))
            }
            Message::Pong(_) | Message::Frame(_) => Ok(()),
        }
    }

    async fn hear_text(&mut self, text: &str, start: impl Fn() -> N) -> Result<(), End> {
        debug!(peer = %self.peer, ?text, "said");
        if self.source.is_some() {
            return Ok(());
        }
        if text.trim_matches(['\r', '\n']) == START {
            self.source = Some(start());
            return Ok(());
        }
        self.send(Message::text(WRONG_WORD)).await?;
        Ok(())
    }

    async fn look_after(&mut self, verdict: Verdict) -> Result<(), End> {
        match verdict {
            Verdict::Alive => Ok(()),
            Verdict::Silent => self.send(Message::Ping(Bytes::new())).await.map(drop),
            Verdict::Gone => Err(End::Silent),
        }
    }

    /// Tells whether the client kept the write waiting.
    async fn send(&mut self, message: Message) -> Result<bool, End> {
        Ok(in_time(self.socket.send(message)).await?)
    }

    async fn flush(&mut self) -> Result<(), End> {
        in_time(self.socket.flush()).await?;
        Ok(())
    }
}

/// The next notification, or for ever nothing before `start`.
async fn next<N: Source>(source: &mut Option<N>) -> Option<Utf8Bytes> {
    match source {
        Some(source) => source.next().await,
        None => pending().await,
    }
}
