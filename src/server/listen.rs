//! Listening on every address of a host, with what the connections inherit.

use std::{collections::BTreeSet, fmt, future::Future, io, net::SocketAddr};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream, lookup_host},
};
use tracing::info;

/// How many connections may wait to be accepted. A storm of clients overflows a smaller one, and each then tries
/// again after a second. (Linux cuts it to `net.core.somaxconn`, by default the same.)
const BACKLOG: u32 = 4096;

/// What the kernel may keep for a client that does not read. Linux doubles it (socket(7)), and merges what is short: that
/// is up to 1,800 notifications.
const SEND_BUFFER: u32 = 16 * 1024;

/// Where connections come from: TCP, or what a program puts in its place, such as TLS over it.
pub trait Listener: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Accepts the next connection. Cancel safe: a connection that was not returned is not lost.
    ///
    /// # Errors
    ///
    /// When there is none to be had, for want of descriptors or memory, or since the client has left by then.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;

    /// Has the connection reset when it is dropped, since its peer is gone.
    fn reset(_stream: &Self::Stream) {}
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    fn accept(&mut self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send {
        TcpListener::accept(self)
    }

    fn reset(stream: &TcpStream) {
        // Fails for no socket that could still hold anything back.
        let _ = stream.set_zero_linger();
    }
}

/// Listens on every address that `host`, as in `localhost:8080`, resolves to. An address that this machine does not have is
/// skipped.
///
/// # Errors
///
/// When the host does not resolve, when one of its addresses can't be listened on, or when the machine has none of them.
pub async fn listen(host: &str) -> io::Result<Vec<TcpListener>> {
    // A set, since a host may be listed with one address twice.
    let addresses: BTreeSet<SocketAddr> = lookup_host(host)
        .await
        .map_err(|error| with_address(host, &error))?
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
    // So that the address can be listened on again at once after the server has stopped.
    socket.set_reuseaddr(true)?;
    // Both are inherited by the connections.
    socket.set_send_buffer_size(SEND_BUFFER)?;
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
        // Of RFC 5737, which no machine has.
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
