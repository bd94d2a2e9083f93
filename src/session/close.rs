//! The ways a connection ends, and the close code of each (RFC 6455 §7.4.1).

use std::{borrow::Cow, fmt, io};

use tokio_tungstenite::tungstenite::{
    Error as WsError, error::ProtocolError, protocol::frame::coding::CloseCode,
};

/// What a client is told that sent a binary message.
pub(crate) const NO_BINARY: &str = "server doesn't support binary messages";

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum CloseReason {
    /// The client sent a Close frame, and was sent its code back, or 1002 for an invalid one.
    ByClient(Option<CloseCode>),
    /// The server closes, with this code and reason.
    ByServer(CloseCode, Cow<'static, str>),
    /// The client is gone without a Close frame: end of file, or an error of its socket.
    Disconnected(Option<io::ErrorKind>),
    /// Nothing came from the client for twice [`SILENCE`](crate::session::keepalive::SILENCE).
    PingTimeout,
    /// A write made no way for [`WRITE_TIMEOUT`](crate::io::WRITE_TIMEOUT).
    WriteTimeout,
}

impl CloseReason {
    pub(crate) const BINARY: Self =
        Self::ByServer(CloseCode::Unsupported, Cow::Borrowed(NO_BINARY));
    pub(crate) const EXHAUSTED: Self = Self::ByServer(
        CloseCode::Normal,
        Cow::Borrowed("there are no more notifications"),
    );
    pub(crate) const STOPPING: Self =
        Self::ByServer(CloseCode::Away, Cow::Borrowed("the server is stopping"));
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByClient(Some(code)) => write!(f, "the client closed with {code}"),
            Self::ByClient(None) => write!(f, "the client closed"),
            Self::ByServer(code, reason) => write!(f, "closed with {code}: {reason}"),
            Self::Disconnected(None) => write!(f, "the client vanished: end of file"),
            Self::Disconnected(Some(error)) => write!(f, "the client vanished: {error}"),
            Self::PingTimeout => write!(f, "the client is silent"),
            Self::WriteTimeout => write!(f, "the client does not read"),
        }
    }
}

/// tungstenite tells of its errors but closes for none of them.
impl From<WsError> for CloseReason {
    fn from(error: WsError) -> Self {
        match error {
            WsError::Io(error) => Self::Disconnected(Some(error.kind())),
            WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                Self::Disconnected(None)
            }
            WsError::Protocol(error) => failed(CloseCode::Protocol, &error),
            WsError::Utf8(_) => failed(CloseCode::Invalid, &"text must be UTF-8"),
            WsError::Capacity(error) => failed(CloseCode::Size, &error),
            error => failed(CloseCode::Error, &error),
        }
    }
}

fn failed(code: CloseCode, reason: &dyn fmt::Display) -> CloseReason {
    CloseReason::ByServer(code, reason.to_string().into())
}
