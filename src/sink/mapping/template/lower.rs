//! Templates that are nothing but `Body("path")` or `Body("path", default)`, as paths. Pure.

use serde_json::Value;

use crate::sink::mapping::path::Path;

/// What such a template asks for.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::sink::mapping) struct Lowered {
    /// The path.
    pub(in crate::sink::mapping) path: String,
    /// What is taken where it leads nowhere.
    pub(in crate::sink::mapping) default: Option<Value>,
}

/// None for any other template. Literals are strings without escapes, whole numbers, `true`,
/// `false` and `null`.
pub(in crate::sink::mapping) fn lower(content: &str) -> Option<Lowered> {
    let call = content.trim().strip_prefix("Body")?.trim_start();
    let arguments = call.strip_prefix('(')?.strip_suffix(')')?;
    let (path, rest) = string(arguments.trim_start())?;
    Path::parse(path).ok()?;
    let rest = rest.trim();
    let default = match rest.strip_prefix(',') {
        Some(literal) => Some(value(literal.trim())?),
        None if rest.is_empty() => None,
        None => return None,
    };
    Some(Lowered { path: path.to_owned(), default })
}

/// A string literal at the start of `text`, and what follows it.
fn string(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|first| ['"', '\''].contains(first))?;
    let (inner, rest) = text[1..].split_once(quote)?;
    (!inner.contains('\\')).then_some((inner, rest))
}

fn value(text: &str) -> Option<Value> {
    match text {
        "true" => return Some(true.into()),
        "false" => return Some(false.into()),
        "null" => return Some(Value::Null),
        _ => {}
    }
    if let Some((inner, "")) = string(text) {
        return Some(inner.into());
    }
    let number: i32 = text.parse().ok()?;
    (number.to_string() == text).then(|| number.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_plain_calls_become_paths() {
        let lowered =
            |path: &str, default: Option<Value>| Lowered { path: path.to_owned(), default };
        for (content, found) in [
            ("Body('a.b')", lowered("a.b", None)),
            (" Body ( \"a[0]\" ) \n", lowered("a[0]", None)),
            ("Body('', 'x \"y')", lowered("", Some(json!("x \"y")))),
            ("Body('a', -7)", lowered("a", Some(json!(-7)))),
            ("Body('a',null)", lowered("a", Some(Value::Null))),
            ("Body('a', true)", lowered("a", Some(json!(true)))),
        ] {
            assert_eq!(lower(content), Some(found), "{content}");
        }
        for content in [
            "Body()",
            "Body(path='a')",
            "Body('a') + Body('b')",
            "Body('a' + 'b')",
            "Body('a\\u0041')",
            "Body('a', 1.50)",
            "Body('a', 007)",
            "Body('a', [])",
            "Body('a',)",
            "Body('a[b]')",
            "Body('a', 'b', 'c')",
            "Body('a') // that's it)",
            "BodyStr()",
            "Header('a')",
        ] {
            assert_eq!(lower(content), None, "{content}");
        }
    }
}
