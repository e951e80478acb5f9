//! `floe bench latency`.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::mpsc;

use super::consume::{end_of, fetch, fetched};
use super::report::{Report, Times};
use super::server::Server;
use super::target::Target;
use super::{Settings, baseline, load};
use crate::cli::output;
use crate::record::Codec;

const TOPIC: &str = "bench";

/// Records were still missing a while after the last was due.
const TOO_LATE: &str = "records did not come in time";

/// Longest wait for the last records.
const WAIT_MAX: Duration = Duration::from_secs(10);

pub(super) async fn run(settings: &Settings, report: &mut Report) -> Result<(), String> {
    let server = Server::start(settings, &["--table-mode", "off"]).await?;
    let ours = Target::ours(&server, TOPIC, 1, serde_json::json!({})).await?;
    measure(settings, &ours, report).await?;
    for beside in &settings.beside {
        let target = Target::beside(beside, 1).await?;
        // That another broker cannot keep the pace is a figure too.
        let missing = match measure(settings, &target, report).await {
            Err(error) if error == TOO_LATE => 1.0,
            other => other.map(|()| 0.0)?,
        };
        report.add(target.named("could not keep the pace"), missing, "");
        target.done().await?;
    }
    output::progress("fdatasync alone, at the same pace ...");
    let (dir, seconds) = (server.dir().to_owned(), settings.seconds);
    let pace = pace(settings);
    let file = move || baseline::plain_file(&dir, 4096, seconds, pace);
    let disk = tokio::task::spawn_blocking(file).await.map_err(|error| error.to_string())?;
    let mut disk = disk.map_err(|error| format!("plain file: {error}"))?;
    report.add_times("write of 4 KiB and fdatasync alone", &mut disk.times);
    Ok(())
}

fn pace(settings: &Settings) -> Duration {
    Duration::from_secs_f64(1.0 / settings.rate as f64)
}

async fn measure(settings: &Settings, target: &Target, report: &mut Report) -> Result<(), String> {
    let pace = pace(settings);
    let count = u64::try_from(settings.seconds.as_nanos() / pace.as_nanos().max(1));
    let count = count.unwrap_or(u64::MAX).max(1);
    let rate = settings.rate;
    output::progress(
        target.named(&format!("{rate} records a second for {:?} ...", settings.seconds)),
    );
    let before = target.process.usage();
    let (sender, due) = mpsc::channel(count.min(1 << 20) as usize);
    let work = async {
        tokio::try_join!(
            produce(target, settings.record_bytes, pace, count, sender),
            consume(target, count, due),
        )
    };
    let limit = settings.seconds + WAIT_MAX;
    let done = tokio::time::timeout(limit, work).await;
    let (mut answers, mut arrivals) = done.map_err(|_| TOO_LATE.to_owned())??;
    let used = target.process.usage() - before;
    report.add_times(&target.named("answer, from when it was due"), &mut answers);
    let name = "at a consumer that waits, from when it was due";
    report.add_times(&target.named(name), &mut arrivals);
    report.add(target.named("server CPU per record"), used.cpu_seconds * 1e6 / count as f64, "us");
    Ok(())
}

/// Sends a record whenever one is due, whatever became of those before (an open loop); times from
/// due to answer. Tells `due` of each.
async fn produce(
    target: &Target,
    record_bytes: usize,
    pace: Duration,
    count: u64,
    due: mpsc::Sender<Instant>,
) -> Result<Times, String> {
    let failed = |error: std::io::Error| error.to_string();
    let stream = TcpStream::connect(target.address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let (mut reader, mut writer) = stream.into_split();
    let batch = load::batch(&[vec![b'x'; record_bytes]], Codec::None)?;
    let frame = load::request(&target.topic, 0, batch)?;
    let (sent, mut waiting) = mpsc::channel::<Instant>(1 << 16);
    let send = async move {
        let started = Instant::now();
        let mut at = started;
        for _ in 0..count {
            at += pace;
            sleep_until(at).await;
            let told = due.send(at).await.and(sent.send(at).await);
            told.map_err(|error| error.to_string())?;
            writer.write_all(&frame).await.map_err(failed)?;
        }
        Ok::<_, String>(writer)
    };
    let receive = async move {
        let mut times = Times::default();
        while let Some(at) = waiting.recv().await {
            load::answered(&mut reader).await?;
            times.push(at.elapsed());
        }
        Ok(times)
    };
    let (_open, times) = tokio::try_join!(send, receive)?;
    Ok(times)
}

/// The runtime's timer knows milliseconds; the rest is spun away.
async fn sleep_until(at: Instant) {
    let early = Duration::from_millis(1);
    let left = at.saturating_duration_since(Instant::now());
    if left > 2 * early {
        tokio::time::sleep(left - early).await;
    }
    while Instant::now() < at {
        tokio::task::yield_now().await;
    }
}

/// Follows the topic from its start, waiting for more; times from due to arrival.
async fn consume(
    target: &Target,
    count: u64,
    mut due: mpsc::Receiver<Instant>,
) -> Result<Times, String> {
    let failed = |error: std::io::Error| error.to_string();
    let stream = TcpStream::connect(target.address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let (mut reader, mut writer): (OwnedReadHalf, _) = stream.into_split();
    let (mut times, mut offset) = (Times::default(), 0);
    while u64::try_from(offset).unwrap_or(0) < count {
        writer.write_all(&fetch(&target.topic, 0, offset, 500)?).await.map_err(failed)?;
        let (batches, _) = fetched(&mut reader).await?;
        let now = Instant::now();
        let Some((end, _)) = end_of(&batches) else { continue };
        for _ in offset..end {
            let at = due.recv().await.ok_or("a record that nobody sent")?;
            times.push(now.saturating_duration_since(at));
        }
        offset = end;
    }
    Ok(times)
}
