//! How a request names its table, and the topic behind it. Pure.

use axum::http::HeaderMap;

use crate::http::problem::Problem;

/// Longest namespace and name together, in bytes: the topic's name holds both.
const NAME_BYTES_MAX: usize = 180;

/// What stands where a stream's name would be in the topic of a table without a stream. No stream
/// can have it: it has a dot.
pub(super) const DIRECT: &str = "floe.tables";

/// `catalog.namespace.table` as the sender wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableName {
    /// All of it.
    pub(super) text: String,
    /// Which catalog.
    pub(super) catalog: String,
    /// The namespace, of one level.
    pub(super) namespace: String,
    /// The table's own name.
    pub(super) table: String,
}

impl TableName {
    /// Reads the header `table`, or where that is absent the parameter.
    ///
    /// # Errors
    /// `missing_table_header`, `invalid_table_name`.
    pub(super) fn of(headers: &HeaderMap, parameter: Option<&str>) -> Result<Self, Problem> {
        let missing = || {
            let detail = "the header `table` is missing: send table: catalog.namespace.table";
            Problem::new("missing_table_header", detail)
        };
        let text = match headers.get("table") {
            Some(value) => {
                std::str::from_utf8(value.as_bytes()).map_err(|_| invalid("it is not UTF-8"))?
            }
            None => parameter.ok_or_else(missing)?,
        };
        if text.trim().is_empty() {
            return Err(missing());
        }
        Self::parse(text.trim())
    }

    /// Reads a name.
    ///
    /// # Errors
    /// `invalid_table_name`.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        if text.contains(['`', '"']) {
            return Err(invalid("quoted parts are not understood"));
        }
        let parts: Vec<&str> = text.split('.').collect();
        let [catalog, namespace, table] = parts[..] else {
            return Err(invalid("it must have three parts: catalog.namespace.table"));
        };
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        if parts.iter().any(|part| part.is_empty() || !part.bytes().all(legal)) {
            return Err(invalid("each part must be letters, digits, _ and -"));
        }
        if namespace.len() + table.len() > NAME_BYTES_MAX {
            return Err(invalid("namespace and table have more than 180 characters"));
        }
        let owned = str::to_owned;
        let (catalog, namespace, table) = (owned(catalog), owned(namespace), owned(table));
        Ok(Self { text: text.to_owned(), catalog, namespace, table })
    }

    /// `namespace.table`, as rules and topics name it.
    pub(super) fn short(&self) -> String {
        format!("{}.{}", self.namespace, self.table)
    }

    /// The topic that takes the events of `stream` for this table.
    pub(super) fn topic(&self, stream: &str) -> String {
        format!("{stream}.{}.{}", self.namespace, self.table)
    }
}

fn invalid(why: &str) -> Problem {
    Problem::new("invalid_table_name", format!("the name of the table is refused: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(header: Option<&str>, parameter: Option<&str>) -> Result<String, &'static str> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert("table", header.parse().unwrap());
        }
        let named = TableName::of(&headers, parameter);
        named.map(|name| name.topic("s")).map_err(|problem| problem.code())
    }

    #[test]
    fn a_table_has_three_plain_parts() {
        assert_eq!(of(Some(" floe.events.sales-1 "), None).unwrap(), "s.events.sales-1");
        assert_eq!(of(None, Some("floe.e.t")).unwrap(), "s.e.t");
        assert_eq!(of(Some("a.b.c"), Some("floe.e.t")).unwrap(), "s.b.c");
        for absent in [of(None, None), of(Some(" "), Some("floe.e.t"))] {
            assert_eq!(absent, Err("missing_table_header"));
        }
        let long = format!("a.{}.c", "b".repeat(180));
        for bad in ["a.b", "a.b.c.d", "a..c", "a.`b`.c", "a.b.c d", "a.b.\u{e9}", &long] {
            assert_eq!(of(Some(bad), None), Err("invalid_table_name"), "{bad}");
        }
    }
}
