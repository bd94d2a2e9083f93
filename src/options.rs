//! The command line, and the environment variables that stand in for it.

use std::{env, num::NonZero, str::FromStr, time::Duration};

use clap::{Arg, CommandFactory, FromArgMatches, Parser, error::ErrorKind, parser::ValueSource};
use tracing::warn;
use wspush::{AllowedHost, AllowedOrigin, Config, HostPort};

/// Pushes notifications over WebSocket to every client that says start
#[derive(Clone, Debug, PartialEq, Parser)]
#[command(version, next_line_help = true, after_long_help = AFTER_HELP)]
pub(crate) struct Options {
    /// Where to listen: every address of HOST; port 0 lets the system pick
    #[arg(
        long,
        env = "WSPUSH_LISTEN",
        hide_env_values = true,
        value_name = "HOST:PORT",
        default_value = "localhost:8080"
    )]
    pub(crate) listen: HostPort,

    /// Seconds between notifications, from 0.001 to 86400
    #[arg(
        long,
        env = "WSPUSH_INTERVAL",
        hide_env_values = true,
        value_name = "SECONDS",
        default_value = "2",
        value_parser = interval,
        allow_hyphen_values = true
    )]
    pub(crate) interval: Duration,

    /// Push the lines of standard input instead of numbered notifications
    #[arg(
        long,
        env = "WSPUSH_STDIN",
        hide_env_values = true,
        value_parser = flag
    )]
    pub(crate) stdin: bool,

    /// Seconds of silence after which a client is sent a ping, from 1 to 86400;
    /// it has as long again to answer. Must be shorter than the idle timeout of
    /// any proxy
    #[arg(
        long,
        env = "WSPUSH_KEEPALIVE",
        hide_env_values = true,
        value_name = "SECONDS",
        default_value = "20",
        value_parser = keepalive,
        allow_hyphen_values = true,
        verbatim_doc_comment
    )]
    pub(crate) keepalive: Duration,

    /// Browser origin that may connect besides the server's own; * allows all.
    /// Repeatable; comma-separated in the environment
    #[arg(
        long,
        env = "WSPUSH_ALLOW_ORIGIN",
        hide_env_values = true,
        value_name = "ORIGIN",
        value_parser = list::<AllowedOrigin>,
        help_heading = "Access control",
        verbatim_doc_comment
    )]
    allow_origin: Vec<Vec<AllowedOrigin>>,

    /// Host name that clients may use for the server; by default any. Needed for
    /// private lines when no proxy checks the host: otherwise a page of another
    /// site can point its own name here (DNS rebinding) and read them.
    /// Repeatable; comma-separated in the environment
    #[arg(
        long,
        env = "WSPUSH_ALLOW_HOST",
        hide_env_values = true,
        value_name = "NAME",
        value_parser = list::<AllowedHost>,
        help_heading = "Access control",
        verbatim_doc_comment
    )]
    allow_host: Vec<Vec<AllowedHost>>,

    /// Maximum number of connections; by default as the descriptor limit allows
    #[arg(
        long,
        env = "WSPUSH_MAX_CONNECTIONS",
        hide_env_values = true,
        value_name = "N",
        value_parser = count,
        allow_hyphen_values = true,
        help_heading = "Access control"
    )]
    max_connections: Option<NonZero<u32>>,
}

impl Options {
    /// # Errors
    ///
    /// For a bad option, and for `--help` and `--version`: the error has the text and where it belongs.
    pub(crate) fn parse() -> Result<Self, clap::Error> {
        let mut command = Self::command().mut_args(ignore_if_empty);
        let matches = command.try_get_matches_from_mut(env::args_os())?;
        // clap's conflicts_with counts values from the environment too, which are only defaults.
        let on_command_line = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
        if on_command_line("stdin") && on_command_line("interval") {
            let reason = "--interval and --stdin can't be combined: lines are pushed as they come";
            return Err(command.error(ErrorKind::ArgumentConflict, reason));
        }
        let mut options = Self::from_arg_matches(&matches)?;
        // The command line wins over the environment.
        options.stdin &= !on_command_line("interval");
        Ok(options)
    }

    /// What of them is for the server.
    pub(crate) fn config(&self, descriptors_for: usize) -> Config {
        let max_connections = self.max_connections.map_or(descriptors_for, |max| {
            usize::try_from(max.get()).unwrap_or(usize::MAX)
        });
        if max_connections > descriptors_for {
            warn!(
                max_connections,
                descriptors_for, "--max-connections exceeds the file-descriptor limit"
            );
        }
        Config {
            allowed_origins: self.allow_origin.concat(),
            allowed_hosts: self.allow_host.concat(),
            keepalive: self.keepalive,
            max_connections,
        }
    }
}

/// An empty variable counts as unset: `${NAME:-}` in a compose file leaves one.
fn ignore_if_empty(arg: Arg) -> Arg {
    let is_empty = |name| env::var_os(name).is_some_and(|value| value.is_empty());
    if arg.get_env().is_some_and(is_empty) {
        arg.env(None)
    } else {
        arg
    }
}

const AFTER_HELP: &str = "\
The command line wins over the environment. The URLs listened on go to standard
output, the log to standard error.

Log:
  RUST_LOG=info            connections, refusals, start and stop (the default)
  RUST_LOG=wspush=debug    also what clients send
  NO_COLOR=1               no colours; without a terminal there are none anyway

Examples:
  wspush
  wspush --listen 0.0.0.0:80 --interval 0.25
  tail -n0 -F app.log | wspush --stdin
  wspush --allow-origin https://app.example --allow-origin http://localhost:3000
  WSPUSH_LISTEN=[::1]:0 wspush

Then:
  websocat ws://localhost:8080/    and type: start
  http://localhost:8080/           in a browser is a client too";

/// What stands in the environment for an option without a value.
fn flag(value: &str) -> Result<bool, &'static str> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("expected true or false"),
    }
}

fn interval(value: &str) -> Result<Duration, &'static str> {
    seconds(value, 0.001)
        .ok_or("expected a number of seconds from 0.001 to 86400, for example 0.25")
}

fn keepalive(value: &str) -> Result<Duration, &'static str> {
    seconds(value, 1.0).ok_or("expected a number of seconds from 1 to 86400, for example 20")
}

fn seconds(value: &str, least: f64) -> Option<Duration> {
    let seconds: f64 = value.parse().ok()?;
    (least..=86400.0)
        .contains(&seconds)
        .then(|| Duration::from_secs_f64(seconds))
}

fn count(value: &str) -> Result<NonZero<u32>, &'static str> {
    value
        .parse()
        .map_err(|_| "expected a whole number from 1 to 4294967295, for example 10000")
}

/// Values with commas between. Empty ones are what a container leaves, but one alone is an error.
fn list<T: FromStr>(values: &str) -> Result<Vec<T>, T::Err> {
    let mut parts: Vec<_> = values.split(',').map(str::trim).collect();
    if values.contains(',') {
        parts.retain(|part| !part.is_empty());
    }
    parts.into_iter().map(str::parse).collect()
}
