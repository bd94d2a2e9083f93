//! The ways a connection ends, and the close code of each (RFC 6455 §7.4.1).

use std::{fmt, io};

use tokio_tungstenite::tungstenite::{
    Error as WsError, Message,
    error::ProtocolError,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

/// What a client is told that sent a binary message.
const NO_BINARY: &str = "server doesn't support binary messages";

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The client sent a Close frame, and was sent its code back, or 1002 for an invalid one.
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
    /// Nothing came from the client for twice [`SILENCE`](crate::liveness::SILENCE).
    Silent,
    /// A write made no way for [`WRITE_TIMEOUT`](crate::timed::WRITE_TIMEOUT).
    Stalled,
}

impl End {
    /// What the client is told last (RFC 6455 §7.4.1); `None` when it is gone or can't be told any more.
    pub(crate) fn last_words(&self) -> Option<Vec<Message>> {
        let (code, reason) = match self {
            Self::Vanished(_) | Self::Silent | Self::Stalled => return None,
            // tungstenite has answered already.
            Self::Closed(_) => return Some(Vec::new()),
            Self::Binary => {
                return Some(vec![
                    Message::text(NO_BINARY),
                    close(CloseCode::Unsupported, NO_BINARY),
                ]);
            }
            Self::Failed(code, reason) => (*code, reason.as_str()),
            Self::Exhausted => (CloseCode::Normal, "there are no more notifications"),
            Self::Stopping => (CloseCode::Away, "the server is stopping"),
        };
        Some(vec![close(code, reason)])
    }
}

fn close(code: CloseCode, reason: &str) -> Message {
    Message::Close(Some(CloseFrame {
        code,
        reason: reason.into(),
    }))
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
            WsError::Io(error) => Self::Vanished(Some(error.kind())),
            WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Vanished(None),
            WsError::Protocol(error) => Self::Failed(CloseCode::Protocol, error.to_string()),
            WsError::Utf8(_) => Self::Failed(CloseCode::Invalid, "text must be UTF-8".into()),
            WsError::Capacity(error) => Self::Failed(CloseCode::Size, error.to_string()),
            error => Self::Failed(CloseCode::Error, error.to_string()),
        }
    }
}
