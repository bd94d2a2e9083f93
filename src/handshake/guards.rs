//! Which request is upgraded, and which gets another answer: the guards, in the order of the contract. Where several fit,
//! the first one counts.

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{
    Policy, Request,
    host::{self, Authority},
    origin,
    response::{Response, quote},
};

/// The 101 for a request that is a handshake.
pub(super) fn respond(
    request: &Request,
    is_early: bool,
    policy: &Policy,
) -> Result<String, Response> {
    require_method(request)?;
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
    let accept = derive_accept_key(key);
    // Letter for letter as the tutorials print it: small clients compare it so.
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    ))
}

fn require_method(request: &Request) -> Result<(), Response> {
    match request.method() {
        "GET" => Ok(()),
        "HEAD" if !request.attempts_handshake() => Ok(()),
        _ => Err(Response::method_not_allowed()),
    }
}

fn require_nothing_early(is_early: bool) -> Result<(), Response> {
    if is_early {
        let reason =
            "There were bytes behind the request's head. Wait for the answer before you send more.";
        return Err(Response::bad_request(reason));
    }
    Ok(())
}

/// What opens the URL without any sign of WebSocket is a browser, a health check, or a proxy that asks for HTTP/2.
fn require_attempt(request: &Request) -> Result<(), Response> {
    if request.attempts_handshake() {
        Ok(())
    } else {
        Err(Response::page(request.method()))
    }
}

fn require_http_1_1(request: &Request) -> Result<(), Response> {
    if request.is_http_1_0() {
        let reason = "HTTP/1.0 can't be upgraded. Use HTTP/1.1.";
        return Err(Response::upgrade_required(reason));
    }
    Ok(())
}

fn require_upgrade(request: &Request) -> Result<(), Response> {
    for (name, token) in [("Upgrade", "websocket"), ("Connection", "Upgrade")] {
        if !request.has_token(name, token) {
            return Err(Response::upgrade_required(format!(
                "The request has no \"{name}: {token}\". Send it, or have the proxy between pass it on."
            )));
        }
    }
    Ok(())
}

fn require_version(request: &Request) -> Result<(), Response> {
    const NAME: &str = "Sec-WebSocket-Version";
    if request.single_value(NAME) == Some(b"13") {
        return Ok(());
    }
    let version = quote_all(request, NAME);
    Err(Response::version_required(format!(
        "The {NAME} is {version}. This server supports 13."
    )))
}

fn require_key<'a>(request: &Request<'a>) -> Result<&'a [u8], Response> {
    const NAME: &str = "Sec-WebSocket-Key";
    let key = request.single_value(NAME).filter(|key| is_key(key));
    key.ok_or_else(|| {
        let key = quote_all(request, NAME);
        Response::bad_request(format!(
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
    let host = request
        .single_value(NAME)
        .and_then(|host| Authority::parse(str::from_utf8(host).ok()?));
    let host = host.ok_or_else(|| {
        let host = quote_all(request, NAME);
        Response::bad_request(format!(
            "The {NAME} is {host}. It must be one host, with a port or without."
        ))
    })?;
    // A target that is a whole URL names the host in its place (RFC 9112 §3.2.2).
    Ok(request.target_authority().cloned().unwrap_or(host))
}

/// A page of another site that has its own name resolve to this machine (DNS rebinding) passes for the server's own.
fn require_allowed_host(host: &Authority, policy: &Policy) -> Result<(), Response> {
    if host::is_allowed(host, &policy.allowed_hosts) {
        return Ok(());
    }
    let host = quote(host.to_string());
    Err(Response::misdirected(format!(
        "The host {host} is not one of this server's. Its option --allow-host would allow it."
    )))
}

fn require_origin(request: &Request, host: &Authority, policy: &Policy) -> Result<(), Response> {
    const NAME: &str = "Origin";
    let is_allowed = |origin: &[u8]| {
        let origin = String::from_utf8_lossy(origin);
        origin::is_allowed(&origin, host, &policy.allowed_origins)
    };
    if request.headers(NAME).all(is_allowed) {
        return Ok(());
    }
    let (origin, host) = (quote_all(request, NAME), quote(host.to_string()));
    Err(Response::forbidden(format!(
        "The origin {origin} may not connect to {host}. The server's option --allow-origin would allow it."
    )))
}

/// Content would be taken for frames.
fn require_no_content(request: &Request) -> Result<(), Response> {
    let has_length = request
        .headers("Content-Length")
        .any(|length| length != b"0");
    if has_length || request.headers("Transfer-Encoding").next().is_some() {
        let reason = "The request announces content. A WebSocket handshake has none.";
        return Err(Response::bad_request(reason));
    }
    Ok(())
}

/// All the field's values, for a person to read.
fn quote_all(request: &Request, name: &str) -> String {
    let values: Vec<_> = request.headers(name).map(quote).collect();
    if values.is_empty() {
        "absent".into()
    } else {
        values.join(" and ")
    }
}
