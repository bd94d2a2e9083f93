//! The lines of an input, such as standard input, pushed to every client.
//!
//! A thread reads them (`reader`), a task publishes them, and every client takes them from one `backlog`. Without the task
//! in between, the thread would need a system call to wake each client.

mod backlog;
mod patience;
mod reader;
mod source;

use std::{
    io::{self, Read},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::{Instant, sleep},
};

use self::{
    backlog::{Backlog, Place},
    patience::Patience,
    reader::read_lines,
};
pub use self::{reader::InputEnd, source::LinesSource};
use super::Notification;
use crate::io::{GRACE, in_time};

/// How many lines are read ahead of the publisher: enough to rarely wait for each other's wake-up.
const QUEUE: usize = 64;

/// How long a signal may come after the end of the input. Ctrl-C ends the producer of a pipeline too, and clients must get
/// 1001, after which they connect again, and not 1000.
const END_DELAY: Duration = Duration::from_millis(100);

/// The lines of an input, for any number of clients.
#[derive(Clone, Debug)]
pub struct Lines(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    backlog: Mutex<Backlog>,
    /// How many notifications were read, published or not.
    read: AtomicU64,
    /// Wakes clients: something was published, or the input has ended.
    published: Notify,
    /// Wakes the publisher: all readers have taken everything, or a paused client has moved.
    taken: Notify,
}

impl Lines {
    /// Reads an input in its own thread. A client's `start` brings the last `history` lines first, up to 1,000 and 8 MiB.
    ///
    /// The returned task ends when the input has ended and every line is published. Clients may still have to take some.
    ///
    /// # Errors
    ///
    /// If the thread can't be started.
    ///
    /// # Panics
    ///
    /// When called outside a tokio runtime.
    pub fn read(
        input: impl Read + Send + 'static,
        history: usize,
    ) -> io::Result<(Self, JoinHandle<InputEnd>)> {
        let shared = Arc::new(Shared {
            backlog: Mutex::new(Backlog::new(history)),
            read: AtomicU64::new(0),
            published: Notify::new(),
            taken: Notify::new(),
        });
        let (queue, mut queued) = mpsc::channel(QUEUE);
        // Use each place once, so that the queue allocates its memory now. Among long lines, it would keep their memory from
        // going back to the system.
        for _ in 0..2 * QUEUE {
            let _ = queue
                .try_send(None)
                .or_else(|_| queued.try_recv().map(drop));
        }
        let counted = Arc::clone(&shared);
        let reader = thread::Builder::new().name("input".into()).spawn(move || {
            read_lines(input, |line| {
                counted.read.fetch_add(1, Ordering::Relaxed);
                // It fails once the server has stopped.
                queue.blocking_send(Some(line)).is_ok()
            })
        })?;
        let lines = Self(Arc::clone(&shared));
        let publisher = tokio::spawn(async move {
            shared.publish_all(queued).await;
            // The thread has dropped the queue, so it ends now.
            reader.join().unwrap_or_default()
        });
        Ok((lines, publisher))
    }

    /// Returns a source for one client.
    #[must_use]
    pub fn source(&self) -> LinesSource {
        LinesSource::new(Arc::clone(&self.0))
    }
}

impl Shared {
    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        // Never poisoned: nothing panics while it is locked.
        self.backlog.lock().unwrap()
    }

    /// Publishes what is read. While this waits for clients, the queue fills up and the producer waits too.
    async fn publish_all(&self, mut queued: mpsc::Receiver<Option<Notification>>) {
        let mut patience = Patience::new();
        let mut batch = Vec::with_capacity(QUEUE);
        while queued.recv_many(&mut batch, QUEUE).await > 0 {
            for line in batch.drain(..).flatten() {
                let size = line.size();
                self.wait_for_room(size, &mut patience).await;
                patience.restore(size);
                self.backlog().push(line);
            }
            self.published.notify_waiters();
            self.until(Backlog::is_taken_by_readers).await;
        }
        sleep(END_DELAY).await;
        self.backlog().has_ended = true;
        self.published.notify_waiters();
    }

    /// Waits until no client is at the limit for another line. Gives up those for whom the patience is spent.
    async fn wait_for_room(&self, size: u64, patience: &mut Patience) {
        loop {
            let furthest = self.backlog().at_limit(size);
            let Some((place, paused)) = furthest else {
                return;
            };
            self.published.notify_waiters();
            let taken = self.backlog().taken;
            let limit = patience.limit(paused.proven > 0);
            let begin = Instant::now();
            let change = self.until(|backlog| backlog.furthest() != furthest);
            let has_changed = !limit.is_zero() && in_time(limit, change).await.is_some();
            let mut backlog = self.backlog();
            // A client that leaves has taken nothing. If the server itself was stopped, that was no wait for a client.
            let in_vain = backlog.taken == taken;
            patience.spend(begin.elapsed().min(limit + GRACE), in_vain);
            if !has_changed {
                backlog.give_up(place);
            }
        }
    }

    async fn until(&self, condition: impl Fn(&Backlog) -> bool) {
        while !condition(&self.backlog()) {
            self.taken.notified().await;
        }
    }

    /// Moves a client from one place to another.
    fn step(&self, backlog: &mut Backlog, place: &mut Option<Place>, to: Option<Place>) {
        backlog.step(*place, to);
        *place = to;
        if backlog.is_taken_by_readers() {
            self.taken.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use futures_util::FutureExt;
    use proptest::{collection::vec, prelude::*, test_runner::RngSeed};
    use tokio::{runtime, sync::mpsc::Sender, task::coop::consume_budget, time::timeout};

    use super::{
        backlog::{MAX_BYTES, MAX_LINES},
        *,
    };
    use crate::notifications::{CloseCode, Source};

    /// The producer of lines. There is no thread that reads them, because a paused clock would run ahead of it.
    struct Producer {
        room: Room,
        queue: Sender<Option<Notification>>,
    }

    /// Where lines and clients meet.
    #[derive(Clone)]
    struct Room {
        lines: Lines,
        /// How many bytes each line has.
        size: usize,
        history: u64,
        /// How many lines wait for a client.
        limit: u64,
        /// When a client at the limit last took something.
        taken: Arc<Mutex<Instant>>,
    }

    impl Producer {
        fn start(size: usize, history: u16) -> Self {
            let shared = Arc::new(Shared {
                backlog: Mutex::new(Backlog::new(history.into())),
                read: AtomicU64::new(0),
                published: Notify::new(),
                taken: Notify::new(),
            });
            let (queue, queued) = mpsc::channel(QUEUE);
            let publisher = Arc::clone(&shared);
            tokio::spawn(async move { publisher.publish_all(queued).await });
            let room = Room {
                lines: Lines(shared),
                size,
                history: history.into(),
                limit: MAX_LINES.min(MAX_BYTES / (size as u64 + 4)),
                taken: Arc::new(Mutex::new(Instant::now())),
            };
            Self { room, queue }
        }

        /// Writes lines. Returns how many seconds it had to wait.
        async fn write(&self, count: u64) -> f64 {
            let begin = Instant::now();
            for _ in 0..count {
                let read = &self.room.lines.0.read;
                let number = read.fetch_add(1, Ordering::Relaxed);
                self.queue.send(Some(self.room.line(number))).await.unwrap();
            }
            begin.elapsed().as_secs_f64()
        }
    }

    impl Room {
        fn read(&self) -> u64 {
            self.lines.0.read.load(Ordering::Relaxed)
        }

        fn line(&self, number: u64) -> Notification {
            Notification::new(&format!("{}{number:020}", "x".repeat(self.size - 20)))
        }

        /// A client that says `start` now.
        fn join(&self, manner: Manner) -> JoinHandle<Option<End>> {
            let mut source = self.lines.source();
            source.start();
            let client = Client {
                source,
                next: self.read().saturating_sub(self.history),
                room: self.clone(),
            };
            tokio::spawn(client.run(manner))
        }
    }

    fn number(line: Notification) -> u64 {
        let frame = line.into_frame();
        let number = &frame[frame.len() - 20..];
        str::from_utf8(number).unwrap().parse().unwrap()
    }

    /// How a client takes lines.
    #[derive(Clone, Copy, Debug)]
    struct Manner {
        /// How long it reads nothing after each step.
        pause: Duration,
        /// After how long it is gone.
        leaves: Option<Duration>,
    }

    const FAST: Manner = Manner {
        pause: Duration::ZERO,
        leaves: None,
    };

    /// Reads on after longer than any test.
    const STALLED: Manner = Manner {
        pause: Duration::from_secs(100_000),
        leaves: None,
    };

    /// As a session whose socket holds one step.
    struct Client {
        source: LinesSource,
        /// The number of the line that must come next.
        next: u64,
        room: Room,
    }

    /// The number of the line that would have been next, and the close code.
    type End = (u64, CloseCode);

    impl Client {
        /// Returns nothing if it leaves.
        async fn run(mut self, manner: Manner) -> Option<End> {
            let takes_all = async {
                loop {
                    match self.source.next().await {
                        Ok(line) => self.step(line),
                        Err(close) => return (self.next, close.code),
                    }
                    consume_budget().await;
                    if !manner.pause.is_zero() {
                        self.source.pause();
                        sleep(manner.pause).await;
                        self.resume();
                    }
                }
            };
            let leaves = manner.leaves.unwrap_or(Duration::MAX);
            timeout(leaves, takes_all).await.ok()
        }

        /// Takes as many lines as are written at once.
        fn step(&mut self, line: Notification) {
            let mut taken = Some(line);
            for left in (0..(64 * 1024 / self.room.size).min(64)).rev() {
                let Some(line) = taken else { return };
                assert_eq!(number(line), self.next);
                self.next += 1;
                taken = (left > 0).then(|| self.source.try_next()).flatten();
            }
        }

        fn resume(&mut self) {
            if self.next + self.room.limit <= self.room.read() {
                *self.room.taken.lock().unwrap() = Instant::now();
            }
            self.source.resume();
        }
    }

    /// What bounds the producer's waits, in seconds.
    struct Allowance(f64);

    impl Allowance {
        /// Fails if more is spent than there is, and a little for the timers' grain and the lines under way.
        fn spend(&mut self, waited: f64, restored: f64) {
            self.0 = (self.0 - waited + restored).min(1.0);
            assert!(self.0 > -0.1, "{} s too long", -self.0);
        }
    }

    /// The allowances as a producer sees them.
    struct Watch {
        pace: Allowance,
        vain: Allowance,
        last: Instant,
    }

    impl Watch {
        fn new() -> Self {
            Self {
                pace: Allowance(1.0),
                vain: Allowance(1.0),
                last: Instant::now(),
            }
        }

        async fn write(&mut self, producer: &Producer, count: u64) {
            let limit = u32::try_from(producer.room.limit).unwrap();
            let share = 1.0 / f64::from(limit);
            for _ in 0..count {
                let waited = producer.write(1).await;
                self.pace.spend(waited, share);
                let taken = producer.room.taken.lock().unwrap().elapsed().as_secs_f64();
                let passed = self.last.elapsed().as_secs_f64();
                self.vain.spend(waited.min(taken), passed / 10.0);
                self.last = Instant::now();
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// So many times 100 lines, and so long between them.
        Write(u64, Duration),
        /// So many clients, and so long between them.
        Join(u32, Duration, Manner),
    }

    fn millis(range: Range<u64>) -> impl Strategy<Value = Duration> {
        range.prop_map(Duration::from_millis)
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let pause = prop_oneof![
            Just(FAST.pause),
            millis(1..150),
            millis(150..3000),
            Just(STALLED.pause)
        ];
        let leaves = prop::option::weighted(0.3, millis(0..3000));
        let manner = (pause, leaves).prop_map(|(pause, leaves)| Manner { pause, leaves });
        let step = prop_oneof![
            (1..60_u64, millis(0..30)).prop_map(|(count, pause)| Step::Write(count, pause)),
            (1..6_u32, millis(0..500), manner)
                .prop_map(|(count, pause, manner)| Step::Join(count, pause, manner)),
        ];
        vec(step, 1..16)
    }

    /// A producer, its clients, and the bounds on what they may cost.
    struct Play {
        producer: Producer,
        watch: Watch,
        /// Whether a client must not be closed with 1013, and its end.
        clients: Vec<(bool, JoinHandle<Option<End>>)>,
    }

    impl Play {
        /// Readers take more than 4,096 lines or 16 MiB a second, with these pauses.
        async fn start(size: usize, history: u16, readers: Vec<Duration>) -> Self {
            let producer = Producer::start(size, history);
            let mut watch = Watch::new();
            let read = |pause| (true, producer.room.join(Manner { pause, ..FAST }));
            let clients = readers.into_iter().map(read).collect();
            // Each reads on after its first pause.
            watch.write(&producer, 200).await;
            sleep(Duration::from_secs(1)).await;
            Self {
                producer,
                watch,
                clients,
            }
        }

        async fn step(&mut self, step: Step) {
            match step {
                Step::Write(count, pause) => {
                    for _ in 0..count {
                        self.watch.write(&self.producer, 100).await;
                        sleep(pause).await;
                    }
                }
                Step::Join(count, pause, manner) => {
                    for number in 0..count {
                        self.join(pause * number, manner);
                    }
                }
            }
        }

        fn join(&mut self, after: Duration, manner: Manner) {
            let room = self.producer.room.clone();
            let join = async move {
                sleep(after).await;
                room.join(manner).await.unwrap()
            };
            let is_fast = manner.pause.is_zero();
            self.clients.push((is_fast, tokio::spawn(join)));
            if (Duration::from_millis(150)..STALLED.pause).contains(&manner.pause) {
                // It may be waited for once more after it has read on.
                self.watch.vain.0 += 0.2;
            }
        }

        async fn end(self) {
            let Producer { room, queue } = self.producer;
            drop(queue);
            for (is_reader, client) in self.clients {
                match client.await.unwrap() {
                    None => {}
                    Some((next, CloseCode::Normal)) => assert_eq!(next, room.read()),
                    Some((next, code)) => {
                        assert_eq!(code, CloseCode::Again);
                        assert!(next < room.read());
                        assert!(!is_reader, "a reader is closed after {next} lines");
                    }
                }
            }
        }
    }

    fn run(future: impl Future<Output = ()>) {
        let mut runtime = runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build();
        runtime.unwrap().block_on(future);
    }

    /// Has the producer wait in vain until nothing is left for that.
    async fn spend_in_vain(producer: &Producer) {
        for _ in 0..2 {
            producer.room.join(STALLED);
            producer.write(producer.room.limit + 200).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_is_sent_lines_steadily_though_one_comes_each_0_3_s_that_reads_nothing() {
        for leaves in [None, Some(Duration::from_millis(800))] {
            let producer = Producer::start(20, 0);
            let reader = producer.room.join(FAST);
            let room = producer.room.clone();
            let newcomers = tokio::spawn(async move {
                loop {
                    sleep(Duration::from_millis(300)).await;
                    room.join(Manner { leaves, ..STALLED });
                }
            });
            let mut waited = 0.0;
            // 20 s of 10,000 lines a second.
            for _ in 0..2000 {
                waited += producer.write(100).await;
                sleep(Duration::from_millis(10)).await;
            }
            newcomers.abort();
            // One second, and a tenth of all.
            assert!(waited < 1.0 + 23.0 / 10.0, "{waited} s");
            drop(producer);
            assert_eq!(reader.await.unwrap(), Some((200_000, CloseCode::Normal)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_has_read_on_is_waited_for_though_another_at_the_limit_is_given_up_at_once() {
        let producer = Producer::start(8000, 0);
        spend_in_vain(&producer).await;
        // Until every line is published, so that both join at the end.
        sleep(Duration::from_millis(1)).await;
        let [mut never, mut once] = [0; 2].map(|_| producer.room.lines.source());
        for source in [&mut never, &mut once] {
            source.start();
            assert!(source.next().now_or_never().is_none());
            source.pause();
        }
        once.resume();
        producer.write(1).await;
        once.next().await.unwrap();
        once.pause();
        // A long line is too much for both.
        producer.write(producer.room.limit - 6).await;
        let line = Notification::new(&"x".repeat(64 * 1024));
        producer.queue.send(Some(line)).await.unwrap();
        sleep(Duration::from_millis(100)).await;
        never.resume();
        assert!(never.next().await.is_err());
        once.resume();
        for _ in 0..producer.room.limit - 6 {
            once.next().await.unwrap();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(6455),
            cases: ProptestConfig::default().cases / 4,
            ..ProptestConfig::default()
        })]

        #[test]
        fn the_producer_waits_within_the_allowances_and_who_takes_enough_gets_every_line(
            steps in steps(),
            history in prop_oneof![Just(0), 1..500_u16],
            (size, readers) in prop_oneof![
                (Just(20), vec(millis(0..13), 0..4)),
                (Just(16_000), vec(millis(0..3), 0..4)),
            ],
        ) {
            run(async {
                let mut play = Play::start(size, history, readers).await;
                for step in steps {
                    play.step(step).await;
                }
                play.end().await;
            });
        }
    }
}
