use std::collections::BTreeMap;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::runtime::Tasks;
use crate::store::history::Edit;
use crate::store::testing::Rig;
use crate::types::{Expected, Offset, TopicId};

use super::stored::decode;
use super::*;

const TOPIC: TopicId = TopicId(Uuid::from_u128(7));

fn open(rig: &Rig) -> Sinks {
    Sinks::open(rig.store(), rig.clock.clone(), Tasks::for_tests()).unwrap()
}

fn wish(table: &str) -> Wish {
    wish_with(json!({"table": {"name": table}}))
}

fn wish_with(more: Value) -> Wish {
    let column = json!({"type": "id", "name": "id"});
    let mut wish = json!({"table": {"name": "t"}, "mapping": {"columns": [column]}});
    wish.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(wish).unwrap()
}

fn asked(wish: Wish) -> Asked {
    Asked { wish, ends: BTreeMap::new(), starts: BTreeMap::new(), edit: edit() }
}

fn edit() -> Edit {
    Edit::by("ann")
}

async fn put(sinks: &Sinks, id: &str, wish: Wish, expected: Expected) -> Result<Put, Error> {
    sinks.put((TOPIC, id), asked(wish), expected, false).await
}

#[test]
fn a_wish_says_when_events_are_held_against_it_and_one_without_does_not() {
    let old = wish("a");
    assert_eq!(old.validate, Validate::Commit);
    let stored = serde_json::to_value(&old).unwrap();
    assert_eq!(stored.get("validate"), None, "as releases wrote it that did not know it");
    let new = wish_with(json!({"validate": "sync"}));
    assert_eq!(serde_json::to_value(&new).unwrap()["validate"], "sync");
    let other: Result<Validate, _> = serde_json::from_value(json!("never"));
    assert!(other.is_err());
}

#[tokio::test]
async fn a_sink_whose_start_nobody_looked_for_is_not_made() {
    let sinks = open(&Rig::new());
    let wish = wish_with(json!({"table": {"name": "a"}, "from": 5}));
    let ends = BTreeMap::from([(0, 9)]);
    let put = async |starts: &BTreeMap<i32, Offset>, wish: Wish| {
        let asked = Asked { ends: ends.clone(), starts: starts.clone(), ..asked(wish) };
        sinks.put((TOPIC, "a"), asked, Expected::Any, false).await
    };
    let refused = put(&BTreeMap::new(), wish.clone()).await;
    assert!(matches!(refused, Err(Error::Precondition(_))), "{refused:?}");
    let starts = BTreeMap::from([(0, 3)]);
    put(&starts, wish.clone()).await.unwrap();
    let more = Wish { description: "more".to_owned(), ..wish.clone() };
    put(&BTreeMap::new(), more).await.unwrap();
    assert_eq!(sinks.get(TOPIC, "a").unwrap().starts, starts);
    sinks.mark_deleted((TOPIC, "a"), edit(), false).await.unwrap();
    put(&BTreeMap::new(), wish).await.unwrap();
    assert_eq!(sinks.get(TOPIC, "a").unwrap().starts, starts, "it goes on");
}

#[tokio::test]
async fn sinks_are_state_that_a_restart_finds() {
    let rig = Rig::new();
    let sinks = open(&rig);
    let made = put(&sinks, "a", wish("a"), Expected::Any).await.unwrap();
    assert!(matches!(made, Put::Made(_)));
    let starts = BTreeMap::from([(0, 5)]);
    let asked_b = Asked {
        starts: starts.clone(),
        ..asked(wish_with(json!({"table": {"name": "b"}, "from": "latest"})))
    };
    sinks.put((TOPIC, "b"), asked_b, Expected::Any, false).await.unwrap();
    let other = wish_with(json!({"table": {"name": "a"}, "description": "more"}));
    let replaced = put(&sinks, "a", other.clone(), Expected::Any).await.unwrap();
    assert!(matches!(replaced, Put::Replaced(_)));
    let same = put(&sinks, "a", other, Expected::Any).await.unwrap();
    assert!(matches!(same, Put::Same(_)), "what is there needs no new version");
    let again = open(&rig);
    assert_eq!(again.topics(), [TOPIC]);
    let found = again.get(TOPIC, "a").unwrap();
    assert_eq!((found.uid, found.version), (made.sink().uid, 2));
    assert_eq!(found.wish.description, "more");
    assert_eq!(found.wish.mapping["columns"][0]["type"], "uuid", "aliases are settled");
    assert_eq!(again.get(TOPIC, "b").unwrap().starts, starts);
    assert!(again.get(TopicId(Uuid::from_u128(8)), "a").is_none());
    again.delete(TOPIC, "b", Expected::Any).await.unwrap();
    let gone = again.delete(TOPIC, "b", Expected::Any).await;
    assert!(matches!(gone, Err(Error::Unknown(_))));
    again.forget(TOPIC).await.unwrap();
    assert!(open(&rig).topics().is_empty());
}

#[tokio::test]
async fn a_sink_knows_the_version_in_which_it_was_switched_on() {
    let rig = Rig::new();
    let sinks = open(&rig);
    let off = || wish_with(json!({"table": {"name": "a"}, "enabled": false}));
    let named = wish_with(json!({"table": {"name": "a"}, "name": "A"}));
    for (wish, on_since) in [(wish("a"), 1), (named, 1), (off(), 1), (wish("a"), 4)] {
        let put = put(&sinks, "a", wish, Expected::Any).await.unwrap();
        assert_eq!(put.sink().on_since, on_since, "{:?}", put.sink().wish);
    }
    sinks.mark_deleted((TOPIC, "a"), edit(), false).await.unwrap();
    let back = sinks.undelete((TOPIC, "a"), BTreeMap::new(), edit()).await.unwrap();
    assert_eq!((back.version, back.on_since), (6, 6));
    assert_eq!(open(&rig).get(TOPIC, "a").unwrap().on_since, 6);
    // Of releases that did not know it.
    let stored = super::stored::encode(&back).unwrap();
    let mut old: Value = serde_json::from_slice(&stored).unwrap();
    assert_eq!(old.as_object_mut().unwrap().remove("on_since"), Some(json!(6)));
    assert_eq!(decode(&serde_json::to_vec(&old).unwrap()).unwrap().on_since, 1);
}

#[tokio::test]
async fn nobody_changes_a_version_that_it_does_not_know() {
    let rig = Rig::new();
    let sinks = open(&rig);
    let tags = |tag: String| Expected::Tags(vec!["other".to_owned(), tag]);
    for expected in [Expected::Some, tags("x".to_owned())] {
        let refused = put(&sinks, "a", wish("a"), expected).await;
        assert!(matches!(refused, Err(Error::Precondition(_))), "{refused:?}");
    }
    let made = put(&sinks, "a", wish("a"), Expected::None).await.unwrap();
    let refused = put(&sinks, "a", wish("a"), Expected::None).await;
    assert!(matches!(refused, Err(Error::Precondition(_))), "{refused:?}");
    let other = wish_with(json!({"table": {"name": "a"}, "name": "A"}));
    put(&sinks, "a", other, tags(made.sink().tag())).await.unwrap();
    let refused = put(&sinks, "a", wish("a"), tags(made.sink().tag())).await;
    assert!(matches!(refused, Err(Error::Precondition(_))), "{refused:?}");
    let refused = sinks.delete(TOPIC, "a", tags(made.sink().tag())).await;
    assert!(matches!(refused, Err(Error::Precondition(_))), "{refused:?}");
    // One that is made again is another.
    sinks.delete(TOPIC, "a", Expected::Some).await.unwrap();
    let again = put(&sinks, "a", wish("a"), Expected::None).await.unwrap();
    assert_ne!(again.sink().tag(), made.sink().tag());
}

#[tokio::test]
async fn a_dry_run_checks_and_changes_nothing() {
    let rig = Rig::new();
    let sinks = open(&rig);
    let before = sinks.newest();
    let dry = sinks.put((TOPIC, "a"), asked(wish("a")), Expected::Any, true).await;
    assert!(matches!(dry, Ok(Put::Made(_))));
    assert!(sinks.topics().is_empty() && sinks.newest() == before);
    let bad = wish_with(json!({"commit": {"records": 0}}));
    let dry = sinks.put((TOPIC, "a"), asked(bad), Expected::Any, true).await;
    assert!(matches!(dry, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn a_topic_has_twenty_sinks_and_each_has_a_table_of_its_own() {
    let rig = Rig::new();
    let sinks = open(&rig);
    for number in 0..SINKS_PER_TOPIC_MAX {
        let name = format!("t{number}");
        put(&sinks, &name, wish(&name), Expected::Any).await.unwrap();
    }
    let refused = put(&sinks, "more", wish("more"), Expected::Any).await;
    assert!(matches!(refused, Err(Error::TooMany(_))));
    let other = TopicId(Uuid::from_u128(8));
    let refused = sinks.put((other, "x"), asked(wish("T3")), Expected::Any, false).await;
    assert!(matches!(refused, Err(Error::TableTaken { .. })), "{refused:?}");
    let elsewhere = wish_with(json!({"table": {"name": "t3", "namespace": "other"}}));
    sinks.put((other, "x"), asked(elsewhere), Expected::Any, false).await.unwrap();
}

#[tokio::test]
async fn the_table_and_the_start_of_a_sink_stay() {
    let rig = Rig::new();
    let sinks = open(&rig);
    put(&sinks, "a", wish("a"), Expected::Any).await.unwrap();
    for other in [wish("b"), wish_with(json!({"table": {"name": "a"}, "from": "latest"}))] {
        let refused = put(&sinks, "a", other, Expected::Any).await;
        assert!(matches!(refused, Err(Error::Fixed(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn a_deleted_sink_is_off_and_goes_on_in_its_table() {
    let rig = Rig::new();
    let sinks = open(&rig);
    let made = put(&sinks, "a", wish("a"), Expected::Any).await.unwrap();
    let deleted = sinks.mark_deleted((TOPIC, "a"), edit(), true).await.unwrap();
    assert!(!deleted.is_on() && deleted.deleted_with_source);
    let sinks = open(&rig);
    assert!(sinks.get(TOPIC, "a").is_none() && sinks.of_topic(TOPIC).is_empty());
    assert_eq!(sinks.all_of_topic(TOPIC).len(), 1, "its table has it still");
    let other = put(&sinks, "b", wish("A"), Expected::Any).await;
    assert!(matches!(other, Err(Error::TableTaken { .. })), "{other:?}");
    let back = sinks.undelete((TOPIC, "a"), BTreeMap::from([(0, 7)]), edit()).await.unwrap();
    assert_eq!((back.uid, back.version, back.is_on()), (made.sink().uid, 3, true));
    assert!(sinks.undelete((TOPIC, "a"), BTreeMap::from([(0, 7)]), edit()).await.is_err());
    // Made again it goes on if the table is the same; else it is another sink.
    sinks.mark_deleted((TOPIC, "a"), edit(), false).await.unwrap();
    let again = put(&sinks, "a", wish("a"), Expected::None).await.unwrap();
    assert!(matches!(&again, Put::Made(sink) if sink.uid == made.sink().uid));
    sinks.mark_deleted((TOPIC, "a"), edit(), false).await.unwrap();
    let again = put(&sinks, "a", wish("c"), Expected::None).await.unwrap();
    assert_ne!(again.sink().uid, made.sink().uid);
    assert_eq!(again.sink().version, 1);
    assert_eq!(
        sinks.versions(made.sink().uid, 9, Version::clone).unwrap(),
        [],
        "the old one is forgotten"
    );
    assert_eq!(sinks.versions(again.sink().uid, 1, Version::clone).unwrap().len(), 1);
}

#[tokio::test]
async fn of_many_deleted_sinks_the_first_is_forgotten() {
    let rig = Rig::new();
    let sinks = open(&rig);
    for number in 0..=DELETED_PER_TOPIC_MAX {
        let name = format!("t{number}");
        put(&sinks, &name, wish(&name), Expected::Any).await.unwrap();
        sinks.mark_deleted((TOPIC, &name), edit(), false).await.unwrap();
        rig.clock.advance(1);
    }
    assert_eq!(sinks.all_of_topic(TOPIC).len(), DELETED_PER_TOPIC_MAX);
    assert!(sinks.kept(TOPIC, "t0").is_none() && sinks.kept(TOPIC, "t1").is_some());
    assert_eq!(open(&rig).all_of_topic(TOPIC).len(), DELETED_PER_TOPIC_MAX);
}

#[tokio::test]
async fn statistics_begin_anew_without_a_new_version() {
    let rig = Rig::new();
    let sinks = open(&rig);
    put(&sinks, "a", wish("a"), Expected::Any).await.unwrap();
    sinks.clear(TOPIC, "a", 7).await.unwrap();
    let found = open(&rig).get(TOPIC, "a").unwrap();
    assert_eq!((found.version, found.cleared.map(|cleared| cleared.rows)), (1, Some(7)));
}

#[tokio::test]
async fn the_primary_key_of_a_sink_stays() {
    let rig = Rig::new();
    let sinks = open(&rig);
    let keyed = |name: &str, key: bool| {
        let column = json!({"type": "uuid", "name": name, "primaryKey": key});
        let more = json!({"type": "body", "name": "raw"});
        wish_with(json!({"table": {"name": "a"}, "mapping": {"columns": [column, more]}}))
    };
    put(&sinks, "a", keyed("id", true), Expected::Any).await.unwrap();
    for other in [keyed("id", false), keyed("uid", true)] {
        let refused = put(&sinks, "a", other, Expected::Any).await;
        let Err(Error::Fixed(reason)) = refused else { panic!("{refused:?}") };
        assert!(reason.starts_with("the primary key"), "{reason}");
    }
    let more = json!({"columns": [{"type": "uuid", "name": "id", "primaryKey": true}]});
    let other = wish_with(json!({"table": {"name": "a"}, "mapping": more}));
    let replaced = put(&sinks, "a", other, Expected::Any).await.unwrap();
    assert!(matches!(replaced, Put::Replaced(_)), "other columns may change");
}

#[test]
fn all_faults_of_a_wish_are_told_together() {
    let fine = wish("t");
    assert!(fine.check("a-Z_9").is_ok());
    for id in ["", "a b", "é", &"x".repeat(49)] {
        assert!(fine.check(id).is_err(), "{id:?}");
    }
    let bad = wish_with(json!({
        "name": "n".repeat(41),
        "table": {"name": "a-b", "namespace": "x..y"},
        "commit": {"lag_ms": 999, "bytes": 99, "records": 10_000_001},
        "partition_spec": "day(",
        "mapping": {"columns": [{"type": "uuid", "name": "FLOE"}]},
    }));
    let Err(Error::Invalid(faults)) = bad.check("a") else { panic!("it is refused") };
    assert_eq!(faults.len(), 8, "{faults:?}");
    let unknown = json!({"table": {"name": "t"}, "mapping": {}, "colour": 1});
    assert!(serde_json::from_value::<Wish>(unknown).is_err());
}

#[test]
fn the_layout_is_the_golden_one() {
    let golden = br#"{"v":1,"uid":"00000000-0000-0000-0000-000000000009","topic_id":"00000000-0000-0000-0000-000000000007","id":"a","wish":{"table":{"namespace":"streams","name":"t"},"mapping":{"columns":[{"type":"uuid","name":"id"}]},"commit":{"records":5},"enabled":true,"from":"latest"},"version":3,"starts":{"0":4},"trail":{"created":{"at_ms":1},"changed":{"at_ms":2,"by":"ann"}}}"#;
    let sink = decode(golden).unwrap();
    assert_eq!((sink.version, sink.starts[&0], sink.wish.commit.records), (3, 4, Some(5)));
    let value: Value = serde_json::from_slice(golden).unwrap();
    let written: Value = serde_json::from_slice(&stored::encode(&sink).unwrap()).unwrap();
    assert_eq!(written, value);
    let mut at = value.clone();
    at["wish"]["from"] = "2025-11-26T18:00:00.000Z".into();
    let begun = decode(at.to_string().as_bytes()).unwrap();
    assert_eq!((begun.wish.from, begun.starts[&0]), (From::At(1_764_180_000_000), 4));
    let mut later = value;
    later["v"] = 2.into();
    assert!(decode(later.to_string().as_bytes()).is_err());
}
