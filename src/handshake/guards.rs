//! Which request is upgraded, and which gets another answer: the guards, in the order of the contract. Where several fit,
//! the first one counts.

use tokio_tungstenite::tungstenite::http::{
    HeaderValue, Method, StatusCode, Version, header::CONTENT_LENGTH, uri::Authority,
};

use super::{
    Policy, Request, Response, access, bad_request,
    response::{page, quote, refuse},
};

/// The key of a request that is a handshake.
pub(super) fn check<'a>(
    request: &'a Request,
    is_early: bool,
    policy: &Policy,
) -> Result<&'a HeaderValue, Response> {
    require_method(request)?;
    require_path(request)?;
    require_nothing_early(is_early)?;
    require_attempt(request)?;
    require_http_1_1(request)?;
    require_upgrade(request)?;
    require_version(request)?;
    let key = require_key(request)?;
    let host = require_host(request)?;
    require_allowed_host(&host, policy)?;
    require_origin(request, &host, policy)?;
    require_no_content(request)?;
    Ok(key)
}

fn require_method(request: &Request) -> Result<(), Response> {
    match *request.method() {
        Method::GET => Ok(()),
        Method::HEAD if !attempts_handshake(request) => Ok(()),
        _ => {
            let reason = "The method of a WebSocket handshake is GET.";
            Err(refuse(StatusCode::METHOD_NOT_ALLOWED, reason))
        }
    }
}

/// Other forms of a target are for other methods (RFC 9112 §3.2).
fn require_path(request: &Request) -> Result<(), Response> {
    if request.uri().path().starts_with('/') {
        return Ok(());
    }
    let target = quote(request.uri().to_string());
    Err(bad_request(format!(
        "The request's target {target} is neither a path nor a URL. Ask for /, or any other path."
    )))
}

fn require_nothing_early(is_early: bool) -> Result<(), Response> {
    if is_early {
        let reason =
            "There were bytes behind the request's head. Wait for the answer before you send more.";
        return Err(bad_request(reason));
    }
    Ok(())
}

/// What opens the URL without any sign of WebSocket is a browser, a health check, or a proxy that asks for HTTP/2.
fn require_attempt(request: &Request) -> Result<(), Response> {
    if attempts_handshake(request) {
        Ok(())
    } else {
        Err(page(request.method()))
    }
}

fn require_http_1_1(request: &Request) -> Result<(), Response> {
    if request.version() == Version::HTTP_10 {
        return Err(upgrade_required(
            "HTTP/1.0 can't be upgraded. Use HTTP/1.1.",
        ));
    }
    Ok(())
}

fn require_upgrade(request: &Request) -> Result<(), Response> {
    for (name, token) in [("Upgrade", "websocket"), ("Connection", "Upgrade")] {
        if !has_token(request, name, token) {
            return Err(upgrade_required(format!(
                "The request has no \"{name}: {token}\". Send it, or have the proxy between pass it on."
            )));
        }
    }
    Ok(())
}

fn require_version(request: &Request) -> Result<(), Response> {
    const NAME: &str = "Sec-WebSocket-Version";
    if single_value(request, NAME).is_some_and(|version| version == "13") {
        return Ok(());
    }
    let version = quote_all(request, NAME);
    Err(upgrade_required(format!(
        "The {NAME} is {version}. This server supports 13."
    )))
}

fn require_key(request: &Request) -> Result<&HeaderValue, Response> {
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

/// The host that the client means to have reached.
fn require_host(request: &Request) -> Result<Authority, Response> {
    const NAME: &str = "Host";
    let host = single_value(request, NAME).and_then(|host| access::parse_host(host.as_bytes()));
    let host = host.ok_or_else(|| {
        let host = quote_all(request, NAME);
        bad_request(format!(
            "The {NAME} is {host}. It must be one host, with a port or without."
        ))
    })?;
    // A target that is a whole URL names the host in its place (RFC 9112 §3.2.2).
    Ok(request.uri().authority().cloned().unwrap_or(host))
}

/// A page of another site that has its own name resolve to this machine (DNS rebinding) passes for the server's own.
fn require_allowed_host(host: &Authority, policy: &Policy) -> Result<(), Response> {
    if policy.allows_host(host) {
        return Ok(());
    }
    let host = quote(host.as_str());
    let reason = format!(
        "The host {host} is not one of this server's. Its option --allow-host would allow it."
    );
    Err(refuse(StatusCode::MISDIRECTED_REQUEST, reason))
}

fn require_origin(request: &Request, host: &Authority, policy: &Policy) -> Result<(), Response> {
    const NAME: &str = "Origin";
    let mut origins = request.headers().get_all(NAME).iter();
    if origins.all(|origin| policy.allows_origin(&String::from_utf8_lossy(origin.as_bytes()), host))
    {
        return Ok(());
    }
    let (origin, host) = (quote_all(request, NAME), quote(host.as_str()));
    let reason = format!(
        "The origin {origin} may not connect to {host}. The server's option --allow-origin would allow it."
    );
    Err(refuse(StatusCode::FORBIDDEN, reason))
}

/// Content would be taken for frames.
fn require_no_content(request: &Request) -> Result<(), Response> {
    let fields = request.headers();
    let mut lengths = fields.get_all(CONTENT_LENGTH).iter();
    if lengths.any(|length| length != "0") || fields.contains_key("Transfer-Encoding") {
        let reason = "The request announces content. A WebSocket handshake has none.";
        return Err(bad_request(reason));
    }
    Ok(())
}

fn upgrade_required(reason: impl Into<String>) -> Response {
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
