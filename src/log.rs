//! The log: which lines are written, and how they look. `RUST_LOG` filters them.

use std::{
    env,
    io::{self, IsTerminal},
    sync::Arc,
};

use tracing::{Level, warn};
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::output::Output;

/// Logs to standard error from now on.
pub(crate) fn start(output: Arc<Output>) {
    let lines = fmt::layer()
        .with_writer(output)
        .with_ansi(
            io::stderr().is_terminal()
                && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        )
        .with_target(false)
        // It would be written to standard error past the queue, and panic when that is broken.
        .log_internal_errors(false);
    let wanted = env::var("RUST_LOG").unwrap_or_default();
    // An empty part, as behind a comma at the end, would be read as the level error.
    let parts: Vec<_> = wanted
        .split(',')
        .filter(|part| !part.trim().is_empty())
        .collect();
    let (filter, error) = match parts.join(",").parse::<Targets>() {
        _ if parts.is_empty() => (default_filter(), None),
        Ok(filter) => (filter, None),
        Err(error) => (default_filter(), Some(error)),
    };
    tracing_subscriber::registry()
        .with(lines)
        .with(filter)
        .init();
    if let Some(error) = error {
        warn!(RUST_LOG = wanted, %error, "invalid RUST_LOG, using info; wspush=debug would log more");
    }
}

fn default_filter() -> Targets {
    Targets::new().with_default(Level::INFO)
}
