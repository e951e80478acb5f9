use crate::runtime::Tasks;
use crate::sink::Triggers;
use crate::store::history::Edit;
use crate::store::testing::Rig;
use crate::types::Expected;

use super::registry::decode;
use super::*;

fn open(rig: &Rig) -> Sources {
    Sources::open(rig.store(), rig.clock.clone(), Tasks::for_tests()).unwrap()
}

fn edit() -> Edit {
    Edit::by("ann")
}

fn wish(topic: &str) -> Wish {
    serde_json::from_value(serde_json::json!({ "name": "Shop", "topic": topic })).unwrap()
}

#[tokio::test]
async fn sources_are_state_that_a_restart_finds() {
    let rig = Rig::new();
    let sources = open(&rig);
    let (made, is_new) =
        sources.put("shop", wish(""), edit(), Expected::None, false).await.unwrap();
    assert!(is_new && made.secret.len() == 48 && made.wish.topic == "shop");
    assert!(!format!("{made:?}").contains(&made.secret), "a secret is not logged");
    let (other, _) =
        sources.put("shop", wish("orders"), edit(), Expected::Some, false).await.unwrap();
    assert_eq!((other.version, &other.secret), (2, &made.secret));
    let (same, is_new) =
        sources.put("shop", wish("orders"), edit(), Expected::Any, false).await.unwrap();
    assert_eq!((same.version, is_new), (2, false));
    let found = open(&rig).get("shop").unwrap();
    assert_eq!(found, other);
    sources.delete("shop", Expected::Tags(vec![other.tag()])).await.unwrap();
    assert!(open(&rig).list().is_empty());
}

#[tokio::test]
async fn a_secret_that_was_rotated_opens_nothing() {
    let rig = Rig::new();
    let sources = open(&rig);
    let (made, _) = sources.put("shop", wish(""), edit(), Expected::Any, false).await.unwrap();
    let rotated = sources.rotate("shop", edit(), Expected::Any).await.unwrap();
    assert!(rotated.is_opened_by(&rotated.secret) && !rotated.is_opened_by(&made.secret));
    for wrong in ["", &rotated.secret[..47], &format!("{}x", rotated.secret)] {
        assert!(!rotated.is_opened_by(wrong), "{wrong}");
    }
    let stale = sources.rotate("shop", edit(), Expected::Tags(vec![made.tag()])).await;
    assert!(matches!(stale, Err(Error::Precondition(_))));
    let unknown = sources.rotate("other", edit(), Expected::Any).await;
    assert_eq!(unknown, Err(Error::Unknown("other".to_owned())));
}

#[tokio::test]
async fn a_source_of_telemetry_is_not_split_and_http_is_not_written_down() {
    let rig = Rig::new();
    let sources = open(&rig);
    let asked = |wish: serde_json::Value| {
        let wish = serde_json::from_value(wish).unwrap();
        sources.put("telemetry", wish, edit(), Expected::Any, false)
    };
    let (made, _) = asked(serde_json::json!({ "type": "otlp" })).await.unwrap();
    assert_eq!((made.wish.kind, open(&rig).get("telemetry").unwrap()), (Kind::Otlp, made.clone()));
    let refused = asked(serde_json::json!({ "type": "otlp", "split": "auto" })).await;
    assert!(matches!(refused, Err(Error::Invalid(why)) if why.starts_with("split is refused")));
    // Sources of earlier releases have no type.
    assert!(!serde_json::to_string(&wish("shop")).unwrap().contains("type"));
}

#[tokio::test]
async fn what_is_refused_changes_nothing() {
    let rig = Rig::new();
    let sources = open(&rig);
    let long = "x".repeat(49);
    for (id, wish) in [("", wish("t")), ("a/b", wish("t")), (&long, wish("t")), ("a", wish("a b"))]
    {
        let refused = sources.put(id, wish, edit(), Expected::Any, false).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{id:?}");
    }
    sources.put("a", wish(""), edit(), Expected::Any, true).await.unwrap();
    assert!(sources.list().is_empty(), "a dry run makes none");
}

#[test]
fn the_layout_is_the_golden_one() {
    let golden = br#"{"v":1,"id":"s","wish":{"name":"n","topic":"t","enabled":true},"secret":"x","version":2,"trail":{"created":{"at_ms":5},"changed":{"at_ms":6}}}"#;
    let source = decode(golden).unwrap();
    assert_eq!(serde_json::to_vec(&source).unwrap(), golden);
    assert!(decode(&golden.map(|byte| if byte == b'1' { b'3' } else { byte })).is_err());
}

#[tokio::test]
async fn what_is_marked_as_deleted_takes_nothing_and_comes_back_with_its_secret() {
    let rig = Rig::new();
    let sources = open(&rig);
    let (made, _) = sources.put("shop", wish(""), edit(), Expected::None, false).await.unwrap();
    let deleted = sources.mark_deleted("shop", edit()).await.unwrap();
    assert!(!deleted.is_live() && deleted.trail.deleted.as_ref().unwrap().by == "ann");
    let sources = open(&rig);
    assert_eq!((sources.get("shop"), sources.list().len(), sources.deleted().len()), (None, 0, 1));
    let unknown = Err(Error::Unknown("shop".to_owned()));
    assert_eq!(sources.mark_deleted("shop", edit()).await, unknown);
    assert_eq!(sources.delete("shop", Expected::Any).await, unknown);
    assert_eq!(sources.rotate("shop", edit(), Expected::Any).await, unknown);
    let back = sources.undelete("shop", edit()).await.unwrap();
    assert_eq!((back.version, &back.secret), (3, &made.secret));
    assert_eq!(sources.undelete("shop", edit()).await, unknown);
    let reasons: Vec<String> =
        sources.versions("shop", 3, |version| version.mark.reason.clone()).unwrap();
    assert_eq!(reasons, ["New source.", "Deleted.", "Undeleted."]);
    // One that is made again under the name is another to who knows the secret.
    sources.mark_deleted("shop", edit()).await.unwrap();
    let again = sources.put("shop", wish("other"), edit(), Expected::None, false).await;
    let (again, is_new) = again.unwrap();
    assert!(is_new && again.is_live() && again.secret != made.secret);
    sources.delete("shop", Expected::Any).await.unwrap();
    assert_eq!(
        open(&rig).versions("shop", 9, Version::clone).unwrap(),
        [],
        "it is forgotten with its versions"
    );
}

#[tokio::test]
async fn the_least_that_sources_of_a_topic_ask_for_counts() {
    let rig = Rig::new();
    let sources = open(&rig);
    let asks = |lag_ms, records| Wish {
        commit: Triggers { lag_ms, records, ..Triggers::default() },
        ..wish("orders")
    };
    for (id, wish) in [
        ("a", asks(Some(5_000), None)),
        ("b", asks(Some(9_000), Some(7))),
        ("c", Wish { topic: "other".to_owned(), ..asks(Some(1_000), None) }),
        ("d", asks(Some(2_000), None)),
    ] {
        sources.put(id, wish, edit(), Expected::None, false).await.unwrap();
    }
    sources.mark_deleted("d", edit()).await.unwrap();
    let wanted = Triggers { lag_ms: Some(5_000), records: Some(7), bytes: None };
    assert_eq!(sources.commit_of("orders"), wanted);
    let refused = sources.put("e", asks(Some(1), None), edit(), Expected::None, false).await;
    assert!(matches!(refused, Err(Error::Invalid(text)) if text.contains("commit.lag_ms")));
}
