//! A client that sends and receives bytes and frames over any stream, for what a library's client does not do.

use std::{future::Future, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    join,
    time::timeout,
};

use super::frame::{Header, frame};

/// A good handshake.
pub(crate) const HANDSHAKE: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: YSBzYW1wbGUgMTYgYnl0ZQ==\r\n\r\n";

/// An HTTP answer. Unless it is a 101, its body is everything up to the end of the connection.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Self {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = stream.read_u8().await;
            head.push(byte.unwrap_or_else(|error| panic!("{error} instead of an answer")));
        }
        let mut body = String::new();
        let answer = Self::new(head, String::new());
        if answer.status != 101 {
            stream.read_to_string(&mut body).await.unwrap();
        }
        Self { body, ..answer }
    }

    pub(crate) fn new(head: Vec<u8>, body: String) -> Self {
        let head = String::from_utf8(head).unwrap();
        let status = head.strip_prefix("HTTP/1.1 ").expect("HTTP/1.1");
        let status = status[..3].parse().expect("a status");
        Self { status, head, body }
    }

    /// The value of a field, which must not occur twice.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut values = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, value)| value);
        assert!(values.next().is_none(), "{name} occurs twice: {self:?}");
        value
    }
}

/// A client of bytes and frames.
pub(crate) struct RawClient<S> {
    pub(crate) stream: S,
    /// How long it waits for anything.
    pub(crate) patience: Duration,
}

pub(crate) async fn patiently<T>(patience: Duration, wait: impl Future<Output = T>) -> T {
    timeout(patience, wait).await.expect("nothing came")
}

impl<S: AsyncRead + AsyncWrite + Unpin> RawClient<S> {
    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads while it writes: the server may answer before it has read everything.
    pub(crate) async fn request(&mut self, request: impl AsRef<[u8]>) -> Answer {
        let (mut reading, mut writing) = split(&mut self.stream);
        let both = async {
            join!(
                writing.write_all(request.as_ref()),
                Answer::read(&mut reading)
            )
        };
        patiently(self.patience, both).await.1
    }

    pub(crate) async fn upgraded(mut self) -> Self {
        assert_eq!(self.request(HANDSHAKE).await.status, 101);
        self
    }

    pub(crate) async fn send_frame(&mut self, first: u8, payload: impl AsRef<[u8]>) {
        self.write(frame(first, payload)).await;
    }

    /// The first byte and the payload of the next frame.
    pub(crate) async fn recv_frame(&mut self) -> (u8, Vec<u8>) {
        let frame = async {
            let mut bytes = Vec::new();
            loop {
                bytes.push(self.stream.read_u8().await.unwrap());
                if let Some((header, _)) = Header::parse(&bytes) {
                    assert!(header.mask.is_none(), "masked");
                    let mut payload = vec![0; usize::try_from(header.length).unwrap()];
                    self.stream.read_exact(&mut payload).await.unwrap();
                    return (bytes[0], payload);
                }
            }
        };
        patiently(self.patience, frame).await
    }
}
