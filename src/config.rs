//! The settings of a server, and which hosts and origins they allow (RFC 9110 §7.2; RFC 6454, RFC 6455 §10.2).

use std::{net::Ipv6Addr, str::FromStr, time::Duration};

use tokio::sync::Semaphore;
use tokio_tungstenite::tungstenite::http::{HeaderValue, uri::Authority};

/// The default of [`Config::keepalive`]. Proxies commonly close a connection that is idle for 60 s: that is time for two
/// pings.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// The default of [`Config::max_refusals`].
const MAX_REFUSALS: usize = 64;

/// Longer than any connection lasts. An `Instant` can't be as late as `Duration::MAX`.
pub(crate) const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

const EXPECTED_ORIGIN: &str = "expected scheme://host or scheme://host:port, for example https://app.example; file:// and null are origins too, * allows all";

const EXPECTED_HOST: &str = "expected a host name or address without a port, for example push.example or 127.0.0.1; without --allow-host any is allowed";

/// The settings of a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// The browser origins that may connect besides the server's own.
    pub allowed_origins: Vec<AllowedOrigin>,
    /// The host names that clients may use for the server. If empty, any.
    pub allowed_hosts: Vec<AllowedHost>,
    /// How long either side may be silent before the server pings, and again before it drops a client that doesn't answer.
    pub keepalive: Duration,
    /// The largest number of connections, those in their handshake included.
    pub max_connections: usize,
    /// How many connections over `max_connections` are refused at the same time.
    pub max_refusals: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            keepalive: KEEPALIVE,
            max_connections: Semaphore::MAX_PERMITS,
            max_refusals: MAX_REFUSALS,
        }
    }
}

/// A host name or an address, without a port: a value of `--allow-host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHost(String);

/// A browser origin: a value of `--allow-origin`. This is `scheme://host[:port]`, a scheme without a host as in `file://`,
/// which Electron, Cordova and Qt send, `null`, or `*` for every origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedOrigin(String);

impl Config {
    /// Values that an `Instant` or a semaphore can't hold become the largest that they can.
    pub(crate) fn clamped(self) -> Self {
        Self {
            keepalive: self.keepalive.min(FOREVER),
            max_connections: self.max_connections.min(Semaphore::MAX_PERMITS),
            max_refusals: self.max_refusals.clamp(1, Semaphore::MAX_PERMITS),
            ..self
        }
    }

    pub(crate) fn allows_host(&self, host: &Authority) -> bool {
        let name = without_root(host.host());
        let mut allowed = self.allowed_hosts.iter();
        self.allowed_hosts.is_empty() || allowed.any(|host| host.0.eq_ignore_ascii_case(name))
    }

    /// Whether a page of `origin` may connect to the server that it reached as `host`.
    pub(crate) fn allows_origin(&self, origin: &HeaderValue, host: &Authority) -> bool {
        let origin = normalize(&String::from_utf8_lossy(origin.as_bytes()));
        let mut allowed = self.allowed_origins.iter().map(|allowed| &*allowed.0);
        is_own(&origin, host) || allowed.any(|allowed| allowed == "*" || allowed == origin)
    }
}

/// The option that would allow the host, or why none would.
pub(crate) fn option_for_host(host: &str) -> Result<String, &'static str> {
    let AllowedHost(name) = host.parse()?;
    Ok(format!("--allow-host {name}"))
}

/// The options that would allow the origins, or why none would.
pub(crate) fn options_for_origins(origins: &[&HeaderValue]) -> Result<String, &'static str> {
    let options = origins.iter().map(|origin| {
        let AllowedOrigin(origin) = String::from_utf8_lossy(origin.as_bytes()).parse()?;
        // Nobody's origin: it only means every origin to the option.
        let is_any = origin == "*";
        (!is_any)
            .then(|| format!("--allow-origin {origin}"))
            .ok_or(EXPECTED_ORIGIN)
    });
    Ok(options.collect::<Result<Vec<_>, _>>()?.join(" "))
}

/// Only a default port depends on the scheme: TLS may end at a proxy.
fn is_own(origin: &str, host: &Authority) -> bool {
    let scheme = origin.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| origin == normalize(&format!("{scheme}://{host}")))
}

/// As browsers write it: in lower case, without the scheme's default port, and without the `/` that older versions of React
/// Native add.
fn normalize(origin: &str) -> String {
    let origin = origin.to_ascii_lowercase();
    let Some((scheme, host)) = origin.split_once("://") else {
        return origin;
    };
    let host = host.strip_suffix('/').unwrap_or(host);
    let default_port = match scheme {
        "http" | "ws" => ":80",
        "https" | "wss" => ":443",
        _ => "",
    };
    let host = host.strip_suffix(default_port).unwrap_or(host);
    format!("{scheme}://{host}")
}

/// A name may end with the dot of the root, and still means the same host.
fn without_root(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// Returns `None` unless the value is a host with or without a port. A user name is not allowed.
pub(crate) fn parse_host(value: &[u8]) -> Option<Authority> {
    let host = Authority::try_from(value).ok()?;
    let port = host.as_str().strip_prefix(host.host())?;
    // After a colon, the port may be missing (RFC 3986 §3.2.3).
    let is_port = ["", ":"].contains(&port) || host.port_u16().is_some();
    (is_port && !host.host().is_empty()).then_some(host)
}

/// Whether the text has only characters that hosts and origins need. None of them starts a command in a shell, so that the
/// options named in an answer can be copied.
fn is_plain(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"+-._:/[]".contains(&b))
}

impl FromStr for AllowedHost {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let name = match name.trim().parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => name.trim().to_owned(),
        };
        parse_host(name.as_bytes())
            .filter(|host| host.host() == name && is_plain(&name))
            .map(|host| Self(without_root(host.host()).into()))
            .ok_or(EXPECTED_HOST)
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
                is_plain(&origin) && (host.is_empty() || parse_host(host.as_bytes()).is_some())
            }
        };
        is_origin.then_some(Self(origin)).ok_or(EXPECTED_ORIGIN)
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
            ("http://localhost:8080/", "localhost:8080"),
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
            "https://app.example/path",
            "https://app.example//",
            "https://a b",
            "https://a;b",
            "://a",
            "https://a:x",
            "https://u@a",
            "https://*.a.example",
        ] {
            assert!(bad.parse::<AllowedOrigin>().is_err(), "{bad}");
        }
        for bad in [
            "",
            "a:80",
            "[::1]:80",
            "a b",
            "https://a",
            "a/",
            "*",
            "*.a.example",
        ] {
            assert!(bad.parse::<AllowedHost>().is_err(), "{bad}");
        }
    }
}
