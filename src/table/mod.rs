//! THE TABLE: Arrow in, snapshots out. Knows Iceberg, not Kafka.
//!
//! Owns: how a data file is written and measured ([`sink`]), how a snapshot is put together
//! ([`snapshot`]), which snapshots and files go ([`maintenance`]), where files lie ([`storage`]),
//! which changes of a table are legal ([`catalog`]). Does not own: what the rows mean, when a
//! commit is due, or the ledger of commits.

mod blocking;
pub mod catalog;
pub mod commit;
pub mod maintenance;
pub mod sink;
pub mod snapshot;
pub mod spec;
pub mod storage;
#[cfg(test)]
pub(crate) mod testing;

pub use spec::{AddedFile, data_file_location, default_properties};

/// Why work on a table's files did not succeed; callers act by variant.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of this name is there already and is never overwritten (rules 4.6).
    #[error("file {0} exists already")]
    Exists(String),
    /// The storage failed; nothing that a table refers to was changed. Try again later.
    #[error("storage: {}", plain(&.0.to_string()))]
    Storage(#[source] iceberg::Error),
    /// Rows could not be encoded; the same rows fail again.
    #[error("rows cannot be encoded: {0}")]
    Encode(String),
    /// Encoding panicked; the same rows may panic again (rules 4.9).
    #[error("encoding panicked: {0}")]
    Panicked(String),
    /// Files that were to be removed are no longer part of the table: reload and plan anew.
    #[error("{} files to remove are no longer live, first {}", .0.len(), first(.0))]
    NotLive(Vec<String>),
    /// The request or the table's metadata does not allow it; it can never succeed.
    #[error("{0}")]
    Invalid(String),
}

fn first(paths: &[String]) -> &str {
    paths.first().map_or("", String::as_str)
}

/// Longest text of a storage error, in bytes.
const PLAIN_LEN_MAX: usize = 300;

/// The text of a storage library's error without its dump of the request, in one line.
fn plain(text: &str) -> String {
    let mut rest = text;
    let mut short = String::new();
    while let Some(at) = rest.find("context: {") {
        short.push_str(&rest[..at]);
        let mut depth = 0_usize;
        let end = rest[at..].char_indices().find(|(_, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => return false,
            }
            depth == 0
        });
        rest = end.map_or("", |(length, _)| &rest[at + length + 1..]);
    }
    short.push_str(rest);
    let mut line = short.split_whitespace().collect::<Vec<_>>().join(" ");
    line.truncate(line.floor_char_boundary(PLAIN_LEN_MAX));
    line
}

impl Error {
    /// Sorts an error of the `iceberg` crate into what a caller does about it.
    pub(crate) fn from_iceberg(error: iceberg::Error) -> Self {
        match error.kind() {
            iceberg::ErrorKind::PreconditionFailed => Self::Exists(error.message().to_owned()),
            iceberg::ErrorKind::DataInvalid | iceberg::ErrorKind::FeatureUnsupported => {
                Self::Invalid(error.to_string())
            }
            _ => Self::Storage(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storage_error_is_one_short_line() {
        let dump = "Unexpected => write\nfailed, source: Unexpected (persistent) at write, \
                    context: { uri: http://x/{y}, response: Parts { status: 404 } } => S3Error: \
                    NoSuchBucket";
        assert_eq!(
            plain(dump),
            "Unexpected => write failed, source: Unexpected (persistent) at write, => S3Error: \
             NoSuchBucket"
        );
        assert_eq!(plain("context: { unclosed"), "");
        assert!(plain(&"é".repeat(999)).len() <= PLAIN_LEN_MAX);
    }
}
