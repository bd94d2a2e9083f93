//! The opening handshake (RFC 6455 §4.2): reads the request, then upgrades the connection or says how to answer instead.
//!
//! Two libraries could read the request, and neither does it as the contract asks. tungstenite's `accept_hdr_async` rejects
//! heads in many small pieces and keys with stray bits, doesn't answer most malformed requests, and spells the 101 in lower
//! case. hyper has no 408, answers 400 without a body, spells `Sec-Websocket-Accept`, and boxes the stream.

mod guards;
mod response;

use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
pub(crate) use tokio_tungstenite::tungstenite::handshake::server::Request;
use tokio_tungstenite::tungstenite::{
    handshake::derive_accept_key,
    http::{self, HeaderName, HeaderValue, StatusCode, Version},
};

pub use self::response::{Refusal, refuse};
pub(crate) use self::response::{RefusedField, quote_all, send};
use crate::{
    config::Config,
    io::{ActivityStream, in_time, write_all},
};

/// How long a client has to send the request's head, counted from the start of the connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest head, in bytes. Browsers send less than 8 KiB, cookies included.
const HEAD_LIMIT: usize = 64 * 1024;

/// The largest number of header fields.
const MAX_FIELDS: usize = 124;

/// The first byte of a TLS connection: a handshake record (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Why a handshake failed: the answer to the request, or `None` if nobody is left to read it.
pub(crate) type HandshakeError = Option<Refusal>;

/// Reads the request and answers it with 101, or returns how to answer it. `accept` is called once the request has passed
/// all guards, and may still refuse it.
pub(crate) async fn upgrade<S, T>(
    stream: &mut ActivityStream<S>,
    config: &Config,
    accept: impl FnOnce(&Request) -> Result<T, Refusal>,
) -> Result<(Request, T), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (request, has_more) = read_request(stream).await?;
    let key = guards::check(&request, has_more, config)?;
    let accepted = accept(&request)?;
    // Spelt as tutorials print it: small clients compare it letter for letter.
    let switching = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    let written = write_all(stream, switching.as_bytes()).await;
    written.map_err(|_| None)?;
    Ok((request, accepted))
}

async fn read_request<S: AsyncRead + Unpin>(
    stream: &mut ActivityStream<S>,
) -> Result<(Request, bool), HandshakeError> {
    let request = in_time(HEAD_TIMEOUT, read_head(stream)).await;
    request.unwrap_or_else(|| {
        let limit = HEAD_TIMEOUT.as_secs();
        let reason = format!("The request head took more than {limit} s. Send it at once.");
        Err(refuse(StatusCode::REQUEST_TIMEOUT, reason).into())
    })
}

/// Reads the request's head (RFC 9112 §2). Also returns whether data came after it.
pub(crate) async fn read_head<S: AsyncRead + Unpin>(
    stream: &mut ActivityStream<S>,
) -> Result<(Request, bool), HandshakeError> {
    let mut head = Vec::with_capacity(1024);
    let mut parses = 0;
    loop {
        let read = head.len();
        if stream.read_buf(&mut head).await.map_err(|_| None)? == 0 {
            let reason = "The request ended before the empty line that ends its head.";
            return Err((read > 0).then(|| bad_request(reason)));
        }
        // The first piece shows whether this is HTTP. After it, only the end of a line can complete the head.
        if read == 0 || head[read..].contains(&b'\n') {
            parses += 1;
            if let Some((size, request)) = parse(&head[..head.len().min(HEAD_LIMIT)])? {
                // If the head fills the buffer, what follows may still be in the socket.
                let more = stream.read(&mut [0]).now_or_never();
                let has_more = head.len() > size || matches!(more, Some(Ok(1..)));
                return Ok((request, has_more));
            }
        }
        if head.len() >= HEAD_LIMIT {
            return Err(too_large("is larger than 64 KiB").into());
        }
        // Empty lines before the request line are no fields: nothing else limits how often the head is parsed.
        if parses > MAX_FIELDS + 4 {
            return Err(too_large("has too many lines").into());
        }
    }
}

/// Returns the request and the size of its head, or `None` while the head is incomplete.
fn parse(head: &[u8]) -> Result<Option<(usize, Request)>, Refusal> {
    if head.starts_with(&[TLS_HANDSHAKE]) {
        let reason = "This looks like TLS. Use ws:// and http://, or a proxy that ends TLS in front of wspush.";
        return Err(bad_request(reason));
    }
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

fn too_large(fault: &str) -> Refusal {
    let reason = format!("The request head {fault}. Send fewer and shorter fields.");
    refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, reason)
}
