//! What a token may do: rules such as `write:topic:orders-*`, and their evaluation. Pure.
//!
//! ```text
//! rule       all | OPERATION ":" RESOURCE
//! OPERATION  read | write | create | alter | delete | describe | all
//! RESOURCE   ("topic" | "table" | "stream") ":" PATTERN | "cluster"
//! PATTERN    a whole name, or the beginning of names and "*"
//! ```
//!
//! The operations are Kafka's; its `DescribeConfigs` and `AlterConfigs` count as describe and
//! alter, `IdempotentWrite` as write. Read, write, alter and delete bring describe with them
//! (source: `org.apache.kafka.metadata.authorizer.StandardAuthorizerData`). There are no denials:
//! what no rule allows is not allowed.

use std::fmt;

/// What is done to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Reads records or rows.
    Read,
    /// Adds records or commits to a table.
    Write,
    /// Makes it.
    Create,
    /// Changes its options, partitions or properties.
    Alter,
    /// Deletes it.
    Delete,
    /// Sees that it is there and what state it is in.
    Describe,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Read, Self::Write, Self::Create, Self::Alter, Self::Delete, Self::Describe];

    /// As rules name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Create => "create",
            Self::Alter => "alter",
            Self::Delete => "delete",
            Self::Describe => "describe",
        }
    }
}

/// Kinds of resources that have names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A topic by its name.
    Topic,
    /// A table by its namespace and name, joined by dots.
    Table,
    /// An event stream by its name.
    Stream,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Table => "table",
            Self::Stream => "stream",
        }
    }

    const ALL: [Self; 3] = [Self::Topic, Self::Table, Self::Stream];
}

/// One thing that something is done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource<'a> {
    /// The topic of that name.
    Topic(&'a str),
    /// The table `namespace.name`.
    Table(&'a str),
    /// The event stream of that name.
    Stream(&'a str),
    /// The server as a whole.
    Cluster,
}

impl fmt::Display for Resource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(name) => write!(f, "topic:{name}"),
            Self::Table(name) => write!(f, "table:{name}"),
            Self::Stream(name) => write!(f, "stream:{name}"),
            Self::Cluster => f.write_str("cluster"),
        }
    }
}

/// Most rules of one token.
pub const RULES_MAX: usize = 100;
/// Longest rule, in bytes.
const RULE_BYTES_MAX: usize = 600;

/// The grammar, for `--help` and for errors.
pub const GRAMMAR: &str = "\
A rule is OPERATION:RESOURCE, or all for everything. OPERATION is read, write, create, alter, \
delete, describe or all. RESOURCE is topic:NAME, table:NAMESPACE.NAME, stream:NAME or cluster; a \
name may end in * and then stands for every name that begins like it. read, write, alter and \
delete bring describe with them.";

/// A rule that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rule {rule:?} is refused: {reason}. {GRAMMAR}")]
pub struct RuleError {
    rule: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// None is every operation.
    operation: Option<Operation>,
    target: Target,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Everything,
    Cluster,
    Names(Kind, Pattern),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Whole(String),
    Beginning(String),
}

/// The rules of one token; none is everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    rules: Vec<Rule>,
    texts: Vec<String>,
}

impl Rules {
    /// Parses rules as they are written.
    ///
    /// # Errors
    /// [`RuleError`] names the rule and what is allowed.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, RuleError> {
        if texts.len() > RULES_MAX {
            let rule = texts[RULES_MAX].as_ref().to_owned();
            return Err(RuleError { rule, reason: "a token has at most 100 rules" });
        }
        let rules = texts.iter().map(|text| parse(text.as_ref())).collect::<Result<_, _>>()?;
        let texts = texts.iter().map(|text| text.as_ref().to_owned()).collect();
        Ok(Self { rules, texts })
    }

    /// One rule: it allows `operation` on `resource`, a whole name, and what comes with it.
    pub fn one(operation: Operation, resource: Resource<'_>) -> Self {
        Self::each(operation, [resource])
    }

    /// [`Rules::one`] for each of `resources`, one at least.
    pub(crate) fn each<'r, const N: usize>(
        operation: Operation,
        resources: [Resource<'r>; N],
    ) -> Self {
        const { assert!(N > 0, "no rule is everything") }
        let names = |kind, name: &str| Target::Names(kind, Pattern::Whole(name.to_owned()));
        let rule = |resource: &Resource<'r>| Rule {
            operation: Some(operation),
            target: match *resource {
                Resource::Topic(name) => names(Kind::Topic, name),
                Resource::Table(name) => names(Kind::Table, name),
                Resource::Stream(name) => names(Kind::Stream, name),
                Resource::Cluster => Target::Cluster,
            },
        };
        let text = |resource: &Resource<'r>| format!("{}:{resource}", operation.as_str());
        Self {
            rules: resources.iter().map(rule).collect(),
            texts: resources.iter().map(text).collect(),
        }
    }

    /// True if nothing is allowed but to send events to topics and streams, or to make such: whoever
    /// gets hold of the token reads no record, and changes nothing that is there. Who may write to a
    /// table may commit any snapshot of it, and is handed the credentials of its storage.
    pub fn only_write(&self) -> bool {
        let only_writes = |rule: &Rule| {
            matches!(rule.operation, Some(Operation::Write | Operation::Create))
                && matches!(rule.target, Target::Names(Kind::Topic | Kind::Stream, _))
        };
        !self.rules.is_empty() && self.rules.iter().all(only_writes)
    }

    /// The rules as they were written.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// True if `operation` on `resource` is allowed.
    pub fn allow(&self, operation: Operation, resource: Resource<'_>) -> bool {
        self.any(operation, |target| match (target, resource) {
            (Target::Everything, _) | (Target::Cluster, Resource::Cluster) => true,
            (Target::Names(Kind::Topic, pattern), Resource::Topic(name))
            | (Target::Names(Kind::Table, pattern), Resource::Table(name))
            | (Target::Names(Kind::Stream, pattern), Resource::Stream(name)) => {
                pattern.matches(name)
            }
            _ => false,
        })
    }

    /// True if `operation` is allowed on at least one name of `kind` that begins with `beginning`,
    /// whether it is taken or not.
    pub fn allow_some(&self, operation: Operation, kind: Kind, beginning: &str) -> bool {
        self.any(operation, |target| match target {
            Target::Everything => true,
            Target::Names(of, Pattern::Whole(name)) => *of == kind && name.starts_with(beginning),
            Target::Names(of, Pattern::Beginning(own)) => {
                *of == kind && (own.starts_with(beginning) || beginning.starts_with(own.as_str()))
            }
            Target::Cluster => false,
        })
    }

    /// True if one rule allows `operation` on every name of `kind` that begins with `beginning`.
    pub fn allow_every(&self, operation: Operation, kind: Kind, beginning: &str) -> bool {
        self.any(operation, |target| match target {
            Target::Everything => true,
            Target::Names(of, Pattern::Beginning(own)) => {
                *of == kind && beginning.starts_with(own.as_str())
            }
            _ => false,
        })
    }

    fn any(&self, operation: Operation, fits: impl Fn(&Target) -> bool) -> bool {
        let covers = |rule: &Rule| match rule.operation {
            None => true,
            Some(Operation::Create) => operation == Operation::Create,
            Some(own) => own == operation || operation == Operation::Describe,
        };
        self.rules.is_empty() || self.rules.iter().any(|rule| covers(rule) && fits(&rule.target))
    }
}

impl Pattern {
    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Whole(own) => own == name,
            Self::Beginning(own) => name.starts_with(own.as_str()),
        }
    }
}

fn parse(text: &str) -> Result<Rule, RuleError> {
    // What is shown back is bounded too.
    let shown = || text.chars().take(100).collect();
    let refused = |reason| RuleError { rule: shown(), reason };
    if text.len() > RULE_BYTES_MAX {
        return Err(refused("it is longer than 600 bytes"));
    }
    if text == "all" {
        return Ok(Rule { operation: None, target: Target::Everything });
    }
    let (operation, resource) =
        text.split_once(':').ok_or_else(|| refused("it names no resource"))?;
    let operation = match operation {
        "all" => None,
        word => {
            let found = Operation::ALL.into_iter().find(|known| known.as_str() == word);
            Some(found.ok_or_else(|| refused("the operation is unknown"))?)
        }
    };
    let target = match resource.split_once(':') {
        None if resource == "cluster" => Target::Cluster,
        None if kind_of(resource).is_some() => {
            return Err(refused("it names no topic, table or stream; * at the end stands for any"));
        }
        Some((kind, name)) => match kind_of(kind) {
            Some(kind) => names(kind, name, refused)?,
            None => return Err(refused("the resource is unknown")),
        },
        _ => return Err(refused("the resource is unknown")),
    };
    Ok(Rule { operation, target })
}

fn kind_of(word: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| kind.as_str() == word)
}

fn names(
    kind: Kind,
    name: &str,
    refused: impl Fn(&'static str) -> RuleError,
) -> Result<Target, RuleError> {
    if name.is_empty() {
        return Err(refused("the name is empty"));
    }
    if name.chars().any(|c| c.is_control() || c.is_whitespace() || c == ',') {
        return Err(refused("the name has a space, a comma or a control character"));
    }
    let pattern = match name.strip_suffix('*') {
        Some(beginning) => Pattern::Beginning(beginning.to_owned()),
        None => Pattern::Whole(name.to_owned()),
    };
    let (Pattern::Whole(rest) | Pattern::Beginning(rest)) = &pattern;
    if rest.contains('*') {
        return Err(refused("a * can only stand at the end"));
    }
    Ok(Target::Names(kind, pattern))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(texts: &[&str]) -> Rules {
        Rules::parse(texts).unwrap()
    }

    #[test]
    fn no_rule_and_the_rule_all_are_everything() {
        for rules in [rules(&[]), rules(&["all"])] {
            for operation in Operation::ALL {
                for resource in [Resource::Topic("t"), Resource::Table("a.t"), Resource::Cluster] {
                    assert!(rules.allow(operation, resource));
                }
                assert!(rules.allow_some(operation, Kind::Table, "x."));
                assert!(rules.allow_every(operation, Kind::Table, "x."));
            }
        }
    }

    #[test]
    fn one_rule_is_what_its_text_says() {
        for resource in [
            Resource::Topic("orders"),
            Resource::Table("in.c-shop.orders"),
            Resource::Stream("s"),
            Resource::Cluster,
        ] {
            let one = Rules::one(Operation::Write, resource);
            assert_eq!(Rules::parse(one.texts()), Ok(one.clone()));
            assert!(one.allow(Operation::Write, resource));
            assert!(!one.allow(Operation::Read, resource));
        }
    }

    #[test]
    fn a_rule_allows_what_it_says_and_nothing_else() {
        let rules = rules(&[
            "write:topic:orders-*",
            "read:table:ns.t",
            "create:topic:new",
            "write:stream:s*",
        ]);
        let cases = [
            (Operation::Write, Resource::Topic("orders-1"), true),
            (Operation::Describe, Resource::Topic("orders-1"), true),
            (Operation::Read, Resource::Topic("orders-1"), false),
            (Operation::Create, Resource::Topic("orders-1"), false),
            (Operation::Write, Resource::Topic("orders"), false),
            (Operation::Write, Resource::Table("orders-1"), false),
            (Operation::Write, Resource::Stream("shop"), true),
            (Operation::Write, Resource::Stream("other"), false),
            (Operation::Write, Resource::Table("shop"), false),
            (Operation::Read, Resource::Table("ns.t"), true),
            (Operation::Read, Resource::Table("ns.t2"), false),
            (Operation::Write, Resource::Table("ns.t"), false),
            (Operation::Create, Resource::Topic("new"), true),
            // As in Kafka, who may make a topic need not see it.
            (Operation::Describe, Resource::Topic("new"), false),
            (Operation::Describe, Resource::Cluster, false),
        ];
        for (operation, resource, wanted) in cases {
            assert_eq!(rules.allow(operation, resource), wanted, "{operation:?} {resource}");
        }
    }

    #[test]
    fn a_token_that_only_writes_has_no_other_rule() {
        let writing = ["write:topic:a", "create:topic:*", "write:stream:s", "create:stream:*"];
        assert!(rules(&writing).only_write());
        assert!(!rules(&[]).only_write(), "no rule is everything");
        for wider in [
            "all",
            "all:topic:a",
            "read:topic:a",
            "describe:topic:a",
            "write:table:n.t",
            "write:table:n.*",
            "create:table:n.t",
            "alter:topic:a",
            "delete:stream:s",
            "write:cluster",
            "create:cluster",
        ] {
            let all: Vec<&str> = writing.into_iter().chain([wider]).collect();
            assert!(!rules(&all).only_write(), "{wider}");
        }
    }

    #[test]
    fn the_cluster_is_not_everything() {
        let rules = rules(&["all:cluster"]);
        assert!(rules.allow(Operation::Alter, Resource::Cluster));
        assert!(!rules.allow(Operation::Write, Resource::Topic("t")));
        assert!(!rules.allow_some(Operation::Write, Kind::Topic, ""));
    }

    #[test]
    fn what_is_no_rule_is_refused_with_what_is_allowed() {
        for bad in [
            "",
            "read",
            "topic:a",
            "read:topic",
            "read:topic:",
            "drop:topic:a",
            "read:group:g",
            "read:cluster:x",
            "read:topic:a*b",
            "read:topic:**",
            "read:topic:a b",
            "read:topic:a,b",
            "all:",
            "READ:topic:a",
            "all ",
            "read:topic:a\u{7}",
        ] {
            let error = Rules::parse(&[bad]).unwrap_err().to_string();
            assert!(error.contains("OPERATION:RESOURCE"), "{bad}: {error}");
        }
        assert!(Rules::parse(&["read:topic:x".repeat(100)]).is_err());
        assert!(Rules::parse(&vec!["all"; RULES_MAX + 1]).is_err());
    }

    #[test]
    fn rules_are_kept_as_they_were_written() {
        let texts = ["all:topic:*", "describe:cluster", "read:table:a.b.c"];
        assert_eq!(rules(&texts).texts(), texts);
    }

    proptest! {
        #[test]
        fn some_and_every_agree_with_single_names(
            patterns in prop::collection::vec("[ab]{0,2}\\*?", 1..4),
            beginning in "[ab]{0,2}",
            ends in prop::collection::vec("[ab]{0,3}", 20),
        ) {
            let texts: Vec<String> = patterns
                .iter()
                .filter(|pattern| !pattern.is_empty())
                .map(|pattern| format!("write:table:{pattern}"))
                .collect();
            prop_assume!(!texts.is_empty());
            let rules = Rules::parse(&texts).unwrap();
            let one = |end: &String| {
                let name = format!("{beginning}{end}");
                rules.allow(Operation::Write, Resource::Table(&name))
            };
            if rules.allow_every(Operation::Write, Kind::Table, &beginning) {
                prop_assert!(ends.iter().all(one));
            }
            if !rules.allow_some(Operation::Write, Kind::Table, &beginning) {
                prop_assert!(!ends.iter().any(one));
            }
        }

        #[test]
        fn any_text_is_a_rule_or_refused(text in ".{0,40}") {
            let _ = Rules::parse(&[text]);
        }
    }
}
