//! JSON to Arrow, driven by the schema, lossless, without a tree in between.
//!
//! Owns: the tokenizer ([`lexer`]), exact numbers ([`number`]), the decoder ([`decode`]) with its
//! builders, objects for a schema that is a contract ([`contract`]), and the types of fields that have no
//! column yet ([`infer`]). Does not own: what the
//! columns are ([`crate::schema::columns`]).

mod builders;
pub mod contract;
pub mod decode;
pub mod infer;
mod leftover;
pub mod lexer;
#[cfg(any(test, fuzzing))]
pub(crate) mod lossless;
pub mod number;
mod temporal;
#[cfg(test)]
mod tests;
mod values;
