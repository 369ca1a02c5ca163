//! The people's listener with TLS of its own, as a client meets it that checks who it talks to.

use std::sync::Arc;

use holdfast_coordinator::access::TokenHash;
use holdfast_coordinator::config::ServerFiles;
use http_body_util::{BodyExt, Full};
use hyper::HeaderMap;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;

use crate::POLICY;
use crate::house::{House, Running, wait_until};

fn section() -> String {
    format!(
        "[access]\n[[access.token]]\nname = \"a\"\nhash = \"{}\"\n[[access.grant]]\nto = \"token:a\"\nrole = \"admin\"\n\
         scope = [\"*\"]\n",
        TokenHash::of("hft_a")
    )
}

/// An installation whose people's listener has the certificate of the agents' one.
async fn house() -> House {
    let mut house = House::build_with(POLICY, &section()).await;
    let files = ServerFiles {
        cert: house.root.join("h.crt"),
        key: house.root.join("h.key"),
    };
    house.config.http_tls = Some(files);
    issue(&house, "localhost");
    house
}

/// Puts a certificate for a host where the listener's is.
fn issue(house: &House, host: &str) {
    let name = "coordinator-1".parse().unwrap();
    let issued = house.authority.issue_server(&name, &[host.to_owned()]).unwrap();
    std::fs::write(house.root.join("h.crt"), &issued.certificate_pem).unwrap();
    std::fs::write(house.root.join("h.key"), issued.key_pem.as_bytes()).unwrap();
}

/// Gets a path over TLS from whoever proves to be `host` by the file of authorities.
async fn get(
    running: &Running,
    authorities: &std::path::Path,
    host: &'static str,
    versions: &[&'static rustls::SupportedProtocolVersion],
    path: &str,
) -> Result<(u16, HeaderMap, String), String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(authorities).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(running.http).await.map_err(|e| text(&e))?;
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from(host).unwrap(), tcp)
        .await
        .map_err(|e| text(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls))
        .await
        .map_err(|e| text(&e))?;
    tokio::spawn(connection);
    let request = hyper::Request::get(path)
        .header("host", host)
        .header("authorization", "Bearer hft_a")
        .body(Full::<Bytes>::default())
        .unwrap();
    let response = sender.send_request(request).await.map_err(|e| text(&e))?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(|e| text(&e))?
        .to_bytes();
    Ok((status, headers, String::from_utf8(body.to_vec()).unwrap()))
}

#[tokio::test]
async fn people_are_served_over_tls_and_over_nothing_else() {
    let house = house().await;
    let running = house.open_over_tls().await;
    let ca = house.root.join("ca.crt");
    for versions in [&[&TLS12][..], &[&TLS13]] {
        let (status, headers, body) = get(&running, &ca, "localhost", versions, "/v1/me").await.unwrap();
        assert!(status == 200 && body.contains("token:a"), "{status} {body}");
        assert_eq!(headers["strict-transport-security"], "max-age=63072000");
    }
    // Cookies are those of a connection that nobody reads.
    let (_, headers, _) = get(&running, &ca, "localhost", &[&TLS13], "/login")
        .await
        .unwrap();
    let cookie = headers["set-cookie"].to_str().unwrap();
    assert!(
        cookie.starts_with("__Host-holdfast-form=") && cookie.contains("; Secure"),
        "{cookie}"
    );
    // Who checks is not deceived: another name, and another authority.
    assert!(
        get(&running, &ca, "holdfast.example.com", &[&TLS13], "/v1/me")
            .await
            .is_err()
    );
    let other = holdfast_coordinator::pki::Authority::generate().unwrap();
    std::fs::write(house.root.join("other.crt"), other.certificate_pem()).unwrap();
    let other = house.root.join("other.crt");
    assert!(
        get(&running, &other, "localhost", &[&TLS13], "/v1/me")
            .await
            .is_err()
    );
    // Nor does a token come through in plain.
    let tcp = TcpStream::connect(running.http).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp))
        .await
        .unwrap();
    tokio::spawn(connection);
    let plain = hyper::Request::get("/v1/me")
        .header("host", "localhost")
        .body(Full::<Bytes>::default())
        .unwrap();
    assert!(sender.send_request(plain).await.is_err());
    running.close().await;
}

#[tokio::test]
async fn another_certificate_is_taken_up_while_it_runs_and_a_bad_one_is_not() {
    let house = house().await;
    let running = house.open_over_tls().await;
    let ca = house.root.join("ca.crt");
    let reached = async |host: &'static str| get(&running, &ca, host, &[&TLS13], "/v1/me").await.is_ok();
    assert!(reached("localhost").await && !reached("holdfast.example.com").await);
    issue(&house, "holdfast.example.com");
    wait_until("the other certificate", || async {
        reached("holdfast.example.com").await.then_some(())
    })
    .await;
    assert!(!reached("localhost").await);
    // What is no certificate changes nothing, however often it is looked at.
    std::fs::write(house.root.join("h.key"), "nothing").unwrap();
    for _ in 0..30 {
        assert!(reached("holdfast.example.com").await);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    issue(&house, "localhost");
    wait_until("the good one", || async {
        reached("localhost").await.then_some(())
    })
    .await;
    running.close().await;
    // At the start there is nothing before it to go on with.
    std::fs::write(house.root.join("h.key"), "nothing").unwrap();
    let started = holdfast_coordinator::Coordinator::start(house.config.clone()).await;
    let why = started.err().expect("it must not start").to_string();
    assert!(why.contains("h.key"), "{why}");
}
