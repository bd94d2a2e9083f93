//! The WebSocket under the session: messages in, messages and notifications out, every write in bounded time.

use std::task::Poll;

use futures_util::{SinkExt, StreamExt, poll};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    task::coop::unconstrained,
    time::Instant,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{Role, WebSocketConfig},
    },
};

use super::CloseReason;
use crate::{
    io::{ActivityStream, WRITE_TIMEOUT, in_time, linger},
    notifications::Notification,
};

/// The largest frame and message that a client may send, in bytes. `start` has 5.
const MESSAGE_LIMIT: usize = 4 * 1024;

/// How many bytes are read at once: enough for `start` and pongs. Allocated for each connection.
const READ_BUFFER: usize = 128;

/// tungstenite's defaults are buffers of 128 KiB and messages of 64 MiB. Its write buffer needs no limit: a flush follows
/// every message.
fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_frame_size(Some(MESSAGE_LIMIT))
        .max_message_size(Some(MESSAGE_LIMIT))
}

pub(crate) struct Socket<S>(WebSocketStream<ActivityStream<S>>);

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    pub(crate) async fn new(stream: ActivityStream<S>) -> Self {
        Self(WebSocketStream::from_raw_socket(stream, Role::Server, Some(config())).await)
    }

    /// Waits for the next message. Cancel safe.
    pub(super) async fn recv(&mut self) -> Result<Message, CloseReason> {
        let message = self.0.next().await;
        Ok(message.ok_or(CloseReason::Disconnected(None))??)
    }

    /// Queues a message for the next flush.
    pub(super) fn send(&mut self, message: Message) -> Result<(), CloseReason> {
        Ok(self.0.start_send_unpin(message)?)
    }

    /// Queues a notification for the next flush. Returns its size in bytes.
    pub(super) fn push(&mut self, notification: Notification) -> usize {
        let frame = notification.into_frame();
        let size = frame.len();
        self.0.get_mut().queue(frame);
        size
    }

    /// Sends what is queued as far as the kernel takes it at once. Returns whether that was all.
    pub(super) async fn try_flush(&mut self) -> Result<bool, CloseReason> {
        // If tokio's budget delayed the write, it would look like a client that doesn't read.
        match poll!(unconstrained(self.0.flush())) {
            Poll::Ready(result) => result.map(|()| true).map_err(Into::into),
            Poll::Pending => Ok(false),
        }
    }

    /// Sends what is queued, as long as the client makes progress.
    pub(super) async fn flush(&mut self) -> Result<(), CloseReason> {
        let mut progress = Instant::now();
        loop {
            let limit = WRITE_TIMEOUT.saturating_sub(progress.elapsed());
            if let Some(result) = in_time(limit, self.0.flush()).await {
                return Ok(result?);
            }
            if self.last_write() <= progress {
                return Err(CloseReason::WriteTimeout);
            }
            progress = self.last_write();
        }
    }

    pub(super) fn last_read(&self) -> Instant {
        self.0.get_ref().last_read()
    }

    pub(super) fn last_write(&self) -> Instant {
        self.0.get_ref().last_write()
    }

    /// Half-closes, then waits as long as for a write until the client answers the Close frame. By then it has read
    /// everything: a reset would lose what it hasn't.
    pub(super) async fn wait_for_close(&mut self) {
        let answered = async {
            if self.0.get_mut().shutdown().await.is_ok() {
                while self.recv().await.is_ok_and(|message| !message.is_close()) {}
            }
        };
        let _ = in_time(WRITE_TIMEOUT, answered).await;
    }

    pub(super) async fn linger(&mut self) {
        linger(self.0.get_mut()).await;
    }
}
