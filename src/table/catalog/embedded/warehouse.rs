//! Where tables may lie. Pure: no file is touched.

use std::path::PathBuf;

use iceberg::{NamespaceIdent, TableIdent};

use crate::table::catalog::Error;

/// The folder, as an absolute URI, that holds all tables of the catalog (rules 8.3).
#[derive(Debug, Clone)]
pub(crate) struct Warehouse {
    uri: String,
}

impl Warehouse {
    /// A warehouse at `uri`: `file:///path`, `/path`, `s3://bucket/path`, ...
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not absolute or has `.` or `..` in it.
    pub(crate) fn new(uri: &str) -> Result<Self, Error> {
        Ok(Self { uri: canonical(uri)? })
    }

    /// Its URI, without a slash at the end.
    pub(crate) fn uri(&self) -> &str {
        &self.uri
    }

    /// `location` in canonical form, if it lies below the warehouse.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it does not.
    pub(crate) fn check(&self, location: &str) -> Result<String, Error> {
        let location = canonical(location)?;
        if self.contains(&location) {
            return Ok(location);
        }
        Err(Error::Invalid(format!("location {location} is outside the warehouse {}", self.uri)))
    }

    /// True if `location`, in any spelling, lies below the warehouse.
    pub(crate) fn holds(&self, location: &str) -> bool {
        canonical(location).is_ok_and(|location| self.contains(&location))
    }

    fn contains(&self, canonical: &str) -> bool {
        canonical
            .strip_prefix(&self.uri)
            .is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
    }

    /// Where a table lies if nobody says otherwise: below `base` (a namespace's own location) or
    /// `<warehouse>/<namespace>`. False if the name had to be changed to be a safe path, so that
    /// two names may get the same one.
    pub(crate) fn default_location(
        &self,
        table: &TableIdent,
        base: Option<&str>,
    ) -> (String, bool) {
        let mut exact = true;
        let mut folder = base
            .map_or_else(|| self.namespace_location(table.namespace(), &mut exact), str::to_owned);
        folder.push('/');
        folder.push_str(&safe(table.name(), &mut exact));
        (folder, exact)
    }

    fn namespace_location(&self, namespace: &NamespaceIdent, exact: &mut bool) -> String {
        let mut folder = self.uri.clone();
        for level in namespace.iter() {
            folder.push('/');
            folder.push_str(&safe(level, exact));
        }
        folder
    }
}

/// The path on this machine of a canonical `file:` location.
pub(crate) fn local_path(canonical: &str) -> Option<PathBuf> {
    canonical.strip_prefix("file://").map(PathBuf::from)
}

/// One spelling per place: `file:///p` for `/p` and `file:/p`, `s3://` for `s3a://`, no slash
/// twice or at the end.
fn canonical(location: &str) -> Result<String, Error> {
    let refuse = |reason: &str| Err(Error::Invalid(format!("location {location:?} {reason}")));
    if location.chars().any(char::is_control) {
        return refuse("has a control character");
    }
    let (scheme, rest) = if location.starts_with('/') {
        ("file", location)
    } else if let Some((scheme, rest)) = location.split_once("://") {
        (scheme, rest)
    } else if let Some(rest) = location.strip_prefix("file:") {
        ("file", rest)
    } else {
        return refuse("is not an absolute URI");
    };
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "s3a" | "s3n" => "s3".to_owned(),
        other => other.to_owned(),
    };
    if scheme.is_empty()
        || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    {
        return refuse("has no scheme");
    }
    if scheme == "file" && !rest.starts_with('/') {
        return refuse("is not an absolute path");
    }
    let segments: Vec<&str> = rest.split('/').filter(|segment| !segment.is_empty()).collect();
    if segments.iter().any(|segment| matches!(*segment, "." | "..")) {
        return refuse("has `.` or `..` in it");
    }
    if segments.is_empty() {
        return refuse("has no path");
    }
    let root = if scheme == "file" { "/" } else { "" };
    Ok(format!("{scheme}://{root}{}", segments.join("/")))
}

/// `name` with every character that is not surely safe in a path and a URI replaced by `_`.
fn safe(name: &str, exact: &mut bool) -> String {
    let safe: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "_-.=".contains(c) { c } else { '_' })
        .collect();
    let safe = if safe.starts_with('.') { format!("_{safe}") } else { safe };
    *exact &= safe == name;
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_place_is_one_location() {
        let warehouse = Warehouse::new("file:///var/w/").unwrap();
        assert_eq!(warehouse.uri(), "file:///var/w");
        for inside in ["/var/w/a/t", "file:/var/w/a/t", "file:///var//w/a/t/", "FILE:///var/w/a/t"]
        {
            assert_eq!(warehouse.check(inside).unwrap(), "file:///var/w/a/t", "{inside}");
        }
        for outside in [
            "/var/w",
            "/var/w/",
            "/var/wx/t",
            "/var/w/../t",
            "/var/w/./t",
            "/etc",
            "s3://var/w/t",
            "relative/t",
            "",
            "file://host/var/w/t",
            "/var/w/a\n",
            "://x/y",
        ] {
            assert!(matches!(warehouse.check(outside), Err(Error::Invalid(_))), "{outside}");
            assert!(!warehouse.holds(outside), "{outside}");
        }
        let bucket = Warehouse::new("s3://b/w").unwrap();
        assert_eq!(bucket.check("s3a://b/w/t").unwrap(), "s3://b/w/t");
        assert!(bucket.check("s3://b2/w/t").is_err());
        assert!(Warehouse::new("w").is_err());
        assert!(Warehouse::new("/").is_err());
    }

    #[test]
    fn default_locations_are_safe_paths() {
        let warehouse = Warehouse::new("/w").unwrap();
        let table = |namespace: &[&str], name: &str| {
            TableIdent::new(NamespaceIdent::from_strs(namespace).unwrap(), name.to_owned())
        };
        let plain = warehouse.default_location(&table(&["a", "b"], "t-1.x"), None);
        assert_eq!(plain, ("file:///w/a/b/t-1.x".to_owned(), true));
        let odd = warehouse.default_location(&table(&[".."], "t/ü"), None);
        assert_eq!(odd, ("file:///w/_../t__".to_owned(), false));
        let based = warehouse.default_location(&table(&["a"], "t"), Some("file:///w/elsewhere"));
        assert_eq!(based, ("file:///w/elsewhere/t".to_owned(), true));
    }
}
