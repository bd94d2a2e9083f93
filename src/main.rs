//! The program: options, log, limits, listeners, signals, exit status. The server itself is the library.

mod limits;
mod log;
mod options;
mod signals;

use std::{
    future::pending,
    io::{self, Write},
    net::SocketAddr,
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
    if let Err(error) = log::start() {
        let error = limits::too_few_threads(&error);
        // Not eprintln!, which panics when standard error is broken.
        let _ = writeln!(io::stderr(), "wspush: {error}");
        return ExitCode::FAILURE;
    }
    let status = match Options::parse() {
        Ok(options) => run(&options).unwrap_or_else(|error| {
            // One line, whatever the host's name holds.
            let error = error.to_string().replace(['\n', '\r'], " ");
            log::print(format_args!("wspush: {error}\n"));
            ExitCode::FAILURE
        }),
        Err(error) if error.use_stderr() => {
            log::print(error.render());
            ExitCode::from(2)
        }
        Err(help) => {
            // Whoever closed standard output does not want it.
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
    let addresses: Vec<_> = listeners
        .iter()
        .map(TcpListener::local_addr)
        .collect::<io::Result<_>>()?;
    let config = options.config(connections);
    let (mut server, input) = start(listeners, config, options)?;
    announce(addresses);
    select! {
        () = signals.recv() => {}
        end = ended(input) => select! {
            () = server.finish() => return input_status(end),
            () = signals.recv() => {}
        },
    }
    select! {
        () = server.shutdown() => Ok(ExitCode::SUCCESS),
        () = signals.recv() => Ok(ExitCode::FAILURE),
    }
}

/// Starts the server, and with `--stdin` the reading of the input, whose end is returned.
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

/// Waits for the end of the input, if one is read.
async fn ended(input: Option<JoinHandle<InputEnd>>) -> io::Result<InputEnd> {
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

/// Prints the URL of each listener, for people and for programs that wait for it.
fn announce(addresses: Vec<SocketAddr>) {
    for address in &addresses {
        info!(%address, "listening");
    }
    // In a thread of its own, which is not waited for: nobody may be reading it.
    spawn_blocking(move || {
        let mut urls = addresses.iter();
        urls.try_for_each(|address| writeln!(io::stdout(), "ws://{address}/"))
    });
}
