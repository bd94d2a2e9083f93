//! The conversation after the handshake: what is said to what (RFC 6455 §5). The ways to end stand in `end`.

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
    time::{Instant, Sleep},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Bytes, Message, Utf8Bytes, protocol::WebSocketConfig},
};
use tracing::debug;

use crate::{
    end::End,
    linger::linger,
    liveness::{Liveness, Verdict, Watched},
    notifications::Source,
    timed::{WRITE_TIMEOUT, within},
};

/// The largest frame and message that a client may send: `start` needs 5 bytes, `wrong words` a line.
const MESSAGE_LIMIT: usize = 4 * 1024;

/// Room for `start` and for pongs. Allocated for each connection, and reserved again for what is larger.
const READ_BUFFER: usize = 64;

const START: &str = "start";
const WRONG_WORD: &str = "You did not say the magic word!";

/// Limits for tungstenite, whose default buffers are 128 KiB and whose default message limit is 64 MiB. What is to be
/// written needs none: every message, and the pong to it, is flushed before the next one.
pub(crate) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_frame_size(Some(MESSAGE_LIMIT))
        .max_message_size(Some(MESSAGE_LIMIT))
}

/// One client's conversation, from the end of its handshake to the last that it is told.
pub(crate) struct Session<'a, S, N> {
    socket: WebSocketStream<Watched<S>>,
    peer: &'a SocketAddr,
    timer: Pin<&'a mut Sleep>,
    liveness: Liveness,
    /// Where notifications come from, once the client has said `start`.
    source: Option<N>,
    /// How many notifications were sent.
    pub(crate) pushed: u64,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin, N: Source> Session<'a, S, N> {
    pub(crate) fn new(
        socket: WebSocketStream<Watched<S>>,
        peer: &'a SocketAddr,
        timer: Pin<&'a mut Sleep>,
    ) -> Self {
        let liveness = Liveness::new(socket.get_ref().last());
        Self {
            socket,
            peer,
            timer,
            liveness,
            source: None,
            pushed: 0,
        }
    }

    /// Converses until one side ends it, tells the client if that was the server, and closes.
    pub(crate) async fn run(
        &mut self,
        start: impl Fn() -> N,
        stopping: impl Future<Output = ()> + Unpin,
    ) -> End {
        let Err(end) = self.converse(start, stopping).await;
        if let Some(words) = end.last_words() {
            // In a box, to take no memory before.
            Box::pin(self.part(words)).await;
        }
        end
    }

    /// Waits for whichever comes first, again and again: the next notification, a message from the client, the time
    /// to look after a silent client, the server's stopping.
    async fn converse(
        &mut self,
        start: impl Fn() -> N,
        mut stopping: impl Future<Output = ()> + Unpin,
    ) -> Result<Infallible, End> {
        self.timer.as_mut().reset(self.liveness.due);
        loop {
            select! {
                text = next(&mut self.source) => {
                    self.say(Message::Text(text.ok_or(End::Exhausted)?))?;
                    self.flush().await?;
                    self.pushed += 1;
                }
                message = self.socket.next() => {
                    self.hear(message.ok_or(End::Vanished(None))??, &start)?;
                    self.flush().await?;
                }
                () = self.timer.as_mut() => {
                    self.look_after()?;
                    self.flush().await?;
                }
                () = &mut stopping => return Err(End::Stopping),
            }
        }
    }

    fn hear(&mut self, message: Message, start: impl Fn() -> N) -> Result<(), End> {
        match message {
            Message::Text(text) => self.hear_text(&text, start),
            Message::Binary(_) => Err(End::Binary),
            Message::Close(frame) => Err(End::Closed(frame.map(|frame| frame.code))),
            // tungstenite has an answer to a ping ready.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(()),
        }
    }

    fn hear_text(&mut self, text: &str, start: impl Fn() -> N) -> Result<(), End> {
        debug!(peer = %self.peer, ?text, "said");
        if self.source.is_some() {
            return Ok(());
        }
        if text.trim_matches(['\r', '\n']) != START {
            return self.say(Message::text(WRONG_WORD));
        }
        self.source = Some(start());
        Ok(())
    }

    fn look_after(&mut self) -> Result<(), End> {
        let verdict = self.liveness.look(self.socket.get_ref().last());
        self.timer.as_mut().reset(self.liveness.due);
        match verdict {
            Verdict::Alive => Ok(()),
            Verdict::Silent => self.say(Message::Ping(Bytes::new())),
            Verdict::Gone => Err(End::Silent),
        }
    }

    async fn part(&mut self, words: Vec<Message>) {
        let said = words.into_iter().try_for_each(|word| self.say(word));
        // What fails here has no consequence: the connection is over.
        if said.is_ok() && self.flush().await.is_ok() {
            linger(self.socket.get_mut(), self.timer.as_mut()).await;
        }
    }

    /// Hands a message to the socket, which is always ready for it, since each is flushed before the next.
    fn say(&mut self, message: Message) -> Result<(), End> {
        Ok(self.socket.start_send_unpin(message)?)
    }

    /// Finishes sending what was said and what tungstenite has answered.
    async fn flush(&mut self) -> Result<(), End> {
        // Nearly every write goes at once, and sets no timer. One that tokio's budget for the task put off would look like
        // a client that does not read.
        if let Poll::Ready(result) = poll!(unconstrained(self.socket.flush())) {
            return Ok(result?);
        }
        let waiting = Instant::now();
        loop {
            let written = self.socket.get_ref().written();
            let flushed = within(WRITE_TIMEOUT, self.timer.as_mut(), self.socket.flush()).await;
            if let Some(result) = flushed {
                self.resume(waiting.elapsed());
                return Ok(result?);
            }
            if self.socket.get_ref().written() == written {
                return Err(End::Stalled);
            }
        }
    }

    /// The client kept a write waiting and reads again: what came due meanwhile is left out, and the look after a silent
    /// client is put off by the time in which nobody listened.
    fn resume(&mut self, waited: Duration) {
        if let Some(source) = &mut self.source {
            source.skip_missed();
        }
        self.liveness.due += waited;
        self.timer.as_mut().reset(self.liveness.due);
    }
}

/// The next notification, or for ever nothing before `start`.
async fn next<N: Source>(source: &mut Option<N>) -> Option<Utf8Bytes> {
    match source {
        Some(source) => source.next().await,
        None => pending().await,
    }
}
