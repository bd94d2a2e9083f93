//! The environment variables that may replace options: `WSPUSH_` and the option's name.
//!
//! clap's own `env` would not trim values, take an empty one for unset, or name the variable in an error.

use std::{env, ffi::OsString};

use clap::{
    Arg, ArgAction, ArgMatches, Command,
    builder::{BoolishValueParser, TypedValueParser},
};

use super::is_given;

fn variable(option: &Arg) -> String {
    format!("WSPUSH_{}", option.get_id().as_str().to_uppercase())
}

/// Adds the option's variable to its help.
pub(super) fn with_variable(option: Arg) -> Arg {
    let help = option.get_help().cloned().unwrap_or_default();
    let help = format!("{help}\n[env: {}]", variable(&option));
    option.help(help)
}

/// What the variables say about options that are not given, as arguments.
pub(super) fn from_environment(
    command: &mut Command,
    given: &ArgMatches,
) -> Result<Vec<OsString>, clap::Error> {
    let mut arguments = Vec::new();
    let options: Vec<_> = command.get_arguments().cloned().collect();
    for option in &options {
        let variable = variable(option);
        let Some(value) = env::var_os(&variable) else {
            continue;
        };
        let value = value.to_string_lossy();
        // A Kubernetes secret may end with a line break, and `${NAME:-}` in a compose file leaves an empty value. Only an
        // empty token is an error: it would let everybody in.
        let is_padding = |c: char| c.is_whitespace() || Some(c) == option.get_value_delimiter();
        let value = value.trim_matches(is_padding);
        let is_option = !matches!(option.get_action(), ArgAction::Help | ArgAction::Version);
        let is_unset = value.is_empty() && variable != "WSPUSH_TOKEN";
        if is_unset || !is_option || is_given(given, option.get_id().as_str()) {
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
