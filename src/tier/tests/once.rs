//! Exactly once as a simulation: the worker's steps over the real ledger entry, guard and commit
//! loop, a catalog that lies, other writers, crashes anywhere. Whoever saw every snapshot counts
//! the offsets in the table.

mod sim;

use std::collections::BTreeMap;

use iceberg::TableUpdate;
use proptest::prelude::*;
use uuid::Uuid;

use crate::table::commit::fake::Answer;
use crate::table::commit::fake::append;
use crate::table::commit::marker::Gap;
use crate::table::commit::marker::Statement;
use crate::tier::ledger::StopState;
use crate::tier::tests::once::sim::Sim;

const PARTITIONS: i32 = 2;

#[derive(Debug, Clone)]
enum Act {
    /// Records are appended to a partition.
    Append(i32, i64),
    /// The worker does a step; the catalog answers so; it dies at this point, if any.
    Turn {
        cut: i64,
        answers: Vec<Answer>,
        death: Option<Death>,
    },
    /// The next offsets of a partition are passed without rows.
    Gap(i32, i64),
    Foreign,
    Expire,
    ForeignProperty,
    /// The files of the outstanding commit are gone at the next restart.
    LoseFiles,
    Rollback(usize),
    Stranger,
    Drop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    BeforePrepared,
    AfterPrepared,
    Record,
    BeforeCommit,
    AfterCommit,
    BeforeCommitted,
}

fn any_act(hostile: bool) -> impl Strategy<Value = Act> {
    let answer = prop_oneof![
        3 => Just(Answer::Honest),
        1 => Just(Answer::Conflict),
        1 => Just(Answer::LostReply),
        1 => Just(Answer::LostRequest),
        1 => Just(Answer::DoubleDelivery),
        1 => Just(Answer::ForeignFirst),
        1 => Just(Answer::Late),
    ];
    let death = prop::option::weighted(
        0.4,
        prop::sample::select(vec![
            Death::BeforePrepared,
            Death::AfterPrepared,
            Death::Record,
            Death::BeforeCommit,
            Death::AfterCommit,
            Death::BeforeCommitted,
        ]),
    );
    let turn = (1..20_i64, prop::collection::vec(answer, 0..5), death)
        .prop_map(|(cut, answers, death)| Act::Turn { cut, answers, death });
    let weight = u32::from(hostile);
    prop_oneof![
        6 => (0..PARTITIONS, 1..15_i64).prop_map(|(partition, count)| Act::Append(partition, count)),
        12 => turn,
        1 => (0..PARTITIONS, 1..5_i64).prop_map(|(partition, count)| Act::Gap(partition, count)),
        2 => Just(Act::Foreign),
        2 => Just(Act::Expire),
        1 => Just(Act::ForeignProperty),
        weight => Just(Act::LoseFiles),
        2 * weight => any::<usize>().prop_map(Act::Rollback),
        weight => Just(Act::Stranger),
        weight => Just(Act::Drop),
    ]
}

impl Sim {
    async fn act(&mut self, act: &Act) {
        match act {
            Act::Append(partition, count) => *self.log_ends.entry(*partition).or_insert(0) += count,
            Act::Turn { cut, answers, death } => {
                let late = |answer: &Answer| match answer {
                    // A catalog in this process has no network to be late on.
                    Answer::Late if self.with_state => Answer::LostRequest,
                    answer => *answer,
                };
                let answers: Vec<Answer> = answers.iter().map(late).collect();
                self.turn(*cut, &answers, *death).await;
            }
            Act::Gap(partition, count) => {
                let from = self.entry.next(*partition).unwrap_or(0);
                let to = (from + count).min(self.log_ends.get(partition).copied().unwrap_or(0));
                if to > from && self.entry.stop.is_none() {
                    let gap = Gap { partition: *partition, from, to, reason: "off".to_owned() };
                    self.entry.record_gap(gap).unwrap();
                    self.write();
                }
            }
            Act::LoseFiles => {
                self.files_lost = true;
                self.die();
            }
            Act::Foreign => self.catalog.foreign_append(&self.name),
            Act::ForeignProperty => {
                let updates = [("owner".to_owned(), "somebody".to_owned())].into();
                self.catalog.alter(&self.name, vec![TableUpdate::SetProperties { updates }]);
            }
            // A branch that was moved and has lost its history says what it said before.
            Act::Expire if self.moved => {}
            Act::Expire => {
                self.look();
                self.catalog.expire(&self.name);
            }
            Act::Rollback(number) => self.roll_back(*number),
            // A copy goes by the same rules: it goes on from the last commit of a branch that is
            // where it was, and there is one of it.
            Act::Stranger if self.strange || self.moved || self.entry.outstanding.is_some() => {}
            Act::Stranger => self.stranger(),
            Act::Drop => {
                self.catalog.drop_table(&self.name);
                self.entry.stop(StopState::TableDropped, "a look would find out");
                self.resume().await;
            }
        }
    }

    fn roll_back(&mut self, number: usize) {
        let metadata = self.catalog.metadata(&self.name);
        let mut ids: Vec<i64> = metadata.snapshots().map(|one| one.snapshot_id()).collect();
        ids.sort_unstable();
        if let Some(at) = number.checked_rem(ids.len()) {
            self.moved |= metadata.current_snapshot_id() != Some(ids[at]);
            self.catalog.roll_back(&self.name, ids[at]);
        }
    }

    /// A copy of this data directory commits what we would.
    fn stranger(&mut self) {
        self.strange = true;
        let metadata = self.catalog.metadata(&self.name);
        let plan = self.plan(3);
        let source = self.entry.source();
        let commit_id = Uuid::now_v7();
        let statement = Statement {
            source,
            commit_id,
            cluster_id: "c",
            topic_name: "orders",
            ranges: &plan.ranges,
            gaps: &[],
            ends: &plan.ends_after,
            more: &BTreeMap::new(),
        };
        self.plans.insert(commit_id, plan.ranges.clone());
        let id = (commit_id.as_u128() & i64::MAX as u128) as i64;
        let (_, mut updates) = append(&metadata, statement.summary(), id);
        let (key, value) = statement.property();
        updates.push(TableUpdate::SetProperties { updates: [(key, value)].into() });
        self.catalog.alter(&self.name, updates);
    }
}

async fn play(acts: &[Act], with_state: bool, hostile: bool) {
    let mut sim = Sim::new(with_state).await;
    for act in acts {
        sim.act(act).await;
        sim.check_none_twice();
        if sim.entry.stop.is_some() {
            assert!(hostile, "{:?} though nobody did any harm", sim.entry.stop);
            sim.resume().await;
            sim.check_none_twice();
        }
    }
    // Left in peace, everything comes into the table. A worker looks when there is something new.
    (0..PARTITIONS).for_each(|partition| *sim.log_ends.entry(partition).or_insert(0) += 1);
    for _ in 0..60 {
        sim.turn(100, &[], None).await;
        if sim.entry.stop.is_some() {
            assert!(hostile, "{:?} though nobody did any harm", sim.entry.stop);
            sim.resume().await;
        }
    }
    sim.check_none_twice();
    let waits = |(partition, end): (&i32, &i64)| sim.entry.next(*partition) < Some(*end);
    assert!(!sim.log_ends.iter().any(waits), "{:?} is not {:?}", sim.entry.ends, sim.log_ends);
    assert!(sim.entry.outstanding.is_none());
}

fn run(acts: &[Act], with_state: bool, hostile: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(play(acts, with_state, hostile));
}

#[test]
fn a_commit_that_we_did_not_hear_of_may_be_written_as_outstanding_once_more() {
    use Answer::{LostReply, LostRequest};
    let acts = [
        Act::Append(0, 2),
        // The third try is done together with `Committed`; nobody looks any more.
        Act::Turn { cut: 1, answers: vec![LostRequest, LostRequest, LostReply], death: None },
        Act::Gap(0, 1),
        // The ledger is read again.
        Act::LoseFiles,
    ];
    run(&acts, true, false);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn every_offset_is_in_the_table_once_and_nothing_stops_it(
        acts in prop::collection::vec(any_act(false), 0..30),
        with_state in any::<bool>(),
    ) {
        run(&acts, with_state, false);
    }

    #[test]
    fn whatever_is_done_to_a_table_no_offset_is_in_it_twice_or_lost_in_silence(
        acts in prop::collection::vec(any_act(true), 0..30),
        with_state in any::<bool>(),
    ) {
        run(&acts, with_state, true);
    }
}
