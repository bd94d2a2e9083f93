//! Keeps clients of all kinds connected to the server for a while, then compares what it holds with what it held before.
//!
//! `cargo bench --bench soak -- --seconds 1200 --clients 5000`; with `--stdin`, the server pushes lines.

mod counter;
mod lines;
#[path = "../common/server.rs"]
mod server;
mod socket;
mod usage;

use std::{env, error::Error, process::Command, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::{
    join, runtime,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use self::{
    lines::Input,
    server::Server,
    socket::{PATIENCE, connect, leave},
    usage::Usage,
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// One client's life, until the soak is over.
type Life = BoxFuture<'static, Result<Tally>>;

/// In seconds. The server drops a client after twice this silence; no client here is silent for so long unless it is
/// meant to be dropped.
const KEEPALIVE: &str = "10";

fn main() -> Result<()> {
    let seconds = Duration::from_secs(argument("--seconds")?.unwrap_or(60));
    let clients = argument("--clients")?;
    rlimit::increase_nofile_limit(u64::MAX)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    if env::args().any(|argument| argument == "--stdin") {
        runtime.block_on(soak_lines(clients.unwrap_or(2000), seconds))
    } else {
        runtime.block_on(soak_counter(clients.unwrap_or(5000), seconds))
    }
}

fn argument(name: &str) -> Result<Option<u64>> {
    let value = env::args().skip_while(|argument| argument != name).nth(1);
    Ok(value.as_deref().map(str::parse).transpose()?)
}

/// Starts the server with a source of notifications.
fn start(source: &[&str]) -> Result<Server> {
    Server::start(
        Command::new(env!("CARGO_BIN_EXE_wspush"))
            .args(["--keepalive", KEEPALIVE])
            .args(source)
            .env("RUST_LOG", "off"),
    )
}

async fn soak_counter(clients: u64, seconds: Duration) -> Result<()> {
    let interval = counter::INTERVAL.as_secs().to_string();
    let server = start(&["--interval", &interval])?;
    let live = |client, until| counter::live(server.address, client, until).boxed();
    let tally = soak(&server, clients, seconds, live).await?;
    println!(
        "\n{clients} clients, {} connections, {} notifications: none lost, early or doubled; late by {:?} at most",
        tally.connections, tally.notifications, tally.late
    );
    Ok(())
}

async fn soak_lines(clients: u64, seconds: Duration) -> Result<()> {
    let mut server = start(&["--stdin"])?;
    let address = server.address;
    let input = Arc::new(Input::default());
    let producer = input.clone().start(server.input()?);
    let live = |client, until| lines::live(address, client, input.clone(), until).boxed();
    let mut tally = soak(&server, clients, seconds, live).await?;
    let stay = |_, until| lines::stay(address, input.clone(), until).boxed();
    let stays = wave(clients, Instant::now() + 2 * PATIENCE, stay);
    let ending = async {
        sleep(PATIENCE / 6).await;
        input.end();
    };
    tally.add(&join!(stays, ending).0?);
    producer.join().map_err(|_| "the producer panicked")??;
    end(&mut server).await?;
    println!(
        "\n{clients} clients, {} connections, {} lines, delivered {} times: none lost or doubled; {} clients closed for being behind",
        tally.connections,
        input.written(),
        tally.notifications,
        tally.behind
    );
    Ok(())
}

/// Waits until the server ends by itself.
async fn end(server: &mut Server) -> Result<()> {
    let ended = async {
        loop {
            match server.process.try_wait()? {
                None => sleep(Duration::from_millis(100)).await,
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("the server ended with {status}").into()),
            }
        }
    };
    timeout(PATIENCE, ended)
        .await
        .map_err(|_| "the server did not end")?
}

/// What clients have seen.
#[derive(Default)]
struct Tally {
    connections: u64,
    notifications: u64,
    late: Duration,
    /// Connections closed for being too far behind.
    behind: u64,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.notifications += other.notifications;
        self.late = self.late.max(other.late);
        self.behind += other.behind;
    }
}

/// Runs two waves of clients. The first one warms the server up: it may keep what it allocates once for so many clients.
async fn soak(
    server: &Server,
    clients: u64,
    seconds: Duration,
    live: impl Fn(u64, Instant) -> Life,
) -> Result<Tally> {
    Usage::print_title();
    // Once the server has answered, all its threads are running.
    let socket = connect(server.address).await?;
    let mut start = Usage::of(server)?;
    start.descriptors -= 1;
    leave(socket).await?;
    start.print("at the start");
    let under_load = async |seconds: Duration| {
        let until = Instant::now() + seconds;
        let usage = async {
            sleep_until(until - seconds / 10).await;
            Usage::of(server)?.print("under load");
            Ok(())
        };
        let (tally, usage) = join!(wave(clients, until, &live), usage);
        usage.and(tally)
    };
    under_load(seconds.min(PATIENCE)).await?;
    let before = Usage::at_rest(server, start).await?;
    before.print("after the warm-up");
    let tally = under_load(seconds).await?;
    let after = Usage::at_rest(server, start).await?;
    after.print("after the soak");
    after.check(start, before)?;
    Ok(tally)
}

/// Lets this many clients live at the same time.
async fn wave(clients: u64, until: Instant, live: impl Fn(u64, Instant) -> Life) -> Result<Tally> {
    let mut wave = JoinSet::new();
    for client in 0..clients {
        wave.spawn(live(client, until));
    }
    let mut sum = Tally::default();
    while let Some(tally) = wave.join_next().await {
        sum.add(&tally??);
    }
    Ok(sum)
}
