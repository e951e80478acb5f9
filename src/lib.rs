//! Floe: streams in, Iceberg out.
//!
//! Kafka producers and HTTP clients send records; they are durable in one log before they are
//! acknowledged; a tiering task turns them into Parquet and commits Apache Iceberg tables exactly
//! once. Modules in reading order, bottom first; imports go downwards only:
//!
//! - [`types`], [`config`], [`runtime`]: nouns, options, surroundings;
//! - [`record`]: Kafka record batches as bytes;
//! - [`wal`]: the bytes of the log; [`store`]: the state beside it;
//! - [`topic`]: topics and their options;
//! - [`log`]: the stream: appends, reads, retention;
//! - [`schema`]: JSON to Arrow; [`table`]: Arrow to Iceberg snapshots, and the catalog;
//! - [`sink`]: tables of a topic with a mapping of their own;
//! - [`tier`]: stream to table, exactly once;
//! - [`stream`]: event streams over HTTP; [`source`]: URLs whose requests become records; [`auth`]: who may do what;
//! - [`kafka`], [`http`]: how the world talks to it;
//! - [`broker`]: puts the parts together; [`cli`]: the commands.

pub mod config;
pub mod runtime;
pub mod types;

pub mod record;
pub mod store;
pub mod wal;

pub mod topic;

pub mod log;

pub mod schema;
pub mod table;

pub mod sink;

pub mod tier;

pub mod auth;
pub mod source;
pub mod stream;

pub mod http;
pub mod kafka;

pub mod broker;
pub mod cli;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
