//! Which browser origins may connect (RFC 6454, RFC 6455 §10.2). What is answered to the others stands in `handshake`.

use std::{net::Ipv6Addr, str::FromStr};

use tokio_tungstenite::tungstenite::http::uri::Authority;

/// A value of `--allow-origin`: `scheme://host[:port]`, or `null`, or `*` for every origin.
///
/// Kept in lower case and without its scheme's default port, so that two spellings of one origin are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedOrigin(String);

impl FromStr for AllowedOrigin {
    type Err = &'static str;

    fn from_str(origin: &str) -> Result<Self, Self::Err> {
        let origin = origin.trim();
        match origin {
            "*" | "null" => Some(origin.to_owned()),
            // No browser sends one: this can only mean to let in many.
            _ if origin.contains('*') => None,
            _ => parse(origin).map(|(scheme, authority)| format!("{scheme}://{authority}")),
        }
        .map(Self)
        .ok_or("an origin is scheme://host or scheme://host:port without a path, such as https://app.example; * lets every origin in")
    }
}

/// Whether a page of `origin` may talk to the server that it reached as `host` (the `Host` field).
pub(crate) fn is_allowed(origin: &str, host: &str, allowed: &[AllowedOrigin]) -> bool {
    let listed = || origin.parse().is_ok_and(|origin| allowed.contains(&origin));
    allowed.iter().any(|AllowedOrigin(any)| any == "*") || is_same_origin(origin, host) || listed()
}

/// The origin's scheme decides only which port may be left out: TLS may have ended at a proxy.
fn is_same_origin(origin: &str, host: &str) -> bool {
    parse(origin)
        .is_some_and(|(scheme, authority)| authority == without_default_port(&scheme, host))
}

/// The scheme, and the authority without its default port, both in lower case.
fn parse(origin: &str) -> Option<(String, String)> {
    let (scheme, authority) = origin.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let named = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    (named && is_host(authority)).then(|| {
        let authority = without_default_port(&scheme, authority);
        (scheme, authority)
    })
}

fn without_default_port(scheme: &str, authority: &str) -> String {
    let default = match scheme {
        "http" | "ws" => ":80",
        "https" | "wss" => ":443",
        _ => ":",
    };
    let host = authority
        .strip_suffix(default)
        .or(authority.strip_suffix(':'))
        .unwrap_or(authority);
    host.to_ascii_lowercase()
}

/// Whether this is a `Host` (RFC 9110 §7.2): a name or an address, and perhaps a port, with no user before it.
pub(crate) fn is_host(value: &str) -> bool {
    let bracket = value.find(']').map(|place| place + 1);
    let end = bracket.or(value.find(':')).unwrap_or(value.len());
    let (host, port) = value.split_at(end);
    is_name_or_address(host) && is_port(port)
}

fn is_name_or_address(host: &str) -> bool {
    let brackets = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    brackets.map_or_else(
        // `Authority` lets a user through.
        || {
            host.parse()
                .is_ok_and(|name: Authority| name.host() == host)
        },
        |address| address.parse::<Ipv6Addr>().is_ok(),
    )
}

/// What may follow a host: a colon, and then perhaps a number (RFC 3986 §3.2.3).
fn is_port(rest: &str) -> bool {
    let port = rest.strip_prefix(':').unwrap_or(rest);
    let is_number = port.parse::<u16>().is_ok() && !port.starts_with('+');
    rest.is_empty() || rest == ":" || rest != port && is_number
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(origin: &str, host: &str) -> bool {
        is_allowed(origin, host, &[])
    }

    #[test]
    fn an_origin_is_the_servers_own_when_host_and_port_equal_host() {
        assert!(own("http://localhost:8080", "localhost:8080"));
        assert!(own("http://LocalHost:8080", "LOCALHOST:8080"));
        assert!(own("https://[::1]:8080", "[::1]:8080"));
        assert!(!own("http://localhost:8081", "localhost:8080"));
        assert!(!own("http://evil.example", "localhost:8080"));
        assert!(!own("http://localhost:8080.evil.example", "localhost:8080"));
        assert!(!own("http://localhost:8080@evil.example", "localhost:8080"));
        assert!(!own("http://localhost:8080/path", "localhost:8080"));
    }

    #[test]
    fn a_schemes_default_port_may_be_written_or_left_out() {
        for (origin, host) in [
            ("http://a.example", "a.example:80"),
            ("http://a.example:80", "a.example"),
            ("https://a.example", "a.example:443"),
            ("https://a.example:443", "a.example"),
            ("https://a.example", "a.example"),
        ] {
            assert!(own(origin, host), "{origin} {host}");
        }
        assert!(!own("https://a.example", "a.example:80"));
        assert!(!own("http://a.example:443", "a.example"));
    }

    #[test]
    fn null_is_nobodys_own() {
        assert!(!own("null", "null"));
        assert!(!own("", ""));
    }

    #[test]
    fn allowed_origins_are_let_in_besides_the_servers_own() {
        let allow = |origin: &str| [origin.parse().unwrap()];
        let host = "push.example";
        assert!(is_allowed(
            "https://app.example",
            host,
            &allow("https://app.example:443")
        ));
        assert!(is_allowed(
            "https://app.example",
            host,
            &allow("HTTPS://App.Example")
        ));
        assert!(!is_allowed(
            "http://app.example",
            host,
            &allow("https://app.example")
        ));
        assert!(!is_allowed(
            "https://app.example.evil",
            host,
            &allow("https://app.example")
        ));
        assert!(is_allowed("null", host, &allow("null")));
        assert!(is_allowed("null", host, &allow("*")));
        assert!(is_allowed("any thing", host, &allow("*")));
        assert!(!is_allowed("*", host, &allow("null")));
        assert!(is_allowed("https://push.example", host, &allow("null")));
    }

    #[test]
    fn what_is_no_origin_is_no_option() {
        for bad in [
            "",
            "app.example",
            "https://",
            "https://app.example/",
            "https://a b",
            "://a",
            "https://a:x",
            "https://u@a",
            "https://*.a.example",
        ] {
            assert!(bad.parse::<AllowedOrigin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for host in [
            "a",
            "a.example:80",
            "a:",
            "127.0.0.1:1",
            "[::1]",
            "[::1]:65535",
            "_a-b~",
        ] {
            assert!(is_host(host), "{host}");
        }
        for bad in [
            "",
            ":",
            ":80",
            "a:b",
            "a:65536",
            "a:+1",
            "a:1:2",
            "u@a",
            "u:p@a",
            "a/b",
            "a b",
            "::1",
            "[]",
            "[]:80",
            "[zz]",
            "[::1",
            "[::1]80",
            "[::1]]",
            "a]",
            "a[::1]",
            "[127.0.0.1]",
        ] {
            assert!(!is_host(bad), "{bad}");
        }
    }
}
