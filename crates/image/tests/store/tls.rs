//! TLS: whose certificate is taken, and what is shown to a registry that wants to see one.

use std::path::Path;
use std::sync::Arc;

use berth_image::Kind;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

use crate::fixture::Node;
use crate::pull::{image, node};
use crate::registry::Registry;

/// An authority, and what it signs.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn sign(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    /// A registry with a certificate for 127.0.0.1, which may want certificates of its own.
    async fn registry(&self, wants: Option<&Authority>) -> Registry {
        let (certificate, key) = self.sign("127.0.0.1");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match wants {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.0.der().clone()).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        let registry = Registry::start_with(Some(TlsAcceptor::from(Arc::new(config)))).await;
        registry.push("a/b:1", &image());
        registry
    }
}

/// Writes the host's directory: files, and a hosts.toml if there is text for one.
fn host(here: &Node, registry: &Registry, text: &str, files: &[(&str, String)]) {
    let directory = here.temp.path().join("certs.d").join(registry.address.to_string());
    std::fs::create_dir_all(&directory).unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
    for (name, content) in files {
        write(name, content);
    }
    if !text.is_empty() {
        write("hosts.toml", &format!("server = \"https://{}\"\n{text}", registry.address));
    }
    assert!(Path::new(&directory).is_dir());
}

#[tokio::test]
async fn a_registry_of_an_unknown_authority_is_refused_until_it_is_named() {
    let authority = Authority::new();
    let (here, registry) = (node().await, authority.registry(None).await);
    let name = registry.name("a/b:1");
    host(&here, &registry, "# nothing more", &[]);
    let error = here.store.pull(&name, None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
    host(&here, &registry, "ca = \"ca.pem\"", &[("ca.pem", authority.0.pem())]);
    here.store.pull(&name, None).await.unwrap();

    let here = node().await;
    host(&here, &registry, "skip_verify = true", &[]);
    here.store.pull(&name, None).await.unwrap();

    let here = node().await;
    host(&here, &registry, "", &[("any.crt", authority.0.pem())]);
    here.store.pull(&name, None).await.unwrap();
}

#[tokio::test]
async fn a_registry_on_this_machine_that_wants_tls_gets_it() {
    let authority = Authority::new();
    let (here, registry) = (node().await, authority.registry(None).await);
    // Nothing is configured: TLS is tried, and the unknown certificate is what fails.
    let error = here.store.pull(&registry.name("a/b:1"), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_certificate_of_ones_own_is_shown() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (here, registry) = (node().await, authority.registry(Some(&clients)).await);
    let name = registry.name("a/b:1");
    let ca = ("ca.crt", authority.0.pem());
    host(&here, &registry, "", std::slice::from_ref(&ca));
    assert_eq!(here.store.pull(&name, None).await.unwrap_err().kind(), Kind::Unavailable);
    let (certificate, key) = clients.sign("node");
    let files = [ca.clone(), ("me.cert", certificate.pem()), ("me.key", key.serialize_pem())];
    host(&here, &registry, "", &files);
    here.store.pull(&name, None).await.unwrap();

    let here = node().await;
    let both = ("both.pem", format!("{}{}", key.serialize_pem(), certificate.pem()));
    let text = "ca = [\"ca.crt\"]\nclient = \"both.pem\"";
    host(&here, &registry, text, &[ca, both]);
    here.store.pull(&name, None).await.unwrap();
}
