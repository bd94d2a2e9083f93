//! The command line, and the environment variables that may replace it.

use std::{env, ffi::OsString, net::SocketAddr, ops::RangeInclusive, time::Duration};

use clap::{
    Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches, Parser,
    builder::{BoolishValueParser, TypedValueParser},
    error::ErrorKind,
    parser::ValueSource,
};
use tracing::warn;
use wspush::{AllowedHost, AllowedOrigin, Config};

/// Push lines or numbered notifications to WebSocket clients
#[derive(Clone, Debug, PartialEq, Parser)]
#[command(version, allow_negative_numbers = true, next_line_help = true, after_long_help = AFTER_HELP)]
pub(crate) struct Options {
    /// Where to listen: every address of HOST; port 0 lets the system pick
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:8080", value_parser = host_port)]
    pub(crate) listen: String,

    /// Seconds between notifications, from 0.001 to 86400
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = |value: &str| seconds(value, 0.001))]
    pub(crate) interval: Duration,

    /// Push the lines of standard input instead of numbered notifications
    #[arg(long)]
    pub(crate) stdin: bool,

    /// With --stdin: how many of the last lines to send when a client starts,
    /// up to 1000
    #[arg(
        long,
        value_name = "N",
        default_value = "0",
        value_parser = |value: &str| count(value, 0..=1000),
        verbatim_doc_comment
    )]
    pub(crate) history: usize,

    /// Seconds of silence before the server pings, and again before it drops a
    /// client that doesn't answer, from 1 to 86400. Must be shorter than the idle
    /// timeout of any proxy
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "20",
        value_parser = |value: &str| seconds(value, 1.0),
        verbatim_doc_comment
    )]
    pub(crate) keepalive: Duration,

    /// Browser origin that may connect besides the server's own; * allows all.
    /// Repeatable; separated by commas in the environment
    #[arg(
        long,
        value_name = "ORIGIN",
        value_delimiter = ',',
        help_heading = "Access control",
        verbatim_doc_comment
    )]
    allow_origin: Vec<AllowedOrigin>,

    /// Host name that clients may use for the server; by default any. Needed for
    /// private lines when no proxy checks the host: otherwise a page of another
    /// site can point its own name here (DNS rebinding) and read them.
    /// Repeatable; separated by commas in the environment
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        help_heading = "Access control",
        verbatim_doc_comment
    )]
    allow_host: Vec<AllowedHost>,

    /// Maximum number of connections; by default what the file-descriptor limit
    /// allows
    #[arg(
        long,
        value_name = "N",
        value_parser = |value: &str| count(value, 1..=u32::MAX as usize),
        help_heading = "Access control",
        verbatim_doc_comment
    )]
    max_connections: Option<usize>,
}

impl Options {
    /// # Errors
    ///
    /// For a bad option, and for `--help` and `--version`: the error holds the text and knows where to print it.
    pub(crate) fn parse() -> Result<Self, clap::Error> {
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
        if is_given(given, "interval") {
            if is_given(given, "stdin") {
                return Err(
                    "--interval and --stdin can't be combined: lines are pushed as they come",
                );
            }
            self.stdin = false;
        }
        if is_given(given, "history") && !self.stdin {
            return Err("--history needs --stdin: only lines have a history");
        }
        Ok(())
    }

    /// The settings of the server, with the number of connections that the descriptor limit leaves.
    pub(crate) fn config(&self, possible: usize) -> Config {
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
        }
    }
}

fn is_given(given: &ArgMatches, option: &str) -> bool {
    given.value_source(option) == Some(ValueSource::CommandLine)
}

fn variable(option: &Arg) -> String {
    format!("WSPUSH_{}", option.get_id().as_str().to_uppercase())
}

fn with_variable(option: Arg) -> Arg {
    let help = option.get_help().cloned().unwrap_or_default();
    let help = format!("{help} [env: {}]", variable(&option));
    option.help(help)
}

/// What environment variables say about options that are not given, as arguments. clap's own `env` would not trim a value,
/// take an empty one for unset, or name the variable in an error.
fn from_environment(
    command: &mut Command,
    given: &ArgMatches,
) -> Result<Vec<OsString>, clap::Error> {
    let mut arguments = Vec::new();
    let options: Vec<_> = command.get_arguments().cloned().collect();
    for option in &options {
        let variable = variable(option);
        let value = env::var_os(&variable).unwrap_or_default();
        let value = value.to_string_lossy();
        // A Kubernetes secret may end with a line break, and `${NAME:-}` in a compose file leaves an empty value.
        let is_padding = |c: char| c.is_whitespace() || Some(c) == option.get_value_delimiter();
        let value = value.trim_matches(is_padding);
        let is_option = !matches!(option.get_action(), ArgAction::Help | ArgAction::Version);
        if value.is_empty() || !is_option || is_given(given, option.get_id().as_str()) {
            continue;
        }
        let argument = to_argument(command, option, value).map_err(|error| {
            let text = error.to_string();
            let reason = text.lines().next().unwrap_or_default();
            let reason = reason.trim_start_matches("error: ");
            command.error(error.kind(), format!("{variable}: {reason}"))
        })?;
        arguments.extend(argument.map(OsString::from));
    }
    Ok(arguments)
}

/// The argument that gives the option this value, if the value is valid. A flag that is false has none.
fn to_argument(
    command: &mut Command,
    option: &Arg,
    value: &str,
) -> Result<Option<String>, clap::Error> {
    let long = option.get_long().unwrap_or_default();
    if matches!(option.get_action(), ArgAction::SetTrue) {
        let is_set = BoolishValueParser::new().parse_ref(command, Some(option), value.as_ref())?;
        return Ok(is_set.then(|| format!("--{long}")));
    }
    let argument = format!("--{long}={value}");
    command.try_get_matches_from_mut(["wspush", &argument])?;
    Ok(Some(argument))
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
  WSPUSH_LISTEN=[::1]:0 wspush

Clients:
  websocat ws://localhost:8080/    then type: start
  http://localhost:8080/           in a browser";

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

fn seconds(value: &str, least: f64) -> Result<Duration, String> {
    let seconds = value.parse().ok();
    seconds
        .filter(|seconds| (least..=86400.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("expected a number of seconds from {least} to 86400"))
}
