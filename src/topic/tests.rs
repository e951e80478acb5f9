//! Topics over a store whose log is in memory.

use super::options::{Source, TableMode};
use super::*;
use crate::store::Space;
use crate::store::keys;
use crate::store::testing::{Rig, records};

fn settings() -> Settings {
    Settings {
        server: Overrides::new(),
        num_partitions: 4,
        senders_have_rate: false,
        limits: Limits { topics_max: 5, partitions_max: 20 },
        check_partition_spec: |spec| match spec {
            "bad" => Err("expected a column at 0".to_owned()),
            _ => Ok(()),
        },
    }
}

fn open(rig: &Rig) -> Topics {
    Topics::open(rig.store(), settings(), rig.clock.clone(), Tasks::for_tests()).unwrap()
}

fn new(name: &str, partitions: i32, overrides: &[(&str, &str)]) -> NewTopic {
    NewTopic { name: name.to_owned(), partitions: Some(partitions), overrides: map(overrides) }
}

fn map(pairs: &[(&str, &str)]) -> Overrides {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn numbers(topic: &Topic) -> Vec<u32> {
    topic.partitions.iter().map(|id| id.0).collect()
}

#[tokio::test]
async fn a_topic_is_found_by_name_and_id_and_after_a_restart() {
    let rig = Rig::new();
    let topics = open(&rig);
    let mut changes = topics.subscribe();
    let topic =
        topics.create(new("orders", 2, &[("floe.table.mode", "raw")]), false).await.unwrap();
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert_eq!(topic.id.0.get_version_num(), 4);
    assert_eq!(numbers(&topic), [0, 1]);
    assert_eq!(topic.overrides, map(&[("table.mode", "raw")]));
    assert_eq!(topic.created_ms, 1_000_000);
    assert_eq!(topics.get("orders").unwrap(), topic);
    assert_eq!(topics.by_id(topic.id).unwrap(), topic);
    let state = rig.store().partition(topic.partitions[1]).unwrap().unwrap();
    assert_eq!((state.log_start, state.next_offset), (0, 0));
    drop(topics);
    let rig = rig.restart(|_, _| {});
    let topics = open(&rig);
    assert_eq!(topics.list(), [topic]);
    let other = topics.create(new("b", 1, &[]), false).await.unwrap();
    assert!(other.partitions[0].0 >= 2, "numbers are never used again");
}

#[tokio::test]
async fn a_topic_without_a_count_gets_the_servers() {
    let rig = Rig::new();
    let topics = open(&rig);
    let wish = NewTopic { name: "a".to_owned(), ..NewTopic::default() };
    assert_eq!(topics.create(wish, false).await.unwrap().partitions.len(), 4);
    assert_eq!(topics.create(new("b", -1, &[]), false).await.unwrap().partitions.len(), 4);
}

#[tokio::test]
async fn what_may_not_be_is_refused_and_changes_nothing() {
    let rig = Rig::new();
    let topics = open(&rig);
    topics.create(new("a", 1, &[]), false).await.unwrap();
    let before = rig.log.frames().end;
    let create = |wish| topics.create(wish, false);
    assert!(matches!(create(new("a", 1, &[])).await, Err(Error::Exists(_))));
    assert!(matches!(create(new("a b", 1, &[])).await, Err(Error::InvalidName(_))));
    for count in [0, -2] {
        assert!(matches!(create(new("b", count, &[])).await, Err(Error::InvalidPartitions(_))));
    }
    assert!(matches!(create(new("b", 20, &[])).await, Err(Error::PolicyViolation(_))));
    for (key, value) in
        [("retention.m", "1"), ("retention.ms", "x"), ("table.partition.spec", "bad")]
    {
        let error = create(new("b", 1, &[(key, value)])).await.unwrap_err();
        assert!(matches!(&error, Error::InvalidConfig(text) if text.contains(key)), "{error}");
    }
    for name in ["nope", "b"] {
        assert!(matches!(topics.delete(name).await, Err(Error::Unknown(_))));
        assert!(matches!(topics.grow(name, 9, false).await, Err(Error::Unknown(_))));
        assert!(matches!(topics.edit(name, vec![], false).await, Err(Error::Unknown(_))));
    }
    assert_eq!(rig.log.frames().end, before);
    assert_eq!((topics.list().len(), topics.partition_count()), (1, 1));
}

#[tokio::test]
async fn a_topic_that_is_kept_is_not_deleted() {
    let rig = Rig::new();
    let topics = open(&rig);
    for name in ["a", "b"] {
        topics.create(new(name, 1, &[]), false).await.unwrap();
    }
    topics.keep(["a".to_owned(), "c".to_owned()].into());
    let a = topics.get("a").unwrap();
    assert_eq!(topics.delete("a").await, Err(Error::Kept(a.name.clone())));
    assert_eq!(topics.delete_by_id(a.id).await, Err(Error::Kept(a.name.clone())));
    topics.delete("b").await.unwrap();
    assert_eq!(topics.list(), [a]);
}

#[tokio::test]
async fn room_is_asked_for_all_that_comes_together() {
    let topics = open(&Rig::new());
    assert_eq!(topics.check_room(5, 8), Ok(()));
    for (more, partitions) in [(6, 1), (1, 21)] {
        let refused = topics.check_room(more, partitions);
        assert!(matches!(refused, Err(Error::PolicyViolation(_))), "{more} {partitions}");
    }
}

#[tokio::test]
async fn the_topic_limit_holds() {
    let rig = Rig::new();
    let topics = open(&rig);
    for name in ["a", "b", "c", "d", "e"] {
        topics.create(new(name, 1, &[]), false).await.unwrap();
    }
    let error = topics.create(new("f", 1, &[]), false).await.unwrap_err();
    assert_eq!(error, Error::PolicyViolation("there are 5 topics, the limit is 5".to_owned()));
    topics.delete("a").await.unwrap();
    topics.create(new("f", 1, &[]), false).await.unwrap();
}

#[tokio::test]
async fn validation_alone_changes_nothing() {
    let rig = Rig::new();
    let topics = open(&rig);
    topics.create(new("a", 1, &[]), false).await.unwrap();
    let before = rig.log.frames().end;
    assert_eq!(topics.create(new("b", 3, &[]), true).await.unwrap().partitions.len(), 3);
    assert_eq!(topics.grow("a", 3, true).await.unwrap().partitions.len(), 3);
    let set = OptionEdit::Set("retention.ms".to_owned(), "5".to_owned());
    assert_eq!(topics.edit("a", vec![set], true).await.unwrap().options.retention_ms, Some(5));
    let replaced = topics
        .replace_for("a", map(&[("table.mode", "off")]), true, Editor::server())
        .await
        .unwrap();
    assert_eq!(replaced.options.table_mode, TableMode::Off);
    assert_eq!(rig.log.frames().end, before);
    assert_eq!(topics.get("a").unwrap().overrides, map(&[]));
    assert!(topics.get("b").is_none());
}

#[tokio::test]
async fn a_topic_only_grows() {
    let rig = Rig::new();
    let topics = open(&rig);
    let before = topics.create(new("a", 2, &[]), false).await.unwrap();
    topics.create(new("b", 1, &[]), false).await.unwrap();
    for total in [2, 1, 0, -1] {
        assert!(matches!(topics.grow("a", total, false).await, Err(Error::InvalidPartitions(_))));
    }
    assert!(matches!(topics.grow("a", 20, false).await, Err(Error::PolicyViolation(_))));
    let grown = topics.grow("a", 4, false).await.unwrap();
    assert_eq!(numbers(&grown), [0, 1, 3, 4]);
    assert_eq!((grown.id, topics.partition_count()), (before.id, 5));
    assert!(rig.store().partition(grown.partitions[3]).unwrap().is_some());
}

#[tokio::test]
async fn options_are_edited_together_or_not_at_all() {
    let rig = Rig::new();
    let topics = open(&rig);
    topics.create(new("a", 1, &[("retention.ms", "5")]), false).await.unwrap();
    let edits = |edits: &[(&str, &str, &str)]| -> Vec<OptionEdit> {
        let edit = |(op, key, value): &(&str, &str, &str)| {
            let (key, value) = ((*key).to_owned(), (*value).to_owned());
            match *op {
                "set" => OptionEdit::Set(key, value),
                "delete" => OptionEdit::Delete(key),
                "append" => OptionEdit::Append(key, value),
                _ => OptionEdit::Subtract(key, value),
            }
        };
        edits.iter().map(edit).collect()
    };
    let good = edits(&[
        ("delete", "retention.ms", ""),
        ("append", "cleanup.policy", "compact,delete"),
        ("set", "redpanda.iceberg.target.lag.ms", "2000"),
    ]);
    let topic = topics.edit("a", good, false).await.unwrap();
    let expected = map(&[("cleanup.policy", "delete,compact"), ("table.target.lag.ms", "2000")]);
    assert_eq!(topic.overrides, expected);
    assert_eq!((topic.options.compacted, topic.options.table_mode), (true, TableMode::Off));
    for bad in [
        edits(&[("set", "retention.ms", "9"), ("set", "table.mode", "csv")]),
        edits(&[("append", "retention.ms", "9")]),
        edits(&[("delete", "nope", "")]),
    ] {
        assert!(matches!(topics.edit("a", bad, false).await, Err(Error::InvalidConfig(_))));
    }
    assert_eq!(topics.get("a").unwrap().overrides, expected);
    let less = edits(&[("subtract", "cleanup.policy", "compact")]);
    assert!(!topics.edit("a", less, false).await.unwrap().options.compacted);
    let topic =
        topics.replace_for("a", map(&[("flush.ms", "7")]), false, Editor::server()).await.unwrap();
    assert_eq!(topic.overrides, map(&[("flush.ms", "7")]));
}

#[tokio::test]
async fn a_deleted_topic_is_hidden_at_once_and_its_name_is_free() {
    let rig = Rig::new();
    let topics = open(&rig);
    let old = topics.create(new("a", 2, &[]), false).await.unwrap();
    rig.clock.advance(5);
    topics.delete("a").await.unwrap();
    assert!(topics.get("a").is_none() && topics.by_id(old.id).is_none());
    assert_eq!(topics.draining(), [Arc::clone(&old)]);
    assert_eq!(topics.of_partition(old.partitions[1]), Some((Arc::clone(&old), true)));
    let again = topics.create(new("a", 1, &[]), false).await.unwrap();
    assert_ne!(again.id, old.id);
    assert_eq!(numbers(&again), [2]);
    drop(topics);
    let rig = rig.restart(|_, _| {});
    let topics = open(&rig);
    assert_eq!(topics.draining(), [Arc::clone(&old)]);
    assert_eq!(topics.deleted_ms(old.id), Some(1_000_005));
    assert_eq!(topics.list(), [again]);
}

#[tokio::test]
async fn a_drained_topic_leaves_nothing_behind() {
    let rig = Rig::new();
    let topics = open(&rig);
    let gone = topics.create(new("a", 2, &[]), false).await.unwrap();
    let kept = topics.create(new("b", 1, &[]), false).await.unwrap();
    for topic in [&gone, &kept] {
        for partition in &topic.partitions {
            let mut draft = records(partition.0, 0, 3);
            (draft.producer_id, draft.producer_epoch, draft.base_sequence) = (1, 0, 0);
            rig.log.append_now(vec![draft]).unwrap();
        }
    }
    topics.drained(kept.id).await.unwrap();
    assert_eq!(topics.list().len(), 2, "a live topic is never forgotten");
    topics.delete("a").await.unwrap();
    topics.drained(gone.id).await.unwrap();
    topics.drained(gone.id).await.unwrap();
    assert!(topics.draining().is_empty());
    assert_eq!(topics.of_partition(gone.partitions[0]), None);
    assert_eq!(topics.of_partition(kept.partitions[0]), Some((Arc::clone(&kept), false)));
    assert_eq!(topics.live_or_draining(gone.id), None);
    for space in [Space::Index, Space::Partition, Space::Producer] {
        for partition in &gone.partitions {
            assert_eq!(rig.store().scan(space, &keys::of_partition(*partition)).unwrap(), []);
        }
        let prefix = keys::of_partition(kept.partitions[0]);
        assert!(!rig.store().scan(space, &prefix).unwrap().is_empty());
    }
    assert_eq!(rig.store().scan(Space::Topic, b"").unwrap().len(), 1);
}

#[tokio::test]
async fn only_topics_that_changed_are_told_and_each_once() {
    let rig = Rig::new();
    let topics = open(&rig);
    let (start, none) = topics.changed_since(0);
    assert_eq!((start, none.len()), (0, 0));
    let a = topics.create(new("a", 1, &[]), false).await.unwrap();
    let b = topics.create(new("b", 1, &[]), false).await.unwrap();
    let (seen, both) = topics.changed_since(start);
    assert_eq!(both, [(Arc::clone(&a), false), (Arc::clone(&b), false)]);
    assert_eq!(topics.changed_since(seen), (seen, vec![]));
    let grown = topics.grow("a", 3, false).await.unwrap();
    assert_eq!(topics.of_partition(grown.partitions[0]), Some((Arc::clone(&grown), false)));
    topics.delete("b").await.unwrap();
    topics
        .edit("a", vec![OptionEdit::Set("retention.ms".into(), "5".into())], false)
        .await
        .unwrap();
    let (newest, changed) = topics.changed_since(seen);
    assert!(newest > seen);
    assert_eq!(changed, [(b.clone(), true), (topics.get("a").unwrap(), false)]);
    topics.drained(b.id).await.unwrap();
    assert_eq!(topics.changed_since(seen).1.len(), 1, "what is forgotten is not told of");
    drop(topics);
    let rig = rig.restart(|_, _| {});
    assert_eq!(open(&rig).changed_since(0).1.len(), 1);
}

#[tokio::test]
async fn one_option_in_two_spellings_is_not_edited_by_chance() {
    let rig = Rig::new();
    let topics = open(&rig);
    topics.create(new("a", 1, &[]), false).await.unwrap();
    let edits = vec![
        OptionEdit::Set("table.mode".into(), "raw".into()),
        OptionEdit::Delete("floe.table.mode".into()),
    ];
    let error = topics.edit("a", edits, false).await.unwrap_err();
    assert_eq!(error, Error::InvalidConfig("table.mode is changed twice".to_owned()));
}

#[tokio::test]
async fn an_id_deletes_its_own_topic_only() {
    let rig = Rig::new();
    let topics = open(&rig);
    let old = topics.create(new("a", 1, &[]), false).await.unwrap();
    assert_eq!(topics.delete_by_id(old.id).await.unwrap().id, old.id);
    let again = topics.create(new("a", 1, &[]), false).await.unwrap();
    assert_eq!(topics.delete_by_id(old.id).await.unwrap_err(), Error::UnknownId(old.id));
    assert_eq!(topics.list(), [again]);
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_memory_and_disk_alike() {
    let rig = Rig::new();
    let topics = open(&rig);
    {
        let create = topics.create(new("a", 1, &[]), false);
        tokio::pin!(create);
        // Polled once, so that it is under way, and dropped.
        assert!(futures::poll!(&mut create).is_pending());
    }
    let mut changes = topics.subscribe();
    changes.wait_for(|version| *version > 0).await.unwrap();
    assert!(topics.get("a").is_some());
    assert!(matches!(topics.create(new("a", 1, &[]), false).await, Err(Error::Exists(_))));
}

#[tokio::test]
async fn two_creations_of_one_name_make_one_topic() {
    let rig = Rig::new();
    let topics = open(&rig);
    let (a, b) = tokio::join!(
        topics.create(new("a", 1, &[]), false),
        topics.create(new("a", 1, &[]), false)
    );
    assert_eq!(usize::from(a.is_ok()) + usize::from(b.is_ok()), 1);
}

#[tokio::test]
async fn server_options_hold_for_topics_and_are_checked_at_start() {
    let rig = Rig::new();
    let start = |server: &[(&str, &str)]| {
        let settings = Settings { server: map(server), ..settings() };
        Topics::open(rig.store(), settings, rig.clock.clone(), Tasks::for_tests())
    };
    assert!(matches!(start(&[("table.mode", "x")]), Err(Error::InvalidConfig(_))));
    assert!(matches!(start(&[("table.snapshot.min.count", "5000")]), Err(Error::InvalidConfig(_))));
    let public = [("topic.public", "true"), ("topic.rate.requests", "1")];
    assert!(matches!(start(&public), Err(Error::InvalidConfig(_))));
    let topics = start(&[("floe.table.namespace", "lake")]).unwrap();
    let topic = topics.create(new("a", 1, &[]), false).await.unwrap();
    assert_eq!(topic.options.table_namespace, "lake");
    let views = topics.describe(&topic);
    let view = views.iter().find(|view| view.key == "table.namespace").unwrap();
    assert_eq!((view.value.as_str(), view.source), ("lake", Source::Server));
}

#[tokio::test]
async fn a_topic_is_public_only_while_it_has_a_rate() {
    let rig = Rig::new();
    let start = |senders_have_rate| {
        let settings = Settings { senders_have_rate, ..settings() };
        Topics::open(rig.store(), settings, rig.clock.clone(), Tasks::for_tests()).unwrap()
    };
    let topics = start(false);
    let public = ("topic.public", "true");
    let set = |key: &str, value: &str| OptionEdit::Set(key.to_owned(), value.to_owned());
    let is_refused = |done: Result<Arc<Topic>, Error>| matches!(done, Err(Error::InvalidConfig(text)) if text.contains("topic.rate.requests"));
    for validate_only in [true, false] {
        assert!(is_refused(topics.create(new("a", 1, &[public]), validate_only).await));
    }
    let bare = topics.resolve("a", &map(&[public])).unwrap();
    assert!(topics.check_public(&bare, None).is_err());
    assert!(topics.check_public(&bare, Some(&bare)).is_ok(), "it lost its rate before");
    // What others made public so is made, and closed.
    let behind = topics.create_behind(new("b", 1, &[public])).await.unwrap();
    assert!(behind.options.public && !topics.is_open(&behind));
    let rate = ("topic.rate.requests", "5");
    let topic = topics.create(new("a", 1, &[public, rate]), false).await.unwrap();
    assert!(topics.is_open(&topic));
    let bare = vec![OptionEdit::Delete(rate.0.to_owned())];
    assert!(is_refused(topics.edit("a", bare.clone(), false).await));
    assert!(is_refused(topics.edit("a", vec![set(rate.0, "0")], true).await));
    let replaced = topics.replace_for("a", map(&[public]), false, Editor::server()).await;
    assert!(is_refused(replaced));
    assert!(topics.is_open(&topics.get("a").unwrap()), "a refusal changes nothing");
    let other = vec![set("topic.rate.bytes", "1MiB"), OptionEdit::Delete(rate.0.to_owned())];
    assert!(topics.is_open(&topics.edit("a", other, false).await.unwrap()));
    let closed = vec![OptionEdit::Delete("topic.rate.bytes".to_owned()), set(public.0, "false")];
    assert!(!topics.is_open(&topics.edit("a", closed, false).await.unwrap()));
    // Where all senders have a rate the topic needs none; without that it is closed, and no other
    // change of it is in the way.
    let topics = start(true);
    assert!(topics.is_open(&topics.edit("a", vec![set(public.0, "true")], false).await.unwrap()));
    let topics = start(false);
    let topic = topics.get("a").unwrap();
    assert!(topic.options.public && !topics.is_open(&topic));
    assert!(topics.edit("a", vec![set("retention.ms", "5")], false).await.is_ok());
    assert!(topics.is_open(&topics.edit("a", vec![set(rate.0, "5")], false).await.unwrap()));
    assert!(is_refused(topics.edit("a", bare, false).await));
}

#[tokio::test]
async fn a_table_of_others_is_opened_by_who_may_write_to_it() {
    let rig = Rig::new();
    let topics = open(&rig);
    let contract = [
        ("table.mode", "contract"),
        ("table.name", "t"),
        ("topic.rate.requests", "5"),
        ("retention.ms", "7"),
    ];
    topics.create(new("a", 1, &contract), false).await.unwrap();
    let edit = async |key: &str, value: &str, may_write: bool| {
        let edits = vec![OptionEdit::Set(key.to_owned(), value.to_owned())];
        let tables = Box::new(move |_: &str| may_write);
        let may_write = MayWrite { tables, ..MayWrite::everything() };
        let editor = Editor { may_write, ..Editor::server() };
        topics.edit_for("a", edits, false, editor).await
    };
    assert!(edit("retention.ms", "8", false).await.is_ok());
    let refused = edit("topic.public", "true", false).await;
    assert_eq!(refused, Err(Error::TableForbidden("streams.t".to_owned())));
    assert!(edit("topic.public", "true", true).await.is_ok());
    assert!(edit("retention.ms", "9", false).await.is_ok());
    assert!(edit("topic.public", "false", false).await.is_ok());
}

#[tokio::test]
async fn a_topic_is_opened_by_who_may_send_to_it_and_to_the_tables_of_its_sinks() {
    let rig = Rig::new();
    let topics = open(&rig);
    let rated = topics.create(new("a", 1, &[("topic.rate.requests", "5")]), false).await.unwrap();
    let id = rated.id;
    topics.ask_sinks(Box::new(move |of| if of == id { vec!["n.s".to_owned()] } else { vec![] }));
    let may = |topic: &'static str, table: &'static str| MayWrite {
        topics: Box::new(move |name| name == topic),
        tables: Box::new(move |name| name == table),
    };
    let edit = async |value: &str, may_write: MayWrite| {
        let edits = vec![OptionEdit::Set("topic.public".to_owned(), value.to_owned())];
        topics.edit_for("a", edits, false, Editor { may_write, ..Editor::server() }).await
    };
    let name = rated.name.clone();
    assert_eq!(edit("true", may("b", "n.s")).await, Err(Error::TopicForbidden(name)));
    let of_sink = Err(Error::TableForbidden("n.s".to_owned()));
    assert_eq!(edit("true", may("a", "n.t")).await, of_sink);
    assert!(edit("true", may("a", "n.s")).await.is_ok());
    assert!(edit("false", may("", "")).await.is_ok(), "who may alter it closes it");
    let wish = new("b", 1, &[("topic.public", "true"), ("topic.rate.requests", "5")]);
    let made = topics.create_for(wish.clone(), false, may("a", "")).await;
    assert!(matches!(made, Err(Error::TopicForbidden(_))), "{made:?}");
    assert!(topics.create_for(wish, false, may("b", "")).await.is_ok());
}

#[tokio::test]
async fn the_stored_form_is_the_golden_one() {
    let rig = Rig::new();
    let topics = open(&rig);
    let topic = topics.create(new("a", 1, &[("retention.ms", "5")]), false).await.unwrap();
    let stored = rig.store().get(Space::Topic, b"t/a").unwrap().unwrap();
    let expected = format!(
        r#"{{"v":1,"name":"a","id":"{}","partitions":[0],{}"created_ms":1000000}}"#,
        topic.id, r#""overrides":{"retention.ms":"5"},"#
    );
    assert_eq!(String::from_utf8(stored).unwrap(), expected);
}
