//! An HTTP proxy in front of a catalog that does to requests what networks and servers do.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It goes through.
    None,
    /// It goes through late.
    Delay(Duration),
    /// It goes through once it is [released](Proxy::release).
    Held,
    /// The connection is closed, and the request never arrives.
    Reset,
    /// The request arrives, the connection is closed without its answer.
    LostReply,
    /// The request arrives twice; the second answer counts.
    Twice,
    /// This status is answered, and the request never arrives.
    Answer(u16),
    /// The request arrives, this status is answered whatever came of it.
    AnswerAfter(u16),
}

/// Decides what becomes of a request, by method and path.
pub type Rule = Box<dyn FnMut(&Method, &str) -> Fault + Send>;

/// A running proxy; dropped, it closes.
pub struct Proxy {
    address: SocketAddr,
    rule: Arc<Mutex<Rule>>,
    release: Arc<Notify>,
    task: JoinHandle<()>,
}

struct Shared {
    target: String,
    http: reqwest::Client,
    rule: Arc<Mutex<Rule>>,
    release: Arc<Notify>,
}

impl Proxy {
    /// Passes on to `target` (`http://host:port`) what `rule` lets through.
    pub async fn start(target: &str, rule: Rule) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (rule, release) = (Arc::new(Mutex::new(rule)), Arc::new(Notify::new()));
        let shared = Arc::new(Shared {
            target: target.to_owned(),
            http: reqwest::Client::new(),
            rule: Arc::clone(&rule),
            release: Arc::clone(&release),
        });
        #[allow(clippy::disallowed_methods, reason = "aborted when the proxy is dropped")]
        let task = tokio::spawn(accept(listener, shared));
        Self { address, rule, release, task }
    }

    /// Its own address, as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on `rule` decides.
    pub fn set(&self, rule: Rule) {
        *self.rule.lock().expect("no rule panics") = rule;
    }

    /// Lets a request go on that is held.
    pub fn release(&self) {
        self.release.notify_one();
    }

    /// From now on everything goes through.
    pub fn calm(&self) {
        self.set(Box::new(|_, _| Fault::None));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// True for a request that commits to a table.
pub fn is_commit(method: &Method, path: &str) -> bool {
    let table = path.rsplit("/tables/").next().filter(|rest| *rest != path);
    *method == Method::POST && table.is_some_and(|name| !name.contains('/') && name != "rename")
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let shared = Arc::clone(&shared);
        #[allow(clippy::disallowed_methods, reason = "ends with its connection")]
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { shared.serve(request).await.ok_or(Closed) }
            });
            // An error is the close that the rule asked for.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// Ends the connection.
#[derive(Debug)]
struct Closed;

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("closed by the rule")
    }
}

impl std::error::Error for Closed {}

type Answer = Response<Full<Bytes>>;

impl Shared {
    /// None closes the connection.
    async fn serve(&self, request: Request<Incoming>) -> Option<Answer> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        let fault = self.rule.lock().expect("no rule panics")(&parts.method, parts.uri.path());
        let forward = || async { self.forward(&parts, body.clone()).await };
        match fault {
            Fault::None => forward().await,
            Fault::Delay(pause) => {
                tokio::time::sleep(pause).await;
                forward().await
            }
            Fault::Held => {
                self.release.notified().await;
                forward().await
            }
            Fault::Reset => None,
            Fault::LostReply => {
                forward().await;
                None
            }
            Fault::Twice => {
                forward().await;
                forward().await
            }
            Fault::Answer(status) => Some(made_up(status)),
            Fault::AnswerAfter(status) => {
                forward().await;
                Some(made_up(status))
            }
        }
    }

    async fn forward(&self, parts: &hyper::http::request::Parts, body: Bytes) -> Option<Answer> {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut headers = parts.headers.clone();
        headers.remove(hyper::header::HOST);
        headers.remove(hyper::header::CONTENT_LENGTH);
        let call = self.http.request(parts.method.clone(), format!("{}{path}", self.target));
        let answer = call.headers(headers).body(body).send().await.ok()?;
        let status = answer.status();
        let kind = answer.headers().get(hyper::header::CONTENT_TYPE).cloned();
        let mut response = Response::new(Full::new(answer.bytes().await.ok()?));
        *response.status_mut() = status;
        if let Some(kind) = kind {
            response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
        }
        Some(response)
    }
}

fn made_up(status: u16) -> Answer {
    let body =
        format!(r#"{{"error":{{"message":"made up","type":"MadeUpException","code":{status}}}}}"#);
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).expect("rules name real codes");
    response
}

/// A rule that does the same to every request.
pub fn always(fault: Fault) -> Rule {
    Box::new(move |_, _| fault)
}
