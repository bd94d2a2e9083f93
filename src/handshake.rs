//! The opening handshake (RFC 6455 §4.2): reading the request, and upgrading the connection or not.

mod guards;
mod head;
mod host;
mod origin;
mod request;
mod response;

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) use self::{head::HandshakeError, response::Response};
pub use self::{host::AllowedHost, origin::AllowedOrigin, request::Request, response::Rejection};
use crate::io::{ActivityStream, write_all};

/// Who may connect.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    pub(crate) allowed_origins: Vec<AllowedOrigin>,
    pub(crate) allowed_hosts: Vec<AllowedHost>,
}

/// Reads the request and answers it with 101, or says how it is to be answered. Returns the request's origin, and what
/// `accept` makes of a request that passes all guards.
pub(crate) async fn upgrade<S, T>(
    stream: &mut ActivityStream<S>,
    peer: SocketAddr,
    policy: &Policy,
    accept: impl FnOnce(&Request<'_>) -> Result<T, Response>,
) -> Result<(Option<String>, T), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let answered = head::read(stream, peer, |request, is_early| {
        let switching = guards::respond(request, is_early, policy)?;
        let accepted = accept(request)?;
        let origin = request.headers("Origin").next().map(response::quote);
        Ok::<_, Response>((switching, origin, accepted))
    });
    let (switching, origin, accepted) = answered.await??;
    write_all(stream, switching.as_bytes()).await?;
    Ok((origin, accepted))
}

/// Waits until a client that is to be refused has sent its request, whatever it is.
pub(crate) async fn discard_request<S: AsyncRead + Unpin>(
    stream: &mut ActivityStream<S>,
    peer: SocketAddr,
) -> Result<(), HandshakeError> {
    head::read(stream, peer, |_, _| ()).await
}
