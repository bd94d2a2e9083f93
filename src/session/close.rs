//! The ways a connection ends, and the close code of each (RFC 6455 §7.4.1).

use std::{fmt, io};

use tokio_tungstenite::tungstenite::{Error as WsError, error::ProtocolError};

use crate::notifications::{CloseCode, CloseFrame, close_frame};

/// The answer to a binary message.
pub(super) const NO_BINARY: &str = "server doesn't support binary messages";

/// The longest close reason in bytes: a control frame carries 125, two of them the code (RFC 6455 §5.5).
const MAX_REASON: usize = 123;

/// Why a connection ended.
#[derive(Debug)]
pub(crate) enum CloseReason {
    /// The client sent a Close frame. Its code was sent back.
    ByClient(Option<CloseCode>),
    /// The server closes, with this code and reason.
    ByServer(CloseFrame),
    /// The connection was lost without a Close frame: end of file, or an error of the socket.
    Disconnected(Option<io::ErrorKind>),
    /// The client sent nothing, not even a pong.
    PingTimeout,
    /// A write made no progress for [`WRITE_TIMEOUT`](crate::io::WRITE_TIMEOUT).
    WriteTimeout,
}

impl CloseReason {
    pub(super) fn binary() -> Self {
        Self::ByServer(close_frame(CloseCode::Unsupported, NO_BINARY))
    }

    pub(super) fn stopping() -> Self {
        Self::ByServer(close_frame(CloseCode::Away, "the server is stopping"))
    }

    /// Whether the client fell behind, and may have much to read before the Close frame.
    pub(super) fn is_behind(&self) -> bool {
        matches!(self, Self::ByServer(frame) if frame.code == CloseCode::Again)
    }

    /// Whether nobody may be left to read what the kernel still holds for the client.
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(self, Self::PingTimeout | Self::WriteTimeout)
    }
}

/// A source may choose a code that must not be sent, which becomes 1011, or a reason that is too long.
impl From<CloseFrame> for CloseReason {
    fn from(CloseFrame { code, reason }: CloseFrame) -> Self {
        let code = Some(code).filter(|code| code.is_allowed());
        let is_end = |at: &usize| reason.is_char_boundary(*at);
        let end = (0..=MAX_REASON).rev().find(is_end).unwrap_or(0);
        let code = code.unwrap_or(CloseCode::Error);
        Self::ByServer(close_frame(code, &reason[..end]))
    }
}

/// tungstenite reports violations of RFC 6455, but does not close the connection.
impl From<WsError> for CloseReason {
    fn from(error: WsError) -> Self {
        let (code, reason) = match error {
            WsError::Io(error) => return Self::Disconnected(Some(error.kind())),
            WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                return Self::Disconnected(None);
            }
            WsError::Protocol(error) => (CloseCode::Protocol, error.to_string()),
            WsError::Utf8(_) => (CloseCode::Invalid, "text must be UTF-8".into()),
            WsError::Capacity(error) => (CloseCode::Size, error.to_string()),
            error => (CloseCode::Error, error.to_string()),
        };
        Self::ByServer(close_frame(code, reason))
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByClient(Some(code)) => write!(f, "closed by the client with {code}"),
            Self::ByClient(None) => write!(f, "closed by the client"),
            Self::ByServer(CloseFrame { code, reason }) => {
                write!(f, "closed with {code}: {reason}")
            }
            Self::Disconnected(None) => write!(f, "connection lost without a Close frame"),
            Self::Disconnected(Some(error)) => write!(f, "connection lost: {error}"),
            Self::PingTimeout => write!(f, "no answer to a ping"),
            Self::WriteTimeout => write!(f, "the client does not read"),
        }
    }
}
