//! What a browser that opens the server's URL is shown: a live client. To whom it is sent stands in `handshake`.

pub(crate) const HTML: &str = include_str!("page.html");

/// The policy lets in the page's own style and script, by their hashes, and connections to where it came from.
pub(crate) const FIELDS: &str = "Content-Type: text/html; charset=utf-8\r\n\
    Content-Security-Policy: default-src 'none'; style-src 'sha256-xoMP46o0IybWKNgmLYP+HYXxz7O4j4TikLBwjp4rYmI='; script-src 'sha256-gkebGi49n2lJPRFgDMRBMVPgPYIE7tZgV8qKHyl//ZQ='; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n";

#[cfg(test)]
mod tests {
    use data_encoding::BASE64;
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn the_policy_lets_in_the_pages_own_style_and_script() {
        for element in ["style", "script"] {
            let (_, rest) = HTML.split_once(&format!("<{element}>")).unwrap();
            let (content, _) = rest.split_once(&format!("</{element}>")).unwrap();
            let hash = BASE64.encode(&Sha256::digest(content));
            let source = format!("{element}-src 'sha256-{hash}';");
            assert!(FIELDS.contains(&source), "{source}");
        }
    }
}
