//! A log that runs: order, answers, files, space, failures, reads.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::runtime::ByteBudget;
use crate::runtime::files::DiskSpace;
use crate::runtime::files::power_loss::{Call, Failure, PowerLoss};

fn read_all_runs(bench: &Bench) -> Vec<WrittenFrame> {
    let durable = bench.told.lock().durable.clone();
    runs(&durable).iter().flat_map(|run| bench.wal.read_run(run).unwrap()).collect()
}

#[test]
fn appended_batches_are_durable_readable_and_applied() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path());
    let ack = bench.append(vec![batch(1, b"a"), batch(2, b"b")]);
    assert_eq!(ack.verdict, Verdict::Write);
    assert_eq!(ack.base_offsets, [0, 0]);
    assert_eq!(ack.append_ms, 1000);
    assert_eq!(bench.wal.durable_lsn(), ack.end);
    let ack = bench.applied(vec![batch(1, b"c")]).recv().unwrap();
    assert_eq!(ack.base_offsets, [2]);
    assert_eq!(bench.told.lock().applied.len(), 3);
    assert!(bench.told.lock().applied.iter().all(|frame| frame.draft.payload.is_empty()));
    let read = read_all_runs(&bench);
    assert_eq!(texts(&read), ["a", "b", "c"]);
    assert_eq!(&read[2].draft.payload[..8], 2i64.to_be_bytes());
    assert_eq!(&read[2].draft.payload[12..16], [0; 4]);
    assert_eq!(read[2].draft.max_timestamp, 77);
    bench.close();
    let again = Bench::open(dir.path());
    assert_eq!(texts(&again.frames), ["a", "b", "c"]);
    assert_eq!(again.recovered.damage, []);
    again.close();
}

#[test]
fn frames_of_one_partition_lie_together_and_chains_keep_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path());
    // Holds the first write until the rest is queued, so that all of it is one group.
    let (go, gate) = sync_channel::<()>(0);
    let (held, at_gate) = sync_channel::<()>(8);
    let gate = Mutex::new(gate);
    bench.fail_points.set("wal.before_write", move || {
        held.send(()).unwrap();
        let _ = gate.lock().recv();
        Ok(())
    });
    let mut answers = vec![bench.send(vec![batch(9, b"first")])];
    at_gate.recv().unwrap();
    for (partition, text) in [(2, "2a"), (1, "1a"), (2, "2b"), (1, "1b")] {
        answers.push(bench.send(vec![batch(partition, text.as_bytes())]));
    }
    answers.push(bench.send(vec![batch(2, b"chain 2"), batch(1, b"chain 1")]));
    answers.push(bench.send(vec![state(b"state")]));
    answers.push(bench.send(vec![batch(1, b"1c")]));
    go.send(()).unwrap();
    bench.fail_points.clear("wal.before_write");
    drop(go);
    for answer in answers {
        answer.recv().unwrap();
    }
    let told = bench.told.lock().durable.clone();
    let partitions: Vec<_> = told.iter().map(|frame| frame.draft.partition.0).collect();
    assert_eq!(partitions, [9, 1, 1, 1, 2, 2, 2, 1, 0]);
    assert_eq!(texts(&read_all_runs(&bench))[1..4], ["1a", "1b", "1c"]);
    assert_eq!(text_of(&told[8]), b"state");
    bench.close();
}

#[test]
fn duplicates_and_rejections_are_answered_after_everything_before_them() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path());
    let (go, gate) = sync_channel::<()>(0);
    let gate = Mutex::new(gate);
    bench.fail_points.set("wal.before_sync", move || {
        let _ = gate.lock().recv();
        Ok(())
    });
    let before = bench.send(vec![batch(1, b"a")]);
    let duplicate = bench.send(vec![batch(1, b"duplicate")]);
    let rejected = bench.send(vec![batch(1, b"reject")]);
    assert!(duplicate.recv_timeout(Duration::from_millis(50)).is_err());
    bench.fail_points.clear("wal.before_sync");
    drop(go);
    before.recv().unwrap();
    let ack = duplicate.recv().unwrap();
    assert_eq!(ack.verdict, Verdict::Duplicate { base_offset: 5, append_ms: 6 });
    assert_eq!((ack.base_offsets, ack.append_ms), (vec![5], 6));
    assert_eq!(rejected.recv().unwrap().verdict, Verdict::Reject(9));
    assert_eq!(bench.told.lock().durable.len(), 1);
    bench.close();
}

#[test]
fn many_small_files_are_rolled_read_and_freed() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path());
    for number in 0..200 {
        bench.append(vec![batch(number % 3, &[b'x'; 900])]);
    }
    let files = bench.wal.list();
    assert!(files.len() > 10, "{files:?}");
    assert!(files.windows(2).all(|pair| pair[0].end == pair[1].first));
    assert_eq!(read_all_runs(&bench).len(), 200);
    let last = *files.last().unwrap();
    assert!(!bench.wal.release(last.first).unwrap(), "the current file stays");
    let lease = bench.wal.files.lease(files[1].first).unwrap();
    assert!(!bench.wal.release(files[1].first).unwrap(), "a file being read stays");
    drop(lease);
    assert!(bench.wal.release(files[1].first).unwrap());
    assert!(bench.wal.release(files[0].first).unwrap());
    assert_eq!(bench.wal.list()[0], files[2]);
    let run = runs(&bench.told.lock().durable.clone())[0];
    assert!(matches!(bench.wal.read_run(&run), Err(ReadError::Absent(_))));
    bench.close();
    let start = Start { lsn: files[2].first, ..Start::default() };
    let again = Bench::open_with(Arc::new(Disk), dir.path(), start, small()).unwrap();
    assert_eq!(again.recovered.damage, []);
    assert!(again.frames.len() > 150);
    again.close();
}

#[test]
fn sealed_files_lose_their_unused_rest() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path());
    bench.append(vec![batch(1, b"a")]);
    futures::executor::block_on(bench.wal.roll(0)).unwrap();
    let first = bench.wal.list()[0];
    let path = dir.path().join("wal").join(crate::wal::directory::name_of(first.first));
    until("the file is cut", || std::fs::metadata(&path).unwrap().len() == first.end.0);
    assert!(first.end.0 < 1000);
    bench.close();
}

#[test]
fn files_roll_by_age_and_only_if_something_is_in_them() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path());
    let roll = |age| futures::executor::block_on(bench.wal.roll(age)).unwrap();
    roll(0);
    assert_eq!(bench.wal.list().len(), 1);
    bench.append(vec![batch(1, b"a")]);
    roll(10);
    assert_eq!(bench.wal.list().len(), 1);
    bench.clock.advance(10);
    roll(10);
    assert_eq!(bench.wal.list().len(), 2);
    roll(10);
    assert_eq!(bench.wal.list().len(), 2);
    bench.close();
}

#[test]
fn a_foreign_run_number_ends_the_process_at_the_next_roll() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path());
    bench.append(vec![batch(1, b"a")]);
    std::fs::write(dir.path().join("RUN"), r#"{"run":99}"#).unwrap();
    assert!(futures::executor::block_on(bench.wal.roll(0)).is_err());
    until("fatal", || !bench.told.lock().fatal.is_empty());
    assert!(bench.told.lock().fatal[0].contains("run 99"));
    bench.close();
}

#[test]
fn quiet_and_shutdown_leave_a_mark_of_the_durable_end() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open_with(Arc::new(Disk), dir.path(), Start::default(), quick()).unwrap();
    let ack = bench.append(vec![batch(1, b"a")]);
    until("a mark", || bench.wal.durable_lsn().0 == ack.end.0 + 96);
    let ack = bench.append(vec![batch(1, b"b")]);
    bench.close();
    let (_, recovered, frames) =
        open_and_recover(Arc::new(Disk), dir.path(), Start::default()).unwrap();
    assert_eq!(recovered.durable, ack.end);
    assert_eq!(frames.len(), 2);
}

#[test]
fn shutdown_answers_what_is_queued_and_refuses_what_comes_after() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path());
    let answers: Vec<_> = (0..100).map(|_| bench.applied(vec![batch(1, &[b'x'; 500])])).collect();
    bench.wal.shutdown();
    assert!(answers.iter().all(|answer| answer.try_recv().is_ok()));
    assert!(bench.send(vec![batch(1, b"late")]).recv().is_err());
    let late = futures::executor::block_on(bench.wal.append(Request {
        frames: vec![batch(1, b"late")],
        done: Done::Logged(Box::new(|_| {})),
        permit: None,
    }));
    assert!(matches!(late, Err(Error::Closed)));
}

#[test]
fn bad_requests_are_refused_before_they_are_queued() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path());
    let refused = |frames| {
        let done = Done::Logged(Box::new(|_| {}));
        bench.wal.append_blocking(Request { frames, done, permit: None }).unwrap_err()
    };
    assert!(matches!(refused(vec![batch(1, &[0; 20_000])]), Error::TooLarge { .. }));
    assert!(matches!(refused(vec![]), Error::Refused(_)));
    let mut torn = batch(1, b"");
    torn.ext = Bytes::from_static(b"x");
    assert!(matches!(refused(vec![torn]), Error::Refused(_)));
    let mut seal = state(b"");
    seal.kind = FrameKind::Seal;
    assert!(matches!(refused(vec![seal]), Error::Refused(_)));
    let mut short = batch(1, b"");
    short.payload = Bytes::from_static(b"short");
    assert!(matches!(refused(vec![short]), Error::Refused(_)));
    let largest = usize::try_from(bench.wal.request_bytes_max()).unwrap() - 96 - 61;
    bench.append(vec![batch(1, &vec![b'x'; largest])]);
    bench.close();
}

#[test]
fn memory_is_given_back_once_a_request_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path());
    let budget = ByteBudget::new(1 << 20);
    let (done, answer) = sync_channel(1);
    let request = Request {
        frames: vec![batch(1, b"a")],
        done: Done::Logged(Box::new(move |ack| done.send(ack).unwrap())),
        permit: budget.try_acquire(1000),
    };
    bench.wal.append_blocking(request).unwrap();
    answer.recv().unwrap();
    assert_eq!(budget.used_bytes(), 0);
    bench.close();
}

#[test]
fn admission_follows_free_space_and_the_next_file_but_state_is_still_written() {
    let dir = tempfile::tempdir().unwrap();
    let fs = PowerLoss::new(dir.path()).unwrap();
    let space = |free_bytes| Some(DiskSpace { free_bytes, total_bytes: 1 << 30 });
    fs.set_space(space(1000));
    let options = WalOptions { free_floor_bytes: Some(500), ..quick() };
    let data = dir.path().join("data");
    let bench = Bench::open_with(Arc::new(fs.clone()), &data, Start::default(), options).unwrap();
    bench.wal.admission().unwrap();
    fs.set_space(space(499));
    until("records are refused", || bench.wal.admission().is_err());
    assert!(bench.wal.admission().unwrap_err().contains("499"));
    bench.append(vec![state(b"still")]);
    fs.set_space(space(1000));
    until("records are taken", || bench.wal.admission().is_ok());
    // The next file cannot be made: refused at once, taken again when it can.
    until("a next file", || data.join("wal").join(crate::wal::files::NEXT_NAME).exists());
    fs.fail_next(Call::Create, Failure::NoSpace);
    bench.append(vec![batch(1, b"a")]);
    futures::executor::block_on(bench.wal.roll(0)).unwrap();
    until("refused for the next file", || {
        bench.wal.admission().is_err_and(|reason| reason.contains("next log file"))
    });
    until("taken again", || bench.wal.admission().is_ok());
    bench.close();
}

fn fails_and_answers_nobody(call: Call, failure: Failure, expected: &str) {
    let dir = tempfile::tempdir().unwrap();
    let fs = PowerLoss::new(dir.path()).unwrap();
    let data = dir.path().join("data");
    let bench = Bench::open_with(Arc::new(fs.clone()), &data, Start::default(), quick()).unwrap();
    let good = bench.append(vec![batch(1, b"good")]);
    until("the next file", || {
        matches!(bench.wal.files.state.lock().next, crate::wal::files::Next::Ready(_))
    });
    until("a mark", || bench.wal.durable_lsn() > good.end);
    let durable = bench.wal.durable_lsn();
    fs.fail_next(call, failure);
    assert!(bench.send(vec![batch(1, b"bad")]).recv().is_err());
    assert!(bench.send(vec![batch(1, b"later")]).recv().is_err());
    bench.wal.shutdown();
    assert_eq!(bench.wal.durable_lsn(), durable);
    let told = bench.told.lock();
    assert_eq!(told.durable.len(), 1);
    assert_eq!(told.fatal.len(), 1, "{:?}", told.fatal);
    assert!(told.fatal[0].contains(expected), "{:?}", told.fatal);
}

#[test]
fn a_failed_sync_is_fatal_and_nothing_is_acknowledged() {
    fails_and_answers_nobody(Call::Sync, Failure::Io, "sync of the log failed");
}

#[test]
fn a_failed_or_short_write_is_fatal_and_nothing_is_acknowledged() {
    fails_and_answers_nobody(Call::Write, Failure::NoSpace, "write to the log failed");
    fails_and_answers_nobody(Call::Write, Failure::ShortWrite, "write to the log failed");
}

#[test]
fn a_failed_apply_is_fatal_but_the_durable_answer_stands() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path());
    bench.append(vec![state(b"unappliable")]);
    until("fatal", || !bench.told.lock().fatal.is_empty());
    assert!(bench.told.lock().fatal[0].contains("as asked"));
    assert!(bench.applied(vec![state(b"next")]).recv().is_err());
    bench.close();
}

#[test]
fn a_read_of_the_wrong_place_is_corrupt_not_data() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::open(dir.path());
    bench.append(vec![batch(1, b"aaaa")]);
    let good = runs(&bench.told.lock().durable.clone())[0];
    assert_eq!(bench.wal.read_run(&good).unwrap().len(), 1);
    for bad in [
        Run { partition: PartitionId(2), ..good },
        Run { base_offset: 1, ..good },
        Run { end_offset: 3, ..good },
        Run { lsn: Lsn(good.lsn.0 + 32), ..good },
        Run { disk_len: u32::MAX, ..good },
        Run { disk_len: 64, ..good },
    ] {
        let error = bench.wal.read_run(&bad).unwrap_err();
        assert!(matches!(error, ReadError::Corrupt { .. }), "{error} for {bad:?}");
    }
    let path = dir.path().join("wal").join(crate::wal::directory::name_of(Lsn(0)));
    let mut bytes = std::fs::read(&path).unwrap();
    let at = usize::try_from(good.lsn.0).unwrap() + 96 + 61;
    assert_eq!(&bytes[at..at + 4], b"aaaa");
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = bench.wal.read_run(&good).unwrap_err();
    assert!(error.to_string().contains("body checksum"), "{error}");
    bench.close();
}

#[test]
fn requests_that_race_with_the_end_of_the_log_are_all_told() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let bench = Bench::open(dir.path());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                // Ends only if every receiver hears of its request.
                scope.spawn(|| while bench.send(vec![batch(1, b"a")]).recv().is_ok() {});
            }
            bench.fail_points.set("wal.before_write", || Err("as asked".into()));
        });
        bench.close();
    }
}

#[test]
fn a_log_whose_next_file_cannot_be_made_still_ends() {
    let dir = tempfile::tempdir().unwrap();
    let fs = PowerLoss::new(dir.path()).unwrap();
    let data = dir.path().join("data");
    let bench = Bench::open_with(Arc::new(fs.clone()), &data, Start::default(), small()).unwrap();
    until("a next file", || bench.wal.has_next());
    let full = Arc::new(AtomicBool::new(true));
    fs.fail_next(Call::Create, Failure::NoSpace);
    let filler = std::thread::spawn({
        let (full, fs) = (Arc::clone(&full), fs.clone());
        move || {
            while full.load(Ordering::Relaxed) {
                fs.fail_next(Call::Create, Failure::NoSpace);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    // The file that is ready is taken; after it there is none.
    bench.append(vec![batch(1, b"a")]);
    futures::executor::block_on(bench.wal.roll(0)).unwrap();
    bench.append(vec![batch(1, &[0; 9_000])]);
    let late = bench.send(vec![batch(1, &[0; 9_000])]);
    let wal = bench.wal.clone();
    let end = std::thread::spawn(move || wal.shutdown());
    until("the end", || end.is_finished());
    assert!(late.recv().is_err(), "it was not acknowledged");
    full.store(false, Ordering::Relaxed);
    filler.join().unwrap();
    assert!(bench.told.lock().fatal.is_empty());
    drop(bench);
    let bench = Bench::open(&data);
    assert_eq!(bench.frames.len(), 2);
    bench.close();
}
