//! The parts on hot paths, each beside a plain way to do the same: `cargo bench`. The whole is
//! measured by `floe bench`.

#![allow(clippy::unwrap_used, reason = "a benchmark ends where it cannot go on")]

mod durable;

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use floe::record::header::HEADER_BYTES;
use floe::record::{BatchBuilder, BatchHeader, BatchReader, Codec, Decompressor, NewRecord};
use floe::schema::columns::{Options, Plan};
use floe::schema::json::decode::Decoder;
use floe::sink::mapping::{Event, Mapping};
use floe::table::sink::{self, SinkOptions};
use iceberg::spec::{NestedField, PrimitiveType, Schema, Type};
use uuid::Uuid;

const ROWS: usize = 1_000;

/// A JSON object of about 300 bytes and nine fields.
fn row(number: usize) -> Vec<u8> {
    let session = (number as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    format!(
        "{{\"id\":{number},\"user\":\"user-{number:08}\",\"session\":\"{session:032x}\",\
         \"event\":\"page_view\",\"url\":\"https://shop.invalid/products/{number}/details\",\
         \"price\":{}.25,\"quantity\":{},\"paid\":{},\"note\":\"lorem ipsum dolor sit amet \
         consectetur adipiscing elit sed do\"}}",
        number % 1_000,
        number % 9,
        number.is_multiple_of(3),
    )
    .into_bytes()
}

fn rows() -> Vec<Vec<u8>> {
    (0..ROWS).map(row).collect()
}

fn batch(codec: Codec) -> Bytes {
    let mut builder = BatchBuilder::new();
    for row in rows() {
        let record = NewRecord { value: Some(&row), timestamp: 1, ..NewRecord::default() };
        builder.push(&record).unwrap();
    }
    builder.build(codec).unwrap()
}

fn schema() -> Arc<Schema> {
    let columns = [
        ("id", PrimitiveType::Long),
        ("user", PrimitiveType::String),
        ("session", PrimitiveType::String),
        ("event", PrimitiveType::String),
        ("url", PrimitiveType::String),
        ("price", PrimitiveType::Double),
        ("quantity", PrimitiveType::Long),
        ("paid", PrimitiveType::Boolean),
        ("note", PrimitiveType::String),
    ];
    let fields = (1..)
        .zip(columns)
        .map(|(id, (name, kind))| Arc::new(NestedField::optional(id, name, Type::Primitive(kind))));
    Arc::new(Schema::builder().with_fields(fields).build().unwrap())
}

/// A batch as it comes from the wire: its header, its checksum, its records.
fn records(criterion: &mut Criterion) {
    let plain = batch(Codec::None);
    let mut group = criterion.benchmark_group("record batch");
    group.throughput(Throughput::Bytes(plain.len() as u64));
    group.bench_function("header", |bench| {
        bench.iter(|| BatchHeader::parse(black_box(&plain)).unwrap());
    });
    group.bench_function("checksum", |bench| {
        bench.iter(|| floe::record::header::crc_of(black_box(&plain)));
    });
    group.bench_function("every record", |bench| {
        let mut reader = BatchReader::new();
        bench.iter(|| reader.records(black_box(&plain)).unwrap().count());
    });
    let mut copy = vec![0; plain.len()];
    group.bench_function("baseline: a copy", |bench| {
        bench.iter(|| copy.copy_from_slice(black_box(&plain)));
    });
    group.finish();
}

fn codecs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decompress");
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let packed = batch(codec);
        let body = &packed[HEADER_BYTES..];
        let mut open = Decompressor::new();
        let length = open.decompress(codec, body, 1 << 24).unwrap().len();
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(codec.name(), |bench| {
            bench.iter(|| open.decompress(codec, black_box(body), 1 << 24).unwrap().len());
        });
    }
    group.finish();
}

fn json(criterion: &mut Criterion) {
    let (rows, schema) = (rows(), schema());
    let plan = Arc::new(Plan::new(&schema, Options::default()).unwrap());
    let arrow = Arc::new(arrow_schema::Schema::new(plan.fields().to_vec()));
    let mut group = criterion.benchmark_group("JSON of 9 fields to Arrow");
    group.throughput(Throughput::Elements(ROWS as u64));
    let mut decoder = Decoder::new(plan);
    group.bench_function("ours", |bench| {
        bench.iter(|| {
            for row in &rows {
                decoder.push(Some(black_box(row)));
            }
            decoder.flush().unwrap()
        });
    });
    let mut plain = arrow_json::ReaderBuilder::new(arrow).build_decoder().unwrap();
    group.bench_function("baseline: arrow-json", |bench| {
        bench.iter(|| {
            for row in &rows {
                plain.decode(black_box(row)).unwrap();
            }
            plain.flush().unwrap()
        });
    });
    group.finish();
}

/// Columns of a sink, from a body of 300 bytes. The last two run a template.
fn mapping(criterion: &mut Criterion) {
    let path = |name: &str| serde_json::json!({"type": "path", "name": name, "path": name});
    let paths = ["user", "session", "event", "url", "price", "quantity", "paid", "note"].map(path);
    let template = |content: &str| {
        let template = serde_json::json!({"language": "jsonnet", "content": content});
        serde_json::json!([{"type": "template", "name": "x", "template": template}])
    };
    let joined = template("Body('user') + '/' + Body('event')");
    let rows = rows();
    let events: Vec<Event<'_>> = (0..)
        .zip(&rows)
        .map(|(id, body)| Event {
            id: Uuid::from_u128(id),
            received_ms: 1,
            ip: None,
            headers: &[],
            body,
        })
        .collect();
    let mut group = criterion.benchmark_group("mapping of a sink");
    group.throughput(Throughput::Elements(ROWS as u64));
    for (name, columns, ahead) in [
        ("8 paths", serde_json::json!(paths), false),
        ("a plain template", template("Body('user')"), false),
        ("a template, prepared", joined.clone(), true),
        ("a template, one by one", joined, false),
    ] {
        let mapping = Mapping::parse(&serde_json::json!({"columns": columns})).unwrap();
        let mut mapper = mapping.compile();
        group.bench_function(name, |bench| {
            bench.iter(|| {
                if ahead {
                    mapper.prepare(black_box(&events));
                }
                events.iter().for_each(|event| mapper.append(black_box(event)).unwrap());
                mapper.finish().unwrap()
            });
        });
    }
    group.finish();
}

fn parquet(criterion: &mut Criterion) {
    let (rows, schema) = (rows(), schema());
    let plan = Arc::new(Plan::new(&schema, Options::default()).unwrap());
    let mut decoder = Decoder::new(Arc::clone(&plan));
    rows.iter().for_each(|row| drop(decoder.push(Some(row))));
    let arrow = Arc::new(arrow_schema::Schema::new(plan.fields().to_vec()));
    let columns = decoder.flush().unwrap();
    let batch = RecordBatch::try_new(Arc::clone(&arrow), columns).unwrap();
    let mut group = criterion.benchmark_group("Arrow to Parquet");
    group.throughput(Throughput::Elements(ROWS as u64));
    let options = SinkOptions::default();
    group.bench_function("ours, with metrics of the columns", |bench| {
        bench.iter(|| sink::trial(&schema, &options, batch.clone()).unwrap());
    });
    group.bench_function("baseline: parquet's own writer", |bench| {
        bench.iter(|| {
            let writer = parquet::arrow::ArrowWriter::try_new(Vec::new(), Arc::clone(&arrow), None);
            let mut writer = writer.unwrap();
            writer.write(&batch).unwrap();
            writer.into_inner().unwrap().len()
        });
    });
    group.finish();
}

/// CPU that this thread used so far, by the kernel's account.
fn thread_cpu() -> Duration {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(schedstat.split(' ').next().unwrap().parse().unwrap())
}

/// Stored batches that are in the page cache, to a consumer over loopback: CPU of the thread that
/// sends. `sendfile` leaves out the copy through memory of ours, and the checksum with it.
fn sockets(criterion: &mut Criterion) {
    const BYTES: usize = 1 << 20;
    const PIECES: u64 = 64;
    let file = tempfile::tempfile().unwrap();
    let mut piece = vec![0_u8; BYTES];
    for number in 0..PIECES {
        piece.fill(number as u8);
        file.write_all_at(&piece, number * BYTES as u64).unwrap();
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut peer = listener.accept().unwrap().0;
    let reader = std::thread::spawn(move || {
        let mut buffer = vec![0; BYTES];
        while peer.read(&mut buffer).unwrap() > 0 {}
    });
    let mut group = criterion.benchmark_group("stored batches to a socket");
    group.throughput(Throughput::Bytes(BYTES as u64)).sample_size(20);
    let mut measure = |name: &str, send: &mut dyn FnMut(&mut TcpStream, u64)| {
        group.bench_function(name, |bench| {
            // The kernel's account is as fine as its clock ticks, so the whole file is sent each time.
            bench.iter_custom(|rounds| {
                let before = thread_cpu();
                for at in 0..rounds * PIECES {
                    send(&mut socket, at % PIECES * BYTES as u64);
                }
                (thread_cpu() - before) / PIECES as u32
            });
        });
    };
    measure("ours: read, checksum, write", &mut |socket, at| {
        file.read_exact_at(&mut piece, at).unwrap();
        black_box(floe::record::header::crc_of(&piece));
        socket.write_all(&piece).unwrap();
    });
    measure("read and write", &mut |socket, at| {
        file.read_exact_at(&mut piece, at).unwrap();
        socket.write_all(&piece).unwrap();
    });
    measure("sendfile", &mut |socket, at| {
        let (mut from, end) = (at, at + BYTES as u64);
        while from < end {
            let left = (end - from) as usize;
            rustix::fs::sendfile(&*socket, &file, Some(&mut from), left).unwrap();
        }
    });
    group.finish();
    drop(socket);
    reader.join().unwrap();
}

criterion_group!(
    parts,
    records,
    codecs,
    json,
    mapping,
    parquet,
    sockets,
    durable::groups,
    durable::commits
);
criterion_main!(parts);
