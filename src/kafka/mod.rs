//! THE WIRE: the Kafka protocol as stock clients speak it.
//!
//! Owns: listeners, connections, framing, the request guard, envelopes, versions, error codes, and
//! one handler per API. Does not own: tokens and rules (`auth`), offsets and durability (`log`), topics and their options
//! (`topic`), the layout of record batches (`record`). It never sees a table.
//!
//! Reading order: [`server`] accepts, [`connection`] frames and orders, [`dispatch`] checks version
//! ([`api`]) and lengths ([`guard`]), a `handler` answers, [`codec`] encodes.

pub mod api;
pub(crate) mod codec;
mod connection;
pub(crate) mod dispatch;
pub mod error_code;
mod fault;
mod fetch_response;
pub(crate) mod guard;
mod half_frames;
mod handler;
mod memory;
mod options;
pub(crate) mod sasl;
mod server;

pub use dispatch::Deps;
pub use options::Options;
pub use server::{KafkaServer, Listener};
