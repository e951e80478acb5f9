//! What every problem means and what to do about it, as `/problems` tells it.

/// Code, cause, what to do: one for each of [`PROBLEMS`](super::problem::PROBLEMS).
const ADVICE: &[(&str, &str, &str)] = &[
    (
        "bad_request",
        "A parameter, a header, the path or the body is malformed, unknown or missing; \
         `detail` says which.",
        "Correct what `detail` names; the same request will never succeed.",
    ),
    (
        "invalid_json",
        "The body, or one event of it, is not JSON; `errors` has the index and the byte where \
         it stopped.",
        "Send JSON in UTF-8: an array, one value, or one per line as application/x-ndjson. \
         With on_error=skip the valid events are stored.",
    ),
    (
        "invalid_topic",
        "The name of the topic is not one that Kafka allows, or an option is unknown or out \
         of its range.",
        "Use letters, digits, `.`, `_` and `-`, at most 249 of them, and the options that the \
         guide lists.",
    ),
    (
        "missing_idempotency_key",
        "The topic has topic.idempotency = required, and the request has no key, no channel \
         and no ids of events.",
        "Send Idempotency-Key, the same one when the request is repeated.",
    ),
    (
        "invalid_idempotency_key",
        "Idempotency-Key, X-Channel or X-Offset-Token has a form that is not taken, or \
         several of them came together.",
        "Send a key of 1 to 255 visible ASCII characters, or a channel with a token that is a \
         whole number.",
    ),
    (
        "invalid_token_wish",
        "The name, a rule, the end or a rate of the token that was asked for is malformed.",
        "Correct what `detail` names; rules are OPERATION:RESOURCE:NAME.",
    ),
    (
        "missing_table_header",
        "The stream does not know which table the events are for.",
        "Send the header `table: catalog.namespace.table`, or ?table= without it.",
    ),
    (
        "invalid_table_name",
        "The table is not named by three plain parts with dots between them.",
        "Send `catalog.namespace.table`, without quotes.",
    ),
    (
        "expected_array",
        "The body is no array, or one of its elements is no object.",
        "Send `[{...}]`, also for one event; /api/v1/streams/{stream}/events takes other \
         forms.",
    ),
    (
        "schema_mismatch",
        "A value does not fit the type of its column, or a required column has no value; \
         `detail` names event and field.",
        "Correct the event, or alter the table. table.contract.coerce = lenient takes more \
         forms.",
    ),
    (
        "table_unsupported",
        "The table has a column of a type that events over HTTP cannot fill.",
        "Use a table without that column, or alter it; `detail` names the column.",
    ),
    (
        "invalid_stream",
        "The name, namespace, a tag or an option of the stream is refused.",
        "Correct what `detail` names.",
    ),
    (
        "invalid_webhook",
        "The name, topic, scheme or secret of the webhook is refused.",
        "Correct what `detail` names.",
    ),
    (
        "invalid_sink",
        "The id, table, mapping or an option of the sink is refused; all faults are listed.",
        "Correct them; `dry_run=true` checks a sink without making it.",
    ),
    (
        "invalid_source",
        "The id, topic, type or an option of the source is refused.",
        "Correct what `detail` names.",
    ),
    (
        "invalid_partition",
        "The request names a partition that the topic does not have.",
        "Name one from 0 to the number of partitions less one, or none.",
    ),
    (
        "missing_token",
        "The server asks for a token, and the request has none.",
        "Send `token: TOKEN` or `Authorization: Bearer TOKEN`; floe token create makes one.",
    ),
    (
        "invalid_token",
        "The token is not one of this server, is cut, or was revoked.",
        "Send the whole token as it was shown when it was made, or make a new one.",
    ),
    (
        "expired_token",
        "The time of the token is over.",
        "Get a new one: from /oauth/token or the issuer, or with floe token create.",
    ),
    (
        "invalid_signature",
        "The signature is missing, older than five minutes, or not that of the body and the \
         webhook's secret.",
        "Set the secret of the webhook at the sender, and its clock; nothing between the two \
         may change the body.",
    ),
    (
        "forbidden",
        "The token is known, and has no rule that allows this, which `detail` names. Or nobody \
         made a token for the certificate or the JWT; the token stands in the URL and may do more \
         than send events; webhook.sns.topic does not name the topic of SNS; or the request has \
         no token and asks for what takes one.",
        "Make a token with that rule (floe token create --allow), or use another one; for a \
         certificate or a JWT with --certificate or --subject.",
    ),
    (
        "no_stream_access",
        "The token has no rule that allows it to send to the stream.",
        "Give it `write:stream:NAME`.",
    ),
    (
        "no_insert_permission",
        "The token has no rule that allows it to write to the table, or to the topic behind \
         it.",
        "Give it `write:table:NAMESPACE.TABLE`.",
    ),
    (
        "read_only",
        "definitions.file says what there is, so requests do not change it.",
        "Change the file and start the server again.",
    ),
    (
        "foreign_origin",
        "No token is needed here yet, so only this machine is answered, and Host or Origin \
         names another one; or a page sends to a topic whose topic.cors.origins does not list \
         its origin.",
        "Send to localhost, or make a token (see auth.anonymous); or add the origin to \
         topic.cors.origins.",
    ),
    ("not_found", "No route has this path.", "Look for the route in /openapi.json or on /docs."),
    (
        "unknown_topic",
        "The topic is not there, and is not made by this request.",
        "Make the topic, or correct its name.",
    ),
    (
        "unknown_ack",
        "The token after /api/v1/acks/ is malformed, or its topic was deleted.",
        "Use the ack_url of an answer as it is.",
    ),
    (
        "unknown_channel",
        "Nobody has sent under this name, or the channel was silent for http.channel.age.",
        "Begin again; tokens of a new channel may begin anywhere.",
    ),
    ("unknown_table", "No topic has a table of this name.", "See floe table list."),
    ("unknown_token", "There is no token of this name.", "See floe token list."),
    (
        "stream_not_found",
        "There is no stream of this name, or it is in another namespace.",
        "See floe stream list; the namespace in the path must be that of the stream.",
    ),
    (
        "table_not_found",
        "The catalog has no such table, or the first part names no catalog of this server.",
        "Make the table with any engine, or correct the name; it is looked for again after 10 \
         seconds.",
    ),
    (
        "unknown_sink",
        "The topic has no sink of this id.",
        "GET /api/v1/topics/{topic}/sinks lists them.",
    ),
    (
        "unknown_source",
        "No source has this id with this secret.",
        "Use the URL of the source as it is shown; a rotated secret ends the old URL at once.",
    ),
    (
        "source_disabled",
        "Somebody disabled the source.",
        "Enable it; what was sent meanwhile was not stored and must be sent again.",
    ),
    (
        "unknown_webhook",
        "There is no webhook of this name, or the secret in the URL is another one.",
        "Use the URL that was shown when it was made, or floe webhook rotate.",
    ),
    (
        "method_not_allowed",
        "The path is there, but not with this method.",
        "See /openapi.json for the methods; connectors that send DELETE for null values must \
         be told to ignore them.",
    ),
    (
        "timeout",
        "The body stopped for 10 seconds, took longer than 20, or came too slowly while \
         others waited for memory; or a table was not committed in the time of the request.",
        "Send events again, smaller or compressed: nothing was stored. A commit that was \
         asked for goes on: ask again.",
    ),
    (
        "exists",
        "Something of this name is there, or as many as there may be.",
        "Choose another name, or change or delete what is there.",
    ),
    (
        "request_in_flight",
        "A request with the same key or channel, or another replay, has not been answered \
         yet.",
        "Wait for its answer, and send again after Retry-After.",
    ),
    (
        "table_taken",
        "The table belongs to another topic or sink, or others made it.",
        "Choose another name for the table.",
    ),
    (
        "limit_reached",
        "There are as many sinks, sources or streams (10,000) as there may be.",
        "Delete some that nobody needs.",
    ),
    (
        "internal_token",
        "The token belongs to a sink, which writes with it.",
        "Delete the sink; its token goes with it.",
    ),
    (
        "wrong_state",
        "The table is in a state that does not allow this, or the topic of a stream's table \
         does not write to it; `detail` says which.",
        "See floe table describe, which says what leaves the state.",
    ),
    (
        "precondition_failed",
        "If-Match names a version that is not the current one: somebody else changed it.",
        "Read it again, and repeat the change on what it is now.",
    ),
    (
        "too_large",
        "The body, one event, or the number of events is above a limit; `max_bytes` is the \
         limit where it counts bytes.",
        "Send fewer events at once, or raise the limit that `detail` names.",
    ),
    (
        "payload_too_large",
        "As too_large, on routes of event streams.",
        "Send fewer events at once: at most `max_bytes`, decompressed.",
    ),
    (
        "uri_too_long",
        "Path and parameters together have more than 8 KiB.",
        "Send what is long in the body or in a header.",
    ),
    (
        "unsupported_media_type",
        "The content type, or the coding of the body, is none that the route takes; `detail` \
         lists those that it does.",
        "Send JSON as application/json or application/x-ndjson, and gzip, zstd, deflate or \
         nothing as Content-Encoding.",
    ),
    (
        "invalid_events",
        "Some events are refused for several reasons, or for what is in them; `errors` has \
         the first hundred.",
        "Correct them, or send on_error=skip or quarantine to have the others stored.",
    ),
    (
        "unmappable_event",
        "The sample, or the event, has no value that a column of the sink needs; `errors` \
         names the column.",
        "Correct the event or the mapping.",
    ),
    (
        "idempotency_key_reused",
        "The key was used for a request with another body, other parameters or another topic.",
        "Use a new key for each request, and the same one only to repeat it unchanged.",
    ),
    (
        "overloaded",
        "More bytes are in flight than there is memory for, or there are as many channels, keys, \
         turns of templates, readers of records or tails as there may be, or the table is busy; \
         `detail` says which.",
        "Send again after Retry-After, or raise what `detail` names: http.in.bytes is the memory, \
         http.channels.max and http.idempotency.max bound channels and keys.",
    ),
    (
        "rate_limited",
        "The sender or the topic has a rate, and it is used up; RateLimit says which.",
        "Send again after Retry-After, or have the rate raised.",
    ),
    (
        "headers_too_large",
        "Names and values of all headers together have more than 16 KiB.",
        "Send fewer or shorter headers; what belongs to events goes into the body.",
    ),
    (
        "internal",
        "A defect of the server. What was sent may be stored.",
        "Repeat with the same Idempotency-Key, and report it with the request id.",
    ),
    (
        "outcome_unknown",
        "The disk did not confirm in time, or the server ended meanwhile.",
        "Repeat with the same Idempotency-Key: it is stored once. Without a key a repeat may \
         store it twice.",
    ),
    (
        "issuer_unavailable",
        "The keys of auth.oidc.issuer could not be loaded, so no JWT can be checked.",
        "Send again after Retry-After; see that the server reaches the issuer.",
    ),
    (
        "subscription_unconfirmed",
        "The address that confirms a subscription of SNS did not answer, or refused.",
        "SNS sends it again; see that the server reaches it.",
    ),
    (
        "starting",
        "The server has its port and reads back what it has.",
        "Send again after Retry-After; /readyz tells when it is ready.",
    ),
    (
        "draining",
        "The server was told to end.",
        "Send again after Retry-After, to another server or to this one when it is back.",
    ),
    (
        "storage_full",
        "Free space is below disk.free.min.bytes, or the disk failed.",
        "Free some space or wait for retention; senders send again after Retry-After.",
    ),
    (
        "storage_unavailable",
        "As storage_full, on routes of event streams.",
        "Free some space; senders send again after Retry-After.",
    ),
    (
        "stream_stopped",
        "Somebody terminated the stream.",
        "floe stream start NAME; senders send again after Retry-After.",
    ),
    (
        "catalog_unavailable",
        "The catalog does not answer, and it must be asked for this.",
        "Send again after Retry-After; see that the server reaches the catalog.",
    ),
    (
        "table_behind",
        "The topic keeps more that is not in its table than table.pin.max.bytes allows.",
        "See floe table describe for why the table does not go on; senders send again after \
         Retry-After.",
    ),
];

/// Cause and remedy of a problem; empty for a code that is none.
pub(super) fn of(code: &str) -> (&'static str, &'static str) {
    let found = ADVICE.iter().find(|advice| advice.0 == code);
    found.map_or(("", ""), |(_, cause, remedy)| (cause, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::problem::PROBLEMS;

    #[test]
    fn every_problem_has_its_cause_and_what_to_do_once_and_in_order() {
        let codes: Vec<&str> = PROBLEMS.iter().map(|problem| problem.0).collect();
        let told: Vec<&str> = ADVICE.iter().map(|advice| advice.0).collect();
        assert_eq!(codes, told);
        for (code, cause, remedy) in ADVICE {
            for text in [cause, remedy] {
                let is_sentence = text.ends_with('.') && text.starts_with(|c: char| c != ' ');
                assert!(is_sentence && text.len() > 10, "{code}: {text:?}");
                assert!(!text.contains("  "), "{code}: {text:?}");
            }
        }
    }
}
