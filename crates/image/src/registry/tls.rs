//! HTTP clients, made when they are first needed and gone with the pull that needed them: a daemon
//! that pulls nothing holds no certificates and no connections.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::hosts::{self, Host, Tls};
use crate::error::{Error, Result};
use crate::shelf::lock;

/// The clients of one pull: hosts that are reached in the same way share one.
#[derive(Default)]
pub(crate) struct Clients(Mutex<HashMap<Way, reqwest::Client>>);

/// How a host is reached.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Way {
    tls: Option<Tls>,
    connect: Duration,
    /// Past any proxy of the environment: a proxy's loopback is not ours.
    direct: bool,
}

impl Clients {
    /// The client for a host. Plain HTTP needs no certificates, so none are read for it.
    pub(crate) fn get(
        &self,
        host: &Host,
        secure: bool,
        connect: Duration,
    ) -> Result<reqwest::Client> {
        let way = Way {
            tls: secure.then(|| host.tls.clone()),
            connect: host.dial_timeout.unwrap_or(connect),
            direct: hosts::is_loopback(&host.authority),
        };
        if let Some(client) = lock(&self.0).get(&way) {
            return Ok(client.clone());
        }
        let client = build(&way)?;
        lock(&self.0).insert(way, client.clone());
        Ok(client)
    }
}

fn build(way: &Way) -> Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder();
    if way.direct {
        builder = builder.no_proxy();
    }
    builder
        .tls_backend_preconfigured(config(way.tls.as_ref())?)
        .connect_timeout(way.connect)
        // Redirects are followed by hand: what is secret stays with its host.
        .redirect(reqwest::redirect::Policy::none())
        // One connection per layer: with HTTP/2 they would share one, and its one TCP window.
        .http1_only()
        .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| Error::malformed("HTTP client", super::chain(&e)))
}

fn config(tls: Option<&Tls>) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifying = provider.clone();
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::malformed("TLS", e))?;
    let Some(tls) = tls else {
        return Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
    };
    let builder = match tls.skip_verify {
        true => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(verifying))),
        false => builder.with_root_certificates(roots(tls)?),
    };
    match tls.client.first() {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let key_file = key.as_deref().unwrap_or(certificate);
            let key = PrivateKeyDer::from_pem_file(key_file).map_err(|e| pem(key_file, e))?;
            builder.with_client_auth_cert(read(certificate)?, key).map_err(|e| pem(certificate, e))
        }
    }
}

/// The authorities that the node trusts, and those named for this host.
fn roots(tls: &Tls) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(native.certs);
    for path in &tls.ca {
        for certificate in read(path)? {
            roots.add(certificate).map_err(|e| pem(path, e))?;
        }
    }
    if roots.is_empty() {
        return Err(Error::Configuration {
            path: "/etc/ssl/certs".into(),
            reason: "no certificate authorities: install ca-certificates, or name a ca in \
                     hosts.toml"
                .to_owned(),
        });
    }
    Ok(roots)
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|e| pem(path, e))?.collect();
    let certificates = certificates.map_err(|e| pem(path, e))?;
    match certificates.is_empty() {
        true => Err(pem(path, "it has no certificate")),
        false => Ok(certificates),
    }
}

fn pem(path: &Path, reason: impl ToString) -> Error {
    Error::Configuration { path: path.to_path_buf(), reason: reason.to_string() }
}

/// Takes any certificate, for hosts with `skip_verify`; the signatures must still be right.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
