//! How many sources and sinks there may be, and how lists of many are read page by page.

use super::*;

fn ids(listed: &Value, name: &str, id: &str) -> Vec<String> {
    let found = listed[name].as_array().unwrap_or_else(|| panic!("{listed}")).iter();
    found.map(|one| one[id].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_has_twenty_sinks_and_no_more() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    done(&floe, Method::POST, SOURCES, json!({"type": "http", "name": "shop"})).await;
    let sinks = format!("{SOURCES}/shop/sinks");
    for number in 0..20 {
        let wish = sink(&format!("s{number:02}"), &format!("in.shop.t{number:02}"));
        done(&floe, Method::POST, &sinks, wish).await;
    }
    let more = sink("more", "in.shop.more");
    let (status, refused) = ask(&floe, Method::POST, &sinks, Some(more.clone())).await;
    let told = (status, refused["error"].as_str());
    assert_eq!(told, (409, Some("stream.api.sinkCountLimitReached")), "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("20"), "{refused}");
    assert_eq!(malformed(status, &refused), None);
    // Page by page, none is left out and none comes twice.
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("{sinks}?limit=7&afterId={after}");
        let (status, listed) = ask(&floe, Method::GET, &path, None).await;
        assert_eq!((status, &listed["page"]["totalCount"]), (200, &json!(20)), "{listed}");
        let page = ids(&listed, "sinks", "sinkId");
        assert_eq!(listed["page"]["lastId"], page.last().map_or("", String::as_str));
        after = page.last().cloned().unwrap_or_default();
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    assert_eq!(found, (0..20).map(|number| format!("s{number:02}")).collect::<Vec<_>>());
    // One that is deleted makes room, and does not come back while that is taken.
    done(&floe, Method::DELETE, &format!("{sinks}/s07"), json!({})).await;
    done(&floe, Method::POST, &sinks, more).await;
    let undelete = format!("{sinks}/s07/undelete");
    let (status, refused) = ask(&floe, Method::PUT, &undelete, Some(json!({}))).await;
    let told = (status, refused["error"].as_str());
    assert_eq!(told, (409, Some("stream.api.sinkCountLimitReached")), "{refused}");
}

/// Sources that share a topic cost little, so there can be as many as there may be.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_has_a_hundred_sources_and_natively_a_thousand_and_no_more() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    done(&floe, Method::POST, SOURCES, json!({"type": "http", "name": "shop"})).await;
    let put = async |number: u32| {
        let path = format!("/api/v1/sources/s{number:03}");
        ask(&floe, Method::PUT, &path, Some(json!({"topic": "shop"}))).await
    };
    for number in 1..100 {
        assert_eq!(put(number).await.0, 201, "{number}");
    }
    let more = json!({"type": "http", "name": "more"});
    let refused = async |method: Method, path: &str| {
        let another = json!({"type": "http", "name": "one more"});
        let (status, refused) = ask(&floe, method, path, Some(another)).await;
        let told = (status, refused["error"].as_str());
        assert_eq!(told, (409, Some("stream.api.sourceCountLimitReached")), "{refused}");
        assert_eq!(refused["message"], "Maximum source count limit is 100.");
    };
    refused(Method::POST, SOURCES).await;
    done(&floe, Method::DELETE, &format!("{SOURCES}/s001"), json!({})).await;
    done(&floe, Method::POST, SOURCES, more).await;
    // What was there before comes back all the same, and what was not is unknown.
    done(&floe, Method::PUT, &format!("{SOURCES}/s001/undelete"), json!({})).await;
    refused(Method::POST, SOURCES).await;
    for unknown in ["s001", "s002", "nothing"] {
        let path = format!("{SOURCES}/{unknown}/undelete");
        let (status, refused) = ask(&floe, Method::PUT, &path, Some(json!({}))).await;
        let told = (status, refused["error"].as_str());
        assert_eq!(told, (404, Some("stream.api.sourceNotFound")), "{refused}");
    }
    done(&floe, Method::DELETE, &format!("{SOURCES}/s001"), json!({})).await;
    for number in 101..1_001 {
        assert_eq!(put(number).await.0, 201, "{number}");
    }
    let (status, full) = put(1_001).await;
    assert_eq!((status, &full["code"]), (409, &json!("limit_reached")), "{full}");
    let (_, listed) = ask(&floe, Method::GET, SOURCES, None).await;
    assert_eq!(
        (&listed["page"]["totalCount"], &listed["page"]["limit"]),
        (&json!(1_000), &json!(100))
    );
    assert_eq!(ids(&listed, "sources", "sourceId").len(), 100, "a page unless it is asked for");
    let (_, last) = ask(&floe, Method::GET, &format!("{SOURCES}?afterId=s990"), None).await;
    assert_eq!(ids(&last, "sources", "sourceId").len(), 10, "nine, and the shop: {last}");
}

/// A secret is 48 characters that a URL takes as they are, and never the same twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_long_and_new_each_time() {
    let floe = Floe::start(&["--num-partitions=1"]).await;
    done(&floe, Method::POST, SOURCES, json!({"type": "http", "name": "shop"})).await;
    let (_, shown) = ask(&floe, Method::GET, &format!("{SOURCES}/shop"), None).await;
    let secret = |shown: &Value| {
        let url = shown["http"]["url"].as_str().unwrap();
        url.strip_prefix(&floe.url("/stream/1/shop/")).unwrap().to_owned()
    };
    let mut secrets = vec![secret(&shown)];
    for _ in 0..5 {
        let path = format!("{SOURCES}/shop/rotate-secret");
        let (status, shown) = ask(&floe, Method::POST, &path, None).await;
        assert_eq!(status, 200, "{shown}");
        secrets.push(secret(&shown));
    }
    let is_sound = |it: &String| it.len() == 48 && it.bytes().all(|b| b.is_ascii_alphanumeric());
    assert!(secrets.iter().all(is_sound), "{secrets:?}");
    secrets.sort();
    secrets.dedup();
    assert_eq!(secrets.len(), 6);
}
