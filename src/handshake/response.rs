//! The answers other than 101: what their fields and bodies are (RFC 9110 §15). Which request gets which one is decided in
//! `guards`.

use std::{io, time::SystemTime};

use tokio::io::AsyncWrite;
use tokio_tungstenite::tungstenite::{
    handshake::server::write_response,
    http::{
        self, HeaderName, HeaderValue, Method, StatusCode,
        header::{
            ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY,
            CONTENT_TYPE, DATE, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
};

use crate::io::write_all;

/// An HTTP answer other than 101, after which the connection ends. Its body says what was wrong, and what would be right.
pub type Refusal = Box<http::Response<String>>;

/// How much of a value from the peer is quoted back to it and to the log.
const QUOTE_LIMIT: usize = 100;

/// What a browser that opens the server's URL is shown: a live client.
const PAGE: &str = include_str!("page.html");

/// Lets in the page's own style and script, by their hashes, its empty icon, and connections to where it came from.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'sha256-xoMP46o0IybWKNgmLYP+HYXxz7O4j4TikLBwjp4rYmI='; script-src 'sha256-TZMyQwBI0CeiIYnj3QdNcQuFDRetUxVoIZ8TuQHPakI='; \
    img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn page(method: &Method) -> Refusal {
    let body = if method == Method::HEAD { "" } else { PAGE };
    let mut page = Refusal::new(http::Response::new(body.into()));
    let fields = page.headers_mut();
    fields.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    fields.insert(CONTENT_LENGTH, PAGE.len().into());
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(PAGE_POLICY),
    );
    page
}

/// Refuses a client for this reason. Fields may be added, such as `WWW-Authenticate` to a 401.
pub fn refuse(status: StatusCode, reason: impl Into<String>) -> Refusal {
    let mut refusal = Refusal::new(http::Response::new(reason.into()));
    *refusal.status_mut() = status;
    refusal
}

/// What the status asks for.
fn fields_of(status: StatusCode) -> &'static [(HeaderName, &'static str)] {
    match status {
        StatusCode::METHOD_NOT_ALLOWED => &[(ALLOW, "GET, HEAD")],
        StatusCode::UPGRADE_REQUIRED => &[
            (CONNECTION, "Upgrade, close"),
            (UPGRADE, "websocket"),
            (SEC_WEBSOCKET_VERSION, "13"),
        ],
        // Soon, since a connection that ends makes room at once.
        StatusCode::SERVICE_UNAVAILABLE => &[(RETRY_AFTER, "5")],
        _ => &[],
    }
}

/// Sends the answer, whole (RFC 9112 §4), with the fields that it has not got yet.
pub(crate) async fn send(
    mut response: Refusal,
    stream: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let status = response.status();
    if status == StatusCode::METHOD_NOT_ALLOWED {
        // It may answer a HEAD (RFC 9110 §9.3.2).
        response.body_mut().clear();
    } else if !status.is_success() {
        response.body_mut().push('\n');
    }
    let length = response.body().len();
    let fields = response.headers_mut();
    for (name, value) in fields_of(status) {
        fields
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    if length > 0 {
        fields
            .entry(CONTENT_TYPE)
            .or_insert(HeaderValue::from_static("text/plain; charset=utf-8"));
    }
    fields.entry(CONTENT_LENGTH).or_insert(length.into());
    fields
        .entry(CONNECTION)
        .or_insert(HeaderValue::from_static("close"));
    fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let date = httpdate::fmt_http_date(SystemTime::now());
    fields.extend(HeaderValue::try_from(date).map(|date| (DATE, date)));
    let mut bytes = Vec::new();
    write_response(&mut bytes, &response).map_err(io::Error::other)?;
    bytes.extend_from_slice(response.body().as_bytes());
    write_all(stream, &bytes).await
}

/// The value escaped and cut, for nothing that a peer sends is to reach an answer or the log as it is.
pub(crate) fn quote(value: impl AsRef<[u8]>) -> String {
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
            assert!(PAGE_POLICY.contains(&source), "{source}");
        }
    }
}
