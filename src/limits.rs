//! How many connections the server takes, and how many each worker does.

use crate::{options::Options, workers::Worker};

/// How many notifications a millisecond a worker sends before the next one takes part: with so few, a second thread makes
/// each dearer, since both wake up for them. It must not be much more, or the first worker keeps the larger part: at 20,
/// with 50 a millisecond in all, notifications came later than at 5.
const WORKER_SHARE: u128 = 5;

/// How many connections over the limit are told so at once; the next ones wait in the backlog.
const REFUSALS: u32 = 64;

/// Descriptors for neither connections nor workers: standard streams, listeners, signals, with some to spare.
const OWN_DESCRIPTORS: u64 = 24;

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
    pub(crate) fn new(options: &Options, workers: usize, listeners: usize) -> Self {
        // Each worker has a clone of each listener.
        let in_workers = workers * (Worker::DESCRIPTORS + listeners);
        let descriptors = rlimit::Resource::NOFILE.get_soft().unwrap_or(0);
        let spare = descriptors.saturating_sub(OWN_DESCRIPTORS + in_workers as u64);
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
    fn each_worker_takes_four_descriptors_and_one_for_each_listener() {
        let connections =
            |workers, listeners| Limits::new(&Options::default(), workers, listeners).connections;
        assert_eq!(connections(0, 1) - connections(3, 1), 3 * (4 + 1));
        assert_eq!(connections(0, 2) - connections(3, 2), 3 * (4 + 2));
    }
}
