//! Protobuf or JSON: finding the members of a message by their tag or name, without decoding what is
//! in them, and decoding what is small. Pure.

use std::borrow::Cow;
use std::fmt;

use axum::http::{HeaderMap, header};
use prost::Message;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::http::ingest::split::{self, Form};
use crate::http::otlp::wire::{self, Value};
use crate::http::problem::Problem;

/// A message that is decoded whole takes up to some thirty times its bytes: it may have so many.
pub(super) const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// How a request and its answer are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Protobuf,
    Json,
}

/// A member by its tag and its name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) tag: u32,
    pub(super) name: &'static str,
}

/// A member.
pub(super) const fn member(tag: u32, name: &'static str) -> Member {
    Member { tag, name }
}

fn malformed(detail: impl Into<String>) -> Problem {
    Problem::new("bad_request", detail)
}

fn too_many(limit: usize) -> Problem {
    let detail = format!("a request holds at most http.events.max = {limit} records; send less");
    Problem::new("too_large", detail)
}

impl Encoding {
    /// What the content type says.
    pub(super) fn named(headers: &HeaderMap) -> Option<Self> {
        let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        let essence = kind.split(';').next().unwrap_or_default().trim();
        match essence.to_ascii_lowercase().as_str() {
            "application/x-protobuf" | "application/protobuf" => Some(Self::Protobuf),
            "application/json" => Some(Self::Json),
            _ => None,
        }
    }

    /// The encoding of a request.
    ///
    /// # Errors
    /// `unsupported_media_type`.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let detail = "send content-type application/x-protobuf or application/json";
        Self::named(headers).ok_or_else(|| Problem::new("unsupported_media_type", detail))
    }

    /// Its content type.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
        }
    }

    /// The bytes of some members of a message, of each the last where it is there several times.
    ///
    /// # Errors
    /// `bad_request`: it is no message.
    pub(super) fn pick<const N: usize>(
        self,
        message: &[u8],
        members: [Member; N],
    ) -> Result<[Option<&[u8]>; N], Problem> {
        let mut found = [None; N];
        match self {
            Self::Protobuf => {
                for member in wire::members(message) {
                    let (tag, value) =
                        member.map_err(|_| malformed("the protobuf is malformed"))?;
                    let at = members.iter().position(|member| member.tag == tag);
                    if let (Some(at), Value::Bytes(bytes)) = (at, value) {
                        found[at] = Some(bytes);
                    }
                }
            }
            Self::Json => {
                let mut json = serde_json::Deserializer::from_slice(message);
                let picked = Pick(members).deserialize(&mut json);
                let picked = picked.and_then(|picked| json.end().map(|()| picked));
                let picked = picked.map_err(|error| malformed(error.to_string()))?;
                found = picked.map(|raw| raw.map(|raw| raw.get().as_bytes()));
                found = found.map(|raw| raw.filter(|raw| *raw != b"null"));
            }
        }
        Ok(found)
    }

    /// The bytes of each element of a repeated member, at most `max`.
    ///
    /// # Errors
    /// `bad_request`: it is no message, or the member is no list; `too_large`: there are more.
    pub(super) fn each(
        self,
        message: &[u8],
        member: Member,
        max: usize,
    ) -> Result<Vec<&[u8]>, Problem> {
        match self {
            Self::Protobuf => {
                let mut found = Vec::new();
                for item in wire::members(message) {
                    let (tag, value) = item.map_err(|_| malformed("the protobuf is malformed"))?;
                    match value {
                        Value::Bytes(_) if tag == member.tag && found.len() == max => {
                            return Err(too_many(max));
                        }
                        Value::Bytes(bytes) if tag == member.tag => found.push(bytes),
                        _ => {}
                    }
                }
                Ok(found)
            }
            Self::Json => {
                let [Some(list)] = self.pick(message, [member])? else { return Ok(Vec::new()) };
                if !list.starts_with(b"[") {
                    return Err(malformed(format!("{} is no array", member.name)));
                }
                let split = split::split(list, Form::Json, max);
                match split.errors.first() {
                    Some(error) if error.code == "too_many_events" => Err(too_many(max)),
                    Some(error) => Err(malformed(format!("{}: {}", member.name, error.message))),
                    None => Ok(split.events.into_iter().map(|(_, range)| &list[range]).collect()),
                }
            }
        }
    }

    /// A message, decoded.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn decode<M: Message + Default + DeserializeOwned>(
        self,
        message: &[u8],
    ) -> Result<M, String> {
        match self {
            Self::Protobuf => M::decode(message).map_err(|error| error.to_string()),
            Self::Json => serde_json::from_slice(message).map_err(|error| error.to_string()),
        }
    }
}

/// Takes some members of a JSON object as they are.
struct Pick<const N: usize>([Member; N]);

impl<'de, const N: usize> DeserializeSeed<'de> for Pick<N> {
    type Value = [Option<&'de RawValue>; N];

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Pick<N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, into: &mut fmt::Formatter<'_>) -> fmt::Result {
        into.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            match self.0.iter().position(|member| member.name == name) {
                Some(at) => found[at] = Some(map.next_value::<&RawValue>()?),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::otlp::model::Resource;

    const LIST: Member = member(1, "list");
    const OTHER: Member = member(2, "other");

    #[test]
    fn the_content_type_names_the_encoding() {
        let of = |kind: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            Encoding::of(&headers).map_err(|problem| problem.code())
        };
        assert_eq!(of("application/x-protobuf"), Ok(Encoding::Protobuf));
        assert_eq!(of("application/protobuf"), Ok(Encoding::Protobuf));
        assert_eq!(of("Application/JSON; charset=utf-8"), Ok(Encoding::Json));
        for kind in ["text/plain", "application/grpc", ""] {
            assert_eq!(of(kind), Err("unsupported_media_type"), "{kind}");
        }
    }

    #[test]
    fn members_are_found_by_tag_and_by_name() {
        // list = [0x01], other = "x", list = []
        let protobuf = [0x0a, 1, 1, 0x12, 1, b'x', 0x0a, 0, 0x18, 1];
        let each = Encoding::Protobuf.each(&protobuf, LIST, 2).unwrap();
        assert_eq!(each, [&[1][..], &[]]);
        let [other, last] = Encoding::Protobuf.pick(&protobuf, [OTHER, LIST]).unwrap();
        assert_eq!((other, last), (Some(&b"x"[..]), Some(&[][..])));
        assert_eq!(Encoding::Protobuf.each(&protobuf, LIST, 1).unwrap_err().code(), "too_large");
        let json = br#" {"a": {"list": 1}, "list": [ {"b":1}, 2 ], "other": null} "#;
        let each = Encoding::Json.each(json, LIST, 2).unwrap();
        assert_eq!(each, [&br#"{"b":1}"#[..], b"2"]);
        let found = Encoding::Json.pick(json, [OTHER]).unwrap();
        assert_eq!(found, [None], "null is nothing");
        assert_eq!(Encoding::Json.each(json, LIST, 1).unwrap_err().code(), "too_large");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for (encoding, bytes) in [
            (Encoding::Protobuf, &b"\x0a\x7f"[..]),
            (Encoding::Json, b"[]"),
            (Encoding::Json, b""),
            (Encoding::Json, b"{} x"),
            (Encoding::Json, b"{\"list\": {}}"),
            (Encoding::Json, b"{\"list\": [1,]}"),
        ] {
            let refused = encoding.each(bytes, LIST, 9).unwrap_err();
            assert_eq!(refused.code(), "bad_request", "{bytes:?}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        // Attribute of an array of an array ...: value (2), array (5), values (1).
        let mut value = Vec::new();
        for _ in 0..5_000 {
            for tag in [1, 5] {
                let mut outer = vec![tag << 3 | 2];
                prost::encoding::encode_varint(value.len() as u64, &mut outer);
                outer.append(&mut value);
                value = outer;
            }
        }
        let mut message = vec![0x12];
        prost::encoding::encode_varint(value.len() as u64, &mut message);
        message.append(&mut value);
        let mut resource = vec![0x0a];
        prost::encoding::encode_varint(message.len() as u64, &mut resource);
        resource.append(&mut message);
        let refused = Encoding::Protobuf.decode::<Resource>(&resource).unwrap_err();
        assert!(refused.contains("recursion"), "{refused}");
        let open = r#"{"arrayValue":{"values":["#.repeat(5_000);
        let json = format!("{{\"attributes\":[{{\"key\":\"a\",\"value\":{open}");
        let refused = Encoding::Json.decode::<Resource>(json.as_bytes()).unwrap_err();
        assert!(refused.contains("recursion"), "{refused}");
    }
}
