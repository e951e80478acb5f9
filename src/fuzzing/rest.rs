//! Bodies, names and queries of the Iceberg REST routes, and what follows from them without a file.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use iceberg::spec::{NestedField, PrimitiveType, Schema, TableMetadata, Type};
use iceberg::{NamespaceIdent, TableIdent};

use crate::fuzzing::steer;
use crate::http::iceberg::page::Paging;
use crate::http::iceberg::parse::{
    self, CreateNamespace, CreateTable, Register, Rename, UpdateNamespace,
};
use crate::table::catalog::embedded::apply;
use crate::table::catalog::embedded::metadata::{self, MetadataFile, Previous};
use crate::table::catalog::embedded::names;
use crate::table::catalog::embedded::warehouse::Warehouse;
use crate::table::catalog::{Error, NewTable, TableChange};

const LOCATION: &str = "file:///w/db/t";
const METADATA_LOCATION: &str = "file:///w/db/t/metadata/00001-a.metadata.json";

/// The first byte picks the route; the rest is its body, query or path.
///
/// # Panics
/// If a property does not hold.
pub fn rest_bodies(data: &[u8]) {
    let (first, body) = steer(data);
    let text = std::str::from_utf8(body);
    match (first % 10, text) {
        (0, _) => create_table(body),
        (1, _) => {
            if let Ok(change) = parse::change(body, ident()) {
                commit(&change);
            }
        }
        (2, _) => parse::changes(body).iter().flatten().for_each(commit),
        (3, _) => {
            let Ok(rename) = parse::json::<Rename>(body) else { return };
            let names = [rename.source.ident(), rename.destination.ident()];
            names.iter().flatten().for_each(table_name);
        }
        (4, _) => drop(parse::json::<Register>(body)),
        (5, _) => {
            let Ok(request) = parse::json::<CreateNamespace>(body) else { return };
            if let Ok(namespace) = NamespaceIdent::from_vec(request.namespace) {
                namespace_name(&namespace);
            }
        }
        (6, _) => drop(parse::json::<UpdateNamespace>(body)),
        (7, Ok(query)) => page(query),
        (8, Ok(text)) => {
            for namespace in [parse::namespace(text), parse::parent(text)].iter().flatten() {
                namespace_name(namespace);
            }
        }
        (9, _) => {
            if let Ok((metadata, json_len)) = metadata::parse(body) {
                assert!(json_len > 0);
                written(&metadata);
            }
        }
        _ => {}
    }
}

fn ident() -> TableIdent {
    TableIdent::from_strs(["db", "t"]).expect("two levels")
}

fn warehouse() -> Warehouse {
    Warehouse::new("file:///w").expect("an absolute URI")
}

/// The key of a legal name gives the name back.
fn table_name(table: &TableIdent) {
    if let Ok(key) = names::table_key(table) {
        assert_eq!(names::parse_table(&key).as_ref(), Some(table));
        let (location, _) = warehouse().default_location(table, None);
        assert!(warehouse().holds(&location), "{location} lies outside");
    }
}

fn namespace_name(namespace: &NamespaceIdent) {
    if let Ok(key) = names::namespace_key(namespace) {
        assert_eq!(names::parse_namespace(&key).as_ref(), Some(namespace));
        let text = namespace.join("\u{1F}");
        assert_eq!(parse::namespace(&text).as_ref(), Ok(namespace));
        assert!(
            names::children_prefix(Some(namespace)).is_ok_and(|prefix| prefix.len() > key.len())
        );
    }
}

/// Pages that follow each other by their tokens are the whole list, each name once.
fn page(query: &str) {
    let Ok(paging) = serde_urlencoded::from_str::<Paging>(query) else { return };
    if let Some(Ok(parent)) = paging.parent.as_deref().map(parse::parent) {
        namespace_name(&parent);
    }
    let all: Vec<String> = (0..40).map(|number| format!("t{:02}", number * 7 % 40)).collect();
    let Ok((mut seen, mut next)) = paging.cut(all.clone(), String::clone) else { return };
    let whole = paging.page_token.as_deref().is_none_or(str::is_empty);
    let size = seen.len();
    while let Some(token) = next {
        assert!(size > 0, "an empty page has a next one");
        let query = format!("pageToken={token}&pageSize={size}");
        let paging: Paging = serde_urlencoded::from_str(&query).expect("hex digits and a number");
        let cut = paging.cut(all.clone(), String::clone).expect("our own token");
        seen.extend(cut.0);
        next = cut.1;
    }
    seen.sort_unstable();
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "a name is there twice");
    assert!(!whole || seen.len() == all.len(), "a name is lost");
}

fn create_table(body: &[u8]) {
    let Ok(request) = parse::json::<CreateTable>(body) else { return };
    let namespace = NamespaceIdent::new("db".to_owned());
    let new: NewTable = request.new_table(namespace);
    table_name(&new.ident);
    if let Some(Ok(location)) = new.location.as_deref().map(|text| warehouse().check(text)) {
        assert_eq!(warehouse().check(&location).ok().as_ref(), Some(&location), "not canonical");
    }
    if let Ok(metadata) = apply::create(&new, LOCATION.to_owned(), &BTreeMap::new()) {
        written(&metadata);
    }
}

/// A commit on a table, and the same as the commit that makes it.
fn commit(change: &TableChange) {
    table_name(&change.ident);
    let current = Previous { metadata: sample(), location: METADATA_LOCATION, packed: None };
    let updates = || change.updates.clone();
    let applied = apply::update(&warehouse(), current, &change.requirements, updates());
    match applied {
        Ok(applied) => {
            if let Some(file) = applied.file {
                assert!(file.metadata.last_updated_ms() >= sample().last_updated_ms());
                written(&file.metadata);
            }
        }
        Err(error) => assert!(matches!(error, Error::Conflict(_) | Error::Invalid(_)), "{error}"),
    }
    let location = LOCATION.to_owned();
    let made = apply::create_from_updates(&warehouse(), location, &BTreeMap::new(), updates());
    if let Ok(metadata) = made {
        written(&metadata);
    }
}

/// Metadata has a file, or is refused before it is written; what is in a file reads as it was.
fn written(metadata: &TableMetadata) {
    let Ok(file) = MetadataFile::new(metadata, None) else { return };
    let json = serde_json::to_vec(&*file.metadata).expect("it was made from JSON");
    let (again, json_len) = metadata::parse(&json).expect("it was read once");
    assert_eq!(json_len, json.len());
    assert_eq!(again, file.metadata, "metadata does not survive a round trip");
}

/// A table with two columns, one snapshot-less version old.
fn sample() -> &'static TableMetadata {
    static SAMPLE: OnceLock<TableMetadata> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let long = NestedField::required(1, "id", Type::Primitive(PrimitiveType::Long));
        let text = NestedField::optional(2, "text", Type::Primitive(PrimitiveType::String));
        let schema = Schema::builder().with_fields([long.into(), text.into()]).build();
        let new = NewTable {
            ident: ident(),
            schema: schema.expect("ids and names are unique"),
            spec: None,
            sort_order: None,
            location: None,
            properties: [("owner".to_owned(), "a".to_owned())].into(),
        };
        apply::create(&new, LOCATION.to_owned(), &BTreeMap::new()).expect("a plain table")
    })
}
