use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, Stream};
use steadfast_core::fault::Fault;
use steadfast_model::ProviderSettings;

use crate::{model, request};

async fn fault_at(address: SocketAddr) -> (Fault, String) {
    let base_url = format!("https://localhost:{}/v1", address.port());
    let client = model(&ProviderSettings { base_url, ..ProviderSettings::default() });
    let refused = client.complete(Arc::new(request())).await.unwrap_err();
    (refused.fault, refused.message)
}

#[tokio::test]
async fn a_self_signed_certificate_is_refused_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let certificate = CertificateDer::from_pem_slice(include_bytes!("../fixtures/self-signed.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("../fixtures/self-signed.key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let config = Arc::new(config);
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            let mut connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            // Fails when the client refuses the certificate, which is what the test is about.
            let _ = Stream::new(&mut connection, &mut socket).read(&mut [0; 1024]);
        }
    });
    let (fault, message) = fault_at(address).await;
    assert_eq!(fault, Fault::Tls, "{message}");
    assert!(message.contains("certificate"), "{message}");
}

#[tokio::test]
async fn a_port_that_does_not_speak_tls_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            let _ = socket.read(&mut [0; 1024]);
        }
    });
    let (fault, message) = fault_at(address).await;
    assert_eq!(fault, Fault::Unavailable, "{message}");
}
