//! The command line, and the environment variables that stand in for it.

use std::{env, net::SocketAddr, str::FromStr, time::Duration};

use clap::{
    Arg, CommandFactory, FromArgMatches, Parser,
    builder::{BoolishValueParser, RangedU64ValueParser},
    error::ErrorKind,
    parser::ValueSource,
};
use tracing::warn;
use wspush::{AllowedHost, AllowedOrigin, Config};

/// Pushes notifications over WebSocket to every client that says start
#[derive(Clone, Debug, PartialEq, Parser)]
#[command(version, allow_negative_numbers = true, next_line_help = true, after_long_help = AFTER_HELP)]
pub(crate) struct Options {
    /// Where to listen: every address of HOST; port 0 lets the system pick
    #[arg(
        long,
        env = "WSPUSH_LISTEN",
        value_name = "HOST:PORT",
        default_value = "localhost:8080",
        value_parser = host_port
    )]
    pub(crate) listen: String,

    /// Seconds between notifications, from 0.001 to 86400
    #[arg(
        long,
        env = "WSPUSH_INTERVAL",
        value_name = "SECONDS",
        default_value = "2",
        value_parser = |value: &str| seconds(value, 0.001)
    )]
    pub(crate) interval: Duration,

    /// Push the lines of standard input instead of numbered notifications
    #[arg(
        long,
        env = "WSPUSH_STDIN",
        value_parser = BoolishValueParser::new()
    )]
    pub(crate) stdin: bool,

    /// How many of the last lines a client is sent when it says start, up to 4096
    #[arg(
        long,
        env = "WSPUSH_HISTORY",
        value_name = "N",
        default_value = "0",
        value_parser = RangedU64ValueParser::<usize>::new().range(0..=4096)
    )]
    pub(crate) history: usize,

    /// Seconds of silence after which a client is sent a ping, from 1 to 86400;
    /// it has as long again to answer. Must be shorter than the idle timeout of
    /// any proxy
    #[arg(
        long,
        env = "WSPUSH_KEEPALIVE",
        value_name = "SECONDS",
        default_value = "20",
        value_parser = |value: &str| seconds(value, 1.0),
        verbatim_doc_comment
    )]
    pub(crate) keepalive: Duration,

    /// Browser origin that may connect besides the server's own; * allows all.
    /// Repeatable; comma-separated in the environment
    #[arg(
        long,
        env = "WSPUSH_ALLOW_ORIGIN",
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
        value_name = "N",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=u64::from(u32::MAX)),
        help_heading = "Access control"
    )]
    max_connections: Option<usize>,
}

impl Options {
    /// # Errors
    ///
    /// For a bad option, and for `--help` and `--version`: the error has the text and where it belongs.
    pub(crate) fn parse() -> Result<Self, clap::Error> {
        let mut command = Self::command().mut_args(from_env);
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
        let max_connections = self.max_connections.unwrap_or(descriptors_for);
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
fn from_env(arg: Arg) -> Arg {
    let arg = arg.hide_env_values(true);
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

/// A name is looked up only when the program listens.
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

fn seconds(value: &str, least: f64) -> Result<Duration, String> {
    let seconds = value.parse().ok();
    seconds
        .filter(|seconds| (least..=86400.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("expected a number of seconds from {least} to 86400"))
}

/// Values with commas between. A comma at an end is what a container leaves.
fn list<T: FromStr>(values: &str) -> Result<Vec<T>, T::Err> {
    let values = values.trim_matches([',', ' ']).split(',');
    values.map(|value| value.trim().parse()).collect()
}
