//! The contract, tested. `README.md` beside this file has its tables, and the tests that hold each row.

mod common;
mod model;

mod closing;
mod conversation;
mod handshake;
mod lines;
mod pressure;
mod properties;
mod starting;
mod stopping;
