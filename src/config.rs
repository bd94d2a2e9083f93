//! The settings of a server, and who may connect by them: under which hosts it may be reached (RFC 9110 §7.2), and from
//! which browser origins (RFC 6454, RFC 6455 §10.2).

use std::{net::Ipv6Addr, str::FromStr, time::Duration};

use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::http::{HeaderValue, uri::Authority};

/// The default of [`Config::keepalive`]. Proxies commonly close what is idle for 60 s: that leaves room for two pings.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// The settings of a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// The browser origins that are let in besides the server's own.
    pub allowed_origins: Vec<AllowedOrigin>,
    /// The host names under which the server may be reached; none means any.
    pub allowed_hosts: Vec<AllowedHost>,
    /// The silence, from the client or to it, after which the client is sent a ping; given as long again to answer.
    pub keepalive: Duration,
    /// The most connections at once, those still in their handshake included.
    pub max_connections: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            keepalive: KEEPALIVE,
            max_connections: Semaphore::MAX_PERMITS,
        }
    }
}

/// A value of `--allow-host`: a name or an address, without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHost(String);

/// A value of `--allow-origin`: `scheme://host[:port]`, a scheme without a host as in `file://`, which Electron, Cordova
/// and Qt send, `null`, or `*` for every origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedOrigin(String);

impl Config {
    pub(crate) fn allows_host(&self, host: &Authority) -> bool {
        let name = without_root(host.host());
        let mut allowed = self.allowed_hosts.iter();
        self.allowed_hosts.is_empty() || allowed.any(|host| host.0.eq_ignore_ascii_case(name))
    }

    /// Whether a page of `origin` may talk to the server that it reached as `host`.
    pub(crate) fn allows_origin(&self, origin: &HeaderValue, host: &Authority) -> bool {
        let origin = normalize(&String::from_utf8_lossy(origin.as_bytes()));
        let mut allowed = self.allowed_origins.iter().map(|allowed| &*allowed.0);
        is_own(&origin, host) || allowed.any(|allowed| allowed == "*" || allowed == origin)
    }
}

/// The scheme decides only which port may be left out: TLS may have ended at a proxy.
fn is_own(origin: &str, host: &Authority) -> bool {
    let scheme = origin.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| origin == normalize(&format!("{scheme}://{host}")))
}

/// As browsers write it: in lower case, and without its scheme's default port.
fn normalize(origin: &str) -> String {
    let origin = origin.to_ascii_lowercase();
    let default_port = match origin.split("://").next() {
        Some("http" | "ws") => ":80",
        Some("https" | "wss") => ":443",
        _ => return origin,
    };
    origin.strip_suffix(default_port).unwrap_or(&origin).into()
}

/// A name may be written with the dot of the root behind it, and is the same host.
fn without_root(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// `None` for anything but a host, and perhaps a port, with no user before it.
pub(crate) fn parse_host(value: &[u8]) -> Option<Authority> {
    let host = Authority::try_from(value).ok()?;
    let port = host.as_str().strip_prefix(host.host())?;
    // A colon without a number is a port left out (RFC 3986 §3.2.3).
    let is_port = ["", ":"].contains(&port) || host.port_u16().is_some();
    (is_port && !host.host().is_empty()).then_some(host)
}

impl FromStr for AllowedHost {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let name = match name.trim().parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => name.trim().to_owned(),
        };
        parse_host(name.as_bytes())
            .filter(|host| host.host() == name)
            .map(|host| Self(without_root(host.host()).into()))
            .ok_or("expected a host name or address without a port, for example push.example or 127.0.0.1")
    }
}

impl FromStr for AllowedOrigin {
    type Err = &'static str;

    fn from_str(origin: &str) -> Result<Self, Self::Err> {
        let origin = normalize(origin.trim());
        let is_origin = match origin.split_once("://") {
            None => ["*", "null"].contains(&&*origin),
            Some(("", _) | ("http" | "https", "")) => false,
            Some((_, host)) => {
                host.is_empty() || !host.contains('*') && parse_host(host.as_bytes()).is_some()
            }
        };
        is_origin.then_some(Self(origin))
            .ok_or("expected scheme://host or scheme://host:port without a path, for example https://app.example; file:// and null are origins too, * allows every origin")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_the_servers_own_when_host_and_port_equal_host() {
        let own = |origin: &str, host: &str| {
            Config::default().allows_origin(&origin.parse().unwrap(), &host.parse().unwrap())
        };
        for (origin, host) in [
            ("http://LocalHost:8080", "LOCALHOST:8080"),
            ("https://[::1]:8080", "[::1]:8080"),
            ("http://a.example", "a.example:80"),
            ("http://a.example:80", "a.example"),
            ("https://a.example", "a.example:443"),
            ("https://a.example:443", "a.example"),
        ] {
            assert!(own(origin, host), "{origin} {host}");
        }
        for (origin, host) in [
            ("http://localhost:8081", "localhost:8080"),
            ("http://localhost:8080.evil.example", "localhost:8080"),
            ("http://localhost:8080@evil.example", "localhost:8080"),
            ("http://localhost:8080/path", "localhost:8080"),
            ("https://a.example", "a.example:80"),
            ("http://a.example:443", "a.example"),
            ("null", "null"),
            ("", "a"),
            ("file://", "file"),
        ] {
            assert!(!own(origin, host), "{origin} {host}");
        }
    }

    #[test]
    fn what_is_no_origin_or_host_is_no_option() {
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
        for bad in ["", "a:80", "[::1]:80", "a b", "https://a", "a/"] {
            assert!(bad.parse::<AllowedHost>().is_err(), "{bad}");
        }
    }
}
