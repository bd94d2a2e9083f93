//! The answers other than 101 (RFC 9110 §15). `guards` decides which request gets which.

use std::{io, time::SystemTime};

use tokio::io::AsyncWrite;
use tokio_tungstenite::tungstenite::{
    handshake::server::write_response,
    http::{
        self, HeaderName, HeaderValue, Method, StatusCode,
        header::{
            ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY,
            CONTENT_TYPE, DATE, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
};

use super::Request;
use crate::io::write_all;

/// An HTTP response other than 101. It ends the connection. Its body says what was wrong and what would be right.
pub type Refusal = Box<http::Response<String>>;

/// How many characters of a peer's value an answer or the log quotes.
const QUOTE_LIMIT: usize = 100;

/// A WebSocket client, shown to browsers that open the server's URL.
const PAGE: &str = include_str!("page.html");

/// Allows the page's own style and script by their hashes, its empty icon, and connections to its own origin.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'sha256-XW4/0I2kJ/6CmozVLgYhQX4BduwBkAsI75wurjd27qY='; script-src 'sha256-n73fYMRxk9GXFJc1VBjTsogqXJqAhdjo7Nml/LEcI1Q='; \
    img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The header field that a request was refused for. The body quotes it, and the log has it in a field of its own.
#[derive(Clone, Debug)]
pub(crate) struct RefusedField {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    /// The body without the value.
    pub(crate) reason: String,
}

pub(super) fn page(method: &Method) -> Refusal {
    let body = if method == Method::HEAD { "" } else { PAGE };
    let mut page = refuse(StatusCode::OK, body);
    let fields = page.headers_mut();
    fields.insert(CONTENT_LENGTH, PAGE.len().into());
    for (name, value) in [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, PAGE_POLICY),
    ] {
        fields.insert(name, HeaderValue::from_static(value));
    }
    page
}

/// `HAProxy` sends OPTIONS as its default health check.
pub(super) fn options() -> Refusal {
    refuse(StatusCode::NO_CONTENT, "")
}

/// Rejects a client with this status. The reason becomes the body. Header fields may be added.
///
/// A 401 has `WWW-Authenticate: Bearer` unless it gets another challenge.
pub fn refuse(status: StatusCode, reason: impl Into<String>) -> Refusal {
    let mut refusal = Refusal::new(http::Response::new(reason.into()));
    *refusal.status_mut() = status;
    refusal
}

/// Refuses a request for the value of a header field, or for its absence.
pub(super) fn refuse_field(
    status: StatusCode,
    (name, value): (&'static str, Option<String>),
    fault: &str,
    remedy: &str,
) -> Refusal {
    let Some(value) = value else {
        return refuse(status, format!("The request has no {name}. {remedy}"));
    };
    let mut refusal = refuse(status, format!("The {name} {value} {fault}. {remedy}"));
    let reason = format!("The {name} {fault}. {remedy}");
    let extensions = refusal.extensions_mut();
    extensions.insert(RefusedField {
        name,
        value,
        reason,
    });
    refusal
}

/// The fields that a status requires.
fn required_fields(status: StatusCode) -> &'static [(HeaderName, &'static str)] {
    match status {
        StatusCode::NO_CONTENT | StatusCode::METHOD_NOT_ALLOWED => &[(ALLOW, "GET, HEAD, OPTIONS")],
        StatusCode::UNAUTHORIZED => &[(WWW_AUTHENTICATE, "Bearer")],
        StatusCode::UPGRADE_REQUIRED => &[
            (CONNECTION, "Upgrade, close"),
            (UPGRADE, "websocket"),
            (SEC_WEBSOCKET_VERSION, "13"),
        ],
        // Soon: a connection that ends makes room at once.
        StatusCode::SERVICE_UNAVAILABLE => &[(RETRY_AFTER, "5")],
        _ => &[],
    }
}

/// Sends the response, with the fields that it still lacks (RFC 9112 §4).
pub(crate) async fn send(
    mut response: Refusal,
    stream: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let status = response.status();
    if status == StatusCode::METHOD_NOT_ALLOWED {
        // It may answer a HEAD, which gets no body (RFC 9110 §9.3.2).
        response.body_mut().clear();
    } else if !status.is_success() {
        response.body_mut().push('\n');
    }
    let length = response.body().len();
    let fields = response.headers_mut();
    let mut add = |name, value| {
        fields.entry(name).or_insert(value);
    };
    for (name, value) in required_fields(status) {
        add(name, HeaderValue::from_static(value));
    }
    if length > 0 {
        add(
            &CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
    }
    // A 204 has none (RFC 9110 §8.6).
    if status != StatusCode::NO_CONTENT {
        add(&CONTENT_LENGTH, length.into());
    }
    add(&CONNECTION, HeaderValue::from_static("close"));
    add(&X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let date = httpdate::fmt_http_date(SystemTime::now());
    fields.extend(HeaderValue::try_from(date).map(|date| (DATE, date)));
    let mut bytes = Vec::new();
    write_response(&mut bytes, &response).map_err(io::Error::other)?;
    bytes.extend_from_slice(response.body().as_bytes());
    write_all(stream, &bytes).await
}

/// All values of a field, as [`quote`] shows them.
pub(crate) fn quote_all(request: &Request, name: &str) -> Option<String> {
    let values = request.headers().get_all(name).iter();
    let values: Vec<_> = values.map(HeaderValue::as_bytes).collect();
    (!values.is_empty()).then(|| quote(&values.join(&b", "[..])))
}

/// The value escaped and shortened: nothing that a peer sends may reach an answer or the log as it is.
pub(super) fn quote(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
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
        let sources = ["style", "script"].map(|element| {
            let (_, rest) = PAGE.split_once(&format!("<{element}>")).unwrap();
            let (content, _) = rest.split_once(&format!("</{element}>")).unwrap();
            let hash = BASE64.encode(&Sha256::digest(content));
            format!("{element}-src 'sha256-{hash}';")
        });
        assert!(
            sources.iter().all(|source| PAGE_POLICY.contains(source)),
            "the page has changed: put {} into PAGE_POLICY in {}",
            sources.join(" "),
            file!()
        );
    }
}
