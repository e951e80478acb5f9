//! The keys that an issuer signs with: fetched at start, again from time to time, and when a JWT
//! names one that is not known; bounded in size, number and how often.
//!
//! One task fetches. Who needs a key that is not there wakes it and waits; a key that does not exist
//! makes it fetch no more often than [`FETCH_PAUSE`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::jws::Key;
use crate::config;
use crate::runtime::Tasks;

/// Keys are fetched again after this.
const FETCH_INTERVAL: Duration = Duration::from_secs(300);
/// Between two fetches that somebody asked for, or that failed.
const FETCH_PAUSE: Duration = Duration::from_secs(10);
/// Longest time for one document.
const FETCH_MAX: Duration = Duration::from_secs(4);
/// Keys that could not be fetched again for so long count no more: the issuer may have taken one
/// back.
const AGE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Largest document, bytes.
const DOCUMENT_BYTES_MAX: usize = 256 << 10;
/// Most keys of an issuer.
const KEYS_MAX: usize = 100;
/// Most redirects on the way to a document.
const REDIRECTS_MAX: usize = 3;

/// Where keys are described (OpenID Connect Discovery 1.0, section 4).
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// What is known of a key.
pub(super) enum Found {
    /// It is there.
    Key(Arc<Key>),
    /// The issuer does not have it.
    None,
    /// The issuer could not be asked.
    Unknown,
}

/// What the last fetches brought.
#[derive(Default)]
struct Fetched {
    by_id: HashMap<String, Arc<Key>>,
    /// The one key, where there is no other: a JWT need not name it.
    only: Option<Arc<Key>>,
    /// When they came.
    at: Option<Instant>,
    /// When they were last asked for.
    asked: Option<Instant>,
}

impl Fetched {
    fn new(keys: Vec<Key>, at: Instant) -> Self {
        let keys: Vec<Arc<Key>> = keys.into_iter().map(Arc::new).collect();
        let only = (keys.len() == 1).then(|| Arc::clone(&keys[0]));
        let by_id = keys.into_iter().filter_map(|key| Some((key.id.clone()?, key))).collect();
        Self { by_id, only, at: Some(at), asked: Some(at) }
    }

    fn find(&self, id: Option<&str>, now: Instant) -> Found {
        if self.at.is_none_or(|at| now.saturating_duration_since(at) > AGE_MAX) {
            return Found::Unknown;
        }
        let key = match id {
            Some(id) => self.by_id.get(id),
            None => self.only.as_ref(),
        };
        key.map_or(Found::None, |key| Found::Key(Arc::clone(key)))
    }
}

/// The keys of one issuer; cheap to clone.
#[derive(Clone)]
pub(super) struct Keys {
    fetched: watch::Receiver<Arc<Fetched>>,
    wanted: Arc<Notify>,
}

impl Keys {
    pub(super) fn start(options: Arc<config::Oidc>, tasks: &Tasks) -> Self {
        let (sender, fetched) = watch::channel(Arc::default());
        let wanted = Arc::new(Notify::new());
        let stop = tasks.stop_token();
        let fetching = fetch_for_ever(options, sender, Arc::clone(&wanted));
        tasks.spawn("oidc keys", async move {
            stop.run_until_cancelled(fetching).await;
        });
        Self { fetched, wanted }
    }

    pub(super) fn find(&self, id: Option<&str>) -> Found {
        self.fetched.borrow().find(id, Instant::now())
    }

    /// Waits at most `wait` for the next fetch if the key is not known and there may be one soon.
    pub(super) async fn want(&self, id: Option<&str>, wait: Duration) {
        let mut fetched = self.fetched.clone();
        let last = Arc::clone(&fetched.borrow_and_update());
        let now = Instant::now();
        let is_known = matches!(last.find(id, now), Found::Key(_));
        let is_fresh = last.asked.is_some_and(|asked| now - asked < FETCH_PAUSE);
        if is_known || is_fresh {
            return;
        }
        self.wanted.notify_one();
        // Whether it comes in time is seen when it is looked for.
        let _ = tokio::time::timeout(wait, fetched.changed()).await;
    }
}

async fn fetch_for_ever(
    options: Arc<config::Oidc>,
    sender: watch::Sender<Arc<Fetched>>,
    wanted: Arc<Notify>,
) {
    let mut failing = false;
    loop {
        let found = fetch(&options).await;
        let now = Instant::now();
        let pause = if found.is_ok() { FETCH_INTERVAL } else { FETCH_PAUSE };
        match found {
            Ok(keys) => {
                let (issuer, count) = (&options.issuer, keys.len());
                if failing || sender.borrow().at.is_none() {
                    tracing::info!(issuer, keys = count, "the issuer's keys are known");
                }
                failing = false;
                sender.send_replace(Arc::new(Fetched::new(keys, now)));
            }
            Err(reason) => {
                if !failing {
                    let issuer = &options.issuer;
                    tracing::warn!(issuer, reason, "the issuer's keys cannot be fetched");
                }
                failing = true;
                let last = Arc::clone(&sender.borrow());
                let (by_id, only, at) = (last.by_id.clone(), last.only.clone(), last.at);
                sender.send_replace(Arc::new(Fetched { by_id, only, at, asked: Some(now) }));
            }
        }
        tokio::time::sleep(FETCH_PAUSE).await;
        let _ = tokio::time::timeout(pause - FETCH_PAUSE, wanted.notified()).await;
    }
}

async fn fetch(options: &config::Oidc) -> Result<Vec<Key>, String> {
    let client = reqwest::Client::builder()
        .timeout(FETCH_MAX)
        .redirect(reqwest::redirect::Policy::limited(REDIRECTS_MAX))
        .build()
        .map_err(|error| error.to_string())?;
    let address = match &options.jwks_uri {
        Some(address) => address.clone(),
        None => {
            let at = format!("{}{DISCOVERY}", options.issuer.trim_end_matches('/'));
            described(&get(&client, &at).await?, &options.issuer)?
        }
    };
    Ok(keys(&get(&client, &address).await?))
}

/// Where the keys are, as the issuer describes itself.
fn described(document: &Value, issuer: &str) -> Result<String, String> {
    let text = |name: &str| document[name].as_str().unwrap_or_default();
    if text("issuer") != issuer {
        let own = text("issuer");
        return Err(format!("it calls itself {own:?}, which must be auth.oidc.issuer"));
    }
    let address = text("jwks_uri");
    config::check_issuer_url(address).map_err(|allowed| format!("its jwks_uri: {allowed}"))?;
    Ok(address.to_owned())
}

async fn get(client: &reqwest::Client, address: &str) -> Result<Value, String> {
    let failed = |error: reqwest::Error| format!("{address}: {error}");
    let mut response = client.get(address).send().await.map_err(failed)?;
    if !response.status().is_success() {
        return Err(format!("{address}: status {}", response.status()));
    }
    let mut bytes = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(failed)? {
        if bytes.len() + piece.len() > DOCUMENT_BYTES_MAX {
            return Err(format!("{address}: more than {DOCUMENT_BYTES_MAX} bytes"));
        }
        bytes.extend_from_slice(&piece);
    }
    serde_json::from_slice(&bytes).map_err(|error| format!("{address}: {error}"))
}

/// The keys that sign and are of a kind that is taken; others are left out.
pub(super) fn keys(document: &Value) -> Vec<Key> {
    let all = document["keys"].as_array().into_iter().flatten().take(KEYS_MAX);
    all.filter_map(Key::parse).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const POINT: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
    const OTHER: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";

    fn point(kid: &str) -> Value {
        json!({ "kty": "EC", "crv": "P-256", "x": POINT, "y": OTHER, "kid": kid, "use": "sig" })
    }

    #[test]
    fn keys_that_sign_are_taken_and_all_others_left_out() {
        let with = |change: Value| {
            let mut one = point("a");
            one.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            keys(&json!({ "keys": [one] })).len()
        };
        assert_eq!(with(json!({})), 1);
        assert_eq!(with(json!({ "alg": "ES256" })), 1);
        for bad in [
            json!({ "use": "enc" }),
            json!({ "alg": "HS256" }),
            json!({ "kty": "oct", "k": "AAAA" }),
            json!({ "crv": "P-521" }),
            json!({ "x": "no base64" }),
            json!({ "kty": "unheard of" }),
        ] {
            assert_eq!(with(bad.clone()), 0, "{bad}");
        }
        assert!(keys(&json!({})).is_empty() && keys(&json!([1])).is_empty());
        let many: Vec<Value> = (0..KEYS_MAX + 5).map(|at| point(&at.to_string())).collect();
        assert_eq!(keys(&json!({ "keys": many })).len(), KEYS_MAX);
    }

    #[tokio::test]
    async fn a_key_is_found_by_its_id_and_counts_for_a_day() {
        let now = Instant::now();
        let set = |ids: &[&str]| {
            let list: Vec<Value> = ids.iter().map(|id| point(id)).collect();
            Fetched::new(keys(&json!({ "keys": list })), now)
        };
        let both = set(&["a", "b"]);
        assert!(matches!(both.find(Some("a"), now), Found::Key(_)));
        assert!(matches!(both.find(Some("c"), now), Found::None));
        assert!(matches!(both.find(None, now), Found::None), "which of the two is not told");
        assert!(matches!(set(&["a"]).find(None, now), Found::Key(_)));
        assert!(matches!(both.find(Some("a"), now + AGE_MAX), Found::Key(_)));
        let late = now + AGE_MAX + Duration::from_secs(1);
        assert!(matches!(both.find(Some("a"), late), Found::Unknown));
        assert!(matches!(Fetched::default().find(None, now), Found::Unknown));
    }

    #[test]
    fn an_issuer_must_be_who_it_is_said_to_be_and_keys_come_over_https() {
        let with = |issuer: &str, keys: &str| {
            described(&json!({ "issuer": issuer, "jwks_uri": keys }), "https://id.example")
        };
        assert_eq!(
            with("https://id.example", "https://id.example/k").unwrap(),
            "https://id.example/k"
        );
        assert!(with("https://evil.example", "https://id.example/k").unwrap_err().contains("evil"));
        assert!(with("https://id.example", "http://id.example/k").unwrap_err().contains("https"));
        assert!(with("https://id.example", "").is_err());
    }
}
