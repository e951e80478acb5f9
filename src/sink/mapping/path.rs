//! Paths into JSON such as `issue.labels[0].id`, and where they lead in a text. Pure.
//!
//! A path is names divided by dots and numbers in brackets; the empty one is the whole text. In an
//! array a name that is a number counts as one, and the other way round in an object. Of a name
//! that an object has twice the last one counts.

use std::ops::Range;

use crate::schema::json::lexer;
use crate::schema::json::lexer::DEPTH_MAX;
use crate::schema::json::lexer::Lexer;

/// Longest path, in bytes.
pub const PATH_LEN_MAX: usize = 1_024;
/// Most names and numbers of a path.
const STEPS_MAX: usize = 100;

/// A path that is none; the text says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PathError(&'static str);

/// Where a value stands in a JSON text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Path(Vec<Step>);

/// A member's name, or an index if it is a number without zeros before it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    name: Box<str>,
    index: Option<usize>,
}

impl Step {
    fn new(name: &str) -> Self {
        let is_plain = name == "0" || !name.starts_with(['0', '+']);
        let index = name.parse().ok().filter(|_| is_plain);
        Self { name: name.into(), index }
    }
}

impl Path {
    /// Reads a path. Empty names (`a..b`) count as not there.
    ///
    /// # Errors
    /// [`PathError`] for brackets around anything but a number, and for a path above
    /// [`PATH_LEN_MAX`] or 100 parts.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.len() > PATH_LEN_MAX {
            return Err(PathError("the path is longer than 1024 bytes"));
        }
        let mut steps = Vec::new();
        for part in text.split('.') {
            let (name, mut rest) = part.split_at(part.find('[').unwrap_or(part.len()));
            if !name.is_empty() {
                steps.push(Step::new(name));
            }
            while let Some(inner) = rest.strip_prefix('[') {
                let (number, after) = inner
                    .split_once(']')
                    .ok_or(PathError("a bracket of the path is not closed"))?;
                if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(PathError("only a number may stand in brackets"));
                }
                let number = number.trim_start_matches('0');
                steps.push(Step::new(if number.is_empty() { "0" } else { number }));
                rest = after;
            }
            if !rest.is_empty() {
                return Err(PathError("a dot is missing after a bracket"));
            }
        }
        if steps.len() > STEPS_MAX {
            return Err(PathError("the path has more than 100 parts"));
        }
        Ok(Self(steps))
    }

    /// True if `name` as a path is one name, and that one.
    pub fn is_one_name(name: &str) -> bool {
        let path = Self::parse(name);
        path.is_ok_and(|Self(steps)| matches!(&steps[..], [step] if &*step.name == name))
    }
}

/// Paths that are looked up together, in one walk over a text.
#[derive(Debug)]
pub struct Paths {
    /// The first one is the root.
    nodes: Vec<Node>,
    count: usize,
}

/// What some paths have in common so far.
#[derive(Debug, Default)]
struct Node {
    children: Vec<(Step, usize)>,
    /// Numbers of the paths that end here.
    ends: Vec<usize>,
}

impl Paths {
    /// Takes paths; their numbers count from 0.
    pub fn new<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Self {
        let mut all = Self { nodes: vec![Node::default()], count: 0 };
        for path in paths {
            let mut at = 0;
            for step in &path.0 {
                let known = all.nodes[at].children.iter().find(|(other, _)| other == step);
                at = match known {
                    Some((_, child)) => *child,
                    None => {
                        all.nodes.push(Node::default());
                        let child = all.nodes.len() - 1;
                        all.nodes[at].children.push((step.clone(), child));
                        child
                    }
                };
            }
            all.nodes[at].ends.push(all.count);
            all.count += 1;
        }
        all
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Puts into `found`, by number, where the paths lead in `text`; none where they lead nowhere.
    ///
    /// # Errors
    /// `text` is not one JSON value, or nests deeper than [`DEPTH_MAX`].
    pub fn locate(
        &self,
        text: &str,
        found: &mut Vec<Option<Range<usize>>>,
    ) -> Result<(), lexer::Error> {
        found.clear();
        found.resize(self.count, None);
        let mut walk = Walk {
            nodes: &self.nodes,
            lexer: Lexer::new(text, DEPTH_MAX),
            found,
            scratch: Vec::new(),
        };
        walk.value(0, 0)?;
        walk.lexer.end()
    }
}

struct Walk<'w> {
    nodes: &'w [Node],
    lexer: Lexer<'w>,
    found: &'w mut Vec<Option<Range<usize>>>,
    scratch: Vec<u8>,
}

impl Walk<'_> {
    /// Reads the value at a node; `depth` containers are open around it. Recursion is as deep as the
    /// longest path.
    fn value(&mut self, at: usize, depth: u32) -> Result<(), lexer::Error> {
        let node = &self.nodes[at];
        let first = self.lexer.peek();
        let start = self.lexer.pos();
        match first {
            Some(b'{') if !node.children.is_empty() => self.object(node, depth + 1)?,
            Some(b'[') if !node.children.is_empty() => self.array(node, depth + 1)?,
            _ => self.lexer.skip(depth).map(drop)?,
        }
        for end in &node.ends {
            self.found[*end] = Some(start..self.lexer.pos());
        }
        Ok(())
    }

    fn object(&mut self, node: &Node, depth: u32) -> Result<(), lexer::Error> {
        self.lexer.open(b'{', depth)?;
        let mut more = !self.lexer.take_if(b'}');
        while more {
            let key = self.lexer.key()?;
            let name = if key.escaped {
                self.scratch.clear();
                self.lexer.unescape(key, &mut self.scratch);
                &self.scratch[..]
            } else {
                &self.lexer.bytes()[key.start..key.end]
            };
            let child = node.children.iter().find(|(step, _)| step.name.as_bytes() == name);
            match child {
                Some((_, child)) => {
                    self.forget(*child);
                    self.value(*child, depth)?;
                }
                None => self.lexer.skip(depth).map(drop)?,
            }
            more = self.lexer.more(b'}')?;
        }
        Ok(())
    }

    fn array(&mut self, node: &Node, depth: u32) -> Result<(), lexer::Error> {
        self.lexer.open(b'[', depth)?;
        let mut more = !self.lexer.take_if(b']');
        let mut index = 0;
        while more {
            match node.children.iter().find(|(step, _)| step.index == Some(index)) {
                Some((_, child)) => self.value(*child, depth)?,
                None => self.lexer.skip(depth).map(drop)?,
            }
            index += 1;
            more = self.lexer.more(b']')?;
        }
        Ok(())
    }

    /// Drops what an earlier member of the same name has shown.
    fn forget(&mut self, at: usize) {
        let node = &self.nodes[at];
        for end in &node.ends {
            self.found[*end] = None;
        }
        for (_, child) in &node.children {
            self.forget(*child);
        }
    }
}

/// Appends a JSON value without the white space between its tokens; what a token is stays as it is.
pub fn compact(json: &str, out: &mut String) {
    if !json.starts_with(['{', '[']) {
        out.push_str(json.trim_ascii());
        return;
    }
    let (mut start, mut in_string, mut escaped) = (0, false, false);
    for (at, byte) in json.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b' ' | b'\t' | b'\n' | b'\r' if !in_string => {
                out.push_str(&json[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    out.push_str(&json[start..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn lookup(path: &str, text: &str) -> Option<String> {
        let path = Path::parse(path).unwrap();
        let mut found = Vec::new();
        Paths::new([&path]).locate(text, &mut found).unwrap();
        found[0].clone().map(|range| text[range].to_owned())
    }

    #[test]
    fn paths_are_names_and_numbers() {
        let text = r#"{"issue":{"labels":[{"id":1.10},{"id":"x"}],"0":"zero"},"a.b":1,"":2}"#;
        for (path, value) in [
            ("issue.labels[0].id", Some("1.10")),
            ("issue.labels[1].id", Some("\"x\"")),
            ("issue.labels.1.id", Some("\"x\"")),
            ("issue[0]", Some("\"zero\"")),
            ("issue..labels[01].id", Some("\"x\"")),
            ("issue.labels[2]", None),
            ("issue.labels.01", None),
            ("issue.labels.id", None),
            ("a.b", None),
            ("issue.labels[0].id.x", None),
            ("", Some(text)),
        ] {
            assert_eq!(lookup(path, text).as_deref(), value, "{path}");
        }
        assert_eq!(lookup("[1][0]", "[0, [ 7 ] ]").as_deref(), Some("7"));
        assert_eq!(lookup("\u{e9}", r#"{"\u00e9":true}"#).as_deref(), Some("true"));
    }

    #[test]
    fn a_path_that_is_none_says_why() {
        let reason = |text: &str| Path::parse(text).unwrap_err().to_string();
        assert_eq!(reason("a[b]"), "only a number may stand in brackets");
        assert_eq!(reason("a[]"), "only a number may stand in brackets");
        assert_eq!(reason("a[0"), "a bracket of the path is not closed");
        assert_eq!(reason("a[0]b"), "a dot is missing after a bracket");
        assert_eq!(reason(&"a.".repeat(101)), "the path has more than 100 parts");
        assert_eq!(reason(&"a".repeat(1_025)), "the path is longer than 1024 bytes");
    }

    #[test]
    fn the_last_of_two_members_counts_with_all_below_it() {
        let text = r#"{"a":{"b":1,"c":2},"a":{"c":3}}"#;
        assert_eq!(lookup("a.c", text).as_deref(), Some("3"));
        assert_eq!(lookup("a.b", text), None);
    }

    #[test]
    fn compact_keeps_what_is_within_strings() {
        let mut out = String::new();
        compact("{ \"a b\" : [ 1.0 ,\n\"\\\" \\\\\" ] }", &mut out);
        assert_eq!(out, r#"{"a b":[1.0,"\" \\"]}"#);
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-c\"\\\\ é]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 4, |inner| {
            let name = prop::sample::select(vec!["a", "b", "c", "0", "1", "é", "\""]);
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((name, inner), 0..4).prop_map(|members| Value::Object(
                    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
                )),
            ]
        })
    }

    /// What a parser with a tree finds.
    fn reference<'v>(value: &'v Value, steps: &[String]) -> Option<&'v Value> {
        steps.iter().try_fold(value, |value, step| match value {
            Value::Object(members) => members.get(step),
            Value::Array(items) => items.get(step.parse::<usize>().ok()?),
            _ => None,
        })
    }

    proptest! {
        #[test]
        fn paths_lead_where_a_parsed_tree_has_them(
            value in json(),
            wide in any::<bool>(),
            paths in prop::collection::vec(
                prop::collection::vec("[abc01é]", 0..4), 1..6,
            ),
        ) {
            let text =
                if wide { format!("{value:#}") } else { value.to_string() };
            let parsed: Vec<Path> =
                paths.iter().map(|steps| Path::parse(&steps.join(".")).unwrap()).collect();
            let mut found = Vec::new();
            Paths::new(&parsed).locate(&text, &mut found).unwrap();
            for (steps, range) in paths.iter().zip(&found) {
                let expected = reference(&value, steps);
                let text = range.clone().map(|range| &text[range]);
                let parsed = text.map(|text| serde_json::from_str::<Value>(text).unwrap());
                prop_assert_eq!(parsed.as_ref(), expected, "{:?}", steps);
                if let (Some(text), Some(expected)) = (text, expected) {
                    let mut out = String::new();
                    compact(text, &mut out);
                    prop_assert_eq!(out, expected.to_string());
                }
            }
        }

        #[test]
        fn what_is_not_json_is_an_error(text in "[\\[\\]{}:,\"a01 tfn\\\\.-]{0,12}") {
            let path = Path::parse("a[0]").unwrap();
            let located = Paths::new([&path]).locate(&text, &mut Vec::new());
            let parsed = serde_json::from_str::<&serde_json::value::RawValue>(&text);
            prop_assert_eq!(located.is_ok(), parsed.is_ok());
        }
    }
}
