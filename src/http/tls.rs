//! TLS of the HTTP side: certificate and key from files that are read again when they change, and
//! client certificates where authorities for them are named.
//!
//! Owns: the handshake, whose certificate a client has. Does not own: what its owner may do (`auth`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use webpki::EndEntityCert;

use crate::config;
use crate::http::distinguished_name;
use crate::runtime::Tasks;

/// Longest time for a handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// How often files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// The subject of a client's certificate, which was checked, as RFC 4514 writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Certificate(pub(super) Arc<str>);

/// How connections are encrypted.
pub struct Tls {
    files: config::Tls,
    current: RwLock<Arc<ServerConfig>>,
}

/// When each file was changed last; none where that cannot be told.
type Changed = Vec<Option<SystemTime>>;

impl Tls {
    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// The file, and what is wrong with it.
    pub fn open(files: config::Tls) -> Result<Arc<Self>, String> {
        let current = RwLock::new(Arc::new(read(&files)?));
        Ok(Arc::new(Self { files, current }))
    }

    /// Reads the files again whenever they change, until the tasks stop.
    pub fn spawn_chores(self: &Arc<Self>, tasks: &Tasks) {
        let (tls, stop) = (Arc::clone(self), tasks.stop_token());
        tasks.spawn("tls files", async move {
            stop.run_until_cancelled(tls.follow()).await;
        });
    }

    async fn follow(self: Arc<Self>) {
        let mut known = self.changed().await;
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let now = self.changed().await;
            if now == known {
                continue;
            }
            known = now;
            let files = self.files.clone();
            match tokio::task::spawn_blocking(move || read(&files)).await {
                Ok(Ok(config)) => {
                    *self.current.write() = Arc::new(config);
                    tracing::info!("the files of http.tls were read again");
                }
                // Half of a new pair may be there: the other half changes a file again.
                Ok(Err(reason)) => tracing::warn!(reason, "http.tls: the old certificate stays"),
                Err(_) => {}
            }
        }
    }

    async fn changed(&self) -> Changed {
        let mut changed = Changed::new();
        for path in paths(&self.files) {
            let metadata = tokio::fs::metadata(path).await;
            changed.push(metadata.and_then(|metadata| metadata.modified()).ok());
        }
        changed
    }

    /// Shakes hands; with the client's certificate if it has one.
    ///
    /// # Errors
    /// Why there is no connection.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
    ) -> std::io::Result<(TlsStream<TcpStream>, Option<Certificate>)> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.current.read()));
        let accepted = tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await;
        let stream = accepted.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))?;
        let shown = stream.get_ref().1.peer_certificates();
        let certificate = shown.and_then(<[_]>::first).map(subject).transpose()?;
        Ok((stream, certificate))
    }
}

fn subject(certificate: &CertificateDer<'_>) -> std::io::Result<Certificate> {
    let parsed = EndEntityCert::try_from(certificate).map_err(std::io::Error::other)?;
    let subject = distinguished_name::text(parsed.subject());
    let unreadable = || std::io::Error::other("the subject of the certificate is no text");
    Ok(Certificate(subject.ok_or_else(unreadable)?.into()))
}

fn paths(files: &config::Tls) -> impl Iterator<Item = &PathBuf> {
    [&files.certificate, &files.key].into_iter().chain(&files.client_ca)
}

fn read(files: &config::Tls) -> Result<ServerConfig, String> {
    let failed = |what: &str, path: &Path, error: &dyn std::fmt::Display| {
        format!("{what} {}: {error}", path.display())
    };
    let path = &files.key;
    let key = PrivateKeyDer::from_pem_file(path);
    let key = key.map_err(|error| failed("http.tls.key", path, &error))?;
    let path = &files.certificate;
    let chain = certificates("http.tls.certificate", path)?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => builder.with_client_cert_verifier(verifier(path, provider)?),
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| failed("http.tls.certificate", path, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Takes certificates of the authorities in a file, and clients without one: they may have a token.
fn verifier(
    path: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn tokio_rustls::rustls::server::danger::ClientCertVerifier>, String> {
    let failed =
        |error: &dyn std::fmt::Display| format!("http.tls.client.ca {}: {error}", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in certificates("http.tls.client.ca", path)? {
        roots.add(certificate).map_err(|error| failed(&error))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    verifier.allow_unauthenticated().build().map_err(|error| failed(&error))
}

fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{option} {}: {error}", path.display());
    let found = CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| failed(&error))?;
    if found.is_empty() {
        return Err(failed(&"there is no certificate in it"));
    }
    Ok(found)
}
