//! Listening on every address of a host, with the socket options that connections inherit.

use std::{collections::BTreeSet, fmt, future::Future, io, net::SocketAddr};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream, ToSocketAddrs, lookup_host},
};
use tracing::info;

/// How many connections may wait to be accepted. Clients that find the backlog full retry only after a second. Linux limits
/// it to `net.core.somaxconn`, whose default is the same.
const BACKLOG: u32 = 4096;

/// How many bytes the kernel keeps for a client that doesn't read, and how many that the server hasn't read yet. Linux doubles
/// it (socket(7)) and merges short writes: enough for 1,800 notifications.
const SOCKET_BUFFER: u32 = 16 * 1024;

/// Where connections come from: TCP, or for example TLS over TCP.
pub trait Listener: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Accepts the next connection. Must be cancel safe: a connection that was not returned must not be lost.
    ///
    /// # Errors
    ///
    /// If the client has already left, or if descriptors or memory are short.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;

    /// Called for a connection whose peer timed out. TCP makes the drop that follows send a reset, so that the kernel
    /// doesn't keep unsent data.
    fn reset(_stream: &Self::Stream) {}
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    fn accept(&mut self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send {
        TcpListener::accept(self)
    }

    fn reset(stream: &TcpStream) {
        // It fails only for a socket that is already closed.
        let _ = stream.set_zero_linger();
    }
}

/// Listens on every address that `host` resolves to, for example `localhost:8080`. Skips addresses that this machine
/// doesn't have.
///
/// # Errors
///
/// If the host doesn't resolve, if the machine has none of its addresses, or if listening on one fails otherwise.
pub async fn listen<A: ToSocketAddrs + fmt::Debug>(host: A) -> io::Result<Vec<TcpListener>> {
    let name = format!("{host:?}");
    // A set: a host may have the same address twice.
    let addresses: BTreeSet<SocketAddr> = lookup_host(host)
        .await
        .map_err(|error| with_address(name, &error))?
        .collect();
    listen_on_each(addresses)
}

fn listen_on_each(addresses: BTreeSet<SocketAddr>) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    let mut skipped = Vec::new();
    for address in addresses {
        match listen_on(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) if is_not_available(&error) => skipped.push(with_address(address, &error)),
            Err(error) => return Err(with_address(address, &error)),
        }
    }
    if listeners.is_empty()
        && let Some(error) = skipped.pop()
    {
        return Err(error);
    }
    for error in skipped {
        info!(%error, "skipped: address not available");
    }
    Ok(listeners)
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    // A restarted server can listen again at once.
    socket.set_reuseaddr(true)?;
    // Connections inherit these. Set before listening, the receive buffer also bounds the window.
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_nodelay(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn is_not_available(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

fn with_address(address: impl fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{address}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_the_machine_does_not_have_is_skipped_as_long_as_one_remains() {
        // 192.0.2.1 is for documentation (RFC 5737): no machine has it.
        let [own, foreign] = ["127.0.0.1:0", "192.0.2.1:0"].map(|address| address.parse().unwrap());
        assert_eq!(listen_on_each([foreign, own].into()).unwrap().len(), 1);
        let error = listen_on_each([foreign].into()).unwrap_err().to_string();
        assert!(error.contains("192.0.2.1:0"), "{error}");
    }

    #[tokio::test]
    async fn any_other_failure_is_an_error_even_though_another_address_remains() {
        let [taken, free] = ["127.0.0.1:0", "127.0.0.2:0"].map(|address| address.parse().unwrap());
        let taken = listen_on(taken).unwrap();
        let taken = taken.local_addr().unwrap();
        let error = listen_on_each([taken, free].into()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&taken.to_string()), "{error}");
    }
}
