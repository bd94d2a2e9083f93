//! The contract as a small model: what a client that sends given bytes at given times may hear, and when.
//!
//! Nothing here is taken from the server's code but its entrance, and the model is shared with `fuzz/`.

pub(crate) mod client;
pub(crate) mod conversation;
pub(crate) mod frame;
pub(crate) mod handshake;
pub(crate) mod lines;
pub(crate) mod pipe;
pub(crate) mod script;
