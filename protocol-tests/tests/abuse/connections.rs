//! Kafka connections that take a place and do nothing with it.

use std::time::Duration;

use kafka_protocol::messages::ApiVersionsRequest;
use protocol_tests::clients::create;
use protocol_tests::memory::raise_open_files;
use protocol_tests::wire::{FETCH_VERSION, Wire, fetch_request, frame};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::Besieged;

/// Measured are 160 MiB. An idle server takes 31 MiB, an idle connection 13 KB, half-open frames the
/// 32 MiB of `kafka.in.bytes` and 64 KiB each beyond.
const CONNECTIONS_MIB: u64 = 400;
const IDLE: usize = 5_000;
const HALF_OPEN: usize = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_half_open_and_slow_connections_starve_nobody() {
    let allowed = raise_open_files();
    let count = IDLE.min(usize::try_from(allowed / 3).unwrap());
    let mut siege = Besieged::start(&[], CONNECTIONS_MIB).await;
    let address = siege.floe.bootstrap();
    let mut idle = Vec::new();
    for _ in 0..count {
        idle.push(Wire::connect(&address).await);
    }
    // The last one is served.
    idle.last_mut().unwrap().call(3, &ApiVersionsRequest::default()).await;
    siege.phase(&format!("{count} idle connections ({allowed} open files allowed)"));
    let mut half_open = Vec::new();
    for _ in 0..HALF_OPEN {
        half_open.push(TcpStream::connect(&address).await.unwrap());
    }
    let head = [&(90_u32 << 20).to_be_bytes()[..], &[0, 0, 0, 9], &vec![0; 256 << 10]].concat();
    for stream in &mut half_open {
        // What the server does not take is left.
        let write = stream.write_all(&head);
        let _ = tokio::time::timeout(Duration::from_millis(5), write).await;
    }
    let mut wire = Wire::connect(&address).await;
    let answer = wire.produce_by_bytes("healthy", &["{\"slow\":true}"]).await;
    assert_eq!(answer.error_code, 0);
    // A batch that does not fit into the first bytes of a connection waits beside the half frames;
    // the bare wire, which sends nothing again, keeps its connection.
    let large = "x".repeat(500_000);
    assert_eq!(wire.produce("healthy", 0, &[&large]).await.error_code, 0);
    siege.phase(&format!("{HALF_OPEN} half-open frames of 90 MiB"));
    drop((idle, half_open));
    siege.end().await;
}

/// Measured are 190 MiB. Answers are bounded by the 32 MiB of `kafka.out.bytes`; a batch may be read
/// before it is known how large it is, and what is freed is not given back to the system at once.
const FETCHERS_MIB: u64 = 400;
const FETCHERS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fetchers_that_never_read_starve_nobody() {
    let mut siege = Besieged::start(&[], FETCHERS_MIB).await;
    let address = siege.floe.bootstrap();
    create(&siege.floe, "large", 1, &[("table.mode", "off"), ("retention.ms", "-1")]).await;
    let mut wire = Wire::connect(&address).await;
    let value = "x".repeat(900_000);
    for _ in 0..40 {
        assert_eq!(wire.produce("large", 0, &[&value]).await.error_code, 0);
    }
    siege.phase("36 MB stored");
    let mut deaf = Vec::new();
    for _ in 0..FETCHERS {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        for number in 0..8 {
            let request = fetch_request("large", 50 << 20);
            stream.write_all(&frame(FETCH_VERSION, &request, number)).await.unwrap();
        }
        deaf.push(stream);
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    // Who reads gets something, if not at once.
    while wire.fetch("large", 4 << 20).await < 900_000 {}
    siege.phase(&format!("{FETCHERS} fetchers that never read"));
    drop(deaf);
    siege.end().await;
}
