//! A WebSocket server that pushes notifications to every client that says `start`.
//!
//! A connection passes three rooms, one after the other, and what it is sent comes from a fourth. Each knows only those
//! below it:
//!
//! | module | what lives there |
//! | --- | --- |
//! | `server` | [`Server`]: listening, accepting, limits, the drain |
//! | `connection` | one connection from its first byte to its last, and its log lines |
//! | `handshake` | which request is upgraded, and which gets another answer |
//! | `session` | the conversation: its `select!` loop, keepalive, close codes |
//! | `notifications` | [`Source`]: what is pushed, and when: [`Notifications`] by a timer, [`Lines`] of an input |
//! | `config` | [`Config`]: the settings, and which hosts and origins they let in |
//! | `io` | the socket under both: activity, bounded writes, the lingering close |
//!
//! The program around it adds `main`, `options`, `limits`, `log`, `output` and `signals`.
//!
//! ```
//! use std::time::Duration;
//!
//! use futures_util::{SinkExt, StreamExt};
//! use wspush::{Config, Notifications, Server, listen};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let listeners = listen("127.0.0.1:0").await?;
//! let url = format!("ws://{}/", listeners[0].local_addr()?);
//! let server = Server::start(listeners, Config::default(), |_request, _peer| {
//!     Ok(Notifications::every(Duration::from_secs(2)))
//! });
//!
//! let stream = tokio::net::TcpStream::connect(&url[5..url.len() - 1]).await?;
//! let (mut client, _) = tokio_tungstenite::client_async(url, stream).await?;
//! client.send("start".into()).await?;
//! let message = client.next().await.ok_or("no message")??;
//! assert_eq!(message.to_text()?, "Notification 1");
//!
//! client.close(None).await?;
//! server.shutdown().await;
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
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
