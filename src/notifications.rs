//! Where notifications come from. Implement [`Source`] to push something else.

mod counter;
mod lines;

use std::future::Future;

use futures_util::{Stream, StreamExt};

pub use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{
    Bytes, Utf8Bytes,
    protocol::frame::{
        FrameHeader,
        coding::{Data, OpCode},
    },
};

pub use self::{
    counter::Notifications,
    lines::{InputEnd, Lines, LinesSource},
};

/// A text message. It is framed once for all clients: a server doesn't mask its frames (RFC 6455 §5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification(Bytes);

impl Notification {
    /// Frames the text as one unfragmented message.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let header = FrameHeader {
            opcode: OpCode::Data(Data::Text),
            ..FrameHeader::default()
        };
        let length = text.len() as u64;
        let mut frame = Vec::with_capacity(header.len(length) + text.len());
        // Writing to a vector never fails.
        let _ = header.format(length, &mut frame);
        frame.extend_from_slice(text.as_bytes());
        Self(frame.into())
    }

    /// The frame's size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.0.len() as u64
    }

    pub(crate) fn into_frame(self) -> Bytes {
        self.0
    }
}

pub(crate) fn close_frame(code: CloseCode, reason: impl Into<Utf8Bytes>) -> CloseFrame {
    let reason = reason.into();
    CloseFrame { code, reason }
}

/// What is pushed to one client.
///
/// The source is made from the client's handshake, and dropped when its connection closes. No method may block the thread,
/// which serves other clients too: use tokio's channels, timers and `spawn_blocking`. A panic ends the connection without a
/// Close frame.
///
/// What clients share must be bounded, because the slowest client keeps it longest. [`Lines`] closes a client that is too far
/// behind with 1013.
pub trait Source: Send + 'static {
    /// Called when the client says `start`, before all other methods.
    fn start(&mut self) {}

    /// Waits for the next notification. The error is the Close frame that ends the connection.
    ///
    /// Must be cancel safe: a notification that was not returned must not be lost.
    fn next(&mut self) -> impl Future<Output = Result<Notification, CloseFrame>> + Send;

    /// Returns the next notification if it is ready, so that several are sent with one write. After the last one, `next`
    /// returns the error.
    fn try_next(&mut self) -> Option<Notification> {
        None
    }

    /// Called when the client stops reading. Nothing else is called until [`resume`](Self::resume).
    fn pause(&mut self) {}

    /// Called when the client reads again. Notifications that are no use late can be skipped here.
    fn resume(&mut self) {}
}

/// A stream of notifications is a source. It is polled from the client's `start` on. Its end closes the connection with 1000,
/// an error with the Close frame.
impl<S> Source for S
where
    S: Stream<Item = Result<Notification, CloseFrame>> + Unpin + Send + 'static,
{
    async fn next(&mut self) -> Result<Notification, CloseFrame> {
        let next = StreamExt::next(self).await;
        next.ok_or_else(|| close_frame(CloseCode::Normal, "there are no more notifications"))?
    }
}
