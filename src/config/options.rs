//! The table of server options.

/// What a value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A path.
    Path,
    /// An address to bind.
    Address,
    /// `[NAME=]ADDRESS`, may be given several times.
    NamedAddress,
    /// A name, may be given several times.
    Names,
    /// A size in bytes (`64MiB`).
    Bytes,
    /// A duration (`1s`).
    Duration,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Flag,
    /// One of these words.
    OneOf(&'static [&'static str]),
}

/// One server option.
#[derive(Debug, Clone, Copy)]
pub struct OptionSpec {
    /// Key as in the TOML file; the flag has `-` for `.`, the variable `FLOE_` and `_`.
    pub key: &'static str,
    /// What a value looks like.
    pub kind: Kind,
    /// Default as text; empty means decided at start, as the doc says.
    pub default: &'static str,
    /// What it does, one or two sentences.
    pub doc: &'static str,
}

const fn option(
    key: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
) -> OptionSpec {
    OptionSpec { key, kind, default, doc }
}

/// Every server option, in the order of the help text.
pub const OPTIONS: &[OptionSpec] = &[
    option(
        "data.dir",
        Kind::Path,
        "floe-data",
        "Folder that holds all state: log, tables, catalog.",
    ),
    option(
        "data.dir.network",
        Kind::OneOf(&["refuse", "allow"]),
        "refuse",
        "Whether the data directory may lie on a network file system, whose sync may lie.",
    ),
    option(
        "kafka.listen",
        Kind::NamedAddress,
        "127.0.0.1:9092",
        "Where Kafka clients connect; repeatable, each with a name of its own: NAME=ADDRESS.",
    ),
    option(
        "kafka.advertise",
        Kind::NamedAddress,
        "",
        "Host and port that clients of a listener are told: [NAME=]HOST:PORT. \
         Default: the address they came to.",
    ),
    option("http.listen", Kind::Address, "127.0.0.1:8080", "Where HTTP clients connect."),
    option(
        "auth.anonymous",
        Kind::OneOf(&["loopback", "allow"]),
        "loopback",
        "Who may connect without credentials: loopback: this machine, until a token is made, then \
         nobody; allow: anyone who reaches the port.",
    ),
    option(
        "auth.access.token.lifetime",
        Kind::Duration,
        "1h",
        "How long an access token of /oauth/token holds, in whole seconds.",
    ),
    option(
        "auth.oidc.issuer",
        Kind::Text,
        "",
        "URL of an OpenID Connect issuer: the JWTs that it signs count as tokens that were made with \
         --subject. Default: JWTs do not count.",
    ),
    option("auth.oidc.audience", Kind::Text, "", "What the aud of a JWT must name."),
    option(
        "auth.oidc.claim",
        Kind::Text,
        "sub",
        "The claim of a JWT that is compared with the subject of a token.",
    ),
    option(
        "auth.oidc.scope",
        Kind::Text,
        "",
        "A scope that every JWT must have. Default: none is asked for.",
    ),
    option(
        "auth.oidc.jwks.uri",
        Kind::Text,
        "",
        "Where the keys of the issuer are. Default: where its description says.",
    ),
    option(
        "http.tls.certificate",
        Kind::Path,
        "",
        "PEM file with the certificate of the HTTP side, which speaks TLS then; read again when it \
         changes. Default: no TLS.",
    ),
    option("http.tls.key", Kind::Path, "", "PEM file with the key of that certificate."),
    option(
        "http.tls.client.ca",
        Kind::Path,
        "",
        "PEM file with authorities: a client certificate of theirs counts as the token that was made \
         with --certificate. Default: clients are asked for none.",
    ),
    option(
        "http.trusted.proxies",
        Kind::Names,
        "",
        "Address or network (10.0.0.0/8) of a proxy; repeatable. X-Forwarded-For or Forwarded of a \
         request from there tell who sent it, X-Forwarded-Proto how. Default: nobody is believed.",
    ),
    option("num.partitions", Kind::Number, "4", "Partitions of a topic made without a number."),
    option(
        "auto.create.topics.enable",
        Kind::Flag,
        "true",
        "Whether a producer's first message to an unknown topic makes it.",
    ),
    option("topics.max", Kind::Number, "100000", "Most topics there may be."),
    option("partitions.max", Kind::Number, "200000", "Most partitions there may be, in all."),
    option(
        "catalog.warehouse",
        Kind::Text,
        "",
        "Root of all tables: an absolute path, file:// or s3:// URI. Default: DATA-DIR/warehouse. \
         The keys s3.endpoint, s3.region, s3.access-key-id, s3.secret-access-key, s3.session-token \
         and s3.path-style-access tell how to reach S3; keys under catalog.client are handed out \
         to clients of the catalog. With catalog.uri, the name of that catalog's warehouse.",
    ),
    option(
        "catalog.uri",
        Kind::Text,
        "",
        "Address of an Iceberg REST catalog that keeps the tables. Default: the embedded one, \
         which /iceberg serves.",
    ),
    option(
        "catalog.embedded.aliases",
        Kind::Names,
        "",
        "Another name of the catalog in the first part of `catalog.namespace.table`, as event streams \
         name tables; repeatable. Its own name is floe.",
    ),
    option("catalog.token", Kind::Text, "", "Bearer token for the catalog at catalog.uri."),
    option(
        "catalog.prefix",
        Kind::Text,
        "",
        "Path after /v1 of that catalog's routes. Default: what its configuration says.",
    ),
    option("kafka.connections.max", Kind::Number, "20000", "Most open Kafka connections."),
    option("kafka.frame.max.bytes", Kind::Bytes, "100MiB", "Largest Kafka request."),
    option("kafka.idle.timeout", Kind::Duration, "10m", "A silent Kafka connection is closed."),
    option("kafka.in.bytes", Kind::Bytes, "32MiB", "Memory for Kafka requests on their way in."),
    option("kafka.out.bytes", Kind::Bytes, "32MiB", "Memory for Kafka answers on their way out."),
    option("http.body.max.bytes", Kind::Bytes, "16MiB", "Largest HTTP body, decompressed."),
    option("http.events.max", Kind::Number, "100000", "Most events in one HTTP request."),
    option("http.in.bytes", Kind::Bytes, "32MiB", "Memory for HTTP bodies."),
    option(
        "http.in.sender.bytes",
        Kind::Bytes,
        "",
        "How much of it one sender may hold: a token, a source, a webhook, or an address that sends no \
         token; one body alone may always be larger. Default: seven eighths of it.",
    ),
    option(
        "http.inflation.max",
        Kind::Number,
        "1032",
        "How many times what was sent an HTTP body of more than 1 MiB may be, decompressed. The \
         default is what gzip can reach.",
    ),
    option(
        "webhook.sns.topic",
        Kind::Names,
        "",
        "ARN of an Amazon SNS topic whose subscription a webhook with a URL secret confirms; \
         repeatable, and * at the end stands for anything.",
    ),
    option(
        "webhook.sns.endpoint",
        Kind::Names,
        "",
        "What an address that confirms a subscription may begin with besides https://sns.REGION.amazonaws.com; \
         repeatable. For servers that speak as SNS does.",
    ),
    option(
        "keboola.project.id",
        Kind::Number,
        "1",
        "Number of the project in URLs of Keboola's dialect.",
    ),
    option(
        "keboola.branch.id",
        Kind::Number,
        "1",
        "Number of its branch, which is also called default.",
    ),
    option(
        "definitions.file",
        Kind::Path,
        "",
        "File that says what topics, sinks, sources and streams there are, as floe apply takes it; \
         applied at the start, and sinks, sources and the streams of a file that has streams are \
         not changed otherwise. Default: requests say it.",
    ),
    option(
        "definitions.prune",
        Kind::Flag,
        "false",
        "Whether sources, sinks and options of its topics, and streams if it has streams, that the \
         file does not have are deleted at the start.",
    ),
    option(
        "http.idempotency.age",
        Kind::Duration,
        "1d",
        "The Idempotency-Key of a request is forgotten at this age.",
    ),
    option(
        "http.idempotency.max",
        Kind::Number,
        "1000000",
        "Most idempotency keys that are remembered; of more the oldest of whoever has most are \
         forgotten.",
    ),
    option(
        "http.channel.age",
        Kind::Duration,
        "7d",
        "A channel that is silent for so long is forgotten.",
    ),
    option(
        "http.channels.max",
        Kind::Number,
        "100000",
        "Most channels there may be; a further one is refused as overloaded.",
    ),
    option(
        "http.dedup.window",
        Kind::Duration,
        "1h",
        "How long the id of an event is known, where events count once (dedup_field).",
    ),
    option(
        "http.dedup.max",
        Kind::Number,
        "500000",
        "Most ids of events that are known, about 60 bytes each; of more the oldest are forgotten.",
    ),
    option("http.connections.max", Kind::Number, "20000", "Most open HTTP connections."),
    option(
        "http.rate.requests",
        Kind::Number,
        "0",
        "Most requests with events that one sender may send in a second: a token, a source, a \
         webhook, or an address that sends no token. 0 is without limit.",
    ),
    option(
        "http.rate.bytes",
        Kind::Bytes,
        "0",
        "Most bytes of bodies that one sender may send in a second, as they are sent. 0 is without \
         limit.",
    ),
    option(
        "http.token.in.query",
        Kind::Flag,
        "false",
        "Whether ?token= is taken on routes that bring events, for senders that can set no header; only \
         of tokens whose rules are all write or create of topics or streams, for URLs stand in logs.",
    ),
    option(
        "log.flush",
        Kind::OneOf(&["always", "interval", "os"]),
        "always",
        "When a record is synced to disk: always before it is answered; interval: within \
         log.flush.interval after it; os: when the operating system or a table does it. With the \
         last two a power loss can take records that were answered; the end of the process alone \
         takes none, and tables never have what the log may lose.",
    ),
    option(
        "log.flush.interval",
        Kind::Duration,
        "1s",
        "Longest time between an answer and the sync of its record, with log.flush = interval.",
    ),
    option("log.in.bytes", Kind::Bytes, "32MiB", "Memory for batches that wait for the disk."),
    option("wal.file.bytes", Kind::Bytes, "256MiB", "Size of a file of the write-ahead log."),
    option(
        "wal.file.age",
        Kind::Duration,
        "1h",
        "A file of the write-ahead log is closed at this age, so that retention can free it.",
    ),
    option(
        "wal.move.delay",
        Kind::Duration,
        "5m",
        "Records of a file of the write-ahead log that is less than half in use for so long are \
         copied to a newer one, so that it can be freed.",
    ),
    option(
        "disk.free.min.bytes",
        Kind::Bytes,
        "",
        "Free space below which records are refused. Default: the greater of 2 GiB and 5 %, \
         less on small disks.",
    ),
    option(
        "retention.check.interval",
        Kind::Duration,
        "30s",
        "How often stream retention looks; earlier while files of the log fill faster.",
    ),
    option(
        "producer.id.expiration",
        Kind::Duration,
        "1d",
        "A producer id that is silent for so long is forgotten.",
    ),
    option("store.cache.bytes", Kind::Bytes, "16MiB", "Block cache of the state store."),
    option("store.write.buffer.bytes", Kind::Bytes, "16MiB", "Write buffer of the state store."),
    option("tier.memory.bytes", Kind::Bytes, "64MiB", "Memory for making table files."),
    option(
        "shutdown.delay",
        Kind::Duration,
        "0s",
        "How long after a signal to end everything is still served, while /readyz is 503, so that \
         load balancers send no more; shutdown.timeout begins after it. A second signal ends it.",
    ),
    option(
        "shutdown.timeout",
        Kind::Duration,
        "8s",
        "Longest shutdown; requests in flight get an eighth of it.",
    ),
];

/// Older names of keys, which still count, and what they are called now.
pub const OLDER: &[(&str, &str)] = &[("catalog.alias", "catalog.embedded.aliases")];

/// What a key is called now.
pub fn current(key: &str) -> &str {
    OLDER.iter().find(|(older, _)| *older == key).map_or(key, |(_, current)| current)
}

/// A key without a unit at its end: `table.target.lag.ms` is `table.target.lag`.
pub(crate) fn without_unit(key: &str) -> &str {
    key.strip_suffix(".ms").or_else(|| key.strip_suffix(".bytes")).unwrap_or(key)
}
