//! The program: options, log, descriptor limit, listeners, signals, exit status. The server itself is the library.

mod log;
mod signals;

use std::{
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
};

use clap::Parser;
use tokio::{net::TcpListener, runtime, select};
use tracing::{info, warn};
use wspush::{notifications::Notifications, options::Options, server::listen::listen, server::run};

use crate::signals::Signals;

fn main() -> ExitCode {
    let options = Options::parse();
    let _log = log::start();
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        warn!(%error, "can't raise the file-descriptor limit");
    }
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(serve(&options))) {
        Ok(status) => status,
        Err(error) => {
            // Not eprintln!, which panics when standard error is broken.
            let _ = writeln!(io::stderr(), "wspush: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(options: &Options) -> io::Result<ExitCode> {
    let listeners = listen(&options.listen).await?;
    // Not before, so that a signal ends a program that still waits for the host's addresses.
    let [mut first, mut both] = [Signals::install()?, Signals::install()?];
    let addresses: Vec<_> = listeners
        .iter()
        .map(TcpListener::local_addr)
        .collect::<io::Result<_>>()?;
    let interval = options.interval;
    let source = move || Notifications::every(interval);
    let serving = run(listeners, options, source, first.recv())?;
    announce(&addresses);
    let second_signal = async {
        both.recv().await;
        both.recv().await;
    };
    select! {
        () = serving => Ok(ExitCode::SUCCESS),
        () = second_signal => Ok(ExitCode::FAILURE),
    }
}

/// Prints the URL of each listener, for people and for programs that wait for it.
fn announce(addresses: &[SocketAddr]) {
    for address in addresses {
        info!(%address, "listening");
        // Standard output may be closed.
        let _ = writeln!(io::stdout(), "ws://{address}/");
    }
}
