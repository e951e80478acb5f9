//! What a location says: which kind of storage, and the local path.

use std::path::PathBuf;

use iceberg::{Error, ErrorKind};

/// Kinds of storage that a location can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `file:///...`, `file:/...` or an absolute path.
    Local,
    /// `s3://...`, `s3a://...` or `s3n://...`.
    S3,
}

/// The kind of storage of `location`; none if it is not known or not absolute.
pub fn scheme(location: &str) -> Option<Scheme> {
    if location.starts_with('/') || location.starts_with("file:/") {
        return Some(Scheme::Local);
    }
    let (scheme, rest) = location.split_once("://")?;
    match scheme {
        "s3" | "s3a" | "s3n" if !rest.is_empty() && !rest.starts_with('/') => Some(Scheme::S3),
        _ => None,
    }
}

/// Refuses a location that no storage can serve.
///
/// # Errors
/// What is allowed.
pub fn check_location(location: &str) -> Result<(), String> {
    let allowed = || "it must be an absolute path, file:///PATH or s3://BUCKET/PREFIX".to_owned();
    match scheme(location) {
        Some(Scheme::Local) => local_path(location).map(|_| ()).map_err(|_| allowed()),
        Some(Scheme::S3) => Ok(()),
        None => Err(allowed()),
    }
}

/// The path of a local location. Nothing is unescaped: Iceberg's locations are opaque text.
pub(super) fn local_path(location: &str) -> iceberg::Result<PathBuf> {
    let path = match location.strip_prefix("file:") {
        // `file://host/...` would be another machine's file.
        Some(rest) => rest.strip_prefix("//").unwrap_or(rest),
        None => location,
    };
    if !path.starts_with('/') || path.contains('\0') {
        return Err(Error::new(
            ErrorKind::FeatureUnsupported,
            format!("location {location:?} is not an absolute local path"),
        ));
    }
    Ok(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_locations_come_in_three_forms() {
        for location in ["/w/a b/%20", "file:/w/a b/%20", "file:///w/a b/%20"] {
            assert_eq!(local_path(location).unwrap(), PathBuf::from("/w/a b/%20"), "{location}");
            assert_eq!(scheme(location), Some(Scheme::Local));
        }
        for location in ["w/a", "file://host/a", "file:a", "s3://b/a", "", "/a\0b"] {
            assert!(local_path(location).is_err(), "{location}");
        }
        for (location, good) in
            [("/w", true), ("s3://b/w", true), ("file://host/w", false), ("w", false), ("", false)]
        {
            assert_eq!(check_location(location).is_ok(), good, "{location}");
        }
        assert_eq!(scheme("s3://bucket/w"), Some(Scheme::S3));
        assert_eq!(scheme("s3a://bucket/w"), Some(Scheme::S3));
        for location in ["s3://", "s3:///w", "gs://b/w", "w", "hdfs://x/y"] {
            assert_eq!(scheme(location), None, "{location}");
        }
    }
}
