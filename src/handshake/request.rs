//! Reading the head of the request, and the refusals of what is none (RFC 9112 §2–3, §6).

use std::{io, time::Duration};

use futures_util::FutureExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};
use tokio_tungstenite::tungstenite::{
    Error as WsError,
    error::ProtocolError,
    handshake::{machine::TryParse, server::Request},
};

use crate::{handshake::refusal::Refusal, session::keepalive::ActivityStream};

/// How long the request's head may take from the connection on.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest head. Browsers send well under 8 KiB, cookies included; tungstenite's own limit is the same.
const HEAD_LIMIT: usize = 64 * 1024;

/// A head may come in this many pieces of any size. More than that must hold [`PIECE_MIN`] bytes on average, since each
/// costs a parse of all that came before.
const PIECES: usize = 64;
const PIECE_MIN: usize = 128;

/// Why there was no handshake.
#[derive(Debug)]
pub(crate) enum HandshakeError {
    /// The request is to be answered with this.
    Refused(Refusal),
    /// Nobody is left to answer.
    Disconnected,
}

impl From<Refusal> for HandshakeError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<io::Error> for HandshakeError {
    fn from(_: io::Error) -> Self {
        Self::Disconnected
    }
}

/// Reads the head, in time.
pub(crate) async fn read<S: AsyncRead + Unpin>(
    stream: &mut ActivityStream<S>,
) -> Result<Request, HandshakeError> {
    let head = timeout(HEAD_TIMEOUT, read_head(stream)).await;
    head.unwrap_or_else(|_| Err(head_timeout().into()))
}

async fn read_head<S: AsyncRead + Unpin>(
    stream: &mut ActivityStream<S>,
) -> Result<Request, HandshakeError> {
    let mut head = Vec::with_capacity(1024);
    let mut pieces = 0;
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(if stream.has_received() {
                Refusal::bad_request("The request ended before the empty line that ends its head.")
                    .into()
            } else {
                HandshakeError::Disconnected
            });
        }
        pieces += 1;
        if pieces > PIECES && head.len() < pieces * PIECE_MIN {
            return Err(too_large("came in too many tiny pieces").into());
        }
        let within_limit = &head[..head.len().min(HEAD_LIMIT)];
        let parsed = Request::try_parse(within_limit).map_err(|error| parse_error(&error))?;
        if let Some((size, request)) = parsed {
            // A head may fill the buffer to its last byte, and what follows still wait in the socket.
            let more = stream.read(&mut [0]).now_or_never();
            if head.len() > size || matches!(more, Some(Ok(1..))) {
                let reason = "There were bytes behind the request's head. Wait for the answer before you send more.";
                return Err(Refusal::bad_request(reason).into());
            }
            return Ok(request);
        }
        if head.len() >= HEAD_LIMIT {
            return Err(too_large("is larger than 64 KiB").into());
        }
    }
}

fn head_timeout() -> Refusal {
    let limit = HEAD_TIMEOUT.as_secs();
    let what = "No whole request head came within";
    Refusal::request_timeout(format!(
        "{what} {limit} s of the connection. Send it at once."
    ))
}

fn too_large(what: &str) -> Refusal {
    Refusal::head_too_large(format!(
        "The request's head {what}. Send fewer and shorter fields, at once."
    ))
}

fn parse_error(error: &WsError) -> Refusal {
    match error {
        WsError::Protocol(ProtocolError::WrongHttpMethod) => {
            Refusal::method_not_allowed("The method was not GET.")
        }
        WsError::Protocol(ProtocolError::WrongHttpVersion) => {
            Refusal::upgrade_required("HTTP/1.0 can't be upgraded. Use HTTP/1.1.")
        }
        // tungstenite's `MAX_HEADERS`.
        WsError::Capacity(_) => too_large("has more than 124 fields"),
        error => Refusal::bad_request(format!(
            "This is no HTTP/1.1 request ({error}). Send a WebSocket handshake."
        )),
    }
}
