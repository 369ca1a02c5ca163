//! Google Cloud Storage and Azure Blob Storage.
//!
//! Both enforce create-if-absent. Their version listings are not asked: an
//! overwritten object is found by its digest or signature and read from another
//! replica.

use object_store::Result;
use object_store::azure::{AzureConfigKey, MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder, GoogleConfigKey};

use super::options::Resolved;
use super::{client_options, retry_config};

/// A bucket of Google Cloud Storage.
pub fn gcs(bucket: &str, options: Resolved) -> Result<GoogleCloudStorage> {
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_client_options(client_options())
        .with_retry(retry_config())
        .with_bucket_name(bucket);
    for (option, value) in options.iter() {
        builder = builder.with_config(option.parse::<GoogleConfigKey>()?, value);
    }
    builder.build()
}

/// A container of Azure Blob Storage.
pub fn azure(container: &str, options: Resolved) -> Result<MicrosoftAzure> {
    let mut builder = MicrosoftAzureBuilder::new()
        .with_client_options(client_options())
        .with_retry(retry_config())
        .with_container_name(container);
    for (option, value) in options.iter() {
        builder = builder.with_config(option.parse::<AzureConfigKey>()?, value);
    }
    builder.build()
}
