//! A WebSocket server that pushes notifications to every client that says `start`.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`options`] | the command line and its environment variables |
//! | [`server::listen`] | listening on every address of a host |
//! | [`server`] | accepting, refusing, the drain |
//! | `failures` | telling of accepts that fail |
//! | `server::limits` | how many connections the server takes, and each worker |
//! | `workers` | the threads that serve connections |
//! | [`connection`] | one connection from its first byte to its last, and its log lines |
//! | `handshake::request` | reading the request |
//! | `handshake` | which request is upgraded, and which is refused |
//! | `handshake::refusal` | the answers to what is refused |
//! | `handshake::page` | what a browser that opens the server's URL is shown: a live client |
//! | `handshake::origin` | which browser origins may connect |
//! | `session` | the conversation |
//! | `session::close` | the ways a connection ends, and the close code of each |
//! | `session::keepalive` | when a silent client is asked whether it is there |
//! | [`notifications`] | what is pushed, and when |
//! | `timed`, `io` | writing in bounded time; closing without losing the last word |
//!
//! The program around it has three more: `main` starts and ends it, `log` writes to standard error, `signals` knows the
//! signals.

pub mod connection;
mod failures;
mod handshake;
mod io;
pub mod notifications;
pub mod options;
pub mod server;
mod session;
mod workers;

pub use handshake::{AllowedHost, AllowedOrigin, Request};
