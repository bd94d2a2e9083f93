//! A push service of its own on wspush: every client that says `start` is told the time, once a second.
//!
//! `cargo run --example clock`, then `websocat ws://localhost:8080/`.

use std::{io, time::Duration};

use tokio::time::{Instant, sleep_until};
use wspush::{
    listening::listen,
    notifications::{Source, Utf8Bytes},
    options::Options,
    server::run,
};

struct Clock {
    due: Instant,
}

impl Source for Clock {
    async fn next(&mut self) -> Option<Utf8Bytes> {
        sleep_until(self.due).await;
        self.due += Duration::from_secs(1);
        Some(httpdate::fmt_http_date(std::time::SystemTime::now()).into())
    }

    fn skip_missed(&mut self) {
        self.due = self.due.max(Instant::now());
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let options = Options::default();
    let listeners = listen(&options.listen).await?;
    let start = || Clock {
        due: Instant::now(),
    };
    run(listeners, &options, start, async {
        let _ = tokio::signal::ctrl_c().await;
    })
    .await
}
