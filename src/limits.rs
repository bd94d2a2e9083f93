//! The file-descriptor limit, and how many connections it allows.

use std::io;

use tracing::warn;

/// Descriptors for everything except connections: standard streams, the runtime (an epoll, its wake-up, the signals'
/// pair), two listeners, resolving the host, and some to spare.
const RESERVED: usize = 24;

/// Descriptors for a few connections, and for a few that are being refused.
const MIN_FOR_CONNECTIONS: usize = 8;

/// How many connections there are descriptors for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    /// Connections that are being refused.
    pub(crate) refusals: usize,
}

/// Raises the soft limit to the hard one.
///
/// # Errors
///
/// When the limit leaves no room for a connection. The error names the number of descriptors that it takes.
pub(crate) fn raise() -> io::Result<Limits> {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        warn!(%error, "can't raise the file-descriptor limit");
    }
    let limit = rlimit::Resource::NOFILE.get_soft().unwrap_or(0);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let needed = RESERVED + MIN_FOR_CONNECTIONS;
    if limit < needed {
        return Err(io::Error::other(format!(
            "starting takes {needed} file descriptors, the limit is {limit}; raise it with ulimit -n"
        )));
    }
    let spare = limit - RESERVED;
    let refusals = (spare / 4).min(64);
    Ok(Limits {
        connections: spare - refusals,
        refusals,
    })
}
