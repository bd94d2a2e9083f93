//! The lines for one client: its steps through the backlog.

use std::sync::{Arc, atomic::Ordering};

use super::{
    Shared,
    backlog::{Lost, Place},
};
use crate::notifications::{CloseCode, CloseFrame, Notification, Source, close_frame};

/// The lines for one client.
#[derive(Debug)]
pub struct LinesSource {
    shared: Arc<Shared>,
    /// The client's place in the backlog, once it has said `start`.
    place: Option<Place>,
    /// Whether the client has caught up since its `start`. Until then it counts as paused, so that nobody waits for it.
    has_joined: bool,
}

impl LinesSource {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            place: None,
            has_joined: false,
        }
    }

    /// Takes the next line, if there is one. The error says why there are no more.
    fn take(&mut self) -> Option<Result<Notification, CloseFrame>> {
        let mut backlog = self.shared.backlog();
        let mut place = self.place?;
        let taken = match backlog.get(place) {
            Ok(Some(line)) => {
                place.next += 1;
                Some(Ok(line.clone()))
            }
            Ok(None) if backlog.has_ended => {
                return Some(Err(close_frame(CloseCode::Normal, "the input has ended")));
            }
            Ok(None) if self.has_joined => return None,
            Ok(None) => None,
            Err(Lost) => {
                let reason = "too far behind, lines were lost";
                return Some(Err(close_frame(CloseCode::Again, reason)));
            }
        };
        if !self.has_joined && backlog.has_caught_up(place) {
            self.has_joined = true;
            place.is_paused = false;
        }
        self.shared.step(&mut backlog, &mut self.place, Some(place));
        taken
    }

    fn set_paused(&mut self, is_paused: bool) {
        let to = self.place.map(|place| Place {
            is_paused: is_paused || !self.has_joined,
            is_proven: place.is_proven || self.has_joined && !is_paused,
            ..place
        });
        let backlog = &mut self.shared.backlog();
        self.shared.step(backlog, &mut self.place, to);
    }
}

impl Source for LinesSource {
    fn start(&mut self) {
        let backlog = &mut self.shared.backlog();
        let read = self.shared.read.load(Ordering::Relaxed);
        let place = Some(backlog.join(read));
        self.shared.step(backlog, &mut self.place, place);
    }

    async fn next(&mut self) -> Result<Notification, CloseFrame> {
        let shared = Arc::clone(&self.shared);
        loop {
            // Before the attempt, so that nothing published meanwhile is missed.
            let published = shared.published.notified();
            match self.take() {
                Some(taken) => return taken,
                None => published.await,
            }
        }
    }

    fn try_next(&mut self) -> Option<Notification> {
        self.take().and_then(Result::ok)
    }

    fn pause(&mut self) {
        self.set_paused(true);
    }

    fn resume(&mut self) {
        self.set_paused(false);
    }
}

impl Drop for LinesSource {
    fn drop(&mut self) {
        let backlog = &mut self.shared.backlog();
        self.shared.step(backlog, &mut self.place, None);
    }
}
