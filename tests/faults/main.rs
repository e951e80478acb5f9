//! What goes wrong, in this process: power loss, lost state, damaged files, foreign commits,
//! poison. `kill -9` of the real binary is in `protocol-tests`.

#![allow(clippy::unwrap_used, reason = "a test may unwrap")]
#![allow(clippy::disallowed_methods, reason = "the end of a life ends its tasks")]

mod harness;
mod http;
mod moved;
mod power;
mod state;
mod tables;
