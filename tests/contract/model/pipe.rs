//! A listener for pipes in memory, so that a server may be reached on a paused clock.

use std::{
    convert::Infallible,
    future::pending,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex},
    sync::{mpsc, oneshot},
};
use wspush::Listener;

/// What connects to a server through pipes in memory.
pub(crate) struct Pipes(pub(crate) mpsc::UnboundedSender<Pipe>);

/// The server's side of them.
pub(crate) struct PipeListener(mpsc::UnboundedReceiver<Pipe>);

impl Pipes {
    pub(crate) fn new() -> (Self, PipeListener) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), PipeListener(receiver))
    }

    /// The client's side of a pipe that holds `size` bytes each way. The other end of the channel is dropped with the
    /// server's side.
    pub(crate) fn connect(&self, size: usize) -> (DuplexStream, oneshot::Receiver<Infallible>) {
        let (stream, theirs) = duplex(size);
        let (alive, ended) = oneshot::channel();
        let pipe = Pipe {
            stream: theirs,
            _alive: alive,
        };
        assert!(self.0.send(pipe).is_ok(), "the server has stopped");
        (stream, ended)
    }
}

impl Listener for PipeListener {
    type Stream = Pipe;

    async fn accept(&mut self) -> io::Result<(Pipe, SocketAddr)> {
        match self.0.recv().await {
            Some(pipe) => Ok((pipe, SocketAddr::from(([127, 0, 0, 1], 1)))),
            None => pending().await,
        }
    }
}

/// The server's side of a pipe.
pub(crate) struct Pipe {
    stream: DuplexStream,
    _alive: oneshot::Sender<Infallible>,
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
