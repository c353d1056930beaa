//! Certificates, ports that speak TLS, and clients that do.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use super::{CHAT, chat};

/// A chat that is to be streamed.
pub fn question() -> Request<Full<Bytes>> {
    let body = Full::new(Bytes::from(chat("hi", 3, true).to_string()));
    Request::post(format!("https://localhost{CHAT}"))
        .header("host", "localhost")
        .body(body)
        .unwrap()
}

/// An authority that vouches for whoever a test needs.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as files and as what they hold.
pub struct Certified {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes the authority's certificate into `folder`.
    pub fn file(&self, folder: &Path, name: &str) -> PathBuf {
        let file = folder.join(format!("{name}.crt"));
        std::fs::write(&file, self.0.pem()).unwrap();
        file
    }

    /// Vouches for `host`, in files of `folder`.
    pub fn vouch(&self, folder: &Path, name: &str, host: &str) -> Certified {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([host.to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap();
        let files = Certified {
            cert: folder.join(format!("{name}.crt")),
            key: folder.join(format!("{name}.key")),
        };
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        std::fs::write(&files.cert, cert.pem()).unwrap();
        files
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        roots
    }

    /// A client that trusts this authority, shows `own` and offers `protocols`.
    pub fn client(&self, own: Option<&Certified>, protocols: &[&[u8]]) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(fleet::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots());
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let (cert, key) = own.read();
                builder.with_client_auth_cert(cert, key).unwrap()
            }
        };
        config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
        Arc::new(config)
    }
}

impl Certified {
    fn read(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let cert = CertificateDer::pem_file_iter(&self.cert).unwrap();
        (cert.map(Result::unwrap).collect(), PrivateKeyDer::from_pem_file(&self.key).unwrap())
    }

    /// A port's TLS; where `clients` are given, they must show a certificate of theirs.
    pub fn server(&self, clients: Option<&Authority>, protocols: &[&[u8]]) -> Arc<ServerConfig> {
        let provider = fleet::tls::provider();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(clients.roots()), provider)
                    .build()
                    .unwrap(),
            ),
        };
        let (cert, key) = self.read();
        let mut config = builder.with_single_cert(cert, key).unwrap();
        config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
        Arc::new(config)
    }
}

/// Agrees on TLS with `address` as `localhost`.
pub async fn connect(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await?;
    TlsConnector::from(config).connect(ServerName::try_from("localhost").unwrap(), socket).await
}

/// Sends one request over a TLS connection of its own, in the protocol that was agreed on.
pub async fn ask(
    stream: TlsStream<TcpStream>,
    request: Request<Full<Bytes>>,
) -> hyper::Result<Response<Incoming>> {
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = TokioIo::new(stream);
    if is_h2 {
        let (mut sender, driver) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(driver);
        sender.send_request(request).await
    } else {
        let (mut sender, driver) = hyper::client::conn::http1::handshake(io).await?;
        tokio::spawn(driver);
        sender.send_request(request).await
    }
}

/// A port that takes TLS off and passes what is within on to `target`.
pub struct Front {
    pub port: u16,
    /// Connections on which TLS came about, and those of them that agreed on HTTP/2.
    pub connections: Arc<AtomicUsize>,
    pub h2: Arc<AtomicUsize>,
}

impl Front {
    pub async fn before(target: SocketAddr, config: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let front = Self { port, connections: Arc::default(), h2: Arc::default() };
        let (connections, h2) = (Arc::clone(&front.connections), Arc::clone(&front.h2));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let acceptor = TlsAcceptor::from(Arc::clone(&config));
                let (connections, h2) = (Arc::clone(&connections), Arc::clone(&h2));
                tokio::spawn(async move {
                    let Ok(mut near) = acceptor.accept(socket).await else { return };
                    connections.fetch_add(1, Ordering::Relaxed);
                    if near.get_ref().1.alpn_protocol() == Some(b"h2") {
                        h2.fetch_add(1, Ordering::Relaxed);
                    }
                    let mut far = TcpStream::connect(target).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        front
    }

    pub fn url(&self, host: &str) -> String {
        format!("https://{host}:{}", self.port)
    }
}
