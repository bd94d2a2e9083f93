//! Which request is upgraded, and which gets another answer.

use tokio_tungstenite::tungstenite::http::{HeaderValue, Method, StatusCode, Version};

use super::{
    Refusal, Request, bad_request, quote_all, refuse,
    response::{options, page, quote, refuse_field},
};
use crate::config::{Config, option_for_host, options_for_origins, parse_host};

/// Returns the key of a good handshake. The guards are in the order of the contract: the first one that fits counts.
pub(super) fn check<'a>(
    request: &'a Request,
    has_more: bool,
    config: &Config,
) -> Result<&'a HeaderValue, Refusal> {
    let method = request.method();
    let is_attempt = attempts_handshake(request);
    if method == Method::OPTIONS {
        return Err(options());
    }
    if method != Method::GET && (method != Method::HEAD || is_attempt) {
        let reason = "The method of a WebSocket handshake is GET.";
        return Err(refuse(StatusCode::METHOD_NOT_ALLOWED, reason));
    }
    // Only other methods have other forms of a target (RFC 9112 §3.2).
    if !request.uri().path().starts_with('/') {
        return Err(bad_request(
            "The request target is neither a path nor a URL. Request / or any other path.",
        ));
    }
    // A browser, a health check, or a proxy that speaks HTTP/2.
    if !is_attempt {
        return Err(page(method));
    }
    // Content would be taken for frames.
    if has_more || announces_content(request) {
        return Err(bad_request(
            "Data came after the request head. Wait for the 101 before sending more.",
        ));
    }
    if request.version() == Version::HTTP_10 {
        return Err(upgrade_required("HTTP/1.0 has no upgrade. Use HTTP/1.1."));
    }
    for (name, token) in [("Upgrade", "websocket"), ("Connection", "Upgrade")] {
        if !has_token(request, name, token) {
            return Err(upgrade_required(format!(
                "The request has no {name}: {token}. Send it, and let proxies in between pass it on."
            )));
        }
    }
    require_version(request)?;
    let key = require_key(request)?;
    require_access(request, config)?;
    Ok(key)
}

fn require_version(request: &Request) -> Result<(), Refusal> {
    const NAME: &str = "Sec-WebSocket-Version";
    if single_value(request, NAME).is_some_and(|version| version == "13") {
        return Ok(());
    }
    let field = (NAME, quote_all(request, NAME));
    let status = StatusCode::UPGRADE_REQUIRED;
    Err(refuse_field(status, field, "is not 13", "Send 13."))
}

fn require_key(request: &Request) -> Result<&HeaderValue, Refusal> {
    const NAME: &str = "Sec-WebSocket-Key";
    let key = single_value(request, NAME).filter(|key| is_key(key.as_bytes()));
    key.ok_or_else(|| {
        let field = (NAME, quote_all(request, NAME));
        let (fault, remedy) = ("is not 16 bytes in base64", "Send one such key.");
        refuse_field(StatusCode::BAD_REQUEST, field, fault, remedy)
    })
}

/// The key is not decoded. Its 22 characters have more bits than 16 bytes, and many clients fill these bits at random.
fn is_key(key: &[u8]) -> bool {
    let is_base64 = |b: &u8| b.is_ascii_alphanumeric() || b"+/".contains(b);
    key.strip_suffix(b"==")
        .is_some_and(|digits| digits.len() == 22 && digits.iter().all(is_base64))
}

fn require_access(request: &Request, config: &Config) -> Result<(), Refusal> {
    let host = single_value(request, "Host").and_then(|host| parse_host(host.as_bytes()));
    let Some(host) = host else {
        let field = ("Host", quote_all(request, "Host"));
        let (fault, remedy) = ("is not a host", "Send one host, with or without a port.");
        return Err(refuse_field(StatusCode::BAD_REQUEST, field, fault, remedy));
    };
    // A target that is a URL overrides Host (RFC 9112 §3.2.2).
    let host = request.uri().authority().unwrap_or(&host);
    // Otherwise a page of another site could point its own name here (DNS rebinding), and pass for the server's own.
    if !config.allows_host(host) {
        let remedy = remedy(option_for_host(host.host()));
        let field = ("Host", Some(quote(host.as_str().as_bytes())));
        let status = StatusCode::MISDIRECTED_REQUEST;
        return Err(refuse_field(status, field, "is not allowed", &remedy));
    }
    let origins = request.headers().get_all("Origin").iter();
    let foreign: Vec<_> = origins
        .filter(|origin| !config.allows_origin(origin, host))
        .collect();
    if foreign.is_empty() {
        return Ok(());
    }
    let remedy = remedy(options_for_origins(&foreign));
    let field = ("Origin", quote_all(request, "Origin"));
    let status = StatusCode::FORBIDDEN;
    Err(refuse_field(status, field, "is not allowed", &remedy))
}

fn remedy(options: Result<String, &str>) -> String {
    match options {
        Ok(options) => format!("Start wspush with {options} to allow it."),
        Err(expected) => format!("It can't be allowed: {expected}."),
    }
}

fn upgrade_required(reason: impl Into<String>) -> Refusal {
    refuse(StatusCode::UPGRADE_REQUIRED, reason)
}

/// Whether this is meant as a WebSocket handshake, good or bad.
fn attempts_handshake(request: &Request) -> bool {
    let mut names = request.headers().keys();
    names.any(|name| name.as_str().starts_with("sec-websocket-"))
        || has_token(request, "Upgrade", "websocket")
}

fn announces_content(request: &Request) -> bool {
    let fields = request.headers();
    let length = fields.get("Content-Length");
    length.is_some_and(|length| length != "0") || fields.contains_key("Transfer-Encoding")
}

/// The field's value, unless it occurs more than once.
fn single_value<'a>(request: &'a Request, name: &str) -> Option<&'a HeaderValue> {
    let mut values = request.headers().get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Whether the field's list contains the token. A list may span several lines (RFC 9110 §5.3, §5.6.1).
fn has_token(request: &Request, name: &str, token: &str) -> bool {
    let lines = request.headers().get_all(name).iter();
    let mut members = lines.flat_map(|line| line.as_bytes().split(|&b| b == b','));
    members.any(|member| member.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}
