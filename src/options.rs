//! The command line, and the environment variables that stand in for it.

use std::{fmt, num::NonZero, str::FromStr, time::Duration};

use clap::Parser;

use crate::{AllowedHost, AllowedOrigin};

/// Pushes numbered notifications over WebSocket to every client that says start.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(version, next_line_help = true, after_long_help = AFTER_HELP)]
pub struct Options {
    /// Where to listen: every address of HOST; port 0 lets the system pick
    #[arg(
        long,
        env = "WSPUSH_LISTEN",
        hide_env_values = true,
        value_name = "HOST:PORT",
        default_value = "localhost:8080"
    )]
    pub listen: HostPort,

    /// Seconds from one notification to the next, from 0.001 to 86400
    #[arg(
        long,
        env = "WSPUSH_INTERVAL",
        hide_env_values = true,
        value_name = "SECONDS",
        default_value = "2"
    )]
    #[arg(value_parser = seconds, allow_hyphen_values = true)]
    pub interval: Duration,

    /// A browser origin to let in besides the server's own; * for all.
    /// Repeatable, with commas between in the environment
    #[arg(
        long,
        env = "WSPUSH_ALLOW_ORIGIN",
        hide_env_values = true,
        value_name = "ORIGIN",
        value_delimiter = ',',
        help_heading = "Who may connect",
        verbatim_doc_comment
    )]
    pub allow_origin: Vec<AllowedOrigin>,

    /// A host name under which the server may be reached, by default any; against
    /// pages whose own name is made to resolve to this machine (DNS rebinding).
    /// Repeatable, with commas between in the environment
    #[arg(
        long,
        env = "WSPUSH_ALLOW_HOST",
        hide_env_values = true,
        value_name = "NAME",
        value_delimiter = ',',
        help_heading = "Who may connect",
        verbatim_doc_comment
    )]
    pub allow_host: Vec<AllowedHost>,

    /// Most connections at once; by default what the descriptor limit leaves
    #[arg(
        long,
        env = "WSPUSH_MAX_CONNECTIONS",
        hide_env_values = true,
        value_name = "N",
        value_parser = count,
        allow_hyphen_values = true,
        help_heading = "Who may connect"
    )]
    pub max_connections: Option<NonZero<u32>>,
}

const AFTER_HELP: &str = "\
The command line wins over the environment. The URLs listened on go to standard
output, the log to standard error.

Log:
  RUST_LOG=info            connections, refusals, start and stop (the default)
  RUST_LOG=wspush=debug    also what clients say
  NO_COLOR=1               no colours; without a terminal there are none anyway

Examples:
  wspush
  wspush --listen 0.0.0.0:80 --interval 0.25
  wspush --allow-origin https://app.example --allow-origin http://localhost:3000
  WSPUSH_LISTEN=[::1]:0 wspush

Then:
  websocat ws://localhost:8080/    and type: start
  http://localhost:8080/           in a browser is a client, too";

/// What the program does without arguments, whatever its environment says.
impl Default for Options {
    fn default() -> Self {
        Self {
            listen: HostPort {
                host: "localhost".into(),
                port: 8080,
            },
            interval: Duration::from_secs(2),
            allow_origin: Vec::new(),
            allow_host: Vec::new(),
            max_connections: None,
        }
    }
}

/// A host name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A name, an IPv4 address, or an IPv6 address without its brackets.
    pub host: String,
    /// 0 lets the system pick one.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

impl FromStr for HostPort {
    type Err = &'static str;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let (host, port) = value.rsplit_once(':').ok_or(NO_HOST_PORT)?;
        let bracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = match bracketed {
            Some(address) => address,
            None if host.contains(':') => return Err(NO_HOST_PORT),
            None => host,
        };
        if host.is_empty() {
            return Err(NO_HOST_PORT);
        }
        let port = port
            .parse()
            .map_err(|_| "the port is a number from 0 to 65535, as in localhost:8080")?;
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

const NO_HOST_PORT: &str = "this is HOST:PORT, such as localhost:8080, 0.0.0.0:80 or [::1]:8080";

fn seconds(value: &str) -> Result<Duration, &'static str> {
    let seconds = value
        .parse()
        .ok()
        .filter(|seconds| (0.001..=86400.0).contains(seconds));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or("the interval is a number of seconds from 0.001 to 86400, such as 0.25")
}

fn count(value: &str) -> Result<NonZero<u32>, &'static str> {
    value
        .parse()
        .map_err(|_| "this is a whole number from 1 to 4294967295, such as 10000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_arguments_the_defaults_hold() {
        assert_eq!(Options::parse_from(["wspush"]), Options::default());
    }
}
