//! The store contract on Azure Blob Storage, as Azurite implements it.
//!
//! Runs against the service at `AZURITE_BLOB_STORAGE_URL`, which is where
//! object_store looks for the emulator; `make test` starts one where npm is
//! installed. Without it there is nothing to run against, and the suite says so.

use anyhow::{Result, ensure};
use holdfast_proto::{Fingerprint, Timestamp};
use holdfast_repository::probe::ConditionalCreate;
use holdfast_repository::{ReplicaConfig, Repository, RepositoryConfig};
use holdfast_tests::store_contract::contract;
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::{HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector};

/// The emulator's account, and its key, which its makers publish.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A new container; its name.
async fn container(service: &str) -> Result<String> {
    let name = format!("holdfast-{:016x}", rand::random::<u64>());
    let mut request = HttpRequest::new(HttpRequestBody::empty());
    *request.method_mut() = "PUT".parse()?;
    let url = format!(
        "{}/{ACCOUNT}/{name}?restype=container",
        service.trim_end_matches('/')
    );
    *request.uri_mut() = url.parse()?;
    request.headers_mut().insert("content-length", "0".parse()?);
    let credential = AzureCredential::AccessKey(AzureAccessKey::try_new(KEY)?);
    AzureAuthorizer::new(&credential, ACCOUNT).try_authorize(&mut request)?;
    let options = object_store::ClientOptions::new().with_allow_http(true);
    let answer = ReqwestConnector::default()
        .connect(&options)?
        .execute(request)
        .await?;
    ensure!(answer.status().is_success(), "no container: {}", answer.status());
    Ok(name)
}

#[tokio::test]
async fn azure_blob_storage_keeps_the_contract() -> Result<()> {
    let Ok(service) = std::env::var("AZURITE_BLOB_STORAGE_URL") else {
        eprintln!("AZURITE_BLOB_STORAGE_URL is not set: there is no Azure Blob Storage to run against");
        return Ok(());
    };
    let replica = ReplicaConfig {
        url: format!("az://{}/some/prefix", container(&service).await?),
        region: "azure".parse()?,
        options: [("azure_storage_use_emulator".to_owned(), "true".to_owned())].into(),
        accept_without_conditional_create: false,
        provider: None,
    };
    let config = RepositoryConfig {
        replicas: vec![replica],
        trust_root: None,
    };
    let now = Timestamp::from_unix_micros(1_790_000_000_000_000);
    let repository = Repository::init(&config, Fingerprint::new([7; 32]), now).await?;
    let probed = repository.probe(&"agent-1".parse()?).await?;
    ensure!(
        probed[0].conditional_create == Some(ConditionalCreate::Enforced),
        "{probed:?}"
    );
    // Whether versions are kept is not asked there, and that is said.
    let said: Vec<String> = probed[0].findings(now).into_iter().map(|f| f.name).collect();
    ensure!(said == ["versioning-unknown"], "{said:?}");
    contract(repository.replicas()[0].clone(), &"contract/suite".parse()?).await
}
