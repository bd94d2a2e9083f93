//! What the server sends, and when (the contract's sections "The conversation" and "How a connection ends").

use std::time::Duration;

use super::{
    frame::{
        BINARY, CLOSE, CONTINUATION, Frame, Header, LIMIT, PING, PONG, TEXT, UNSURE_CODE, mask,
        may_close_with, read_frames,
    },
    script::{Ending, GRACE, Record, Script, TICK},
};

const WRONG_WORD: &str = "You did not say the magic word!";
const NO_BINARY: &str = "server doesn't support binary messages";
const KEEPALIVE: Duration = Duration::from_secs(20);
const LINGER: Duration = Duration::from_secs(2);

/// Checks that the server answered the script as the contract says, no more and no less, and in time.
pub(crate) fn check(script: &Script, record: &Record) {
    let mut model = Model::new();
    let mut now = Duration::ZERO;
    for (after, piece) in &script.pieces {
        now += *after;
        model.hear(now, piece);
    }
    model.finish(script.ending, record.last);
    // The server may not have read, or not have answered completely, what was sent when the client vanished.
    let cut = script.ending == Ending::Vanish && script.wait.is_zero();
    let said = Said::sort(read_frames(&record.heard, cut));
    let over = said.close.as_ref().map_or(record.ended, |close| close.at);
    model.check_answers(&said, cut);
    model.check_close(said.close.as_ref(), cut);
    let sent: Vec<_> = said.all.iter().map(|frame| frame.at).collect();
    check_pings(&said.pings, &model.heard, &sent, over);
    model.check_notifications(&said, script, over, cut);
    let left = match script.ending {
        Ending::Vanish | Ending::HalfClose => record.last,
        Ending::Silence | Ending::Stop => Duration::MAX,
    };
    let end = match &said.close {
        Some(close) => left.clamp(close.at, close.at + LINGER + GRACE),
        None => left.min(model.last_heard() + 2 * KEEPALIVE + GRACE),
    };
    assert_at(record.ended, end, "the end of the connection");
}

fn assert_at(at: Duration, due: Duration, what: &str) {
    assert!(
        at >= due,
        "{what} came at {at:?}, early: it was due at {due:?}"
    );
    assert!(
        at <= due + 2 * TICK,
        "{what} came at {at:?}, late: it was due at {due:?}"
    );
}

/// Checks that a ping comes after 20 s in which nothing came from the client or nothing was sent to it, and at no other time.
fn check_pings(pings: &[Frame], heard: &[Duration], sent: &[Duration], over: Duration) {
    for ping in pings {
        let last = |times: &[Duration]| times.iter().copied().rfind(|time| *time < ping.at);
        let (heard, sent) = (last(heard), last(sent));
        assert!(
            heard.is_some_and(|last| is_due(ping, last, Duration::ZERO))
                // The server may have been about to drop the client.
                || sent.is_some_and(|last| is_due(ping, last, GRACE)),
            "{ping:?} is not due: last heard at {heard:?}, last sent at {sent:?}"
        );
    }
    let rises = pings.is_sorted_by(|one, next| one.at < next.at);
    assert!(rises, "{pings:?}");
    for (last, next) in pairs(heard, over) {
        let mut pings = pings.iter();
        let is_short = next <= last + KEEPALIVE + 2 * TICK;
        assert!(
            is_short || pings.any(|ping| is_due(ping, last, Duration::ZERO)),
            "nothing came from {last:?} to {next:?}, but there was no ping"
        );
    }
    for (last, next) in pairs(sent, over) {
        let is_short = next <= last + KEEPALIVE + GRACE + 2 * TICK;
        assert!(is_short, "nothing was sent from {last:?} to {next:?}");
    }
}

fn is_due(ping: &Frame, since: Duration, grace: Duration) -> bool {
    let waited = ping.at.saturating_sub(since);
    (KEEPALIVE..=KEEPALIVE + grace + 2 * TICK).contains(&waited)
}

/// Each time and the next one, or the end.
fn pairs(times: &[Duration], end: Duration) -> impl Iterator<Item = (Duration, Duration)> {
    let next = times.iter().copied().skip(1).chain([end]);
    let next = next.map(move |next| next.min(end));
    times.iter().copied().zip(next)
}

/// What the server sent, sorted.
#[derive(Default)]
struct Said {
    /// Everything after the 101.
    all: Vec<Frame>,
    notifications: Vec<Frame>,
    pings: Vec<Frame>,
    /// Pongs, and texts other than notifications.
    answers: Vec<Frame>,
    close: Option<Frame>,
}

impl Said {
    fn sort(frames: Vec<Frame>) -> Self {
        let upgraded = Frame {
            at: Duration::ZERO,
            opcode: TEXT,
            payload: Vec::new(),
        };
        let mut said = Self {
            all: [vec![upgraded], frames.clone()].concat(),
            ..Self::default()
        };
        for frame in frames {
            match frame.opcode {
                TEXT if frame.payload.starts_with(b"Notification ") => {
                    said.notifications.push(frame);
                }
                PING => said.pings.push(frame),
                CLOSE => said.close = Some(frame),
                _ => said.answers.push(frame),
            }
        }
        said
    }

    /// Whether a notification may have come due while another frame waited for room in a narrow pipe. Then it is skipped.
    fn may_skip(&self, due: Duration, pipe: usize) -> bool {
        let mut others = self.answers.iter().chain(&self.pings);
        pipe < 200 && others.any(|frame| (due..=due + 2 * TICK).contains(&frame.at))
    }
}

/// A Close frame that the server has to send.
#[derive(Debug)]
struct Close {
    /// Any of these codes: where one frame offends twice, either is right.
    codes: Vec<Option<u16>>,
    /// The server may close at the first byte of the offending frame, and must close at its last one, if that came.
    from: Duration,
    until: Option<Duration>,
}

/// The server of the contract.
#[derive(Debug)]
struct Model {
    /// The bytes of an incomplete frame, and when the first one came.
    bytes: Vec<u8>,
    since: Duration,
    /// The opcode of a fragmented message, and its fragments so far.
    message: Option<(u8, Vec<u8>)>,
    /// When something came, beginning with the handshake.
    heard: Vec<Duration>,
    /// When the client said `start`.
    started: Option<Duration>,
    answers: Vec<Frame>,
    close: Option<Close>,
    /// Whether the Close frame may answer a binary message.
    binary: bool,
    /// Whether the client was silent for too long.
    gone: bool,
}

impl Model {
    fn new() -> Self {
        Self {
            bytes: Vec::new(),
            since: Duration::ZERO,
            message: None,
            heard: vec![Duration::ZERO],
            started: None,
            answers: Vec::new(),
            close: None,
            binary: false,
            gone: false,
        }
    }

    fn last_heard(&self) -> Duration {
        self.heard.last().copied().unwrap_or_default()
    }

    fn is_over(&self) -> bool {
        self.close.is_some() || self.gone
    }

    fn hear(&mut self, now: Duration, piece: &[u8]) {
        self.wait(now);
        if self.is_over() || piece.is_empty() {
            return;
        }
        self.heard.push(now);
        self.since = if self.bytes.is_empty() {
            now
        } else {
            self.since
        };
        self.bytes.extend(piece);
        while !self.is_over()
            && let Some((header, size)) = Header::parse(&self.bytes)
        {
            if header.length > LIMIT {
                let broken = self.is_broken(&header).then_some(1002);
                return self.fail(now, broken.into_iter().chain([1009]));
            }
            if !self.take_frame(now, &header, size) {
                return;
            }
        }
    }

    /// Hears the first frame if it is complete. Returns whether it is.
    fn take_frame(&mut self, now: Duration, header: &Header, size: usize) -> bool {
        let end = size + usize::try_from(header.length).expect("a small frame");
        if self.bytes.len() < end {
            return false;
        }
        let mut payload: Vec<_> = self.bytes.drain(..end).skip(size).collect();
        mask(&mut payload, header.mask.unwrap_or_default());
        self.hear_frame(now, header, payload);
        self.since = now;
        true
    }

    /// Lets time pass in silence.
    fn wait(&mut self, until: Duration) {
        let dead = self.last_heard() + 2 * KEEPALIVE + GRACE;
        self.gone |= !self.is_over() && until > dead;
    }

    fn hear_frame(&mut self, now: Duration, header: &Header, payload: Vec<u8>) {
        let broken = self.is_broken(header).then_some(1002);
        let (opcode, payload) = match header.opcode {
            CONTINUATION => {
                let (opcode, begun) = self.message.take().unwrap_or((CONTINUATION, Vec::new()));
                (opcode, [begun, payload].concat())
            }
            opcode => (opcode, payload),
        };
        let offences = offences(opcode, &payload, header.fin);
        let mut offences = broken.into_iter().chain(offences).peekable();
        if offences.peek().is_some() {
            return self.fail(now, offences);
        }
        match opcode {
            TEXT if header.fin => self.hear_text(now, &payload),
            TEXT | BINARY => self.message = Some((opcode, payload)),
            PING => self.answer(now, PONG, &payload),
            CLOSE => {
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                let refused = (code == Some(UNSURE_CODE)).then_some(Some(1002));
                self.close(refused.into_iter().chain([code]).collect(), Some(now));
            }
            _ => {}
        }
    }

    fn hear_text(&mut self, now: Duration, mut text: &[u8]) {
        while let [b'\r' | b'\n', rest @ ..] | [rest @ .., b'\r' | b'\n'] = text {
            text = rest;
        }
        match self.started {
            None if text == b"start" => self.started = Some(now),
            None => self.answer(now, TEXT, WRONG_WORD.as_bytes()),
            Some(_) => {}
        }
    }

    /// Whether the header alone breaks RFC 6455.
    fn is_broken(&self, header: &Header) -> bool {
        let misplaced = match header.opcode {
            CONTINUATION => self.message.is_none(),
            TEXT | BINARY => self.message.is_some(),
            CLOSE | PING | PONG => !header.fin || header.length > 125,
            _ => true,
        };
        misplaced || header.rsv != 0 || header.mask.is_none()
    }

    fn answer(&mut self, at: Duration, opcode: u8, payload: &[u8]) {
        self.answers.push(Frame {
            at,
            opcode,
            payload: payload.to_vec(),
        });
    }

    fn fail(&mut self, now: Duration, codes: impl Iterator<Item = u16>) {
        let codes: Vec<_> = codes.map(Some).collect();
        self.binary = codes.contains(&Some(1003));
        self.close(codes, Some(now));
    }

    fn close(&mut self, codes: Vec<Option<u16>>, until: Option<Duration>) {
        self.close = Some(Close {
            codes,
            from: self.since,
            until,
        });
    }

    fn finish(&mut self, ending: Ending, last: Duration) {
        let mut codes = Vec::new();
        if self.begins_broken() {
            codes.push(Some(1002));
        }
        let silent = ending == Ending::Silence;
        self.wait(if silent { Duration::MAX } else { last });
        if ending == Ending::Stop && !self.is_over() {
            codes.push(Some(1001));
            self.close(codes, Some(last));
        } else if !codes.is_empty() && self.close.is_none() {
            self.close(codes, None);
        }
    }

    /// Whether an incomplete frame already breaks RFC 6455.
    fn begins_broken(&self) -> bool {
        let whole = match self.bytes[..] {
            [] => return false,
            [first] => vec![first, 0x80],
            _ => self.bytes.clone(),
        };
        Header::parse(&[whole, vec![0; 12]].concat())
            .is_some_and(|(header, _)| self.is_broken(&header))
    }

    fn check_answers(&self, said: &Said, cut: bool) {
        let mut due = self.answers.clone();
        if let Some(close) = &said.close
            && self.binary
            && close.close_code() == Some(1003)
        {
            due.push(Frame {
                at: close.at,
                opcode: TEXT,
                payload: NO_BINARY.into(),
            });
        }
        if cut {
            assert!(
                due.starts_with(&said.answers),
                "{:?} is no start of {due:?}",
                said.answers
            );
        } else {
            assert_eq!(said.answers, due);
        }
    }

    fn check_close(&self, said: Option<&Frame>, cut: bool) {
        match (&self.close, said) {
            (Some(due), Some(said)) => {
                assert!(
                    due.codes.contains(&said.close_code()),
                    "{said:?} is not {due:?}"
                );
                assert!(said.at >= due.from, "{said:?} is not {due:?}");
                assert!(
                    due.until.is_none_or(|until| said.at <= until),
                    "{said:?} is not {due:?}"
                );
            }
            (Some(due), None) => assert!(due.until.is_none() || cut, "no {due:?}"),
            (None, said) => assert_eq!(said, None),
        }
    }

    fn check_notifications(&self, said: &Said, script: &Script, over: Duration, cut: bool) {
        let Some(started) = self.started else {
            return assert_eq!(said.notifications, []);
        };
        let mut due = started;
        for (number, frame) in (1..).zip(&said.notifications) {
            assert_eq!(frame.payload, format!("Notification {number}").into_bytes());
            if frame.at > due + 2 * TICK && said.may_skip(due, script.pipe) {
                due += script.interval;
            }
            assert_at(frame.at, due, &format!("Notification {number}"));
            due += script.interval;
        }
        if said.may_skip(due, script.pipe) {
            due += script.interval;
        }
        assert!(
            cut || due + 2 * TICK >= over,
            "the notification due at {due:?} is missing at {over:?}"
        );
    }
}

/// The close codes that fit the message so far, or the control frame.
fn offences(opcode: u8, payload: &[u8], whole: bool) -> Vec<u16> {
    match opcode {
        TEXT => refuse_text(payload, whole),
        BINARY => refuse_binary(payload, whole),
        CLOSE => refuse_close(payload),
        _ => Vec::new(),
    }
}

/// An incomplete text may end within a character.
fn refuse_text(text: &[u8], whole: bool) -> Vec<u16> {
    let mut codes = refuse_size(text);
    if let Err(error) = str::from_utf8(text)
        && (whole || error.error_len().is_some())
    {
        codes.push(1007);
    }
    codes
}

fn refuse_binary(message: &[u8], whole: bool) -> Vec<u16> {
    let mut codes = refuse_size(message);
    codes.extend(whole.then_some(1003));
    codes
}

fn refuse_size(message: &[u8]) -> Vec<u16> {
    let too_large = message.len() as u64 > LIMIT;
    too_large.then_some(1009).into_iter().collect()
}

fn refuse_close(payload: &[u8]) -> Vec<u16> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return vec![1002; payload.len()];
    };
    let bad_code = !may_close_with(u16::from_be_bytes(*code));
    let bad_reason = str::from_utf8(reason).is_err();
    let codes = [(bad_code, 1002), (bad_reason, 1007)];
    codes
        .iter()
        .filter(|(bad, _)| *bad)
        .map(|(_, code)| *code)
        .collect()
}
