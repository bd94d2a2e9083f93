//! The opening handshake (RFC 6455 §4.2): the upgrade by tungstenite, and the refusal of what is none.
//!
//! The guards stand in the order of the contract: where several fit, the first one counts. Only the connection limit,
//! which counts before all of them, is looked at elsewhere: where connections are accepted.

use std::{
    io,
    pin::Pin,
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::Sleep,
};
use tokio_tungstenite::tungstenite::{
    Error as WsError,
    error::ProtocolError,
    handshake::{
        machine::TryParse,
        server::{Request, Response, create_response, write_response},
    },
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{CONNECTION, HOST, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE},
    },
};

use crate::{
    liveness::Heard,
    origin::{AllowedOrigin, is_host, may_connect},
    page,
    timed::{self, within},
};

/// How long the request's head may take from the connection on.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest head. Browsers send well under 8 KiB, cookies included; tungstenite's own limit is the same.
const HEAD_LIMIT: usize = 64 * 1024;

/// More pieces than this must hold [`PIECE_MIN`] bytes on average: each costs a parse of all that came before.
const PIECES: usize = 64;
const PIECE_MIN: usize = 128;

/// How much of a value from the peer is quoted back to it and to the log.
const QUOTE_LIMIT: usize = 100;

// The fields that tell the client what to do, for each kind of refusal.
const CLOSE: &str = "Connection: close\r\n";
const RETRY: &str = "Connection: close\r\nRetry-After: 5\r\n";
const ALLOW: &str = "Connection: close\r\nAllow: GET\r\n";
const UPGRADE_REQUIRED: &str = "Connection: Upgrade, close\r\nUpgrade: websocket\r\n";
const VERSION_REQUIRED: &str =
    "Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";

const PLAIN_TEXT: &str = "Content-Type: text/plain; charset=utf-8\r\n";

/// Why there was no handshake.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The request is to be answered with this.
    Refused(Refusal),
    /// Nobody is left to answer.
    Vanished,
}

/// An HTTP answer other than 101.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    fields: &'static str,
    /// What was wrong, and what would be right.
    pub(crate) reason: String,
    /// Whether the answer carries the page in place of the reason.
    page: bool,
}

impl Refusal {
    fn new(status: StatusCode, fields: &'static str, reason: impl Into<String>) -> Self {
        Self {
            status,
            fields,
            reason: reason.into(),
            page: false,
        }
    }

    /// For a request that is no handshake: it may come from a browser.
    fn no_upgrade(reason: impl Into<String>) -> Self {
        Self {
            page: true,
            ..Self::new(StatusCode::UPGRADE_REQUIRED, UPGRADE_REQUIRED, reason)
        }
    }

    fn bad_request(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, CLOSE, reason)
    }

    pub(crate) fn full(limit: u32) -> Self {
        let reason = format!(
            "All {limit} connections that this server holds are taken. Try again in a few seconds."
        );
        Self::new(StatusCode::SERVICE_UNAVAILABLE, RETRY, reason)
    }

    /// Writes the answer, whole (RFC 9112 §4).
    pub(crate) async fn send(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        timer: Pin<&mut Sleep>,
    ) -> io::Result<bool> {
        let date = httpdate::fmt_http_date(SystemTime::now());
        let mut answer = format!(
            "HTTP/1.1 {}\r\nDate: {date}\r\n{}",
            self.status, self.fields
        );
        // The answer to a HEAD has no body, so that to any other method than GET has none.
        let content = if self.status == StatusCode::METHOD_NOT_ALLOWED {
            "Content-Length: 0\r\n\r\n".into()
        } else {
            let (fields, body) = if self.page {
                (page::FIELDS, page::HTML)
            } else {
                (PLAIN_TEXT, self.reason.as_str())
            };
            let length = body.len() + 1;
            format!("{fields}Content-Length: {length}\r\n\r\n{body}\n")
        };
        answer.push_str(&content);
        timed::write(timer, stream.write_all(answer.as_bytes())).await
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Self::Vanished
    }
}

/// Reads the request and answers it with 101, or tells how it is to be refused. Returns the request's origin.
pub(crate) async fn upgrade<S>(
    stream: &mut Heard<S>,
    allowed: &[AllowedOrigin],
    mut timer: Pin<&mut Sleep>,
) -> Result<Option<String>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let head = within(HEAD_TIMEOUT, timer.as_mut(), read_head(stream)).await;
    let request = head.unwrap_or_else(|| Err(too_late().into()))?;
    let origin = request.headers().get(ORIGIN).map(quote);
    let response = respond(request, allowed)?;
    let mut answer = Vec::new();
    write_response(&mut answer, &response)
        .map_err(|error| Refusal::bad_request(error.to_string()))?;
    timed::write(timer, stream.write_all(&answer)).await?;
    Ok(origin)
}

async fn read_head<S: AsyncRead + Unpin>(stream: &mut Heard<S>) -> Result<Request, Failure> {
    let mut head = Vec::with_capacity(1024);
    let mut pieces = 0;
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(if stream.has_spoken() {
                Refusal::bad_request("The request ended before the empty line that ends its head.")
                    .into()
            } else {
                Failure::Vanished
            });
        }
        pieces += 1;
        if pieces > PIECES && head.len() < pieces * PIECE_MIN {
            return Err(too_large("came in too many tiny pieces").into());
        }
        let within_limit = &head[..head.len().min(HEAD_LIMIT)];
        match Request::try_parse(within_limit).map_err(|error| not_parsed(&error))? {
            Some((size, request)) => {
                // A head may fill the buffer to its last byte, and what follows still wait in the socket.
                let more = stream.read(&mut [0]).now_or_never();
                if head.len() > size || matches!(more, Some(Ok(1..))) {
                    let reason = "There were bytes behind the request's head. Wait for the answer before you send more.";
                    return Err(Refusal::bad_request(reason).into());
                }
                return Ok(request);
            }
            None if head.len() > HEAD_LIMIT => {
                return Err(too_large("is larger than 64 KiB").into());
            }
            None => {}
        }
    }
}

fn too_late() -> Refusal {
    let limit = HEAD_TIMEOUT.as_secs();
    let reason =
        format!("No whole request head came within {limit} s of the connection. Send it at once.");
    Refusal::new(StatusCode::REQUEST_TIMEOUT, CLOSE, reason)
}

fn too_large(what: &str) -> Refusal {
    let reason = format!("The request's head {what}. Send fewer and shorter fields, at once.");
    Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, CLOSE, reason)
}

fn not_parsed(error: &WsError) -> Refusal {
    match error {
        WsError::Protocol(ProtocolError::WrongHttpMethod) => Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            ALLOW,
            "The method was not GET.",
        ),
        WsError::Protocol(ProtocolError::WrongHttpVersion) => {
            Refusal::no_upgrade("HTTP/1.0 can't be upgraded. Use HTTP/1.1.")
        }
        WsError::Capacity(_) => too_large("has more than 124 fields"),
        error => Refusal::bad_request(format!(
            "This is no HTTP/1.1 request ({error}). Send a WebSocket handshake."
        )),
    }
}

/// The 101 for a request that is a handshake.
fn respond(mut request: Request, allowed: &[AllowedOrigin]) -> Result<Response, Refusal> {
    // tungstenite takes what is no path for a host.
    if !request.uri().path().starts_with('/') {
        let reason = format!(
            "The request's target {} is no path. Ask for / or any other path.",
            quote(request.uri().to_string())
        );
        return Err(Refusal::bad_request(reason));
    }
    for (name, token) in [(UPGRADE, "websocket"), (CONNECTION, "upgrade")] {
        if !has_token(request.headers(), &name, token) {
            let reason = format!(
                "This is a WebSocket server, and the request has no \"{name}: {token}\". Connect with a WebSocket client."
            );
            return Err(Refusal::no_upgrade(reason));
        }
        // tungstenite wants it in the first line of that name, and for Upgrade without other protocols.
        request
            .headers_mut()
            .insert(name, HeaderValue::from_static(token));
    }
    let headers = request.headers();
    if only(headers, &SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let reason = format!(
            "The Sec-WebSocket-Version is {}. This server speaks 13.",
            quote_all(headers, &SEC_WEBSOCKET_VERSION)
        );
        return Err(Refusal::new(
            StatusCode::UPGRADE_REQUIRED,
            VERSION_REQUIRED,
            reason,
        ));
    }
    let response = only(headers, &SEC_WEBSOCKET_KEY).and_then(|_| create_response(&request).ok());
    let Some(response) = response else {
        let key = quote_all(headers, &SEC_WEBSOCKET_KEY);
        return Err(Refusal::bad_request(format!(
            "The Sec-WebSocket-Key is {key}. It must be 16 bytes in base64, once."
        )));
    };
    let host = only(headers, &HOST)
        .and_then(|host| host.to_str().ok())
        .filter(|host| is_host(host));
    let Some(host) = host else {
        let host = quote_all(headers, &HOST);
        return Err(Refusal::bad_request(format!(
            "The Host is {host}. It must be one host, with a port or without."
        )));
    };
    if !headers.get_all(ORIGIN).iter().all(|origin| {
        origin
            .to_str()
            .is_ok_and(|origin| may_connect(origin, host, allowed))
    }) {
        let reason = format!(
            "The origin {} may not connect to {host:?}. --allow-origin lets it in.",
            quote_all(headers, &ORIGIN)
        );
        return Err(Refusal::new(StatusCode::FORBIDDEN, CLOSE, reason));
    }
    Ok(response)
}

/// The field's value, if it stands there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Whether the field's list, over all its lines, has the token (RFC 9110 §5.3, §5.6.1).
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let mut members = headers
        .get_all(name)
        .iter()
        .flat_map(|line| line.as_bytes().split(|&b| b == b','));
    members.any(|member| member.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// All the field's values, for a person to read.
fn quote_all(headers: &HeaderMap, name: &HeaderName) -> String {
    let values: Vec<_> = headers.get_all(name).iter().map(quote).collect();
    if values.is_empty() {
        "absent".into()
    } else {
        values.join(" and ")
    }
}

/// The value escaped and cut, for nothing that a peer sends is to reach an answer or the log as it is.
fn quote(value: impl AsRef<[u8]>) -> String {
    let text = String::from_utf8_lossy(value.as_ref());
    let start: String = text.chars().take(QUOTE_LIMIT).collect();
    format!("{start:?}")
}
