//! Which `Host` is one (RFC 9110 §7.2), and under which of them the server may be reached.

use std::{fmt, net::Ipv6Addr, str::FromStr};

/// A host and perhaps a port, so that two spellings of one are equal: a name in lower case, an address as
/// RFC 5952 writes it, a port as a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authority {
    host: String,
    pub(super) port: Option<u16>,
}

impl Authority {
    /// `None` for anything but a name or an address, and perhaps a port, with no user before it.
    pub(super) fn parse(value: &str) -> Option<Self> {
        let bracket = value.find(']').map(|place| place + 1);
        let end = bracket.or(value.find(':')).unwrap_or(value.len());
        let (host, port) = value.split_at(end);
        // A colon without a number is a port left out (RFC 3986 §3.2.3).
        let port = match port.strip_prefix(':') {
            None if !port.is_empty() => return None,
            None | Some("") => None,
            Some(digits) if digits.starts_with('+') => return None,
            Some(digits) => Some(digits.parse().ok()?),
        };
        let host = normalize(host)?;
        Some(Self { host, port })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// A value of `--allow-host`: a name or an address, without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHost(String);

impl FromStr for AllowedHost {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let name = name.trim();
        let address = name.parse().map(|address: Ipv6Addr| format!("[{address}]"));
        normalize(address.as_deref().unwrap_or(name))
            .map(|host| Self(without_root(&host).into()))
            .ok_or("expected a host name or address without a port, for example push.example or 127.0.0.1")
    }
}

/// Whether `--allow-host`, where it is given, lists the host.
pub(super) fn is_allowed(host: &Authority, allowed: &[AllowedHost]) -> bool {
    let listed = |AllowedHost(name): &AllowedHost| name == without_root(&host.host);
    allowed.is_empty() || allowed.iter().any(listed)
}

/// A name may be written with the dot of the root behind it, and is the same host.
fn without_root(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

fn normalize(host: &str) -> Option<String> {
    if let Some(rest) = host.strip_prefix('[') {
        let address: Ipv6Addr = rest.strip_suffix(']')?.parse().ok()?;
        return Some(format!("[{address}]"));
    }
    // A reg-name of RFC 3986 §3.2.2.
    let is_name_byte = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&b);
    (!host.is_empty() && host.bytes().all(is_name_byte)).then(|| host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert!(Authority::parse(host).is_some(), "{host}");
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
            assert!(Authority::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn spellings_of_one_host_are_equal() {
        for (one, other) in [
            ("A.Example", "a.example"),
            ("[::1]:80", "[0:0::1]:080"),
            ("a:", "a"),
        ] {
            assert_eq!(Authority::parse(one), Authority::parse(other));
        }
    }

    #[test]
    fn allowed_hosts_are_compared_without_letter_case_and_port() {
        let allowed = ["Push.Example", "::1"].map(|name| name.parse().unwrap());
        for (host, expected) in [
            ("push.example", true),
            ("PUSH.example:8080", true),
            ("push.example.", true),
            ("[::1]:1", true),
            ("evil.example", false),
            ("push.example.evil", false),
        ] {
            let host = Authority::parse(host).unwrap();
            assert_eq!(is_allowed(&host, &allowed), expected, "{host:?}");
            assert!(is_allowed(&host, &[]));
        }
        for bad in ["", "a:80", "[::1]:80", "a b", "https://a", "a/"] {
            assert!(bad.parse::<AllowedHost>().is_err(), "{bad}");
        }
    }
}
