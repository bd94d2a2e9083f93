//! The opening handshake (RFC 6455 §4.2): reading the request, and upgrading the connection or not.
//!
//! The request is read here and not by tungstenite, which refuses what comes byte by byte, and answers what is malformed
//! with nothing.

mod guards;
mod response;

use std::{io, time::Duration};

use futures_util::FutureExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    time::timeout,
};
use tokio_tungstenite::tungstenite::{
    handshake::derive_accept_key,
    http::{self, HeaderName, HeaderValue, StatusCode, Version},
};

pub use self::response::{Refusal, refuse};
pub(crate) use self::response::{quote, send};
use crate::{
    config::Config,
    io::{ActivityStream, write_all},
};
pub(crate) use tokio_tungstenite::tungstenite::handshake::server::Request;

/// How long the request's head may take from the connection on.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest head. Browsers send well under 8 KiB, cookies included.
const HEAD_LIMIT: usize = 64 * 1024;

/// The most fields.
const MAX_FIELDS: usize = 124;

/// Why there is no connection to converse over.
#[derive(Debug)]
pub(crate) enum HandshakeError {
    /// The request is answered with this.
    Refused(Refusal),
    /// Nobody is left to answer.
    Disconnected,
}

impl From<Refusal> for HandshakeError {
    fn from(response: Refusal) -> Self {
        Self::Refused(response)
    }
}

impl From<io::Error> for HandshakeError {
    fn from(_: io::Error) -> Self {
        Self::Disconnected
    }
}

/// Reads the request and answers it with 101, or says how it is to be answered. Returns the request, and what `accept`
/// makes of it once it has passed all guards.
pub(crate) async fn upgrade<S, T>(
    stream: &mut ActivityStream<S>,
    config: &Config,
    accept: impl FnOnce(&Request) -> Result<T, Refusal>,
) -> Result<(Request, T), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (request, is_early) = read_request(stream).await?;
    let key = guards::check(&request, is_early, config)?;
    let accepted = accept(&request)?;
    // Letter for letter as the tutorials print it: small clients compare it so.
    let switching = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    write_all(stream, switching.as_bytes()).await?;
    Ok((request, accepted))
}

/// Reads the head, in time (RFC 9112 §2). Returns also whether bytes came behind it.
pub(crate) async fn read_request<S: AsyncRead + Unpin>(
    stream: &mut ActivityStream<S>,
) -> Result<(Request, bool), HandshakeError> {
    let request = timeout(HEAD_TIMEOUT, read_head(stream)).await;
    request.unwrap_or_else(|_| {
        let limit = HEAD_TIMEOUT.as_secs();
        let reason = format!("The request's head took more than {limit} s. Send it at once.");
        Err(refuse(StatusCode::REQUEST_TIMEOUT, reason).into())
    })
}

async fn read_head<S: AsyncRead + Unpin>(
    stream: &mut ActivityStream<S>,
) -> Result<(Request, bool), HandshakeError> {
    let mut head = Vec::with_capacity(1024);
    loop {
        let read = head.len();
        if stream.read_buf(&mut head).await? == 0 {
            return Err(if read > 0 {
                bad_request("The request ended before the empty line that ends its head.").into()
            } else {
                HandshakeError::Disconnected
            });
        }
        // The first piece may be no HTTP at all; after that only a line's end can change what is known.
        if (read == 0 || head[read..].contains(&b'\n'))
            && let Some((size, request)) = parse(&head[..head.len().min(HEAD_LIMIT)])?
        {
            // A head may fill the buffer to its last byte, and what follows still wait in the socket.
            let more = stream.read(&mut [0]).now_or_never();
            let is_early = head.len() > size || matches!(more, Some(Ok(1..)));
            return Ok((request, is_early));
        }
        if head.len() >= HEAD_LIMIT {
            return Err(too_large("is larger than 64 KiB").into());
        }
    }
}

/// The request and the size of its head; `None` as long as that is incomplete.
fn parse(head: &[u8]) -> Result<Option<(usize, Request)>, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    let size = match parsed.parse(head) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(too_large("has more than 124 fields")),
        Err(error) => return Err(not_http(error)),
    };
    let request = convert(&parsed).map_err(not_http)?;
    Ok(Some((size, request)))
}

fn convert(parsed: &httparse::Request) -> http::Result<Request> {
    let mut request = Request::new(());
    *request.method_mut() = parsed.method.unwrap_or_default().parse()?;
    *request.uri_mut() = parsed.path.unwrap_or_default().parse()?;
    if parsed.version == Some(0) {
        *request.version_mut() = Version::HTTP_10;
    }
    let fields = request.headers_mut();
    fields.reserve(parsed.headers.len());
    for field in &*parsed.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes())?;
        fields.append(name, HeaderValue::from_bytes(field.value)?);
    }
    Ok(request)
}

fn not_http(error: impl std::error::Error) -> Refusal {
    bad_request(format!(
        "This is not an HTTP/1.1 request ({error}). Send a WebSocket handshake."
    ))
}

fn bad_request(reason: impl Into<String>) -> Refusal {
    refuse(StatusCode::BAD_REQUEST, reason)
}

fn too_large(what: &str) -> Refusal {
    let reason = format!("The request's head {what}. Send fewer and shorter fields.");
    refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, reason)
}
