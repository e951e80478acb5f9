//! Several Kafka listeners: each tells its clients its own address, and nonsense is refused at start.

use std::path::Path;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{DescribeClusterRequest, FindCoordinatorRequest, MetadataRequest};
use protocol_tests::clients::admin;
use protocol_tests::wire::Wire;
use protocol_tests::{Floe, free_port, refused_start};

/// What a client that connects to `address` is told to connect to, by every API that tells it.
async fn told(address: &str) -> String {
    let mut wire = Wire::connect(address).await;
    let mut told = Vec::new();
    for version in [0, 4, 12] {
        let request =
            MetadataRequest::default().with_topics(Some(Vec::<MetadataRequestTopic>::new()));
        let brokers = wire.call(version, &request).await.brokers;
        assert_eq!(brokers.len(), 1);
        told.push(format!("{}:{}", brokers[0].host.as_str(), brokers[0].port));
    }
    for version in [0, 1] {
        let request = DescribeClusterRequest::default().with_endpoint_type(1);
        let brokers = wire.call(version, &request).await.brokers;
        told.push(format!("{}:{}", brokers[0].host.as_str(), brokers[0].port));
    }
    let request = FindCoordinatorRequest::default().with_key("g".into());
    let found = wire.call(3, &request).await;
    told.push(format!("{}:{}", found.host.as_str(), found.port));
    let request = FindCoordinatorRequest::default().with_coordinator_keys(vec!["g".into()]);
    let found = &wire.call(4, &request).await.coordinators[0];
    told.push(format!("{}:{}", found.host.as_str(), found.port));
    told.dedup();
    assert_eq!(told.len(), 1, "{address} tells {told:?}");
    told.remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_listener_tells_its_own_address() {
    let (a, b, c) = (free_port(), free_port(), free_port());
    let floe = Floe::start(&[
        "--kafka-listen",
        &format!("outside=127.0.0.1:{a}"),
        "--kafka-listen",
        &format!("127.0.0.2:{b}"),
        "--kafka-listen",
        &format!("all=0.0.0.0:{c}"),
        "--kafka-advertise",
        "outside=broker.example.com:19092",
        "--auth-anonymous",
        "allow",
    ])
    .await;
    assert_eq!(told(&format!("127.0.0.1:{a}")).await, "broker.example.com:19092");
    assert_eq!(told(&format!("127.0.0.2:{b}")).await, format!("127.0.0.2:{b}"));
    for host in ["127.0.0.1", "127.0.0.3"] {
        assert_eq!(told(&format!("{host}:{c}")).await, format!("{host}:{c}"));
    }
    let log = floe.printed("\nready").await;
    assert_eq!(log.matches("has none to advertise").count(), 1, "{log}");
    for (name, address) in [("outside", "127.0.0.1"), ("default", "127.0.0.2"), ("all", "0.0.0.0")]
    {
        let line = format!("({name})");
        assert!(log.lines().any(|l| l.contains(address) && l.contains(&line)), "{name}");
    }
    // A stock client follows what it is told.
    let client = admin(&format!("127.0.0.3:{c}"));
    let cluster = client.inner().fetch_metadata(None, protocol_tests::WAIT_MAX).unwrap();
    assert_eq!(cluster.brokers()[0].host(), "127.0.0.3");
}

#[test]
fn listeners_that_cannot_be_are_refused_with_what_to_do() {
    let port = free_port();
    let here = format!("127.0.0.1:{port}");
    let one = format!("a={here}");
    for (flags, named) in [
        (&["--kafka-listen", "0.0.0.0:0"][..], &["0.0.0.0:0", "--auth-anonymous allow"][..]),
        (&["--http-listen", "0.0.0.0:0"], &["0.0.0.0:0", "--auth-anonymous allow"]),
        (&["--kafka-listen", &one, "--kafka-advertise", "b=x:1"], &["\"b\"", "names are a"]),
        (&["--kafka-listen", &one, "--kafka-advertise", "x:1"], &["NAME=HOST:PORT", "are a"]),
        (&["--kafka-listen", &one, "--kafka-listen", "a=127.0.0.1:0"], &["two listeners", "\"a\""]),
        (&["--kafka-advertise", "x:1", "--kafka-advertise", "y:2"], &["y:2", "already"]),
        (&["--kafka-advertise", "x"], &["kafka.advertise", "HOST:PORT"]),
        (&["--kafka-listen", "nowhere"], &["kafka.listen", "nowhere"]),
    ] {
        let (code, text) = refused_start(flags);
        assert_eq!(code, Some(2), "{flags:?}: {text}");
        assert!(named.iter().all(|name| text.contains(name)), "{flags:?}: {text}");
    }
    // Two names for one port.
    let flags = ["--http-listen", "127.0.0.1:0", "--kafka-listen", &one, "--kafka-listen"];
    let (code, text) = refused_start(&[&flags[..], &[&format!("b={here}")]].concat());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&here), "{text}");
}

#[test]
fn a_file_that_toml_cannot_read_says_how_to_write_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("floe.toml");
    let start = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let path: &Path = &path;
        refused_start(&["--config", path.to_str().unwrap(), "--num-partitions", "0"])
    };
    let (code, text) = start("[data]\ndir = \"/x\"\ndir.network = \"allow\"\n");
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("path and network under [data.dir]"), "{text}");
    let (_, text) = start("[data.dir]\npath = \"/x\"\nnetwork = \"allow\"\n");
    assert!(text.contains("num.partitions"), "the file is fine: {text}");
}
