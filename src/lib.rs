//! A WebSocket push server: clients connect, say `start`, and receive notifications from then on, while the server goes on
//! listening.
//!
//! [`Server::start`] serves each client from a [`Source`] that a closure makes from the client's handshake:
//!
//! ```no_run
//! use std::time::Duration;
//! use wspush::{Config, Notifications, Server, listen};
//!
//! #[tokio::main]
//! async fn main() -> std::io::Result<()> {
//!     let listeners = listen("localhost:8080").await?;
//!     let server = Server::start(listeners, Config::default(), |_request, _peer| {
//!         Ok(Notifications::every(Duration::from_secs(2)))
//!     });
//!     tokio::signal::ctrl_c().await?;
//!     server.shutdown().await;
//!     Ok(())
//! }
//! ```
//!
//! # A source of your own
//!
//! Any [`Stream`](futures_util::Stream) of `Result<Notification, CloseFrame>` is a source. The server polls it from the
//! client's `start` on. Its end closes the connection with 1000, and an error with the Close frame. [`Lines`] pushes the lines
//! of a reader. To learn when a client stops reading, implement [`Source`] yourself.
//!
//! ```
//! use futures_util::stream;
//! use wspush::{CloseCode, CloseFrame, Notification, Source};
//!
//! fn countdown() -> impl Source {
//!     let away = CloseFrame { code: CloseCode::Away, reason: "lift-off".into() };
//!     let numbers = (1..=3).rev().map(|number| Ok(Notification::new(&number.to_string())));
//!     stream::iter(numbers.chain([Err(away)]))
//! }
//! ```
//!
//! # Rejecting a client
//!
//! The closure sees the request and may [`refuse`] it:
//!
//! ```
//! use std::{net::SocketAddr, time::Duration};
//! use wspush::{Notifications, Refusal, http::{Request, StatusCode}, refuse};
//!
//! fn new_source(request: &Request<()>, _peer: SocketAddr) -> Result<Notifications, Refusal> {
//!     match request.uri().path() {
//!         "/fast" => Ok(Notifications::every(Duration::from_secs(1))),
//!         _ => Err(refuse(StatusCode::NOT_FOUND, "There is only /fast.")),
//!     }
//! }
//! ```

mod config;
mod connection;
mod handshake;
mod io;
mod notifications;
mod server;
mod session;

pub use config::{AllowedHost, AllowedOrigin, Config};
pub use handshake::{Refusal, refuse};
pub use notifications::{
    CloseCode, CloseFrame, InputEnd, Lines, LinesSource, Notification, Notifications, Source,
};
pub use server::{Listener, Server, listen};
pub use tokio_tungstenite::tungstenite::http;

/// The README's Rust must compile too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
