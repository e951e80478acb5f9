//! The header `Prefer` (RFC 7240): `respond-async`, `wait`, `handling=lenient`,
//! `return=minimal`. What is not known is ignored, as the RFC says. Pure.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName};

/// What a sender would like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Prefer {
    /// An answer before the events are stored.
    pub(crate) is_async: bool,
    /// How long it would wait.
    pub(crate) wait: Option<Duration>,
    /// Valid events are stored without the invalid ones.
    pub(crate) lenient: bool,
    /// An answer without a body.
    pub(crate) minimal: bool,
}

impl Prefer {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        const PREFER: HeaderName = HeaderName::from_static("prefer");
        let mut prefer = Self::default();
        let values = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
        for preference in values.flat_map(|value| value.split(',')) {
            // Parameters of a preference come after a semicolon; none of ours has any.
            let preference = preference.split(';').next().unwrap_or_default();
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            let value = value.trim().trim_matches('"');
            match (name.trim().to_ascii_lowercase().as_str(), value) {
                ("respond-async", _) => prefer.is_async = true,
                ("wait", seconds) => prefer.wait = seconds.parse().ok().map(Duration::from_secs),
                ("handling", "lenient") => prefer.lenient = true,
                ("return", "minimal") => prefer.minimal = true,
                _ => {}
            }
        }
        prefer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferences_are_found_in_one_header_and_in_several() {
        let mut headers = HeaderMap::new();
        assert_eq!(Prefer::of(&headers), Prefer::default());
        headers.append("prefer", "Respond-Async; x=1, wait = 10".parse().unwrap());
        headers
            .append("prefer", "handling=lenient,return=\"minimal\", priority=5".parse().unwrap());
        let wait = Some(Duration::from_secs(10));
        let wanted = Prefer { is_async: true, wait, lenient: true, minimal: true };
        assert_eq!(Prefer::of(&headers), wanted);
        headers.insert("prefer", "wait=soon, handling=strict".parse().unwrap());
        assert_eq!(Prefer::of(&headers), Prefer::default());
    }
}
