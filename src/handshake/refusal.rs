//! The answers to what is no good handshake: their statuses, the fields that tell the client what to do, their bodies
//! (RFC 9110 §15.5). Which request gets which one is decided in `handshake`.

use std::{
    fmt, io,
    time::{Duration, SystemTime},
};

use tokio::io::AsyncWrite;
use tokio_tungstenite::tungstenite::http::StatusCode;

use super::page;
use crate::timed::write_all;

/// When to try again a server that is full: soon, since a connection that ends makes room at once.
const RETRY_AFTER: Duration = Duration::from_secs(5);

const CLOSE: &str = "Connection: close\r\n";
const UPGRADE: &str = "Connection: Upgrade, close\r\nUpgrade: websocket\r\n";
const PLAIN_TEXT: &str = "Content-Type: text/plain; charset=utf-8\r\n";

/// An HTTP answer other than 101.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    fields: String,
    /// What was wrong, and what would be right.
    pub(crate) reason: String,
    body: Body,
}

#[derive(Debug)]
enum Body {
    None,
    Reason,
    Page,
}

impl Refusal {
    fn new(status: StatusCode, fields: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            status,
            fields: fields.into(),
            reason: reason.into(),
            body: Body::Reason,
        }
    }

    pub(crate) fn full(limit: u32) -> Self {
        let seconds = RETRY_AFTER.as_secs();
        let fields = format!("{CLOSE}Retry-After: {seconds}\r\n");
        let reason = format!("All {limit} connections are taken. Try again in {seconds} seconds.");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, fields, reason)
    }

    pub(crate) fn request_timeout(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, CLOSE, reason)
    }

    pub(crate) fn bad_request(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, CLOSE, reason)
    }

    pub(crate) fn head_too_large(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, CLOSE, reason)
    }

    /// Without a body, since it may answer a HEAD (RFC 9110 §9.3.2).
    pub(crate) fn method_not_allowed(reason: impl Into<String>) -> Self {
        let fields = format!("{CLOSE}Allow: GET\r\n");
        Self {
            body: Body::None,
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, fields, reason)
        }
    }

    pub(crate) fn upgrade_required(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::UPGRADE_REQUIRED, UPGRADE, reason)
    }

    /// With a page, for a browser may have opened the URL.
    pub(crate) fn no_handshake(reason: impl Into<String>) -> Self {
        Self {
            body: Body::Page,
            ..Self::upgrade_required(reason)
        }
    }

    /// RFC 6455 §4.4.
    pub(crate) fn version_required(reason: impl Into<String>) -> Self {
        let fields = format!("{UPGRADE}Sec-WebSocket-Version: 13\r\n");
        Self::new(StatusCode::UPGRADE_REQUIRED, fields, reason)
    }

    pub(crate) fn forbidden(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, CLOSE, reason)
    }

    /// Sends the answer, whole (RFC 9112 §4).
    pub(crate) async fn send(&self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        write_all(stream, self.to_string().as_bytes()).await
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (content, body) = match self.body {
            Body::None => ("", String::new()),
            Body::Reason => (PLAIN_TEXT, format!("{}\n", self.reason)),
            Body::Page => (page::FIELDS, page::HTML.to_owned()),
        };
        let Self { status, fields, .. } = self;
        let date = httpdate::fmt_http_date(SystemTime::now());
        let length = body.len();
        write!(
            f,
            "HTTP/1.1 {status}\r\nDate: {date}\r\n{fields}{content}Content-Length: {length}\r\n\r\n{body}"
        )
    }
}
