//! Names and keys of the embedded catalog. Pure.
//!
//! A namespace's key is its levels joined by 0x1F (the separator of the Iceberg REST
//! specification); a table's key is its namespace's key, 0x00, its name. Both are on disk.

use iceberg::{NamespaceIdent, TableIdent};

use crate::table::catalog::Error;

const LEVEL: u8 = 0x1F;
const NAME: u8 = 0x00;

/// Longest level or table name, in bytes.
pub(crate) const NAME_LEN_MAX: usize = 255;
/// Most levels of a namespace.
pub(crate) const LEVELS_MAX: usize = 16;

/// The key of a namespace.
///
/// # Errors
/// [`Error::Invalid`] names what is wrong with the name.
pub(crate) fn namespace_key(namespace: &NamespaceIdent) -> Result<Vec<u8>, Error> {
    if namespace.is_empty() || namespace.len() > LEVELS_MAX {
        return Err(Error::Invalid(format!(
            "a namespace has 1 to {LEVELS_MAX} levels, this one {}",
            namespace.len()
        )));
    }
    for level in namespace.iter() {
        check_name("namespace level", level)?;
    }
    Ok(namespace.join("\u{1F}").into_bytes())
}

/// The key of a table.
///
/// # Errors
/// [`Error::Invalid`] names what is wrong with the name.
pub(crate) fn table_key(table: &TableIdent) -> Result<Vec<u8>, Error> {
    let mut key = tables_prefix(table.namespace())?;
    check_name("table name", table.name())?;
    key.extend_from_slice(table.name().as_bytes());
    Ok(key)
}

/// What the keys of all tables directly in `namespace` start with.
pub(crate) fn tables_prefix(namespace: &NamespaceIdent) -> Result<Vec<u8>, Error> {
    let mut key = namespace_key(namespace)?;
    key.push(NAME);
    Ok(key)
}

/// What the keys of all namespaces below `namespace` start with, at any depth.
pub(crate) fn children_prefix(namespace: Option<&NamespaceIdent>) -> Result<Vec<u8>, Error> {
    let Some(namespace) = namespace else {
        return Ok(Vec::new());
    };
    let mut key = namespace_key(namespace)?;
    key.push(LEVEL);
    Ok(key)
}

/// The namespace with this key.
pub(crate) fn parse_namespace(key: &[u8]) -> Option<NamespaceIdent> {
    let text = std::str::from_utf8(key).ok()?;
    NamespaceIdent::from_strs(text.split(char::from(LEVEL))).ok()
}

/// The table with this key.
pub(crate) fn parse_table(key: &[u8]) -> Option<TableIdent> {
    let split = key.iter().position(|byte| *byte == NAME)?;
    let namespace = parse_namespace(&key[..split])?;
    let name = std::str::from_utf8(&key[split + 1..]).ok()?;
    Some(TableIdent::new(namespace, name.to_owned()))
}

fn check_name(what: &str, name: &str) -> Result<(), Error> {
    let reason = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > NAME_LEN_MAX {
        format!("has {} bytes, more than {NAME_LEN_MAX}", name.len())
    } else if name.chars().any(char::is_control) {
        "has a control character".to_owned()
    } else {
        return Ok(());
    };
    let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    Err(Error::Invalid(format!("{what} {shown:?} {reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(levels: &[&str]) -> NamespaceIdent {
        NamespaceIdent::from_strs(levels).unwrap()
    }

    #[test]
    fn keys_of_nested_namespaces_and_tables_do_not_collide() {
        let nested = TableIdent::new(namespace(&["a", "b"]), "t".into());
        let flat = TableIdent::new(namespace(&["a"]), "t".into());
        let nested_key = table_key(&nested).unwrap();
        assert_eq!(nested_key, b"a\x1Fb\x00t");
        assert!(!nested_key.starts_with(&tables_prefix(flat.namespace()).unwrap()));
        assert_eq!(parse_table(&nested_key), Some(nested));
        assert_eq!(parse_namespace(b"a\x1Fb"), Some(namespace(&["a", "b"])));
    }

    #[test]
    fn names_that_would_break_keys_are_refused() {
        for bad in ["", "a\u{1F}b", "a\0b", "a\nb", &"x".repeat(256)] {
            let table = TableIdent::new(namespace(&["a"]), bad.to_owned());
            assert!(matches!(table_key(&table), Err(Error::Invalid(_))), "{bad:?}");
            assert!(namespace_key(&namespace(&[bad])).is_err(), "{bad:?}");
        }
        let deep: Vec<String> = (0..17).map(|level| level.to_string()).collect();
        assert!(namespace_key(&NamespaceIdent::from_vec(deep).unwrap()).is_err());
        assert!(table_key(&TableIdent::new(namespace(&["ä.b"]), "t t.x/y".into())).is_ok());
    }
}
