//! The command line. `environment` has the variables that may replace it.

mod environment;

use std::{env, ffi::OsStr, net::SocketAddr, ops::RangeInclusive, time::Duration};

use clap::{
    Arg, ArgMatches, Command, CommandFactory, Error, FromArgMatches, Parser,
    builder::TypedValueParser, error::ErrorKind, parser::ValueSource,
};
use tracing::warn;
use wspush::{AllowedHost, AllowedOrigin, Config};

use self::environment::{from_environment, with_variable};
use crate::{limits::Limits, token::Token};

/// Push lines or numbered notifications to WebSocket clients
#[derive(Parser)]
#[command(version, allow_negative_numbers = true, next_line_help = true, after_long_help = AFTER_HELP)]
pub(crate) struct Options {
    /// Where to listen: every address of HOST; port 0 lets the system pick
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:8080", value_parser = host_port)]
    pub(crate) listen: String,

    /// Seconds between numbered notifications, from 0.001 to 86400
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = interval)]
    pub(crate) interval: Duration,

    /// Push the lines of standard input instead of numbered notifications
    #[arg(long)]
    pub(crate) stdin: bool,

    /// With --stdin: lines that a client's start brings first, at most 1000
    #[arg(long, value_name = "N", default_value = "0", value_parser = history)]
    pub(crate) history: usize,

    /// Seconds of silence before a ping, and again before the connection is dropped, from 1 to 86400
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = keepalive)]
    keepalive: Duration,

    /// Browser origin that may connect besides the server's own; repeatable; * for all
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',')]
    allow_origin: Vec<AllowedOrigin>,

    /// Host name that clients may use for the server; repeatable; by default any
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    allow_host: Vec<AllowedHost>,

    /// Token that clients must present; 16 or more of A-Z a-z 0-9 - . _
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true, value_parser = TokenParser)]
    pub(crate) token: Option<Token>,

    /// Most connections at once; by default what the file-descriptor limit allows
    #[arg(long, value_name = "N", value_parser = max_connections)]
    max_connections: Option<usize>,
}

impl Options {
    /// # Errors
    ///
    /// For a bad option, and for `--help` and `--version`: the error holds the text and knows where to print it.
    pub(crate) fn parse() -> Result<Self, Error> {
        let mut command = Self::command().mut_args(with_variable);
        let mut arguments: Vec<_> = env::args_os().collect();
        let given = command.try_get_matches_from_mut(&arguments)?;
        arguments.extend(from_environment(&mut command, &given)?);
        let matches = command.try_get_matches_from_mut(arguments)?;
        let mut options = Self::from_arg_matches(&matches)?;
        options
            .resolve(&given)
            .map_err(|reason| command.error(ErrorKind::ArgumentConflict, reason))?;
        Ok(options)
    }

    /// Where the command line contradicts the environment, the command line wins. Where it contradicts itself, it is an
    /// error.
    fn resolve(&mut self, given: &ArgMatches) -> Result<(), &'static str> {
        let is_given = |option| is_given(given, option);
        self.stdin &= is_given("stdin") || !is_given("interval");
        if self.stdin && is_given("interval") {
            return Err("--interval can't be combined with --stdin: lines are pushed as they come");
        }
        if !self.stdin && is_given("history") {
            return Err("--history needs --stdin: only lines have a history");
        }
        Ok(())
    }

    /// The settings of the server, as far as the limits allow.
    pub(crate) fn config(&self, limits: Limits) -> Config {
        let possible = limits.connections;
        let max_connections = self.max_connections.unwrap_or(possible);
        if max_connections > possible {
            warn!(
                max_connections,
                possible, "--max-connections exceeds the file-descriptor limit"
            );
        }
        Config {
            allowed_origins: self.allow_origin.clone(),
            allowed_hosts: self.allow_host.clone(),
            keepalive: self.keepalive,
            max_connections,
            max_refusals: limits.refusals,
        }
    }
}

/// Other parsers' errors print the value.
#[derive(Clone)]
struct TokenParser;

impl TypedValueParser for TokenParser {
    type Value = Token;

    fn parse_ref(&self, command: &Command, _: Option<&Arg>, value: &OsStr) -> Result<Token, Error> {
        value.to_str().and_then(Token::new).ok_or_else(|| {
            let reason = "the token must have 16 or more of A-Z a-z 0-9 - . _, for example the output of: openssl rand -hex 16\n";
            Error::raw(ErrorKind::ValueValidation, reason).with_cmd(command)
        })
    }
}

fn is_given(given: &ArgMatches, option: &str) -> bool {
    given.value_source(option) == Some(ValueSource::CommandLine)
}

const AFTER_HELP: &str = "\
The command line wins over the environment. URLs go to standard output, the log
to standard error.

Log:
  RUST_LOG=info            connections, refusals, start and stop (the default)
  RUST_LOG=wspush=debug    also what clients send
  NO_COLOR=1               no colours; without a terminal there are none anyway

Examples:
  wspush
  wspush --listen 0.0.0.0:80 --interval 0.25
  tail -n 100 -F app.log | wspush --stdin --history 100
  wspush --allow-origin https://app.example --allow-origin http://localhost:3000
  WSPUSH_LISTEN=[::1]:0 wspush";

/// The name is resolved only when the program listens.
fn host_port(value: &str) -> Result<String, &'static str> {
    let is_address = value.parse::<SocketAddr>().is_ok();
    let is_name = value.rsplit_once(':').is_some_and(|(host, port)| {
        let is_port = port.parse::<u16>().is_ok() && !port.starts_with('+');
        is_port && !host.is_empty() && !host.contains([':', '[', ']'])
    });
    (is_address || is_name)
        .then(|| value.into())
        .ok_or("expected HOST:PORT, for example localhost:8080, 0.0.0.0:80 or [::1]:8080")
}

fn interval(value: &str) -> Result<Duration, String> {
    seconds(value, 0.001)
}

fn keepalive(value: &str) -> Result<Duration, String> {
    seconds(value, 1.0)
}

fn seconds(value: &str, least: f64) -> Result<Duration, String> {
    let seconds = value.parse().ok();
    seconds
        .filter(|seconds| (least..=86400.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("expected a number of seconds from {least} to 86400"))
}

fn history(value: &str) -> Result<usize, String> {
    count(value, 0..=1000)
}

fn max_connections(value: &str) -> Result<usize, String> {
    count(value, 1..=u32::MAX as usize)
}

fn count(value: &str, range: RangeInclusive<usize>) -> Result<usize, String> {
    let count = value.parse().ok().filter(|count| range.contains(count));
    count.ok_or_else(|| {
        format!(
            "expected a whole number from {} to {}",
            range.start(),
            range.end()
        )
    })
}
