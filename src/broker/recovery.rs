//! Opens log and state: recovers, then starts the write-ahead log's threads.

use std::path::Path;
use std::sync::Arc;

use super::{Components, Error};
use crate::auth::Auth;
use crate::config::Config;
use crate::log::{Log, LogOpening, LogOptions, LogParts};
use crate::runtime::Tasks;
use crate::schema::partition_spec;
use crate::sink::{Sink, Sinks};
use crate::source::Sources;
use crate::store::{Change, Limits, OpenOptions, Opened, Opening, Store};
use crate::stream::Streams;
use crate::topic::{self, Topics};
use crate::types::Rate;
use crate::wal::{self, Directory, DirectoryOptions, Parts, Start, Wal, WalOptions};

/// The parts below everything else, running.
pub(super) struct Recovered {
    pub(super) store: Store,
    pub(super) wal: Wal,
    pub(super) log: Log,
    pub(super) topics: Topics,
    pub(super) auth: Auth,
    pub(super) streams: Streams,
    pub(super) sinks: Sinks,
    pub(super) sources: Sources,
}

/// What recovery found, before any thread runs.
struct Found {
    directory: Directory,
    recovered: wal::Recovered,
    opened: Opened,
    opening: LogOpening,
    parts: LogParts,
}

pub(super) async fn open(
    config: &Config,
    components: &Components,
    tasks: &Tasks,
) -> Result<Recovered, Error> {
    let (config_copy, components_copy) = (config.clone(), components.clone());
    let found = tokio::task::spawn_blocking(move || recover(&config_copy, &components_copy));
    let found = found.await.map_err(|error| Error::new("recovery", error))??;
    let Found { directory, recovered, opened, opening, parts } = found;
    let Opened { store, applier, gaps, .. } = opened;
    if let Some(hook) = components.on_persisted.clone() {
        store.on_persisted(move |_| hook());
    }
    let options = WalOptions {
        file_bytes: config.wal_file_bytes,
        free_floor_bytes: config.disk_free_min_bytes,
        flush: config.log_flush,
        ..WalOptions::default()
    };
    let parts =
        Parts { sequence: parts.sequence, publish: parts.publish, apply: Box::new(applier) };
    let context = wal::Context {
        tasks: tasks.clone(),
        clock: components.clock.clone(),
        fail_points: components.fail_points.clone(),
    };
    let started = tokio::task::spawn_blocking(move || {
        Wal::start(directory, &recovered, options, parts, context)
    });
    let wal = started.await.map_err(|error| Error::new("log", error))?;
    let wal = wal.map_err(|error| Error::new("log", error))?;
    store.attach(Arc::new(wal.clone()));
    if gaps != Change::new() {
        store.commit(gaps).await.map_err(|error| Error::new("gaps", error))?;
    }
    let settings = topic::Settings {
        server: config.topic_defaults.clone(),
        num_partitions: i32::try_from(config.num_partitions).unwrap_or(i32::MAX),
        senders_have_rate: config.http_rate != Rate::default(),
        limits: topic::Limits {
            topics_max: config.topics_max as usize,
            partitions_max: config.partitions_max as usize,
        },
        check_partition_spec: partition_spec::check,
    };
    let topics = Topics::open(store.clone(), settings, components.clock.clone(), tasks.clone())
        .map_err(|error| Error::new("topics", error))?;
    let clock = components.clock.clone();
    let (anonymous, lifetime) = (config.anonymous_allowed, config.access_token_lifetime);
    let auth = Auth::open(store.clone(), clock, tasks.clone(), anonymous, lifetime)
        .map_err(|error| Error::new("tokens", error))?;
    let streams = Streams::open(store.clone(), components.clock.clone(), tasks.clone())
        .map_err(|error| Error::new("streams", error))?;
    let sinks = Sinks::open(store.clone(), components.clock.clone(), tasks.clone())
        .map_err(|error| Error::new("sinks", error))?;
    let of_sinks = sinks.clone();
    let tables = |sink: &Arc<Sink>| sink.wish.table.display();
    topics.ask_sinks(Box::new(move |id| of_sinks.of_topic(id).iter().map(tables).collect()));
    let sources = Sources::open(store.clone(), components.clock.clone(), tasks.clone())
        .map_err(|error| Error::new("sources", error))?;
    let log = opening.attach(wal.clone(), topics.clone());
    Ok(Recovered { store, wal, log, topics, auth, streams, sinks, sources })
}

/// Why the data directory cannot be used, and what to do.
fn data_dir_error(data_dir: &Path, error: &wal::Error) -> Error {
    use std::io::ErrorKind;
    let wal::Error::Io { source, .. } = error else { return Error::Failed(error.to_string()) };
    let advice = match source.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "; name a folder that this user may write to"
        }
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
            "; it, or a part of its path, is a file: name a folder"
        }
        _ => "",
    };
    Error::Failed(format!("data.dir = {data_dir:?} cannot be used: {error}{advice}"))
}

fn recover(config: &Config, components: &Components) -> Result<Found, Error> {
    let failed = |error: wal::Error| Error::new("log", error);
    let options = DirectoryOptions { allow_network: config.data_dir_network };
    let files = Arc::clone(&components.files);
    let directory = Directory::open(files, &config.data_dir, &options)
        .map_err(|error| data_dir_error(&config.data_dir, &error))?;
    let wal_files = directory.files().map_err(failed)?;
    let open_options = OpenOptions {
        data_dir: config.data_dir.clone(),
        fs: Arc::clone(&components.files),
        log_id: directory.log_id(),
        limits: Limits {
            cache_bytes: config.store_cache_bytes,
            write_buffer_bytes: config.store_write_buffer_bytes,
        },
        clock: components.clock.clone(),
        fail_points: components.fail_points.clone(),
    };
    let state = |error: crate::store::Error| Error::new("state", error);
    let mut store = Opening::open(open_options, &wal_files).map_err(state)?;
    if store.rebuilding() {
        tracing::warn!("the state is rebuilt from the metadata snapshot and the log");
    }
    let start = Start {
        lsn: store.start_lsn(),
        known_durable: store.known_durable(),
        run_hint: store.run_hint(),
    };
    let mut visit = |frame| store.replay(frame).map_err(|error| error.to_string());
    let recovered = wal::recover(&directory, start, &mut visit).map_err(failed)?;
    for damage in &recovered.damage {
        let (from, to, reason) = (damage.from, damage.to, &damage.reason);
        tracing::error!(%from, %to, reason, "the log is damaged; what follows is kept");
        store.damage(damage.from, damage.to);
    }
    if let Some((from, to)) = recovered.lost {
        tracing::error!(%from, %to, "the log ends before data that was durable: it is lost");
        store.damage(from, to);
    }
    let opened = store.finish(recovered.end, recovered.run).map_err(state)?;
    let log_options = LogOptions {
        queue_bytes: config.log_in_bytes,
        retention_interval: config.retention_check_interval,
        file_age_max_ms: i64::try_from(config.wal_file_age.as_millis()).unwrap_or(i64::MAX),
        move_delay_ms: i64::try_from(config.wal_move_delay.as_millis()).unwrap_or(i64::MAX),
        producer_expiry_ms: i64::try_from(config.producer_id_expiration.as_millis())
            .unwrap_or(i64::MAX),
    };
    let clock = components.clock.clone();
    let (opening, parts) =
        Log::open(&opened.store, &opened.partitions, clock, log_options).map_err(state)?;
    Ok(Found { directory, recovered, opened, opening, parts })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::files::Disk;

    #[test]
    fn a_data_directory_that_cannot_be_is_named_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("afile");
        std::fs::write(&file, "x").unwrap();
        for data_dir in [file.clone(), file.join("below")] {
            let opened = Directory::open(Arc::new(Disk), &data_dir, &DirectoryOptions::default());
            let text = data_dir_error(&data_dir, &opened.unwrap_err()).to_string();
            assert!(text.starts_with("data.dir = ") && text.contains("name a folder"), "{text}");
        }
    }
}
