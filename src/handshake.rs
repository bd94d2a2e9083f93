//! The opening handshake (RFC 6455 §4.2): which request is upgraded, by tungstenite, and which is refused, and how.
//!
//! The guards stand in the order of the contract: where several fit, the first one counts. Only the connection limit,
//! which counts before all of them, is looked at elsewhere: where connections are accepted.

pub(crate) mod origin;
mod page;
pub(crate) mod refusal;
pub(crate) mod request;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::{
    handshake::server::{Request, Response, create_response, write_response},
    http::{
        HeaderMap, HeaderName, HeaderValue,
        header::{
            CONNECTION, CONTENT_LENGTH, HOST, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
            TRANSFER_ENCODING, UPGRADE,
        },
        uri::{Authority, Uri},
    },
};

use crate::{
    handshake::origin::{AllowedOrigin, is_allowed, is_host},
    handshake::refusal::Refusal,
    handshake::request::{HandshakeError, read},
    session::keepalive::ActivityStream,
    timed::write_all,
};

/// How much of a value from the peer is quoted back to it and to the log.
const QUOTE_LIMIT: usize = 100;

/// Reads the request and answers it with 101, or tells how it is to be refused. Returns the request's origin.
pub(crate) async fn upgrade<S>(
    stream: &mut ActivityStream<S>,
    allowed: &[AllowedOrigin],
) -> Result<Option<String>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = read(stream).await?;
    let origin = request.headers().get(ORIGIN).map(quote);
    let response = respond(request, allowed)?;
    let mut answer = Vec::with_capacity(256);
    write_response(&mut answer, &response)
        .map_err(|error| Refusal::bad_request(error.to_string()))?;
    write_all(stream, &answer).await?;
    Ok(origin)
}

/// The 101 for a request that is a handshake.
fn respond(mut request: Request, allowed: &[AllowedOrigin]) -> Result<Response, Refusal> {
    require_target(request.uri())?;
    require_upgrade(request.headers_mut())?;
    require_version(request.headers())?;
    let response = require_key(&request)?;
    let host = require_host(request.headers())?;
    // A target that is a whole URL names the host in its place (RFC 9112 §3.2.2).
    let host = request.uri().authority().map_or(host, Authority::as_str);
    require_origin(request.headers(), host, allowed)?;
    require_no_content(request.headers())?;
    Ok(response)
}

fn require_target(target: &Uri) -> Result<(), Refusal> {
    // Parsed as a URI, what is no path is a host.
    if target.path().starts_with('/')
        && target.authority().is_none_or(|host| is_host(host.as_str()))
    {
        return Ok(());
    }
    let target = quote(target.to_string());
    Err(Refusal::bad_request(format!(
        "The request's target {target} is neither a path nor a URL with a host. Ask for /, or any other path."
    )))
}

fn require_upgrade(headers: &mut HeaderMap) -> Result<(), Refusal> {
    for (name, token) in [(UPGRADE, "websocket"), (CONNECTION, "upgrade")] {
        if !has_token(headers, &name, token) {
            return Err(Refusal::no_handshake(format!(
                "The request has no \"{name}: {token}\". Connect with a WebSocket client."
            )));
        }
        // tungstenite wants it in the first line of that name, and for Upgrade without other protocols.
        headers.insert(name, HeaderValue::from_static(token));
    }
    Ok(())
}

fn require_version(headers: &HeaderMap) -> Result<(), Refusal> {
    if only(headers, &SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13") {
        return Ok(());
    }
    let version = quote_all(headers, &SEC_WEBSOCKET_VERSION);
    Err(Refusal::version_required(format!(
        "The Sec-WebSocket-Version is {version}. This server speaks 13."
    )))
}

/// The key is all that tungstenite can still object to.
fn require_key(request: &Request) -> Result<Response, Refusal> {
    let key = only(request.headers(), &SEC_WEBSOCKET_KEY);
    key.and_then(|_| create_response(request).ok())
        .ok_or_else(|| {
            let key = quote_all(request.headers(), &SEC_WEBSOCKET_KEY);
            Refusal::bad_request(format!(
                "The Sec-WebSocket-Key is {key}. It must be 16 bytes in base64, once."
            ))
        })
}

fn require_host(headers: &HeaderMap) -> Result<&str, Refusal> {
    let host = only(headers, &HOST).and_then(|host| host.to_str().ok());
    host.filter(|host| is_host(host)).ok_or_else(|| {
        let host = quote_all(headers, &HOST);
        Refusal::bad_request(format!(
            "The Host is {host}. It must be one host, with a port or without."
        ))
    })
}

fn require_origin(
    headers: &HeaderMap,
    host: &str,
    allowed: &[AllowedOrigin],
) -> Result<(), Refusal> {
    let is_let_in = |origin: &HeaderValue| {
        let origin = String::from_utf8_lossy(origin.as_bytes());
        is_allowed(&origin, host, allowed)
    };
    if headers.get_all(ORIGIN).iter().all(is_let_in) {
        return Ok(());
    }
    let (origin, host) = (quote_all(headers, &ORIGIN), quote(host));
    Err(Refusal::forbidden(format!(
        "The origin {origin} may not connect to {host}. The server's option --allow-origin would let it in."
    )))
}

/// Content would be taken for frames.
fn require_no_content(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if headers.contains_key(TRANSFER_ENCODING) || lengths.any(|length| length != "0") {
        let reason = "The request announces content. A WebSocket handshake has none.";
        return Err(Refusal::bad_request(reason));
    }
    Ok(())
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
