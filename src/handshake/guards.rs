//! Which request is upgraded, and which gets another answer.

use tokio_tungstenite::tungstenite::http::{HeaderValue, Method, StatusCode, Version};

use super::{
    Refusal, Request, bad_request,
    response::{page, quote, refuse},
};
use crate::config::{Config, parse_host};

/// The key of a request that is a handshake. The guards are in the order of the contract: where several fit, the first one
/// counts.
pub(super) fn check<'a>(
    request: &'a Request,
    is_early: bool,
    config: &Config,
) -> Result<&'a HeaderValue, Refusal> {
    let method = request.method();
    let is_attempt = attempts_handshake(request);
    if method != Method::GET && (method != Method::HEAD || is_attempt) {
        let reason = "The method of a WebSocket handshake is GET.";
        return Err(refuse(StatusCode::METHOD_NOT_ALLOWED, reason));
    }
    // Other forms of a target are for other methods (RFC 9112 §3.2).
    if !request.uri().path().starts_with('/') {
        let reason =
            "The request's target is neither a path nor a URL. Ask for /, or any other path.";
        return Err(bad_request(reason));
    }
    if is_early {
        let reason =
            "There were bytes behind the request's head. Wait for the answer before you send more.";
        return Err(bad_request(reason));
    }
    // A browser, a health check, or a proxy that asks for HTTP/2.
    if !is_attempt {
        return Err(page(method));
    }
    if request.version() == Version::HTTP_10 {
        return Err(upgrade_required(
            "HTTP/1.0 can't be upgraded. Use HTTP/1.1.",
        ));
    }
    for (name, token) in [("Upgrade", "websocket"), ("Connection", "Upgrade")] {
        if !has_token(request, name, token) {
            return Err(upgrade_required(format!(
                "The request has no \"{name}: {token}\". Send it, or have the proxy between pass it on."
            )));
        }
    }
    require_version(request)?;
    let key = require_key(request)?;
    require_access(request, config)?;
    // Content would be taken for frames.
    let fields = request.headers();
    if fields
        .get("Content-Length")
        .is_some_and(|length| length != "0")
        || fields.contains_key("Transfer-Encoding")
    {
        let reason = "The request announces content. A WebSocket handshake has none.";
        return Err(bad_request(reason));
    }
    Ok(key)
}

fn require_version(request: &Request) -> Result<(), Refusal> {
    const NAME: &str = "Sec-WebSocket-Version";
    if single_value(request, NAME).is_some_and(|version| version == "13") {
        return Ok(());
    }
    let version = quote_all(request, NAME);
    Err(upgrade_required(format!(
        "The {NAME} is {version}. This server supports 13."
    )))
}

fn require_key(request: &Request) -> Result<&HeaderValue, Refusal> {
    const NAME: &str = "Sec-WebSocket-Key";
    let key = single_value(request, NAME).filter(|key| is_key(key.as_bytes()));
    key.ok_or_else(|| {
        let key = quote_all(request, NAME);
        bad_request(format!(
            "The {NAME} is {key}. It must be 16 bytes in base64, once."
        ))
    })
}

/// Not decoded: the bits that 22 characters have beyond 16 bytes are not always zero, since many clients write 22 random
/// characters.
fn is_key(key: &[u8]) -> bool {
    let is_base64 = |b: &u8| b.is_ascii_alphanumeric() || b"+/".contains(b);
    key.strip_suffix(b"==")
        .is_some_and(|digits| digits.len() == 22 && digits.iter().all(is_base64))
}

fn require_access(request: &Request, config: &Config) -> Result<(), Refusal> {
    let host = single_value(request, "Host").and_then(|host| parse_host(host.as_bytes()));
    let Some(host) = host else {
        let host = quote_all(request, "Host");
        return Err(bad_request(format!(
            "The Host is {host}. It must be one host, with a port or without."
        )));
    };
    // A target that is a whole URL names the host in its place (RFC 9112 §3.2.2).
    let host = request.uri().authority().unwrap_or(&host);
    // A page of another site that has its own name resolve to this machine (DNS rebinding) passes for the server's own.
    if !config.allows_host(host) {
        let host = quote(host.as_str());
        let reason = format!(
            "The host {host} is not one of this server's. Its option --allow-host would allow it."
        );
        return Err(refuse(StatusCode::MISDIRECTED_REQUEST, reason));
    }
    let mut origins = request.headers().get_all("Origin").iter();
    if !origins.all(|origin| config.allows_origin(origin, host)) {
        let (origin, host) = (quote_all(request, "Origin"), quote(host.as_str()));
        let reason = format!(
            "The origin {origin} may not connect to {host}. The server's option --allow-origin would allow it."
        );
        return Err(refuse(StatusCode::FORBIDDEN, reason));
    }
    Ok(())
}

fn upgrade_required(reason: impl Into<String>) -> Refusal {
    refuse(StatusCode::UPGRADE_REQUIRED, reason)
}

/// Whether it is meant as a WebSocket handshake, a good one or not.
fn attempts_handshake(request: &Request) -> bool {
    let mut names = request.headers().keys();
    names.any(|name| name.as_str().starts_with("sec-websocket-"))
        || has_token(request, "Upgrade", "websocket")
}

/// The field's value, if it stands there once.
fn single_value<'a>(request: &'a Request, name: &str) -> Option<&'a HeaderValue> {
    let mut values = request.headers().get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Whether the field's list, over all its lines, has the token (RFC 9110 §5.3, §5.6.1).
fn has_token(request: &Request, name: &str, token: &str) -> bool {
    let lines = request.headers().get_all(name).iter();
    let mut members = lines.flat_map(|line| line.as_bytes().split(|&b| b == b','));
    members.any(|member| member.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// All the field's values, for a person to read.
fn quote_all(request: &Request, name: &str) -> String {
    let values: Vec<_> = request.headers().get_all(name).iter().map(quote).collect();
    if values.is_empty() {
        "absent".into()
    } else {
        values.join(" and ")
    }
}
