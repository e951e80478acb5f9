//! What clients ask before they produce: clusters, brokers, topics. There is one cluster with one
//! broker, and its ids are those that Kafka's clients see.

use std::sync::Arc;

use axum::Json;
use axum::extract::{OriginalUri, Path, State};
use serde_json::{Map, Value, json};

use crate::auth::{Operation, Resource};
use crate::http::auth::Caller;
use crate::http::confluent::failure::Refused;
use crate::http::problem::Problem;
use crate::http::{Api, unknown_topic};
use crate::topic::Topic;

/// Refuses a cluster that is not this one.
pub(super) fn check_cluster(api: &Api, cluster: &str) -> Result<(), Problem> {
    if cluster == api.options.cluster_id {
        return Ok(());
    }
    Err(Problem::new("not_found", format!("Cluster {cluster} cannot be found.")))
}

/// The topics that the caller may describe.
fn described(api: &Api, caller: &Caller) -> Vec<Arc<Topic>> {
    let mut topics = api.topics.list();
    topics.retain(|topic| caller.may(Operation::Describe, Resource::Topic(topic.name.as_str())));
    topics
}

pub(super) async fn topic_names(State(api): State<Api>, caller: Caller) -> Json<Value> {
    let topics = described(&api, &caller);
    Json(topics.iter().map(|topic| topic.name.as_str()).collect())
}

pub(super) async fn brokers(State(api): State<Api>) -> Json<Value> {
    Json(json!({ "brokers": [api.options.node_id] }))
}

pub(super) async fn topic(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Value>, Refused> {
    caller.check(Operation::Describe, Resource::Topic(&name))?;
    let topic = api.topics.get(&name).ok_or_else(|| unknown_topic(&name))?;
    let node = api.options.node_id;
    let replicas = json!([{ "broker": node, "leader": true, "in_sync": true }]);
    let partition =
        |partition| json!({ "partition": partition, "leader": node, "replicas": replicas });
    let options = api.topics.describe(&topic).into_iter();
    let configs: Map<String, Value> =
        options.map(|option| (option.key.to_owned(), option.value.into())).collect();
    let partitions: Vec<Value> = (0..topic.partitions.len()).map(partition).collect();
    Ok(Json(json!({ "name": topic.name, "configs": configs, "partitions": partitions })))
}

pub(super) async fn clusters(State(api): State<Api>, OriginalUri(uri): OriginalUri) -> Json<Value> {
    let links = Links::of(&api, uri.path());
    Json(list("KafkaClusterList", &links.clusters(), vec![links.cluster()]))
}

pub(super) async fn cluster(
    State(api): State<Api>,
    OriginalUri(uri): OriginalUri,
    Path(cluster): Path<String>,
) -> Result<Json<Value>, Refused> {
    check_cluster(&api, &cluster)?;
    Ok(Json(Links::of(&api, uri.path()).cluster()))
}

pub(super) async fn cluster_topics(
    State(api): State<Api>,
    caller: Caller,
    OriginalUri(uri): OriginalUri,
    Path(cluster): Path<String>,
) -> Result<Json<Value>, Refused> {
    check_cluster(&api, &cluster)?;
    let links = Links::of(&api, uri.path());
    let topics = described(&api, &caller);
    let topics =
        topics.iter().map(|topic| links.topic(topic.name.as_str(), topic.partitions.len()));
    Ok(Json(list("KafkaTopicList", &links.topics(), topics.collect())))
}

pub(super) async fn cluster_topic(
    State(api): State<Api>,
    caller: Caller,
    OriginalUri(uri): OriginalUri,
    Path((cluster, name)): Path<(String, String)>,
) -> Result<Json<Value>, Refused> {
    check_cluster(&api, &cluster)?;
    caller.check(Operation::Describe, Resource::Topic(&name))?;
    let topic = api.topics.get(&name).ok_or_else(|| unknown_topic(&name))?;
    Ok(Json(Links::of(&api, uri.path()).topic(&name, topic.partitions.len())))
}

fn list(kind: &str, own: &str, data: Vec<Value>) -> Value {
    json!({ "kind": kind, "metadata": { "self": own, "next": null }, "data": data })
}

/// Links are paths: only the client knows by what name and proxies it came here.
struct Links<'a> {
    prefix: &'static str,
    cluster: &'a str,
}

impl<'a> Links<'a> {
    fn of(api: &'a Api, path: &str) -> Self {
        let prefix = if path.starts_with("/kafka/") { "/kafka" } else { "" };
        Self { prefix, cluster: &api.options.cluster_id }
    }

    fn clusters(&self) -> String {
        format!("{}/v3/clusters", self.prefix)
    }

    fn topics(&self) -> String {
        format!("{}/{}/topics", self.clusters(), self.cluster)
    }

    fn cluster(&self) -> Value {
        json!({
            "kind": "KafkaCluster",
            "metadata": {
                "self": format!("{}/{}", self.clusters(), self.cluster),
                "resource_name": format!("crn:///kafka={}", self.cluster),
            },
            "cluster_id": self.cluster,
            "topics": { "related": self.topics() },
            // What the proxy's document requires. There is nothing behind these.
            "acls": self.related("acls"),
            "brokers": self.related("brokers"),
            "broker_configs": self.related("broker-configs"),
            "consumer_groups": self.related("consumer-groups"),
            "partition_reassignments": self.related("topics/-/partitions/-/reassignment"),
        })
    }

    /// A link to something of the cluster.
    fn related(&self, rest: &str) -> Value {
        json!({ "related": format!("{}/{}/{rest}", self.clusters(), self.cluster) })
    }

    fn topic(&self, name: &str, partitions: usize) -> Value {
        json!({
            "kind": "KafkaTopic",
            "metadata": {
                "self": format!("{}/{name}", self.topics()),
                "resource_name": format!("crn:///kafka={}/topic={name}", self.cluster),
            },
            "cluster_id": self.cluster,
            "topic_name": name,
            "is_internal": false,
            "replication_factor": 1,
            "partitions_count": partitions,
            // As above.
            "partitions": self.related(&format!("topics/{name}/partitions")),
            "configs": self.related(&format!("topics/{name}/configs")),
            "partition_reassignments":
                self.related(&format!("topics/{name}/partitions/-/reassignments")),
        })
    }
}
