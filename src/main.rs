//! The program: options, log, limits, listeners, signals, exit status. The server is the library.

mod limits;
mod log;
mod options;
mod signals;
mod token;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use futures_util::future::OptionFuture;
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    select,
    task::{JoinError, JoinHandle, spawn_blocking},
};
use tracing::info;
use wspush::{Config, InputEnd, Lines, Notifications, Server, http::Request, listen};

use crate::{limits::Limits, options::Options, signals::Signals};

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
    let limits = limits::raise()?;
    let runtime = Runtime::new()?;
    let status = runtime.block_on(serve(options, limits));
    // Dropping it would wait for a host that is still being resolved.
    runtime.shutdown_background();
    status
}

async fn serve(options: &Options, limits: Limits) -> io::Result<ExitCode> {
    let mut signals = Signals::install()?;
    let listeners = select! {
        listeners = listen(&options.listen) => listeners.map_err(|error| {
            io::Error::other(format!("{error}; choose another address with --listen"))
        })?,
        () = signals.recv() => return Ok(ExitCode::SUCCESS),
    };
    announce(&listeners, options.token.is_some())?;
    let config = options.config(limits);
    let (mut server, input) = start(listeners, config, options)?;
    select! {
        () = signals.recv() => {}
        Some(end) = OptionFuture::from(input) => select! {
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
fn announce(listeners: &[TcpListener], token_required: bool) -> io::Result<()> {
    let addresses: io::Result<Vec<_>> = listeners.iter().map(TcpListener::local_addr).collect();
    let addresses = addresses?;
    for address in &addresses {
        info!(%address, token_required, "listening");
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
    let token = options.token.clone();
    let check = move |request: &Request<()>| match &token {
        Some(token) => token.check(request),
        None => Ok(()),
    };
    if options.stdin {
        let (lines, input) = Lines::read(io::stdin(), options.history)?;
        let new_source = move |request: &_, _| check(request).map(|()| lines.source());
        return Ok((Server::start(listeners, config, new_source), Some(input)));
    }
    let interval = options.interval;
    let new_source = move |request: &_, _| check(request).map(|()| Notifications::every(interval));
    Ok((Server::start(listeners, config, new_source), None))
}

fn input_status(end: Result<InputEnd, JoinError>) -> io::Result<ExitCode> {
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
