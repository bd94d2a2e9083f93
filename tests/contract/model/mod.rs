//! A small model of the contract: what a client that sends given bytes at given times may receive, and when.
//!
//! It shares no code with the server. `fuzz/` uses it too.

pub(crate) mod client;
pub(crate) mod conversation;
pub(crate) mod frame;
pub(crate) mod handshake;
pub(crate) mod lines;
pub(crate) mod pipe;
pub(crate) mod script;
