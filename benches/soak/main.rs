//! Keeps clients of all manners on the server for a time, then compares what it holds with what it held before.
//!
//! `cargo bench --bench soak -- --seconds 1200 --clients 5000`; with `--stdin`, lines of standard input are pushed.

mod counter;
mod lines;
mod server;
mod socket;

use std::{env, process::ExitCode, sync::Arc, time::Duration};

use tokio::{
    join, runtime,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use self::{
    lines::Input,
    server::{Server, Usage},
    socket::{PATIENCE, connect, leave},
};

fn main() -> ExitCode {
    let seconds = Duration::from_secs(argument("--seconds").unwrap_or(60));
    let clients = argument("--clients");
    rlimit::increase_nofile_limit(u64::MAX).expect("a higher descriptor limit");
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let soaked = if env::args().any(|argument| argument == "--stdin") {
        runtime.block_on(soak_lines(clients.unwrap_or(2000), seconds))
    } else {
        runtime.block_on(soak_counter(clients.unwrap_or(5000), seconds))
    };
    match soaked {
        Ok(()) => ExitCode::SUCCESS,
        Err(violation) => {
            println!("violation: {violation}");
            ExitCode::FAILURE
        }
    }
}

fn argument(name: &str) -> Option<u64> {
    let value = env::args().skip_while(|argument| argument != name).nth(1);
    value.map(|value| value.parse().expect("a number"))
}

async fn soak_counter(clients: u64, seconds: Duration) -> Result<(), String> {
    let interval = counter::INTERVAL.as_secs().to_string();
    let server = Server::start(&["--interval", &interval]).expect("a server");
    let live = |client, until| counter::live(server.address, client, until);
    let tally = soak(&server, clients, seconds, live).await?;
    println!(
        "\n{clients} clients, {} connections, {} notifications, none lost, early or doubled; late by {:?} at most",
        tally.connections, tally.notifications, tally.late
    );
    Ok(())
}

async fn soak_lines(clients: u64, seconds: Duration) -> Result<(), String> {
    let mut server = Server::start(&["--stdin"]).expect("a server");
    let address = server.address;
    let input = Arc::new(Input::default());
    let producer = input.clone().start(server.input());
    let live = |client, until| lines::live(address, client, input.clone(), until);
    let mut tally = soak(&server, clients, seconds, live).await?;
    let last = |_, until| lines::stay(address, input.clone(), until);
    let stays = wave(clients, Instant::now() + 2 * PATIENCE, last);
    let ending = async {
        sleep(PATIENCE / 6).await;
        input.end();
    };
    tally.add(&join!(stays, ending).0?);
    producer
        .join()
        .map_err(|_| "the producer panicked")?
        .map_err(|error| format!("no input: {error}"))?;
    server.end().await?;
    println!(
        "\n{clients} clients, {} connections, {} lines, {} of them delivered, none lost or doubled; {} closed for being behind",
        tally.connections,
        input.written(),
        tally.notifications,
        tally.behind
    );
    Ok(())
}

/// What clients have seen.
#[derive(Default)]
struct Tally {
    connections: u64,
    notifications: u64,
    late: Duration,
    /// How many were closed for being too far behind.
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

/// The first wave warms the server up: what it has allocated for so many clients once, it may keep.
async fn soak<F>(
    server: &Server,
    clients: u64,
    seconds: Duration,
    live: impl Fn(u64, Instant) -> F,
) -> Result<Tally, String>
where
    F: Future<Output = Result<Tally, String>> + Send + 'static,
{
    Usage::title();
    // Once it has answered, all its threads are there.
    let socket = connect(server.address).await?;
    let mut start = server.usage();
    start.descriptors -= 1;
    leave(socket).await?;
    start.show("at the start");
    let under_load = async |seconds: Duration| {
        let until = Instant::now() + seconds;
        let usage = async {
            sleep_until(until - seconds / 10).await;
            server.usage().show("under load");
        };
        join!(wave(clients, until, &live), usage).0
    };
    under_load(seconds.min(PATIENCE)).await?;
    let before = server.rest(start).await.show("after warm-up");
    let tally = under_load(seconds).await?;
    let after = server.rest(start).await.show("after the soak");
    after.check(start, before)?;
    Ok(tally)
}

/// Lets as many clients come and go until then.
async fn wave<F>(
    clients: u64,
    until: Instant,
    live: impl Fn(u64, Instant) -> F,
) -> Result<Tally, String>
where
    F: Future<Output = Result<Tally, String>> + Send + 'static,
{
    let mut wave = JoinSet::new();
    for client in 0..clients {
        wave.spawn(live(client, until));
    }
    let mut sum = Tally::default();
    while let Some(tally) = wave.join_next().await {
        sum.add(&tally.map_err(|error| error.to_string())??);
    }
    Ok(sum)
}
