//! The program: options, log, limits, listeners, signals, exit status. The server is the library.

mod limits;
mod log;
mod options;
mod signals;

use std::{
    future::pending,
    io::{self, Write},
    process::ExitCode,
};

use tokio::{
    net::TcpListener,
    runtime::Runtime,
    select,
    task::{JoinHandle, spawn_blocking},
};
use tracing::info;
use wspush::{Config, InputEnd, Lines, Notifications, Server, listen};

use crate::{options::Options, signals::Signals};

fn main() -> ExitCode {
    log::start();
    let status = match Options::parse() {
        Ok(options) => run(&options).unwrap_or_else(|error| {
            log::print(format_args!("wspush: {error}\n"));
            ExitCode::FAILURE
        }),
        Err(error) if error.use_stderr() => {
            log::print(error.render());
            ExitCode::from(2)
        }
        Err(help) => {
            // It fails only if standard output is closed or broken.
            let _ = help.print();
            ExitCode::SUCCESS
        }
    };
    log::flush();
    status
}

fn run(options: &Options) -> io::Result<ExitCode> {
    let connections = limits::raise()?;
    let runtime = Runtime::new()?;
    let status = runtime.block_on(serve(options, connections));
    // Dropping it would wait for a host that is still being resolved.
    runtime.shutdown_background();
    status
}

async fn serve(options: &Options, connections: usize) -> io::Result<ExitCode> {
    let mut signals = Signals::install()?;
    let listeners = select! {
        listeners = listen(&options.listen) => listeners?,
        () = signals.recv() => return Ok(ExitCode::SUCCESS),
    };
    announce(&listeners)?;
    let config = options.config(connections);
    let (mut server, input) = start(listeners, config, options)?;
    select! {
        () = signals.recv() => {}
        end = input_end(input) => select! {
            () = server.drain() => return input_status(end),
            () = signals.recv() => {}
        },
    }
    select! {
        () = server.shutdown() => Ok(ExitCode::SUCCESS),
        () = signals.recv() => Ok(ExitCode::FAILURE),
    }
}

/// Logs the address of each listener, and prints its URL for people and for programs that wait for it.
fn announce(listeners: &[TcpListener]) -> io::Result<()> {
    let addresses: io::Result<Vec<_>> = listeners.iter().map(TcpListener::local_addr).collect();
    let addresses = addresses?;
    for address in &addresses {
        info!(%address, "listening");
    }
    // On a thread that nobody waits for: standard output may be full.
    spawn_blocking(move || {
        let mut urls = addresses.iter();
        urls.try_for_each(|address| writeln!(io::stdout(), "ws://{address}/"))
    });
    Ok(())
}

/// Starts the server. With `--stdin`, also returns the task that ends with the input.
fn start(
    listeners: Vec<TcpListener>,
    config: Config,
    options: &Options,
) -> io::Result<(Server, Option<JoinHandle<InputEnd>>)> {
    if options.stdin {
        let (lines, input) = Lines::read(io::stdin(), options.history)?;
        let server = Server::start(listeners, config, move |_, _| Ok(lines.source()));
        return Ok((server, Some(input)));
    }
    let interval = options.interval;
    let server = Server::start(listeners, config, move |_, _| {
        Ok(Notifications::every(interval))
    });
    Ok((server, None))
}

/// Waits for the end of the input, or without one forever.
async fn input_end(input: Option<JoinHandle<InputEnd>>) -> io::Result<InputEnd> {
    match input {
        Some(input) => input.await.map_err(io::Error::other),
        None => pending().await,
    }
}

fn input_status(end: io::Result<InputEnd>) -> io::Result<ExitCode> {
    match end? {
        InputEnd {
            error: Some(error), ..
        } => Err(io::Error::other(format!(
            "standard input can't be read: {error}"
        ))),
        InputEnd { lines: 0, .. } => Err(io::Error::other(
            "standard input ended before the first line; --stdin needs a program that writes lines to it",
        )),
        InputEnd { .. } => Ok(ExitCode::SUCCESS),
    }
}
