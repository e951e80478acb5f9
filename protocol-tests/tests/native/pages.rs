//! Lists in pages.

use std::collections::BTreeSet;

use protocol_tests::{Floe, eventually};
use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::super::{ask, post, prices};

/// A page of a list.
async fn page(floe: &Floe, path: &str, query: &[(&str, &str)], token: &str) -> (u16, Value) {
    let mut call = Client::new().get(floe.url(path)).query(query);
    if !token.is_empty() {
        call = call.header("token", token);
    }
    let answer = call.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

/// Goes through a list in pages of one; `member` of each, in the order of the pages.
async fn walk(floe: &Floe, (path, list, member): (&str, &str, &str), token: &str) -> Vec<String> {
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let mut query = vec![("limit", "1")];
        if !after.is_empty() {
            query.push(("after", &after));
        }
        let (status, answer) = page(floe, path, &query, token).await;
        assert_eq!(status, 200, "{path}: {answer}");
        let shown = answer[list].as_array().unwrap();
        assert_eq!(shown.len(), 1, "{path}: {answer}");
        found.push(shown[0][member].as_str().unwrap().to_owned());
        match answer["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => return found,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_is_whole_or_comes_in_pages() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    let made = async |method: Method, path: &str, body: Value| {
        let (status, _, answer) = ask(&floe, (method, path), &[], &body).await;
        assert_eq!(status, 201, "{path}: {answer}");
        answer
    };
    for name in ["t", "a", "b"] {
        post(&floe, name, "", r#"{"price":1.5}"#.to_owned()).await;
        let mut wish = prices();
        wish["table"]["name"] = json!(format!("sink_{name}"));
        made(Method::PUT, &format!("/api/v1/topics/t/sinks/{name}"), wish).await;
        made(Method::PUT, &format!("/api/v1/sources/{name}"), json!({})).await;
        made(Method::POST, "/api/v1/streams", json!({"name": format!("stream_{name}")})).await;
        let hook = json!({"name": name, "topic": "t", "scheme": "standard"});
        made(Method::POST, "/api/v1/webhooks", hook).await;
    }
    let mut token = String::new();
    for name in ["first", "second"] {
        let headers = [("token", token.as_str())];
        let headers = if token.is_empty() { &[][..] } else { &headers };
        let wish = json!({"name": name});
        let (_, _, told) = ask(&floe, (Method::POST, "/api/v1/tokens"), headers, &wish).await;
        if token.is_empty() {
            told["token"].as_str().unwrap().clone_into(&mut token);
        }
    }
    eventually("all tables", || async {
        let (_, tables) = page(&floe, "/api/v1/tables", &[], &token).await;
        (tables["tables"].as_array().unwrap().len() == 6).then_some(())
    })
    .await;
    for (path, list, member, count) in [
        ("/api/v1/topics", "topics", "name", 3),
        ("/api/v1/tables", "tables", "table", 6),
        ("/api/v1/sources", "sources", "id", 3),
        ("/api/v1/topics/t/sinks", "sinks", "id", 3),
        ("/api/v1/streams", "streams", "name", 3),
        ("/api/v1/webhooks", "webhooks", "name", 3),
        // The principals of the three sinks are among them.
        ("/api/v1/tokens", "tokens", "name", 5),
    ] {
        let (_, whole) = page(&floe, path, &[], &token).await;
        assert!(whole.get("next").is_none(), "{whole}");
        let all: Vec<&str> = whole[list]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one[member].as_str().unwrap())
            .collect();
        let paged = walk(&floe, (path, list, member), &token).await;
        assert_eq!((all.len(), paged.len()), (count, count), "{path}: {all:?} {paged:?}");
        if path != "/api/v1/tables" {
            assert_eq!(paged, all, "{path}");
        }
        let paged: BTreeSet<&str> = paged.iter().map(String::as_str).collect();
        assert_eq!(paged, all.into_iter().collect(), "{path}");
        for query in
            [("limit", "0"), ("limit", "1001"), ("limit", "x"), ("after", ""), ("after", "\t")]
        {
            let (status, refused) = page(&floe, path, &[query], &token).await;
            assert_eq!(
                (status, &refused["code"]),
                (400, &json!("bad_request")),
                "{path} {query:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_and_goes_between_pages_is_neither_twice_nor_missing() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    let change = async |method: Method, id: &str| {
        let path = format!("/api/v1/sources/{id}");
        let body = if method == Method::PUT { json!({}) } else { Value::Null };
        assert!(ask(&floe, (method, &path), &[], &body).await.0 < 300);
    };
    for id in ["b", "d", "f", "h"] {
        change(Method::PUT, id).await;
    }
    let ids = |answer: &Value| -> Vec<String> {
        let all = answer["sources"].as_array().unwrap().iter();
        all.map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    };
    let (_, first) = page(&floe, "/api/v1/sources", &[("limit", "2")], "").await;
    assert_eq!(ids(&first), ["b", "d"]);
    // The last one that was shown goes, one comes before and one behind it.
    change(Method::DELETE, "d").await;
    change(Method::PUT, "a").await;
    change(Method::PUT, "e").await;
    let after = first["next"].as_str().unwrap();
    let (_, second) = page(&floe, "/api/v1/sources", &[("limit", "3"), ("after", after)], "").await;
    assert_eq!(
        (ids(&second), second.get("next")),
        (vec!["e".into(), "f".into(), "h".into()], None)
    );
}
