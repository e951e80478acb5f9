//! How JSON writes what protobuf has no words for: 64-bit numbers as text, ids in hexadecimal, bytes
//! in base64, `null` for what is not set. Pure. Source: OTLP 1.9, JSON Protobuf Encoding.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{Deserialize, Deserializer, Error, Visitor};

use crate::http::otlp::model;

/// Whole numbers from here on are not exact as doubles.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

const PADDED: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, PADDED);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, PADDED);

/// What is there, or the default where it is `null`.
pub(super) fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// A whole number, as a number or as text. Enumerations are numbers too.
struct Integer<T>(T);

struct IntegerVisitor<T>(PhantomData<T>);

impl<'de, T> Deserialize<'de> for Integer<T>
where
    T: TryFrom<u64> + TryFrom<i64> + FromStr,
{
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(IntegerVisitor(PhantomData)).map(Self)
    }
}

impl<T> Visitor<'_> for IntegerVisitor<T>
where
    T: TryFrom<u64> + TryFrom<i64> + FromStr,
{
    type Value = T;

    fn expecting(&self, into: &mut fmt::Formatter<'_>) -> fmt::Result {
        into.write_str("a whole number, as a number or as text")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        T::try_from(number).map_err(|_| E::custom(format_args!("{number} is out of range")))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        T::try_from(number).map_err(|_| E::custom(format_args!("{number} is out of range")))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        if number.fract() != 0.0 || number.abs() > EXACT_MAX {
            return Err(E::custom(format_args!("{number} is no whole number that is exact")));
        }
        // Whole, and within 53 bits.
        self.visit_i64(number as i64)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(|_| E::custom(format_args!("{text:?} is no whole number in range")))
    }
}

/// A number, or text such as `NaN`.
struct Double(f64);

struct DoubleVisitor;

impl<'de> Deserialize<'de> for Double {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(DoubleVisitor).map(Self)
    }
}

impl Visitor<'_> for DoubleVisitor {
    type Value = f64;

    fn expecting(&self, into: &mut fmt::Formatter<'_>) -> fmt::Result {
        into.write_str("a number, as a number or as text")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<f64, E> {
        Ok(number as f64)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<f64, E> {
        Ok(number as f64)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<f64, E> {
        Ok(number)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<f64, E> {
        match text {
            "NaN" => Ok(f64::NAN),
            "Infinity" => Ok(f64::INFINITY),
            "-Infinity" => Ok(f64::NEG_INFINITY),
            _ => text
                .parse()
                .ok()
                .filter(|number: &f64| number.is_finite())
                .ok_or_else(|| E::custom(format_args!("{text:?} is no number"))),
        }
    }
}

pub(super) fn integer<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64> + TryFrom<i64> + FromStr + Default,
{
    Ok(optional_integer(from)?.unwrap_or_default())
}

pub(super) fn optional_integer<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64> + TryFrom<i64> + FromStr,
{
    let integer: Option<Integer<T>> = Option::deserialize(from)?;
    Ok(integer.map(|integer| integer.0))
}

pub(super) fn integers<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u64>, D::Error> {
    let list: Vec<Integer<u64>> = or_default(from)?;
    Ok(list.into_iter().map(|integer| integer.0).collect())
}

pub(super) fn double<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(optional_double(from)?.unwrap_or_default())
}

pub(super) fn optional_double<'de, D>(from: D) -> Result<Option<f64>, D::Error>
where
    D: Deserializer<'de>,
{
    let double: Option<Double> = Option::deserialize(from)?;
    Ok(double.map(|double| double.0))
}

pub(super) fn doubles<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<f64>, D::Error> {
    let list: Vec<Double> = or_default(from)?;
    Ok(list.into_iter().map(|double| double.0).collect())
}

/// An id: hexadecimal, in either case.
pub(super) fn id<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    let text: String = or_default(from)?;
    hex::decode(&text)
        .map_err(|_| D::Error::custom(format_args!("the id {text:?} is not hexadecimal")))
}

/// `AnyValue` as JSON has it: a member for each kind, of which one is there.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AnyValue {
    string_value: Option<String>,
    bool_value: Option<bool>,
    #[serde(default, deserialize_with = "optional_integer")]
    int_value: Option<i64>,
    #[serde(default, deserialize_with = "optional_double")]
    double_value: Option<f64>,
    array_value: Option<model::ArrayValue>,
    kvlist_value: Option<model::KeyValueList>,
    #[serde(default, deserialize_with = "optional_bytes")]
    bytes_value: Option<Vec<u8>>,
}

impl From<AnyValue> for model::AnyValue {
    fn from(json: AnyValue) -> Self {
        let value = json.string_value.map(model::Value::Text);
        let value = value.or_else(|| json.bool_value.map(model::Value::Bool));
        let value = value.or_else(|| json.int_value.map(model::Value::Int));
        let value = value.or_else(|| json.double_value.map(model::Value::Double));
        let value = value.or_else(|| json.array_value.map(model::Value::Array));
        let value = value.or_else(|| json.kvlist_value.map(model::Value::Map));
        let value = value.or_else(|| json.bytes_value.map(model::Value::Bytes));
        Self { value }
    }
}

/// Base64 in either alphabet, with padding or without.
fn optional_bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<u8>>, D::Error> {
    let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
    let bytes = STANDARD.decode(&text).or_else(|_| URL_SAFE.decode(&text));
    bytes.map(Some).map_err(|_| D::Error::custom("bytesValue is not base64"))
}

#[cfg(test)]
mod tests {
    use crate::http::otlp::model::{LogRecord, Value};
    use crate::http::otlp::points::{HistogramPoint, NumberPoint};

    fn log(json: &str) -> Result<LogRecord, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    fn body(json: &str) -> Option<Value> {
        log(&format!("{{\"body\": {json}}}")).unwrap().body.and_then(|body| body.value)
    }

    #[test]
    fn numbers_come_as_numbers_and_as_text() {
        for (json, wanted) in [
            ("18446744073709551615", u64::MAX),
            ("\"18446744073709551615\"", u64::MAX),
            ("1.5e3", 1_500),
            ("null", 0),
        ] {
            let found = log(&format!("{{\"timeUnixNano\": {json}}}")).unwrap();
            assert_eq!(found.time_unix_nano, wanted, "{json}");
        }
        for json in ["-1", "1.5", "\"x\"", "1e300", "\"\"", "true", "[]"] {
            assert!(log(&format!("{{\"timeUnixNano\": {json}}}")).is_err(), "{json}");
        }
        let refused = log(r#"{"severityNumber": "SEVERITY_NUMBER_INFO"}"#);
        assert!(refused.unwrap_err().contains("whole number"), "enumerations are numbers");
        let point: NumberPoint =
            serde_json::from_str(r#"{"asDouble": "-Infinity", "asInt": "-7"}"#).unwrap();
        assert_eq!((point.as_double, point.as_int), (Some(f64::NEG_INFINITY), Some(-7)));
        let json = r#"{"bucketCounts": ["1", 2], "explicitBounds": [1, "2.5"], "sum": null}"#;
        let point: HistogramPoint = serde_json::from_str(json).unwrap();
        assert_eq!((point.bucket_counts, point.explicit_bounds), (vec![1, 2], vec![1.0, 2.5]));
        assert_eq!(point.sum, None);
    }

    #[test]
    fn ids_are_hexadecimal_and_unknown_members_nothing() {
        let found = log(r#"{"traceId": "0aFF", "spanId": null, "x": {"y": [1]}}"#).unwrap();
        assert_eq!((found.trace_id, found.span_id), (vec![10, 255], Vec::new()));
        assert!(log(r#"{"traceId": "Cv8="}"#).unwrap_err().contains("not hexadecimal"));
        // Only names in camel case count.
        assert_eq!(log(r#"{"trace_id": "0a"}"#).unwrap().trace_id, Vec::<u8>::new());
    }

    #[test]
    fn values_are_of_each_kind() {
        assert_eq!(body(r#"{"stringValue": ""}"#), Some(Value::Text(String::new())));
        assert_eq!(body(r#"{"boolValue": false}"#), Some(Value::Bool(false)));
        assert_eq!(body(r#"{"intValue": "-9"}"#), Some(Value::Int(-9)));
        assert_eq!(body(r#"{"doubleValue": 2}"#), Some(Value::Double(2.0)));
        for json in [r#""-_8=""#, r#""-_8""#, r#""+/8=""#, r#""+/8""#] {
            let wanted = Some(Value::Bytes(vec![251, 255]));
            assert_eq!(body(&format!("{{\"bytesValue\": {json}}}")), wanted, "{json}");
        }
        let list = body(r#"{"arrayValue": {"values": [{"intValue": 1}, {}]}}"#);
        let Some(Value::Array(list)) = list else { panic!("{list:?}") };
        assert_eq!(list.values[0].value, Some(Value::Int(1)));
        assert_eq!(list.values[1].value, None);
        let map = body(r#"{"kvlistValue": {"values": [{"key": "a", "value": {"intValue": 1}}]}}"#);
        let Some(Value::Map(map)) = map else { panic!("{map:?}") };
        assert_eq!(map.values[0].key, "a");
        assert_eq!((body("{}"), body("null")), (None, None));
    }
}
