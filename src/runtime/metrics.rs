//! Every metric name, with its unit and help. Names follow Prometheus: base units, `_total` for
//! counters.

/// Kind, name and help of one metric.
pub struct Metric {
    /// Name as scraped.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: Kind,
    /// One sentence for the person on call.
    pub help: &'static str,
}

/// What a metric measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

macro_rules! metrics {
    ($($konst:ident, $kind:ident, $name:literal, $help:literal;)*) => {
        $(#[doc = $help] pub const $konst: &str = $name;)*
        /// All metrics of the program.
        pub const ALL: &[Metric] = &[$(Metric { name: $name, kind: Kind::$kind, help: $help }),*];
    };
}

metrics! {
    WAL_GROUPS, Counter, "floe_wal_groups_total", "Groups of frames made durable by one sync.";
    WAL_BYTES, Counter, "floe_wal_bytes_total", "Bytes written to the write-ahead log.";
    WAL_SYNC_SECONDS, Histogram, "floe_wal_sync_seconds", "Time of one fdatasync of the write-ahead log.";
    WAL_UNSYNCED_BYTES, Gauge, "floe_wal_unsynced_bytes", "Bytes of the write-ahead log that are written and not synced yet; with log.flush = always none of them is answered.";
    WAL_FILES, Gauge, "floe_wal_files", "Files of the write-ahead log on disk.";
    WAL_RECYCLED, Counter, "floe_wal_files_recycled_total", "Freed files of the write-ahead log that were written again instead of new ones.";
    WAL_FREED, Counter, "floe_wal_files_freed_total", "Files of the write-ahead log that were freed.";
    WAL_MOVED_BYTES, Counter, "floe_wal_moved_bytes_total", "Bytes of live records copied out of old files of the write-ahead log.";
    WAL_FREE_BYTES, Gauge, "floe_disk_free_bytes", "Free bytes on the disk that holds the data directory.";
    LOG_RECORDS, Counter, "floe_log_records_total", "Records appended, by origin (kafka, http).";
    LOG_BYTES, Counter, "floe_log_bytes_total", "Bytes of record batches appended, by origin.";
    LOG_REJECTED, Counter, "floe_log_rejected_total", "Batches refused, by reason.";
    LOG_APPEND_SECONDS, Histogram, "floe_log_append_seconds", "Time from admission to durable answer.";
    LOG_READ_BYTES, Counter, "floe_log_read_bytes_total", "Bytes read from the log, by reader (fetch, tier).";
    KAFKA_CONNECTIONS, Gauge, "floe_kafka_connections", "Open Kafka connections.";
    KAFKA_REQUESTS, Counter, "floe_kafka_requests_total", "Kafka requests, by api.";
    KAFKA_ERRORS, Counter, "floe_kafka_connection_errors_total", "Kafka connections closed for a fault of the client, by reason.";
    HTTP_REQUESTS, Counter, "floe_http_requests_total", "HTTP requests, by route and status.";
    AUTH_FAILURES, Counter, "floe_auth_failures_total", "Requests refused for who sent them, by side (kafka, http) and reason (missing, invalid_token, expired_token, forbidden, issuer_unavailable).";
    HTTP_RATE_LIMITED, Counter, "floe_http_rate_limited_total", "Requests with events refused for a rate, by limit (requests, bytes: of the sender; topic-requests, topic-bytes).";
    HTTP_REFUSALS, Counter, "floe_http_refusals_total", "HTTP requests that were refused or failed, by the code of their answer.";
    HTTP_BODY_BYTES, Counter, "floe_http_body_bytes_total", "Bytes of HTTP bodies that were taken, by form (sent, decoded).";
    HTTP_IN_FLIGHT_BYTES, Gauge, "floe_http_in_flight_bytes", "Bytes of memory that HTTP bodies hold, of http.in.bytes.";
    HTTP_ADMISSION_WAIT_SECONDS, Histogram, "floe_http_admission_wait_seconds", "Time that HTTP bodies waited for memory; those that found it free are not counted.";
    HTTP_ACK_SECONDS, Histogram, "floe_http_ack_seconds", "Time from when the body of a request with events began to its answer, by ack (accepted, written, durable, committed).";
    HTTP_EVENTS, Counter, "floe_http_events_total", "Events received over HTTP, by result (accepted, rejected, quarantined, duplicate).";
    STREAM_IGNORED, Counter, "floe_stream_ignored_fields_total", "Fields of events that no column of their table took, by stream; which ones is in the description of the stream.";
    STREAM_NULLED, Counter, "floe_stream_nulled_values_total", "Values that became null because they do not fit their column (table.contract.coerce = lenient), by stream.";
    TABLE_ROWS, Counter, "floe_table_rows_total", "Rows committed, by table.";
    TABLE_COMMITS, Counter, "floe_table_commits_total", "Table commits, by table and result (ok, conflict, unknown, failed).";
    TABLE_COMMIT_SECONDS, Histogram, "floe_table_commit_duration_seconds", "Time of one table commit, by table.";
    TABLE_FRESHNESS_SECONDS, Histogram, "floe_table_freshness_seconds", "Age of the oldest row of a commit at the moment it became visible.";
    TABLE_STATE, Gauge, "floe_table_state", "1 for the state that a table is in, by table and state.";
    TABLE_LAG_SECONDS, Gauge, "floe_table_lag_seconds", "Age of the oldest record that is not in the table yet, by table.";
    TABLE_PENDING_OFFSETS, Gauge, "floe_table_pending_commit_offsets", "Records that are not in the table yet, by table.";
    TABLE_PINNED_BYTES, Gauge, "floe_table_pinned_bytes", "Bytes of the log kept because they are not in the table yet, by table.";
    TABLE_DLQ_ROWS, Counter, "floe_table_dlq_rows_total", "Rows sent to the dead-letter table, by table and code.";
    TABLE_DLQ_ROLLBACKS, Counter, "floe_table_dlq_rollbacks_total", "Rollbacks of dead-letter tables by their users that were noticed, by table.";
    TABLE_DROPPED, Counter, "floe_table_dropped_total", "Records recorded as dropped, by table and reason.";
    TABLE_GAP_OFFSETS, Counter, "floe_table_gap_offsets_total", "Offsets passed as a recorded gap, by table and reason.";
    TABLE_SCHEMA_CHANGES, Counter, "floe_table_schema_changes_total", "Columns added to tables, by table.";
    TABLE_FILE_BYTES, Histogram, "floe_table_file_size_bytes", "Size of the data files committed.";
}

/// Describes every metric to the installed recorder, so that help texts are scraped.
pub fn describe() {
    for metric in ALL {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            Kind::Histogram => metrics::describe_histogram!(metric.name, metric.help),
        }
    }
}
