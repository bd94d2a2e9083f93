//! Which browser origins may connect (RFC 6454, RFC 6455 §10.2).

use std::str::FromStr;

use super::host::Authority;

/// A value of `--allow-origin`: `scheme://host[:port]`, a scheme without a host as in `file://`, `null`, or `*` for
/// every origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedOrigin(Origin);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    /// Only allowed, never sent.
    Any,
    Null,
    /// Without its scheme's default port, so that two spellings of one origin are equal. Electron, Cordova and Qt send
    /// origins without a host.
    Tuple(String, Option<Authority>),
}

impl FromStr for AllowedOrigin {
    type Err = &'static str;

    fn from_str(origin: &str) -> Result<Self, Self::Err> {
        match origin.trim() {
            "*" => Some(Origin::Any),
            // No browser sends one: this can only mean to let in many.
            origin if origin.contains('*') => None,
            origin => parse(origin),
        }
        .map(Self)
        .ok_or("expected scheme://host or scheme://host:port without a path, for example https://app.example; file:// and null are origins too, * allows every origin")
    }
}

/// Whether a page of `origin` may talk to the server that it reached as `host`.
pub(super) fn is_allowed(origin: &str, host: &Authority, allowed: &[AllowedOrigin]) -> bool {
    let any = || allowed.contains(&AllowedOrigin(Origin::Any));
    parse(origin).is_some_and(|origin| {
        is_same_origin(&origin, host) || allowed.contains(&AllowedOrigin(origin))
    }) || any()
}

/// The scheme decides only which port may be left out: TLS may have ended at a proxy.
fn is_same_origin(origin: &Origin, host: &Authority) -> bool {
    match origin {
        Origin::Tuple(scheme, Some(authority)) => {
            *authority == without_default_port(scheme, host.clone())
        }
        _ => false,
    }
}

fn parse(origin: &str) -> Option<Origin> {
    if origin == "null" {
        return Some(Origin::Null);
    }
    let (scheme, authority) = origin.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let authority = match authority {
        "" if default_port(&scheme).is_none() => None,
        _ => Some(without_default_port(&scheme, Authority::parse(authority)?)),
    };
    is_scheme.then_some(Origin::Tuple(scheme, authority))
}

fn without_default_port(scheme: &str, mut authority: Authority) -> Authority {
    authority.port = authority
        .port
        .filter(|port| Some(*port) != default_port(scheme));
    authority
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_allowed(origin: &str, host: &str, allowed: &[AllowedOrigin]) -> bool {
        Authority::parse(host).is_some_and(|host| super::is_allowed(origin, &host, allowed))
    }

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
        assert!(!own("", "a"));
        assert!(!own("file://", "file"));
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
        assert!(is_allowed("file://", host, &allow("file://")));
        assert!(is_allowed("qrc://", host, &allow("QRC://")));
        assert!(!is_allowed("qrc://", host, &allow("file://")));
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
}
