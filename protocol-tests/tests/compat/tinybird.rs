//! What sends to Tinybird's Events API.

use protocol_tests::Floe;
use serde_json::json;

use super::{consumed, post, text, told};

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_stored_and_what_is_none_is_kept_beside_them() {
    let floe = Floe::start(&[]).await;
    let body = "{\"n\":1}\n{bad\n{\"n\":2}\n";
    for (query, status, body, told_rows) in [
        ("name=orders", 202, body, (2, 1)),
        ("name=orders&wait=true", 200, "{\"n\":3}", (1, 0)),
        ("name=orders&format=json", 202, "[{\"n\":4},{\"n\":5}]", (2, 0)),
    ] {
        // As its samples and SDKs send it, without a content type of JSON.
        let answer = post(&floe, &format!("/v0/events?{query}"), &[], body).await;
        let (found, answer) = told(answer).await;
        let wanted = json!({"successful_rows": told_rows.0, "quarantined_rows": told_rows.1});
        assert_eq!((found, answer), (status, wanted), "{query}");
    }
    let mut values: Vec<String> = consumed(&floe, "orders", 4)
        .iter()
        .map(|record| text(record.value.as_ref()).unwrap().to_owned())
        .collect();
    values.sort();
    assert_eq!(values, [1, 2, 3, 4, 5].map(|n| format!("{{\"n\":{n}}}")));
    let kept = consumed(&floe, "orders.quarantine", 4);
    assert_eq!(kept.len(), 1);
    assert!(text(kept[0].value.as_ref()).unwrap().contains("{bad"));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_the_form_that_its_clients_read() {
    let floe = Floe::start(&[]).await;
    for (query, body, status, code) in [
        ("", "{}", 400, "bad_request"),
        ("name=orders&format=csv", "1", 400, "bad_request"),
        ("name=orders", "", 400, "bad_request"),
        ("name=a/b", "{}", 400, "invalid_topic"),
    ] {
        let answer = post(&floe, &format!("/v0/events?{query}"), &[], body).await;
        let (found, answer) = told(answer).await;
        assert_eq!((found, &answer["code"]), (status, &json!(code)), "{query}: {answer}");
        assert!(answer["error"].as_str().is_some_and(|text| !text.is_empty()));
    }
    let made = post(&floe, "/api/v1/tokens", &[], r#"{"name":"admin"}"#).await;
    let admin = told(made).await.1["token"].as_str().unwrap().to_owned();
    let wish = r#"{"name":"shop","allow":["write:topic:orders*","create:topic:orders*"]}"#;
    let made = told(post(&floe, "/api/v1/tokens", &[("token", &admin)], wish).await).await.1;
    let bearer = format!("Bearer {}", made["token"].as_str().unwrap());
    for (query, headers, status) in [
        ("name=orders", &[][..], 401),
        ("name=orders", &[("authorization", &*bearer)], 202),
        ("name=others", &[("authorization", &*bearer)], 403),
        ("name=orders&token=t", &[("authorization", &*bearer)], 400),
    ] {
        let answer = post(&floe, &format!("/v0/events?{query}"), headers, "{}").await;
        let (found, answer) = told(answer).await;
        assert_eq!(found, status, "{query}: {answer}");
    }
}
