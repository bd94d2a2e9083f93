//! The request: what is asked for, and what its fields say (RFC 9112 §3, §5).

use std::net::SocketAddr;

use super::{
    host::Authority,
    response::{Response, quote},
};

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
    pub(super) fn parse(
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
            (Err(httparse::Error::TooManyHeaders), _) => {
                Err(Response::head_too_large("has more than 124 fields"))
            }
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

/// Of a target that is a whole URL.
const SCHEMES: [&str; 4] = ["http", "https", "ws", "wss"];

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
            Some((scheme, rest)) if SCHEMES.iter().any(|s| s.eq_ignore_ascii_case(scheme)) => {
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
