//! What most likely went wrong where a body is no JSON: the mistakes that people make with
//! connectors. Pure.

/// Kafka Connect's HTTP sinks without a JSON converter send what Java prints of a map or a struct.
const JAVA: &str = "it looks like a Java toString(): set request.body.format=json (Confluent), or \
                    let JsonConverter or StringConverter give the connector JSON";
/// A batch of which only the separator was set.
const NO_ARRAY: &str = "events with commas between them need [ before and ] after all of them \
                        (batch.prefix and batch.suffix of connectors)";
/// A sender that puts its separator behind each event.
const LAST_COMMA: &str = "a comma must not follow the last event; json=lenient takes it where events are sent to a topic";

/// Longest name before the `=` of a map, bytes.
const NAME_BYTES_MAX: usize = 256;

/// Why no event begins with `rest`; `in_array` where a `[` came before.
pub(super) fn of(rest: &str, in_array: bool) -> Option<&'static str> {
    match rest.as_bytes().first()? {
        b',' if !in_array => Some(NO_ARRAY),
        b']' if in_array => Some(LAST_COMMA),
        _ => is_java(rest.as_bytes()).then_some(JAVA),
    }
}

/// True for what Java prints of a struct or of a map that is not empty: `Struct{a=1}`, `{a=1}`.
pub(super) fn is_java(text: &[u8]) -> bool {
    if text.starts_with(b"Struct{") {
        return true;
    }
    let Some(rest) = text.strip_prefix(b"{") else { return false };
    let window = &rest[..rest.len().min(NAME_BYTES_MAX)];
    let Some(end) = memchr::memchr(b'=', window) else { return false };
    // A name that JSON would have quoted, or that is no name, is another mistake.
    end > 0 && !window[..end].iter().any(|byte| b"\"{}[],:".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mistakes_of_connectors_are_told_apart() {
        for (rest, in_array, wanted) in [
            ("{a=1, b=x}", false, Some(JAVA)),
            ("{a b-c.d={x=1}}", true, Some(JAVA)),
            ("Struct{a=1}", false, Some(JAVA)),
            ("Struct{}", true, Some(JAVA)),
            (",{\"b\":2}", false, Some(NO_ARRAY)),
            ("]", true, Some(LAST_COMMA)),
            ("]", false, None),
            (",1]", true, None),
            ("{\"a=\":", false, None),
            ("{}", false, None),
            ("{=1}", false, None),
            ("{'a':'='}", false, None),
            ("nonsense", false, None),
            ("", true, None),
        ] {
            assert_eq!(of(rest, in_array), wanted, "{rest}");
        }
        let long = format!("{{{}=1}}", "a".repeat(NAME_BYTES_MAX));
        assert_eq!(of(&long, false), None);
    }
}
