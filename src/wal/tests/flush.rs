//! Answers that run ahead of the sync (`log.flush = interval` and `os`, rules 3.4).

use super::*;
use crate::config::Flush;

const LONG: Duration = Duration::from_secs(3600);

fn open(dir: &Path, flush: Flush) -> Bench {
    let options = WalOptions { flush, ..small() };
    Bench::open_with(Arc::new(Disk), dir, Start::default(), options).unwrap()
}

fn counts(bench: &Bench) -> (usize, usize, usize) {
    let told = bench.told.lock();
    (told.readable.len(), told.durable.len(), told.applied.len())
}

#[test]
fn records_are_answered_and_readable_before_the_sync_and_nothing_else_is() {
    for flush in [Flush::Interval(LONG), Flush::Os] {
        let dir = tempfile::tempdir().unwrap();
        let bench = open(dir.path(), flush);
        let start = bench.wal.durable_lsn();
        let acks: Vec<Ack> = (0..5).map(|_| bench.append(vec![batch(1, b"a")])).collect();
        assert_eq!(acks[4].base_offsets, [8]);
        assert_eq!(bench.append(vec![batch(1, b"reject")]).verdict, Verdict::Reject(9));
        assert_eq!((counts(&bench), bench.wal.durable_lsn()), ((5, 0, 0), start));
        let readable = bench.told.lock().readable.clone();
        assert_eq!(bench.wal.read_run(&readable[4].run()).unwrap().len(), 1);
        // Who changes state waits for the sync, of everything before it too.
        let ack = bench.applied(vec![state(b"state")]).recv().unwrap();
        assert_eq!((counts(&bench), bench.wal.durable_lsn()), ((6, 6, 6), ack.end));
        bench.close();
    }
}

#[test]
fn who_asks_for_a_sync_gets_it_and_a_roll_and_the_end_bring_one() {
    let dir = tempfile::tempdir().unwrap();
    let bench = open(dir.path(), Flush::Os);
    let ack = bench.append(vec![batch(1, b"a")]);
    futures::executor::block_on(bench.wal.sync()).unwrap();
    assert_eq!((bench.wal.durable_lsn(), counts(&bench).1), (ack.end, 1));
    let ack = bench.append(vec![batch(1, b"b")]);
    futures::executor::block_on(bench.wal.roll(0)).unwrap();
    assert!(bench.wal.durable_lsn() > ack.end);
    let ack = bench.append(vec![batch(1, b"c")]);
    bench.wal.shutdown();
    assert!(bench.wal.durable_lsn() > ack.end);
    assert!(matches!(futures::executor::block_on(bench.wal.sync()), Err(Error::Closed)));
    assert_eq!(counts(&bench), (3, 3, 3));
}

#[test]
fn an_interval_brings_the_sync_by_itself_and_a_full_file_too() {
    let dir = tempfile::tempdir().unwrap();
    let bench = open(dir.path(), Flush::Interval(Duration::from_millis(20)));
    let ack = bench.append(vec![batch(1, b"a")]);
    until("a sync", || bench.wal.durable_lsn() >= ack.end);
    bench.close();
    let bench = open(dir.path(), Flush::Interval(LONG));
    for _ in 0..60 {
        bench.append(vec![batch(1, &[b'x'; 900])]);
    }
    until("a full file is synced", || counts(&bench).1 > 0);
    bench.close();
}

#[test]
fn answers_do_not_wait_for_a_sync_that_takes_long() {
    let dir = tempfile::tempdir().unwrap();
    let bench = open(dir.path(), Flush::Interval(Duration::from_millis(1)));
    let (go, gate) = sync_channel::<()>(0);
    let gate = Mutex::new(gate);
    bench.fail_points.set("wal.before_sync", move || {
        let _ = gate.lock().recv();
        Ok(())
    });
    for _ in 0..100 {
        bench.append(vec![batch(1, b"a")]);
    }
    assert_eq!(counts(&bench), (100, 0, 0));
    drop(go);
    bench.close();
}

#[test]
fn a_sync_that_fails_ends_the_log_and_says_from_where_on_nothing_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let bench = open(dir.path(), Flush::Os);
    let durable = bench.wal.durable_lsn();
    bench.append(vec![batch(1, b"a")]);
    bench.fail_points.set("wal.before_sync", || Err("no disk".into()));
    assert!(futures::executor::block_on(bench.wal.sync()).is_err());
    let fatal = bench.told.lock().fatal.clone();
    assert!(fatal[0].contains(&format!("nothing past position {durable} is durable")), "{fatal:?}");
    bench.close();
}
