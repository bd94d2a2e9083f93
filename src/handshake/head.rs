//! Reading the request's head (RFC 9112 §2).
//!
//! Read here and not by tungstenite, which parses what came before again at every piece, and answers what is malformed
//! with nothing.

use std::{io, net::SocketAddr, time::Duration};

use futures_util::FutureExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

use super::{Request, Response};
use crate::io::ActivityStream;

/// How long the request's head may take from the connection on.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest head. Browsers send well under 8 KiB, cookies included.
const HEAD_LIMIT: usize = 64 * 1024;

/// The most fields. Each line's end costs a parse of all that came before it, so that this bounds their number too.
const MAX_FIELDS: usize = 124;

/// Why there is no connection to converse over.
#[derive(Debug)]
pub(crate) enum HandshakeError {
    /// The request is to be answered with this.
    Answered(Response),
    /// Nobody is left to answer.
    Disconnected,
}

impl From<Response> for HandshakeError {
    fn from(response: Response) -> Self {
        Self::Answered(response)
    }
}

impl From<io::Error> for HandshakeError {
    fn from(_: io::Error) -> Self {
        Self::Disconnected
    }
}

/// Reads the head, in time, and hands the request over, with whether bytes came behind it.
pub(super) async fn read<S, T>(
    stream: &mut ActivityStream<S>,
    peer: SocketAddr,
    answer: impl FnOnce(&Request<'_>, bool) -> T,
) -> Result<T, HandshakeError>
where
    S: AsyncRead + Unpin,
{
    let answered = timeout(HEAD_TIMEOUT, read_head(stream, peer, answer)).await;
    answered.unwrap_or_else(|_| {
        let limit = HEAD_TIMEOUT.as_secs();
        let reason = format!("The request's head took more than {limit} s. Send it at once.");
        Err(Response::request_timeout(reason).into())
    })
}

async fn read_head<S, T>(
    stream: &mut ActivityStream<S>,
    peer: SocketAddr,
    answer: impl FnOnce(&Request<'_>, bool) -> T,
) -> Result<T, HandshakeError>
where
    S: AsyncRead + Unpin,
{
    let mut head = Vec::with_capacity(1024);
    let mut parses = 0;
    loop {
        let read = head.len();
        if stream.read_buf(&mut head).await? == 0 {
            return Err(if read > 0 {
                Response::bad_request("The request ended before the empty line that ends its head.")
                    .into()
            } else {
                HandshakeError::Disconnected
            });
        }
        // The first piece may be no HTTP at all; after that only a line's end can change what is known.
        if read == 0 || head[read..].contains(&b'\n') {
            parses += 1;
            let mut headers = [httparse::EMPTY_HEADER; MAX_FIELDS];
            let within_limit = &head[..head.len().min(HEAD_LIMIT)];
            if let Some((size, request)) = Request::parse(peer, within_limit, &mut headers)? {
                // A head may fill the buffer to its last byte, and what follows still wait in the socket.
                let more = stream.read(&mut [0]).now_or_never();
                let is_early = head.len() > size || matches!(more, Some(Ok(1..)));
                return Ok(answer(&request, is_early));
            }
        }
        if head.len() >= HEAD_LIMIT {
            return Err(Response::head_too_large("is larger than 64 KiB").into());
        }
        // Empty lines before the request line are no fields, and nothing else bounds their number.
        if parses > MAX_FIELDS + 4 {
            return Err(Response::head_too_large("has too many lines").into());
        }
    }
}
