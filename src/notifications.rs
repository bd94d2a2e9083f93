//! Where notifications come from: the [`Source`] is what to replace for a push service of another kind.

mod counter;
mod lines;

use std::future::Future;

pub use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{
    Bytes,
    protocol::frame::{
        FrameHeader,
        coding::{Data, OpCode},
    },
};

pub use self::{
    counter::Notifications,
    lines::{InputEnd, Lines, LinesSource},
};

/// One text message, framed once for every client that it is pushed to: a server's frames are not masked (RFC 6455 §5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification(Bytes);

impl Notification {
    /// Frames the text, unfragmented.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let header = FrameHeader {
            opcode: OpCode::Data(Data::Text),
            ..FrameHeader::default()
        };
        let length = text.len() as u64;
        let mut frame = Vec::with_capacity(header.len(length) + text.len());
        // Writing to a vector does not fail.
        let _ = header.format(length, &mut frame);
        frame.extend_from_slice(text.as_bytes());
        Self(frame.into())
    }

    pub(crate) fn into_frame(self) -> Bytes {
        self.0
    }
}

/// What is pushed to one client.
///
/// It is made at the client's handshake, from its request, and dropped when its connection closes.
/// No method may block its thread, which serves other clients too: use tokio's channels, timers and `spawn_blocking`.
/// A panic closes the connection with 1011.
///
/// What many clients share waits for the slowest of them and has to be bounded: [`Lines`] closes the connection of a
/// client that falls too far behind with 1013.
pub trait Source: Send + 'static {
    /// The client has said `start`. Nothing else is called before.
    fn start(&mut self);

    /// Waits for the next notification; the error is the Close frame that ends the connection, and is returned again
    /// when asked again. Cancel safe: what was not returned is not lost.
    fn next(&mut self) -> impl Future<Output = Result<Notification, CloseFrame>> + Send;

    /// The next notification if it is there already: several go to the client in one write.
    fn try_next(&mut self) -> Option<Notification> {
        None
    }

    /// The client has stopped reading, and nothing is asked for until [`resume`](Self::resume).
    fn pause(&mut self) {}

    /// The client reads again. What is not to be sent late is left out here.
    fn resume(&mut self) {}
}
