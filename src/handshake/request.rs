//! The request: reading its head, and what is asked of it (RFC 9112 §2–3, §5).
//!
//! Read here and not by tungstenite, since that parses what came before again at every piece, and since the answers to
//! what is malformed are ours.

use std::{io, net::SocketAddr, time::Duration};

use futures_util::FutureExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

use super::{host::Authority, quote, response::Response};
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
            return Err(if stream.has_received() {
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
            return Err(too_large("is larger than 64 KiB").into());
        }
        // Empty lines before the request line are no fields, and nothing else bounds their number.
        if parses > MAX_FIELDS + 4 {
            return Err(too_large("has too many lines").into());
        }
    }
}

fn too_large(what: &str) -> Response {
    Response::head_too_large(format!(
        "The request's head {what}. Send fewer and shorter fields."
    ))
}

/// A client's handshake, for whoever decides what the client is sent.
#[derive(Debug)]
pub struct Request<'a> {
    peer: SocketAddr,
    method: &'a str,
    version: u8,
    target: Target<'a>,
    headers: &'a [httparse::Header<'a>],
}

/// RFC 9112 §3.2.
#[derive(Debug)]
struct Target<'a> {
    /// Of a target that is a whole URL.
    authority: Option<Authority>,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Request<'a> {
    /// The request and the size of its head; `None` as long as that is incomplete.
    fn parse(
        peer: SocketAddr,
        head: &'a [u8],
        headers: &'a mut [httparse::Header<'a>],
    ) -> Result<Option<(usize, Self)>, Response> {
        let mut parsed = httparse::Request::new(headers);
        let result = parsed.parse(head);
        let target = match (parsed.method, parsed.path, parsed.version) {
            (Some(method), Some(target), Some(_)) => Some(Target::parse(method, target)?),
            _ => None,
        };
        match (result, target) {
            (Ok(httparse::Status::Complete(size)), Some(target)) => {
                let request = Self {
                    peer,
                    method: parsed.method.unwrap_or_default(),
                    version: parsed.version.unwrap_or_default(),
                    target,
                    headers: parsed.headers,
                };
                Ok(Some((size, request)))
            }
            (Ok(_), _) => Ok(None),
            (Err(httparse::Error::TooManyHeaders), _) => Err(too_large("has more than 124 fields")),
            (Err(error), _) => Err(Response::bad_request(format!(
                "This is not an HTTP/1.1 request ({error}). Send a WebSocket handshake."
            ))),
        }
    }

    /// The client's address, or that of the proxy before it.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The path as it was sent, such as `/news`: percent-encoded, never empty.
    #[must_use]
    pub fn path(&self) -> &'a str {
        self.target.path
    }

    /// What stands behind the first `?`, as it was sent.
    #[must_use]
    pub fn query(&self) -> Option<&'a str> {
        self.target.query
    }

    /// The values of all fields of this name, letter case aside, in the order in which they were sent.
    pub fn headers(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let named = move |header: &&httparse::Header<'a>| header.name.eq_ignore_ascii_case(name);
        self.headers.iter().filter(named).map(|header| header.value)
    }

    /// The field's value, if it stands there once.
    pub(super) fn single_value(&self, name: &str) -> Option<&'a [u8]> {
        let mut values = self.headers(name);
        values.next().filter(|_| values.next().is_none())
    }

    /// Whether the field's list, over all its lines, has the token (RFC 9110 §5.3, §5.6.1).
    pub(super) fn has_token(&self, name: &str, token: &str) -> bool {
        let mut members = self
            .headers(name)
            .flat_map(|line| line.split(|&b| b == b','));
        members.any(|member| member.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }

    pub(super) fn method(&self) -> &str {
        self.method
    }

    pub(super) fn is_http_1_0(&self) -> bool {
        self.version == 0
    }

    pub(super) fn target_authority(&self) -> Option<&Authority> {
        self.target.authority.as_ref()
    }

    /// Whether it is meant as a WebSocket handshake, a good one or not.
    pub(super) fn attempts_handshake(&self) -> bool {
        let prefix = b"sec-websocket-";
        let is_ours = |name: &[u8]| {
            name.get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        let mut headers = self.headers.iter();
        headers.any(|header| is_ours(header.name.as_bytes()))
            || self.has_token("Upgrade", "websocket")
    }
}

impl<'a> Target<'a> {
    fn parse(method: &str, target: &'a str) -> Result<Self, Response> {
        Self::split(method, target).ok_or_else(|| {
            let target = quote(target);
            Response::bad_request(format!(
                "The request's target {target} is neither a path nor a URL with a host. Ask for /, or any other path."
            ))
        })
    }

    fn split(method: &str, target: &'a str) -> Option<Self> {
        let (authority, path) = match target.split_once("://") {
            _ if target.starts_with('/') => (None, target),
            // Their own forms, and refused for their methods.
            _ if method == "CONNECT" || (method, target) == ("OPTIONS", "*") => (None, target),
            Some(("http" | "https" | "ws" | "wss", rest)) => {
                let end = rest.find(['/', '?']).unwrap_or(rest.len());
                let (authority, path) = rest.split_at(end);
                (Some(Authority::parse(authority)?), path)
            }
            _ => return None,
        };
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path, None),
        };
        let path = if path.is_empty() { "/" } else { path };
        Some(Self {
            authority,
            path,
            query,
        })
    }
}
