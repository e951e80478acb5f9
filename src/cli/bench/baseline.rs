//! The same work without a server: a plain file, a socket that only copies, a disk that only
//! syncs. Blocks; callers are on threads that may.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::process::Process;
use super::report::Times;

/// Room of the plain file: it is written from the start again when it is full.
const FILE_BYTES: u64 = 256 << 20;

/// What a baseline did.
#[derive(Debug)]
pub(super) struct Baseline {
    pub(super) bytes: f64,
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
    /// Of one write with its sync.
    pub(super) times: Times,
}

impl Baseline {
    pub(super) fn mb_per_second(&self) -> f64 {
        self.bytes / 1e6 / self.seconds
    }
}

/// A file whose blocks were written before, as those of the log are.
fn written_file(dir: &Path) -> std::io::Result<File> {
    let mut file = File::create_new(dir.join("plain-file"))?;
    let zeros = vec![0; 1 << 20];
    for _ in 0..FILE_BYTES >> 20 {
        file.write_all(&zeros)?;
    }
    file.sync_all()?;
    Ok(file)
}

/// Groups of `group_bytes`, `fdatasync` after each, with at least `pause` between two.
pub(super) fn plain_file(
    dir: &Path,
    group_bytes: usize,
    length: Duration,
    pause: Duration,
) -> std::io::Result<Baseline> {
    let file = written_file(dir)?;
    let group = vec![0xa5; group_bytes.clamp(1, 64 << 20)];
    let (cpu, started) = (Process::own().usage().cpu_seconds, Instant::now());
    let (mut at, mut bytes, mut times) = (0, 0.0, Times::default());
    while started.elapsed() < length {
        let begin = Instant::now();
        if at + group.len() as u64 > FILE_BYTES {
            at = 0;
        }
        file.write_all_at(&group, at)?;
        file.sync_data()?;
        times.push(begin.elapsed());
        at += group.len() as u64;
        bytes += group.len() as f64;
        std::thread::sleep(pause.saturating_sub(begin.elapsed()));
    }
    let seconds = started.elapsed().as_secs_f64();
    let cpu_seconds = Process::own().usage().cpu_seconds - cpu;
    std::fs::remove_file(dir.join("plain-file"))?;
    Ok(Baseline { bytes, seconds, cpu_seconds, times })
}

/// Accepts connections and answers every frame with `answer`, storing nothing. Ends with its
/// future.
pub(super) async fn sink(listener: TcpListener, answer: &[u8]) -> std::io::Result<()> {
    let mut open = futures::stream::FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => open.push(swallow(accepted?.0, answer)),
            // An end is the client's business.
            _ = futures::StreamExt::next(&mut open), if !open.is_empty() => {}
        }
    }
}

async fn swallow(mut stream: TcpStream, answer: &[u8]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let mut left = stream.read_u32().await? as usize;
        while left > 0 {
            let now = left.min(buffer.len());
            left -= stream.read(&mut buffer[..now]).await?;
        }
        stream.write_all(answer).await?;
    }
}

/// Bytes copied over one loopback connection for `length`, and the CPU of both ends.
pub(super) async fn loopback(length: Duration) -> std::io::Result<Baseline> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (cpu, started) = (Process::own().usage().cpu_seconds, Instant::now());
    let write = async {
        let (mut stream, _) = listener.accept().await?;
        let block = vec![7; 1 << 20];
        while started.elapsed() < length {
            stream.write_all(&block).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    let read = async {
        let mut stream = TcpStream::connect(address).await?;
        let (mut buffer, mut bytes) = (vec![0; 1 << 20], 0.0);
        loop {
            match stream.read(&mut buffer).await? {
                0 => return Ok(bytes),
                read => bytes += read as f64,
            }
        }
    };
    let ((), bytes) = tokio::try_join!(write, read)?;
    Ok(Baseline {
        bytes,
        seconds: started.elapsed().as_secs_f64(),
        cpu_seconds: Process::own().usage().cpu_seconds - cpu,
        times: Times::default(),
    })
}
