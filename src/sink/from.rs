//! Where a new sink begins.

use chrono::{DateTime, SecondsFormat};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Latest time that may be named, milliseconds since 1970: the end of the year 9999.
const MS_MAX: i64 = 253_402_300_799_999;

/// Where a new sink begins: `earliest`, `latest` or a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub enum From {
    /// At the first record that the log has.
    #[default]
    Earliest,
    /// At the next record that is appended.
    Latest,
    /// In each partition at its first record whose timestamp is not before this one, milliseconds
    /// since 1970.
    At(i64),
}

impl From {
    /// Reads a word, an RFC 3339 time, or milliseconds since 1970.
    ///
    /// # Errors
    /// A text that says what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let time = |text: &str| {
            let time = DateTime::parse_from_rfc3339(text).ok()?;
            Some(time.timestamp_millis())
        };
        let at = match text {
            "earliest" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            text => text.parse().ok().or_else(|| time(text)),
        };
        at.filter(|ms| (0..=MS_MAX).contains(ms)).map(Self::At).ok_or_else(|| {
            let shown: String = text.chars().take(100).collect();
            format!(
                "from = {shown:?} is refused: allowed are earliest, latest, an RFC 3339 time, and \
                 milliseconds since 1970"
            )
        })
    }
}

impl TryFrom<Value> for From {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match value {
            Value::String(text) => Self::parse(&text),
            other => Self::parse(&other.to_string()),
        }
    }
}

impl std::convert::From<From> for Value {
    fn from(from: From) -> Self {
        match from {
            From::Earliest => "earliest".into(),
            From::Latest => "latest".into(),
            From::At(ms) => {
                let time = DateTime::from_timestamp_millis(ms).unwrap_or_default();
                time.to_rfc3339_opts(SecondsFormat::Millis, true).into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_start_is_a_word_or_a_time_and_is_read_back_as_it_was() {
        for (given, wanted, shown) in [
            (json!("earliest"), From::Earliest, "earliest"),
            (json!("latest"), From::Latest, "latest"),
            (json!(1_764_180_000_123_i64), From::At(1_764_180_000_123), "2025-11-26T18:00:00.123Z"),
            (json!("1764180000123"), From::At(1_764_180_000_123), "2025-11-26T18:00:00.123Z"),
            (
                json!("2025-11-26T19:00:00+01:00"),
                From::At(1_764_180_000_000),
                "2025-11-26T18:00:00.000Z",
            ),
            (json!(0), From::At(0), "1970-01-01T00:00:00.000Z"),
            (json!(MS_MAX), From::At(MS_MAX), "9999-12-31T23:59:59.999Z"),
        ] {
            let read: From = serde_json::from_value(given.clone()).unwrap();
            assert_eq!(read, wanted, "{given}");
            let told = serde_json::to_value(read).unwrap();
            assert_eq!(told, shown);
            assert_eq!(serde_json::from_value::<From>(told).unwrap(), wanted);
        }
        for bad in [json!("soon"), json!(-1), json!(MS_MAX + 1), json!(1.5), json!(null), json!([])]
        {
            let refused = serde_json::from_value::<From>(bad.clone()).unwrap_err().to_string();
            assert!(refused.contains("allowed are earliest"), "{bad}: {refused}");
        }
    }
}
