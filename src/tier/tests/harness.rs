//! A broker without its listeners, in a temporary folder; a crash drops it without goodbye.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use arrow_array::types::Int64Type;
use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use iceberg::NamespaceIdent;
use iceberg::TableIdent;
use iceberg::table::Table;

use crate::log::Append;
use crate::log::AppendBatch;
use crate::log::AppendError;
use crate::log::Log;
use crate::log::LogOptions;
use crate::log::Origin;
use crate::record::BatchBuilder;
use crate::record::Codec;
use crate::record::NewRecord;
use crate::runtime::Clock;
use crate::runtime::FailPoints;
use crate::runtime::Tasks;
use crate::runtime::files::Disk;
use crate::runtime::files::FileSystem;
use crate::sink::Sinks;
use crate::source::Sources;
use crate::store;
use crate::store::Appender;
use crate::store::Limits;
use crate::store::Opening;
use crate::store::Store;
use crate::table::catalog::Catalog;
use crate::table::catalog::EmbeddedCatalog;
use crate::table::catalog::embedded;
use crate::table::commit::Retry;
use crate::tier::Options;
use crate::tier::Parts;
use crate::tier::TableStatus;
use crate::tier::Tiering;
use crate::tier::rows::HEADER_SIGNAL;
use crate::topic::NewTopic;
use crate::topic::OptionEdit;
use crate::topic::Settings;
use crate::topic::Topics;
use crate::types::PartitionId;
use crate::wal;
use crate::wal::Directory;
use crate::wal::DirectoryOptions;
use crate::wal::Request;
use crate::wal::Start;
use crate::wal::Wal;
use crate::wal::WalOptions;

/// Longest wait for anything in these tests.
pub(super) const BOUND: Duration = Duration::from_secs(120);

struct ToWal(Wal);

#[async_trait]
impl Appender for ToWal {
    async fn append(&self, request: Request) -> Result<(), store::Error> {
        self.0.append(request).await.map_err(|_| store::Error::Closed)
    }
}

pub(super) struct Broker {
    pub(super) tasks: Tasks,
    wal: Wal,
    store: Store,
    pub(super) topics: Topics,
    pub(super) sinks: Sinks,
    pub(super) sources: Sources,
    pub(super) log: Log,
    pub(super) catalog: EmbeddedCatalog,
    pub(super) tiering: Tiering,
    pub(super) fail_points: FailPoints,
}

/// Opens everything in `dir`, as the broker does.
pub(super) async fn start(dir: &Path) -> Broker {
    start_with(dir, |_| {}).await
}

pub(super) async fn start_with(dir: &Path, change: impl FnOnce(&mut Options)) -> Broker {
    start_behind(dir, change, |catalog| Arc::new(catalog)).await
}

/// [`start_with`]; tables are committed to what `wrap` makes of the catalog.
#[allow(clippy::too_many_lines, reason = "one list in the broker's order of start")]
pub(super) async fn start_behind(
    dir: &Path,
    change: impl FnOnce(&mut Options),
    wrap: impl FnOnce(EmbeddedCatalog) -> Arc<dyn Catalog>,
) -> Broker {
    let clock = Clock::system();
    let fs: Arc<dyn FileSystem> = Arc::new(Disk);
    let directory = Directory::open(Arc::clone(&fs), dir, &DirectoryOptions::default()).unwrap();
    let files = directory.files().unwrap();
    let options = store::OpenOptions {
        data_dir: dir.to_owned(),
        fs: Arc::clone(&fs),
        log_id: directory.log_id(),
        limits: Limits::default(),
        clock: clock.clone(),
        fail_points: FailPoints::none(),
    };
    let mut opening = Opening::open(options, &files).unwrap();
    let from = Start {
        lsn: opening.start_lsn(),
        known_durable: opening.known_durable(),
        run_hint: opening.run_hint(),
    };
    let mut visit = |frame| opening.replay(frame).map_err(|error| error.to_string());
    let recovered = wal::recover(&directory, from, &mut visit).unwrap();
    let opened = opening.finish(recovered.end, recovered.run).unwrap();
    let (opening, parts) =
        Log::open(&opened.store, &opened.partitions, clock.clone(), LogOptions::default()).unwrap();
    let tasks = Tasks::for_tests();
    let parts = wal::Parts {
        sequence: parts.sequence,
        publish: parts.publish,
        apply: Box::new(opened.applier),
    };
    let context = wal::Context {
        tasks: tasks.clone(),
        clock: clock.clone(),
        fail_points: FailPoints::none(),
    };
    let options =
        WalOptions { file_bytes: 4 << 20, free_floor_bytes: Some(0), ..WalOptions::default() };
    let wal = Wal::start(directory, &recovered, options, parts, context).unwrap();
    let store = opened.store;
    store.attach(Arc::new(ToWal(wal.clone())));
    store.commit(opened.gaps).await.unwrap();
    let settings = Settings {
        server: BTreeMap::from([("table.target.lag.ms".to_owned(), "1000".to_owned())]),
        num_partitions: 2,
        senders_have_rate: false,
        limits: Default::default(),
        check_partition_spec: crate::schema::partition_spec::check,
    };
    let topics = Topics::open(store.clone(), settings, clock.clone(), tasks.clone()).unwrap();
    let sinks = Sinks::open(store.clone(), clock.clone(), tasks.clone()).unwrap();
    let sources = Sources::open(store.clone(), clock.clone(), tasks.clone()).unwrap();
    let log = opening.attach(wal.clone(), topics.clone());
    let warehouse = format!("file://{}/warehouse", dir.display());
    let fail_points = FailPoints::none();
    let file_io = crate::table::storage::file_io(Arc::clone(&fs), &warehouse, &Default::default());
    let options = embedded::Options {
        warehouse,
        file_io: file_io.unwrap(),
        file_system: fs,
        table_defaults: crate::table::default_properties().into_iter().collect(),
        clock: clock.clone(),
        tasks: tasks.clone(),
        fail_points: fail_points.clone(),
    };
    let catalog = EmbeddedCatalog::new(Arc::new(store.clone()), options).unwrap();
    let millisecond = Duration::from_millis(1);
    let mut options = Options {
        cluster_id: "test".to_owned(),
        retry: Retry { pause_min: millisecond, pause_max: millisecond, ..Retry::default() },
        maintain_every: 3,
        ..Options::default()
    };
    change(&mut options);
    let parts = Parts {
        log: log.clone(),
        topics: topics.clone(),
        sinks: sinks.clone(),
        sources: sources.clone(),
        store: store.clone(),
        catalog: wrap(catalog.clone()),
        tasks: tasks.clone(),
        clock,
        fail_points: fail_points.clone(),
    };
    let tiering = Tiering::start(parts, options);
    Broker { tasks, wal, store, topics, sinks, sources, log, catalog, tiering, fail_points }
}

pub(super) fn ident(name: &str) -> TableIdent {
    TableIdent::new(NamespaceIdent::new("streams".to_owned()), name.to_owned())
}

impl Broker {
    pub(super) async fn topic(&self, name: &str, options: &[(&str, &str)]) -> Vec<PartitionId> {
        let overrides =
            options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let new = NewTopic { name: name.to_owned(), overrides, ..NewTopic::default() };
        self.topics.create(new, false).await.unwrap().partitions.clone()
    }

    pub(super) async fn set(&self, topic: &str, key: &str, value: &str) {
        let edit = OptionEdit::Set(key.to_owned(), value.to_owned());
        self.topics.edit(topic, vec![edit], false).await.unwrap();
    }

    pub(super) async fn append(&self, partition: PartitionId, values: &[&str]) {
        self.try_append(partition, values).await.unwrap();
    }

    /// A batch of a source of OpenTelemetry's, one record of each of the signals.
    pub(super) async fn append_signals(&self, partition: PartitionId, signals: &[&str]) {
        let mut builder = BatchBuilder::new();
        for signal in signals {
            let headers = [(HEADER_SIGNAL, Some(signal.as_bytes()))];
            let record =
                NewRecord { key: None, value: Some(b"{}"), headers: &headers, timestamp: 1 };
            builder.push(&record).unwrap();
        }
        let batch = builder.build(Codec::None).unwrap();
        let batches = vec![AppendBatch { partition, batch, ext: Bytes::new() }];
        let append = Append { batches, origin: Origin::Http, settle: None, is_awaited: true };
        self.log.append(append).await.unwrap().wait().await.unwrap();
    }

    pub(super) async fn try_append(
        &self,
        partition: PartitionId,
        values: &[&str],
    ) -> Result<(), AppendError> {
        let mut builder = BatchBuilder::new();
        for value in values {
            let record = NewRecord {
                key: None,
                value: Some(value.as_bytes()),
                headers: &[],
                timestamp: 1_700_000_000_000,
            };
            builder.push(&record).unwrap();
        }
        let batch = builder.build(Codec::None).unwrap();
        let append = Append {
            batches: vec![AppendBatch { partition, batch, ext: Bytes::new() }],
            origin: Origin::Kafka,
            settle: None,
            is_awaited: true,
        };
        self.log.append(append).await?.wait().await.map(|_| ())
    }

    pub(super) async fn flush(&self, name: &str) {
        self.tiering.flush(name, BOUND).await.unwrap();
    }

    pub(super) fn status(&self, name: &str) -> TableStatus {
        self.tiering.table(name).unwrap()
    }

    /// Waits until the status fulfils `wanted`.
    pub(super) async fn until(&self, name: &str, wanted: impl Fn(&TableStatus) -> bool) {
        let waited = async {
            while !self.tiering.table(name).is_some_and(|status| wanted(&status)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(BOUND, waited).await.is_err() {
            panic!("not in time: {:?}", self.tiering.table(name));
        }
    }

    /// The table's rows, as any reader sees them.
    pub(super) async fn scan(&self, name: &str) -> Vec<RecordBatch> {
        let loaded = self.catalog.load(&ident(name)).await.unwrap();
        let table = Table::builder()
            .identifier(loaded.ident)
            .metadata(loaded.metadata)
            .metadata_location(loaded.metadata_location)
            .file_io(self.catalog.file_io().clone())
            .runtime(iceberg::Runtime::try_current().unwrap())
            .build()
            .unwrap();
        let scan = table.scan().build().unwrap();
        scan.to_arrow().await.unwrap().try_collect().await.unwrap()
    }

    /// Partition and offset of every row, sorted.
    pub(super) async fn offsets(&self, name: &str) -> Vec<(i32, i64)> {
        let mut found = Vec::new();
        for batch in self.scan(name).await {
            let floe = batch.column_by_name("floe").unwrap().as_struct().clone();
            let partitions = floe.column_by_name("partition").unwrap().clone();
            let offsets = floe.column_by_name("offset").unwrap().clone();
            let partitions = partitions.as_primitive::<Int32Type>().values().to_vec();
            let offsets = offsets.as_primitive::<Int64Type>().values().to_vec();
            found.extend(partitions.into_iter().zip(offsets));
        }
        found.sort_unstable();
        found
    }

    pub(super) async fn longs(&self, name: &str, column: &str) -> Vec<Option<i64>> {
        let mut found = Vec::new();
        for batch in self.scan(name).await {
            if let Some(array) = batch.column_by_name(column) {
                found.extend(array.as_primitive::<Int64Type>().iter());
            } else {
                found.extend(vec![None; batch.num_rows()]);
            }
        }
        found.sort_unstable();
        found
    }

    /// Ends it: with a last commit, or at once as a crash does (what is durable stays).
    pub(super) async fn stop(self, gracefully: bool) {
        if gracefully {
            assert!(self.tiering.shutdown(BOUND).await);
        }
        assert!(self.tasks.stop(BOUND).await);
        tokio::task::spawn_blocking(move || {
            self.wal.shutdown();
            if gracefully {
                self.store.close().unwrap();
            }
            drop((
                self.tiering,
                self.catalog,
                self.log,
                self.topics,
                self.sinks,
                self.store,
                self.wal,
            ));
            self.tasks.join_threads();
        })
        .await
        .unwrap();
    }
}
