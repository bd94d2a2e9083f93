//! A WebSocket server that pushes notifications to every client that says `start`.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`options`] | the command line and its environment variables |
//! | [`listening`] | listening on every address of a host |
//! | [`server`] | accepting, refusing, the drain |
//! | `failures` | telling of accepts that fail |
//! | `limits` | how many connections the server takes, and each worker |
//! | `workers` | the threads that serve connections |
//! | [`connection`] | one connection from its first byte to its last, and its log lines |
//! | `head` | reading the request |
//! | `handshake` | which request is upgraded, and which is refused |
//! | `refusal` | the answers to what is refused |
//! | `page` | what a browser that opens the server's URL is shown: a live client |
//! | `origin` | which browser origins may connect |
//! | `session` | the conversation |
//! | `end` | the ways a connection ends, and the close code of each |
//! | `liveness` | when a silent client is asked whether it is there |
//! | [`notifications`] | what is pushed, and when |
//! | `timed`, `linger` | writing in bounded time; closing without losing the last word |
//!
//! The program around it has three more: `main` starts and ends it, `log` writes to standard error, `shutdown` knows the
//! signals.

pub mod connection;
mod end;
mod failures;
mod handshake;
mod head;
mod limits;
mod linger;
pub mod listening;
mod liveness;
pub mod notifications;
pub mod options;
mod origin;
mod page;
mod refusal;
pub mod server;
mod session;
mod timed;
mod workers;

pub use origin::AllowedOrigin;
