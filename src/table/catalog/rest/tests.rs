//! Against a server that records what it is asked and answers as told.

use std::collections::VecDeque;
use std::sync::Mutex;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use iceberg::spec::{NestedField, PrimitiveType, TableMetadataBuilder, Type};
use iceberg::{TableCreation, TableRequirement, TableUpdate};
use serde_json::{Value, json};

use super::*;

/// One request as it came: method, path with query, `Authorization`, body.
#[derive(Debug, Clone)]
struct Seen {
    line: String,
    token: Option<String>,
    body: Value,
}

#[derive(Clone, Default)]
struct Script {
    seen: Arc<Mutex<Vec<Seen>>>,
    answers: Arc<Mutex<VecDeque<(u16, String)>>>,
}

async fn answer(
    State(script): State<Script>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, String) {
    script.seen.lock().unwrap().push(Seen {
        line: format!("{method} {uri}"),
        token: headers.get("authorization").map(|value| value.to_str().unwrap().to_owned()),
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    });
    let (status, text) = script.answers.lock().unwrap().pop_front().expect("an answer");
    (StatusCode::from_u16(status).unwrap(), text)
}

/// A catalog whose server gives `answers` after that to `config`.
async fn catalog(answers: &[(u16, Value)]) -> (RestCatalog, Script) {
    let script = Script::default();
    let config = (200, json!({"defaults": {"prefix": "no"}, "overrides": {"prefix": "a/b"}}));
    for (status, body) in [config].iter().chain(answers) {
        script.answers.lock().unwrap().push_back((*status, body.to_string()));
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().fallback(answer).with_state(script.clone());
    #[allow(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    tokio::spawn(async move { axum::serve(listener, app).await });
    let catalog = RestCatalog::new(options(&format!("http://{address}/base/v1/"))).unwrap();
    (catalog, script)
}

fn options(uri: &str) -> Options {
    Options {
        uri: uri.to_owned(),
        warehouse: Some("w h".to_owned()),
        token: Some("secret".to_owned()),
        prefix: None,
        call_max: Duration::from_secs(60),
        table_defaults: BTreeMap::from([("a".to_owned(), "default".to_owned())]),
        file_io: FileIO::new_with_memory(),
    }
}

fn ident(name: &str) -> TableIdent {
    let levels = vec!["x".to_owned(), "y".to_owned()];
    TableIdent::new(NamespaceIdent::from_vec(levels).unwrap(), name.to_owned())
}

fn schema() -> iceberg::spec::Schema {
    let field = NestedField::optional(1, "a", Type::Primitive(PrimitiveType::Long));
    iceberg::spec::Schema::builder().with_fields([Arc::new(field)]).build().unwrap()
}

fn table() -> Value {
    let creation = TableCreation::builder()
        .name("t".to_owned())
        .schema(schema())
        .location("s3://w/t".to_owned())
        .build();
    let built = TableMetadataBuilder::from_table_creation(creation).unwrap().build().unwrap();
    json!({"metadata-location": "s3://w/t/metadata/0.json", "metadata": built.metadata})
}

fn fails(kind: &str) -> Value {
    json!({"error": {"message": "no", "type": kind, "code": 0}})
}

fn change() -> TableChange {
    TableChange {
        ident: ident("t"),
        requirements: vec![TableRequirement::NotExist],
        updates: vec![TableUpdate::RemoveProperties { removals: vec!["p".to_owned()] }],
    }
}

#[tokio::test]
async fn a_load_asks_for_the_configuration_once_and_names_the_table() {
    let (catalog, script) = catalog(&[(200, table()), (200, table())]).await;
    let loaded = catalog.load(&ident("t ü")).await.unwrap();
    assert_eq!(loaded.metadata_location, "s3://w/t/metadata/0.json");
    catalog.load(&ident("t")).await.unwrap();
    let seen = script.seen.lock().unwrap().clone();
    let lines: Vec<&str> = seen.iter().map(|one| one.line.as_str()).collect();
    assert_eq!(
        lines,
        [
            "GET /base/v1/config?warehouse=w+h",
            "GET /base/v1/a/b/namespaces/x%1Fy/tables/t%20%C3%BC",
            "GET /base/v1/a/b/namespaces/x%1Fy/tables/t",
        ]
    );
    assert!(seen.iter().all(|one| one.token.as_deref() == Some("Bearer secret")));
}

#[tokio::test]
async fn each_answer_to_a_commit_means_what_the_rules_say() {
    let answers = [
        (200, table()),
        (409, fails("CommitFailedException")),
        (500, fails("")),
        (503, fails("")),
        (429, fails("")),
        (404, fails("NoSuchTableException")),
        (400, fails("BadRequestException")),
        (200, json!({"metadata": "nonsense"})),
    ];
    let (catalog, script) = catalog(&answers).await;
    let commit = || catalog.commit(vec![change()], Change::new());
    assert_eq!(commit().await.unwrap().len(), 1);
    assert!(matches!(commit().await, Err(Error::Conflict(_))));
    assert!(matches!(commit().await, Err(Error::Unknown(_))));
    assert!(matches!(commit().await, Err(Error::Unknown(_))));
    assert!(matches!(commit().await, Err(Error::Unavailable(_))));
    assert!(matches!(commit().await, Err(Error::NoSuchTable(found)) if found == ident("t")));
    assert!(matches!(commit().await, Err(Error::Invalid(_))));
    assert!(matches!(commit().await, Err(Error::Unknown(_))));
    let seen = script.seen.lock().unwrap();
    assert_eq!(seen.len(), 9, "every commit is sent once");
    let body = &seen[1].body;
    assert_eq!(body["identifier"], json!({"namespace": ["x", "y"], "name": "t"}));
    assert_eq!(body["requirements"][0], json!({"type": "assert-create"}));
    assert_eq!(body["updates"][0], json!({"action": "remove-properties", "removals": ["p"]}));
}

#[tokio::test]
async fn a_commit_without_an_answer_is_unknown() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let silent = RestCatalog::new(Options {
        prefix: Some("p".to_owned()),
        call_max: Duration::from_millis(500),
        ..options(&format!("http://{address}"))
    });
    let error = silent.unwrap().commit(vec![change()], Change::new()).await.unwrap_err();
    assert!(matches!(error, Error::Unknown(_)), "{error}");
    drop(listener);
    let gone = RestCatalog::new(options(&format!("http://{address}"))).unwrap();
    let error = gone.commit(vec![change()], Change::new()).await.unwrap_err();
    assert!(matches!(&error, Error::Unknown(text) if text.contains("refused")), "{error}");
    assert!(!error.to_string().contains("secret"));
}

#[tokio::test]
async fn namespaces_are_made_level_by_level() {
    let answers = [
        (200, json!({})),
        (404, fails("NoSuchNamespaceException")),
        (409, fails("AlreadyExistsException")),
    ];
    let (catalog, script) = catalog(&answers).await;
    catalog.ensure_namespace(ident("t").namespace()).await.unwrap();
    let seen = script.seen.lock().unwrap();
    assert_eq!(seen[3].line, "POST /base/v1/a/b/namespaces");
    assert_eq!(seen[3].body["namespace"], json!(["x", "y"]));
}

#[tokio::test]
async fn tables_are_made_with_defaults_and_renamed() {
    let answers = [(200, table()), (409, fails("AlreadyExistsException")), (204, json!(null))];
    let (catalog, script) = catalog(&answers).await;
    let new = NewTable {
        ident: ident("t"),
        schema: schema(),
        spec: None,
        sort_order: None,
        location: None,
        properties: HashMap::from([("b".to_owned(), "own".to_owned())]),
    };
    catalog.create(new.clone()).await.unwrap();
    assert!(matches!(catalog.create(new).await, Err(Error::Exists(_))));
    catalog.rename(&ident("t"), &ident("u")).await.unwrap();
    let seen = script.seen.lock().unwrap();
    assert_eq!(seen[1].body["properties"], json!({"a": "default", "b": "own"}));
    assert_eq!(seen[1].body["stage-create"], json!(false));
    assert_eq!(seen[1].body["schema"]["fields"][0]["name"], json!("a"));
    assert_eq!(seen[3].line, "POST /base/v1/a/b/tables/rename");
    assert_eq!(seen[3].body["destination"], json!({"namespace": ["x", "y"], "name": "u"}));
}

#[tokio::test]
async fn lists_follow_their_pages() {
    let page = |name: &str, next: Option<&str>| {
        let identifiers = json!([{"namespace": ["x", "y"], "name": name}]);
        (200, json!({"identifiers": identifiers, "next-page-token": next}))
    };
    let answers =
        [page("one", Some("k/2")), page("two", None), (404, fails("NoSuchNamespaceException"))];
    let (catalog, script) = catalog(&answers).await;
    let namespace = ident("t").namespace().clone();
    let names: Vec<_> = catalog.list(&namespace).await.unwrap();
    assert_eq!(names, [ident("one"), ident("two")]);
    assert!(catalog.list(&namespace).await.unwrap().is_empty());
    let seen = script.seen.lock().unwrap();
    assert!(seen[2].line.ends_with("/tables?pageToken=k%2F2&pageSize=1000"), "{}", seen[2].line);
}

#[test]
fn addresses_that_cannot_work_are_refused() {
    for uri in ["", "catalog:8181", "ftp://x", "/v1"] {
        assert!(matches!(RestCatalog::new(options(uri)), Err(Error::Invalid(_))), "{uri:?}");
    }
    let token = Some("bad\n".to_owned());
    let refused = RestCatalog::new(Options { token, ..options("http://x") });
    assert!(matches!(refused, Err(Error::Invalid(text)) if !text.contains("bad\n")));
}
