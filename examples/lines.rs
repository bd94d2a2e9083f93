//! A push service of its own on wspush: each line that you type is pushed to every client that has said `start`.
//!
//! `cargo run --example lines`, then `websocat ws://localhost:8080/` in other terminals.

use std::{
    io::{self, BufRead},
    thread,
};

use tokio::{
    signal::ctrl_c,
    sync::broadcast::{self, Receiver, error::RecvError},
};
use wspush::{
    notifications::{Source, Utf8Bytes},
    options::Options,
    server::listen::listen,
    server::run,
};

struct Lines(Receiver<Utf8Bytes>);

impl Source for Lines {
    async fn next(&mut self) -> Option<Utf8Bytes> {
        loop {
            match self.0.recv().await {
                Ok(line) => return Some(line),
                // More came at once than the channel keeps: the oldest are left out.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }

    fn skip_missed(&mut self) {
        self.0 = self.0.resubscribe();
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let options = Options::default();
    let listeners = listen(&options.listen).await?;
    for listener in &listeners {
        println!("ws://{}/", listener.local_addr()?);
    }
    let (sender, lines) = broadcast::channel(16);
    // A thread of its own, since reading standard input blocks. At its end all clients are told that there is no more.
    thread::spawn(move || {
        for line in io::stdin().lock().split(b'\n').map_while(Result::ok) {
            // Fails only when nobody is left to push to.
            let _ = sender.send(String::from_utf8_lossy(&line).into_owned().into());
        }
    });
    let start = move || Lines(lines.resubscribe());
    run(listeners, &options, start, async {
        let _ = ctrl_c().await;
    })?
    .await;
    Ok(())
}
