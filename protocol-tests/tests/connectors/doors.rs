//! The doors that senders come through: where a request goes, how its events are wrapped there,
//! what the door needs to be set up, and where the id of an event stands in what is stored.

use hmac::{Hmac, KeyInit, Mac};
use protocol_tests::Floe;
use reqwest::Client;
use serde_json::{Value, json};
use sha2::Sha256;

use super::senders::{Once, Run, Sender};

/// Which route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// `/api/v1/topics/{topic}/events`.
    Events,
    /// `/v1/logs`, as JSON.
    Otlp,
    /// `/data-plane/{namespace}/event-stream/{stream}/ingest`.
    EventStream,
    /// `/services/collector/event`.
    Hec,
    /// `/webhooks/{webhook}`, with a signature.
    Github,
    /// `/webhooks/{webhook}/{secret}`, a notification of AWS SNS.
    Sns,
}

/// A header by name and value.
type Header = (&'static str, String);

impl Door {
    /// True if who comes is known by a token; else by a secret of the webhook's own.
    pub(super) fn has_token(self) -> bool {
        !matches!(self, Self::Github | Self::Sns)
    }

    /// What is answered to who may not, as a token that has ended or a secret that is another.
    pub(super) fn unknown_status(self) -> u16 {
        if self == Self::Sns { 404 } else { 401 }
    }

    /// What is answered where there is too much at once, unless the topic says something else.
    pub(super) fn overload_status(self) -> u16 {
        if self == Self::Hec { 503 } else { 429 }
    }

    /// The topic behind it.
    pub(super) fn topic(self, name: &str) -> String {
        match self {
            Self::EventStream => format!("{name}.events.{name}"),
            _ => name.to_owned(),
        }
    }

    /// The field that an event counts once by, in what is stored.
    fn id_field(self) -> &'static str {
        match self {
            Self::Events | Self::EventStream | Self::Github => "$.id",
            Self::Otlp => "$.attributes.id",
            Self::Hec => "$.event.id",
            Self::Sns => "$.MessageId",
        }
    }

    /// The id of a stored event.
    pub(super) fn id(self, stored: &Value) -> String {
        let path = self.id_field().trim_start_matches("$.").split('.');
        let id = path.fold(stored, |value, name| &value[name]);
        id.as_str().unwrap_or_else(|| panic!("{stored}")).to_owned()
    }

    /// The body with these events, of which each is an id and some text.
    pub(super) fn body(self, events: &[(String, String)]) -> Option<String> {
        let join = |each: &dyn Fn(&(String, String)) -> Value, between: &str| {
            let texts: Vec<String> = events.iter().map(|event| each(event).to_string()).collect();
            texts.join(between)
        };
        match self {
            Self::Events => None,
            Self::EventStream => {
                Some(format!("[{}]", join(&|(id, text)| json!({"id": id, "padding": text}), ",")))
            }
            Self::Otlp => {
                let record = |(id, text): &(String, String)| {
                    let attribute = json!({"key": "id", "value": {"stringValue": id}});
                    json!({"body": {"stringValue": text}, "attributes": [attribute]})
                };
                let records: Vec<Value> = events.iter().map(record).collect();
                let scopes = json!([{"logRecords": records}]);
                Some(json!({"resourceLogs": [{"scopeLogs": scopes}]}).to_string())
            }
            Self::Hec => {
                let event = |(id, text): &(String, String)| json!({"event": {"id": id, "padding": text}, "index": "splunk-hec"});
                Some(join(&event, ""))
            }
            Self::Github => Some(join(&|(id, text)| json!({"id": id, "padding": text}), "")),
            Self::Sns => {
                let message = |(id, text): &(String, String)| json!({"Type": "Notification", "MessageId": id, "Message": text});
                Some(join(&message, ""))
            }
        }
    }

    /// Where the request goes, and its headers besides those of all: `number` is the batch's.
    pub(super) fn head(self, run: &Run, number: usize, body: &str) -> (String, Vec<Header>) {
        let (name, secret) = (run.sender.name, run.secret.as_str());
        let own = match self {
            Self::Events => vec![],
            Self::Otlp => vec![("X-Stream", name.to_owned())],
            Self::EventStream => vec![("table", format!("floe.events.{name}"))],
            Self::Hec => vec![],
            Self::Github => {
                let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
                mac.update(body.as_bytes());
                let code: String =
                    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
                vec![
                    ("X-GitHub-Event", "push".to_owned()),
                    ("X-GitHub-Delivery", format!("d-{number}")),
                    ("X-Hub-Signature-256", format!("sha256={code}")),
                ]
            }
            Self::Sns => vec![
                ("x-amz-sns-message-type", "Notification".to_owned()),
                ("x-amz-sns-message-id", run.ids(number).concat()),
            ],
        };
        let path = match self {
            Self::Events if run.sender.once == Once::Field => {
                format!("/api/v1/topics/{name}/events?dedup_field=$.id")
            }
            Self::Events => format!("/api/v1/topics/{name}/events"),
            Self::Otlp => "/v1/logs".to_owned(),
            Self::EventStream => format!("/data-plane/prod/event-stream/{name}/ingest"),
            Self::Hec => "/services/collector/event".to_owned(),
            Self::Github => format!("/webhooks/{name}"),
            Self::Sns => format!("/webhooks/{name}/{secret}"),
        };
        (path, own)
    }

    /// The header with a token, as clients of this door have it.
    pub(super) fn token(self, token: &str) -> Header {
        match self {
            Self::Hec => ("Authorization", format!("Splunk {token}")),
            Self::Otlp => ("Authorization", format!("Bearer {token}")),
            _ => ("token", token.to_owned()),
        }
    }
}

async fn post(floe: &Floe, token: Option<&str>, path: &str, body: Value) -> Value {
    let mut request = Client::new().post(floe.url(path)).json(&body);
    if let Some(token) = token {
        request = request.header("token", token);
    }
    let answer = request.send().await.unwrap();
    let (status, told) = (answer.status(), answer.text().await.unwrap());
    assert!(status.is_success(), "{path}: {status} {told}");
    serde_json::from_str(&told).unwrap()
}

/// Makes what a sender's door needs; the secret of its webhook, if it is one.
pub(super) async fn set_up(floe: &Floe, sender: &Sender, token: Option<&str>) -> String {
    let (name, field) = (sender.name, sender.door.id_field());
    let mut options = json!({});
    if name == "flink" {
        // At 429 its job would fail.
        options = json!({"topic.overload.status": "503"});
    }
    match sender.door {
        Door::Events if name != "flink" => {}
        Door::Events | Door::Otlp | Door::Hec => {
            if sender.door != Door::Events {
                options = json!({"topic.dedup.field": field});
            }
            let wish = json!({"name": name, "partitions": 1, "options": options});
            post(floe, token, "/api/v1/topics", wish).await;
        }
        Door::EventStream => {
            let namespace = json!({"namespace": ["events"]});
            post(floe, token, "/iceberg/v1/namespaces", namespace).await;
            let field_of = |id: u8, name: &str| json!({"id": id, "name": name, "required": false, "type": "string"});
            let fields = [field_of(1, "id"), field_of(2, "padding")];
            let schema = json!({"type": "struct", "schema-id": 0, "fields": fields});
            let table = json!({"name": name, "schema": schema});
            post(floe, token, "/iceberg/v1/namespaces/events/tables", table).await;
            let options = json!({"topic.dedup.field": field});
            let wish = json!({"name": name, "namespace": "prod", "options": options});
            post(floe, token, "/api/v1/streams", wish).await;
        }
        Door::Github | Door::Sns => {
            let scheme = if sender.door == Door::Github { "github" } else { "url" };
            let wish = json!({"name": name, "topic": name, "scheme": scheme});
            return secret_of(&post(floe, token, "/api/v1/webhooks", wish).await);
        }
    }
    String::new()
}

/// Gives a webhook another secret: the old one ends.
pub(super) async fn rotate(floe: &Floe, sender: &Sender, token: &str) -> String {
    let path = format!("/api/v1/webhooks/{}/rotate", sender.name);
    secret_of(&post(floe, Some(token), &path, json!({})).await)
}

fn secret_of(told: &Value) -> String {
    told["secret"].as_str().unwrap().to_owned()
}
