//! The answers other than 101: their statuses, the fields that say what to do, their bodies (RFC 9110 §15).
//! Which request gets which one is decided in `guards`; `head` and `request` answer what is malformed.

use std::{
    borrow::Cow,
    fmt, io,
    time::{Duration, SystemTime},
};

use tokio::io::AsyncWrite;

use crate::io::write_all;

/// How much of a value from the peer is quoted back to it and to the log.
const QUOTE_LIMIT: usize = 100;

/// When to try again a server that is full: soon, since a connection that ends makes room at once.
const RETRY_AFTER: Duration = Duration::from_secs(5);

const CLOSE: &str = "Connection: close\r\n";
const UPGRADE: &str = "Connection: Upgrade, close\r\nUpgrade: websocket\r\n";
const PLAIN_TEXT: &str = "Content-Type: text/plain; charset=utf-8\r\n";
const HTML: &str = "Content-Type: text/html; charset=utf-8\r\n";

/// What a browser that opens the server's URL is shown: a live client.
const PAGE: &str = include_str!("page.html");

/// The policy lets in the page's own style and script, by their hashes, its empty icon, and connections to where it came
/// from.
const PAGE_FIELDS: &str = "Connection: close\r\nCache-Control: no-store\r\n\
    Content-Security-Policy: default-src 'none'; style-src 'sha256-xoMP46o0IybWKNgmLYP+HYXxz7O4j4TikLBwjp4rYmI='; script-src 'sha256-TZMyQwBI0CeiIYnj3QdNcQuFDRetUxVoIZ8TuQHPakI='; \
    img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n";

/// An HTTP answer after which the connection ends.
#[derive(Debug)]
pub(crate) struct Response {
    status: &'static str,
    fields: Cow<'static, str>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// What was wrong, and what would be right.
    Reason(Cow<'static, str>),
    /// The reason is only logged, since this may answer a HEAD (RFC 9110 §9.3.2).
    NoReason(&'static str),
    Page,
    /// The page's length without the page: the answer to a HEAD.
    PageLength,
}

impl Response {
    fn refusal(
        status: &'static str,
        fields: impl Into<Cow<'static, str>>,
        reason: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            fields: fields.into(),
            content: Content::Reason(reason.into()),
        }
    }

    pub(super) fn page(method: &str) -> Self {
        Self {
            status: "200 OK",
            fields: PAGE_FIELDS.into(),
            content: match method {
                "HEAD" => Content::PageLength,
                _ => Content::Page,
            },
        }
    }

    pub(crate) fn too_many_connections(limit: usize) -> Self {
        let seconds = RETRY_AFTER.as_secs();
        let fields = format!("{CLOSE}Retry-After: {seconds}\r\n");
        let reason = format!("All {limit} connections are in use. Try again in {seconds} seconds.");
        Self::refusal("503 Service Unavailable", fields, reason)
    }

    pub(super) fn request_timeout(reason: String) -> Self {
        Self::refusal("408 Request Timeout", CLOSE, reason)
    }

    pub(super) fn bad_request(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::refusal("400 Bad Request", CLOSE, reason)
    }

    pub(super) fn head_too_large(what: &str) -> Self {
        let reason = format!("The request's head {what}. Send fewer and shorter fields.");
        Self::refusal("431 Request Header Fields Too Large", CLOSE, reason)
    }

    pub(super) fn method_not_allowed() -> Self {
        Self {
            status: "405 Method Not Allowed",
            fields: "Connection: close\r\nAllow: GET, HEAD\r\n".into(),
            content: Content::NoReason("The method of a WebSocket handshake is GET."),
        }
    }

    pub(super) fn upgrade_required(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::refusal("426 Upgrade Required", UPGRADE, reason)
    }

    /// RFC 6455 §4.4.
    pub(super) fn version_required(reason: String) -> Self {
        let fields = format!("{UPGRADE}Sec-WebSocket-Version: 13\r\n");
        Self::refusal("426 Upgrade Required", fields, reason)
    }

    pub(super) fn misdirected(reason: String) -> Self {
        Self::refusal("421 Misdirected Request", CLOSE, reason)
    }

    pub(super) fn forbidden(reason: String) -> Self {
        Self::refusal("403 Forbidden", CLOSE, reason)
    }

    pub(crate) fn internal_server_error() -> Self {
        Self::refusal(
            "500 Internal Server Error",
            CLOSE,
            "The server failed. Try again later.",
        )
    }

    /// Why the request was refused; `None` for the page.
    pub(crate) fn reason(&self) -> Option<&str> {
        match &self.content {
            Content::Reason(reason) => Some(reason),
            Content::NoReason(reason) => Some(reason),
            Content::Page | Content::PageLength => None,
        }
    }

    /// Its three digits.
    pub(crate) fn status(&self) -> &str {
        &self.status[..3]
    }

    /// Sends the answer, whole (RFC 9112 §4).
    pub(crate) async fn send(&self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        write_all(stream, self.to_string().as_bytes()).await
    }
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (content_type, length, [body, line_break]) = match &self.content {
            Content::Reason(reason) => (PLAIN_TEXT, reason.len() + 1, [&**reason, "\n"]),
            Content::NoReason(_) => ("", 0, ["", ""]),
            Content::Page => (HTML, PAGE.len(), [PAGE, ""]),
            Content::PageLength => (HTML, PAGE.len(), ["", ""]),
        };
        let Self { status, fields, .. } = self;
        let date = httpdate::fmt_http_date(SystemTime::now());
        write!(
            f,
            "HTTP/1.1 {status}\r\nDate: {date}\r\n{fields}X-Content-Type-Options: nosniff\r\n\
             {content_type}Content-Length: {length}\r\n\r\n{body}{line_break}"
        )
    }
}

/// Why a source takes no client that has made a good handshake.
#[derive(Debug)]
pub struct Rejection(Response);

impl Rejection {
    /// 401, with the challenge that the client is to answer, such as `Bearer` (RFC 9110 §11.6.1).
    #[must_use]
    pub fn unauthorized(challenge: &str, reason: impl Into<Cow<'static, str>>) -> Self {
        let fields = format!("{CLOSE}WWW-Authenticate: {challenge}\r\n");
        Self(Response::refusal("401 Unauthorized", fields, reason))
    }

    /// 403: it may not have what it asks for.
    #[must_use]
    pub fn forbidden(reason: impl Into<Cow<'static, str>>) -> Self {
        Self(Response::refusal("403 Forbidden", CLOSE, reason))
    }

    /// 404: there is nothing at this path.
    #[must_use]
    pub fn not_found(reason: impl Into<Cow<'static, str>>) -> Self {
        Self(Response::refusal("404 Not Found", CLOSE, reason))
    }
}

impl From<Rejection> for Response {
    fn from(Rejection(response): Rejection) -> Self {
        response
    }
}

/// The value escaped and cut, for nothing that a peer sends is to reach an answer or the log as it is.
pub(super) fn quote(value: impl AsRef<[u8]>) -> String {
    let text = String::from_utf8_lossy(value.as_ref());
    let start: String = text.chars().take(QUOTE_LIMIT).collect();
    format!("{start:?}")
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64;
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn the_policy_lets_in_the_pages_own_style_and_script() {
        for element in ["style", "script"] {
            let (_, rest) = PAGE.split_once(&format!("<{element}>")).unwrap();
            let (content, _) = rest.split_once(&format!("</{element}>")).unwrap();
            let hash = BASE64.encode(&Sha256::digest(content));
            let source = format!("{element}-src 'sha256-{hash}';");
            assert!(PAGE_FIELDS.contains(&source), "{source}");
        }
    }
}
