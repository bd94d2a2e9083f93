//! How many connections the server takes, and how many each worker does.

use crate::{options::Options, workers::Worker};

/// How many notifications a millisecond a worker sends before the next one takes part. For fewer, a second thread would
/// make each dearer, since both wake up for them. With more, the first one keeps the larger part: at 20, with 50 a
/// millisecond in all, notifications came later than at 5.
const WORKER_SHARE: u128 = 5;

/// How many connections over the limit are told so at once; the next ones wait in the backlog.
const REFUSALS: u32 = 64;

/// Descriptors for neither connections nor workers: standard streams, two for each listener, signals, with some to spare.
const RESERVED_FDS: u64 = 24;

/// How many connections there may be at once, how many more that are being refused, and how many a worker serves before
/// the next one takes part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) connections: u32,
    pub(crate) refusals: u32,
    pub(crate) per_worker: u32,
}

impl Limits {
    /// What the descriptor limit leaves, unless the options say how many.
    pub(crate) fn new(options: &Options, workers: usize) -> Self {
        let descriptors = rlimit::Resource::NOFILE.get_soft().unwrap_or(0);
        Self::within(descriptors, options, workers)
    }

    fn within(descriptors: u64, options: &Options, workers: usize) -> Self {
        let in_workers = workers * Worker::DESCRIPTORS;
        let spare = descriptors.saturating_sub(RESERVED_FDS + in_workers as u64);
        let spare = u32::try_from(spare).unwrap_or(u32::MAX);
        let refusals = (spare / 4).clamp(1, REFUSALS);
        let rest = spare.saturating_sub(refusals).max(1);
        let per_worker = WORKER_SHARE * options.interval.as_millis();
        Self {
            connections: options.max_connections.map_or(rest, u32::from),
            refusals,
            per_worker: u32::try_from(per_worker).unwrap_or(u32::MAX).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_take_their_descriptors_from_the_connections() {
        let connections = |workers| Limits::within(1024, &Options::default(), workers).connections;
        assert_eq!(connections(0) - connections(3), 3 * 4);
    }
}
