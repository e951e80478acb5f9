//! What an answer of a catalog means (rules 4.5).

use serde::Deserialize;

use crate::table::catalog::Error;

/// Longest text of a foreign error that is kept, in bytes.
const MESSAGE_LEN_MAX: usize = 512;

#[derive(Deserialize, Default)]
struct ErrorBody {
    #[serde(default)]
    error: ErrorModel,
}

#[derive(Deserialize, Default)]
struct ErrorModel {
    #[serde(default)]
    message: String,
    #[serde(default, rename = "type")]
    kind: String,
}

/// The error of an answer that is no success. `is_create` tells a name that is taken from a
/// requirement that failed; `path` names what was asked for.
pub(super) fn error(status: u16, body: &[u8], path: &str, is_create: bool) -> Error {
    let ErrorModel { message, kind } =
        serde_json::from_slice::<ErrorBody>(body).unwrap_or_default().error;
    let mut text = format!("{status} {kind} {message}");
    if message.is_empty() {
        text = format!("{status} {}", String::from_utf8_lossy(body));
    }
    let end = text.floor_char_boundary(MESSAGE_LEN_MAX);
    text.truncate(end);
    match status {
        404 if kind.contains("Namespace") => Error::NoSuchNamespace(path.to_owned()),
        404 => Error::NoSuchTable(named(path)),
        409 if is_create => Error::Exists(text),
        409 => Error::Conflict(text),
        401 | 419 | 429 => Error::Unavailable(text),
        408 | 500..=599 => Error::Unknown(text),
        _ => Error::Invalid(format!("the catalog refuses {path}: {text}")),
    }
}

/// The table that a path names; a path of another kind is taken as a name.
fn named(path: &str) -> iceberg::TableIdent {
    let elements: Vec<&str> = path.split('/').collect();
    let after = |word: &str| {
        let place = elements.iter().position(|element| *element == word)?;
        elements.get(place + 1).map(|element| (*element).to_owned())
    };
    let namespace = after("namespaces").unwrap_or_default();
    let levels = namespace.split(super::wire::SEPARATOR).map(str::to_owned).collect();
    let namespace = iceberg::NamespaceIdent::from_vec(levels)
        .unwrap_or_else(|_| iceberg::NamespaceIdent::new(namespace));
    iceberg::TableIdent::new(namespace, after("tables").unwrap_or_else(|| path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "v1/namespaces/streams/tables/t";

    fn of(status: u16) -> Error {
        error(status, br#"{"error":{"message":"no","type":"X","code":1}}"#, PATH, false)
    }

    #[test]
    fn a_conflict_is_definite_and_a_server_error_is_not() {
        assert!(matches!(of(409), Error::Conflict(_)));
        for status in [408, 500, 502, 503, 504] {
            assert!(matches!(of(status), Error::Unknown(_)), "{status}");
        }
        for status in [401, 419, 429] {
            assert!(matches!(of(status), Error::Unavailable(_)), "{status}");
        }
        for status in [400, 403, 406, 422] {
            assert!(matches!(of(status), Error::Invalid(_)), "{status}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let Error::NoSuchTable(ident) = of(404) else { panic!("not a missing table") };
        assert_eq!(ident.to_string(), "streams.t");
        let body = br#"{"error":{"message":"no","type":"NoSuchNamespaceException","code":404}}"#;
        assert!(matches!(error(404, body, PATH, false), Error::NoSuchNamespace(_)));
        assert!(matches!(error(409, b"", PATH, true), Error::Exists(_)));
    }

    #[test]
    fn the_text_of_a_proxy_is_cut() {
        let page = vec![b'<'; 10_000];
        let Error::Unknown(text) = error(502, &page, PATH, false) else { panic!("not unknown") };
        assert_eq!(text.len(), MESSAGE_LEN_MAX);
    }
}
