//! S3 services.
//!
//! object_store reads and creates; it does not list versions or ask a bucket
//! what it protects. Those calls are made here, with its own credentials,
//! signer and HTTP client: `ListObjectVersions`, `GetBucketVersioning` and
//! `GetObjectLockConfiguration` of the S3 API.
//!
//! Nothing here deletes but [`VersionHistory::delete_version`], with which drills
//! prove that a bucket refuses it.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use holdfast_proto::Timestamp;
use object_store::aws::{
    AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsAuthorizer, AwsCredentialProvider, Checksum,
};
use object_store::client::{HttpClient, HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector};
use object_store::path::Path;
use object_store::{ClientConfigKey, ClientOptions, Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::options::Resolved;
use super::{Lock, Protection, Version, VersionHistory, client_options, retry_config};

/// The most bytes of an answer that are read: a page of 1,000 versions has a
/// few hundred kilobytes.
const MAX_ANSWER: usize = 16 << 20;

/// A bucket, and its versions below `prefix`.
pub fn open(bucket: &str, prefix: &str, options: Resolved) -> Result<(AmazonS3, S3Versions)> {
    let mut http = client_options();
    let mut builder = AmazonS3Builder::new()
        .with_retry(retry_config())
        .with_bucket_name(bucket);
    for (option, value) in options.iter() {
        match option.parse::<AmazonS3ConfigKey>()? {
            AmazonS3ConfigKey::Client(key) => http = http.with_config(key, value),
            key => builder = builder.with_config(key, value),
        }
    }
    // Buckets with object lock refuse an upload without a checksum (S3's
    // "PutObject": Content-MD5 or a checksum header is required there).
    if builder.get_config_value(&AmazonS3ConfigKey::Checksum).is_none() {
        builder = builder.with_checksum_algorithm(Checksum::SHA256);
    }
    let endpoint = bucket_endpoint(&builder, bucket);
    let signed = builder
        .get_config_value(&AmazonS3ConfigKey::SkipSignature)
        .is_none_or(|skip| skip != "true");
    let region = builder
        .get_config_value(&AmazonS3ConfigKey::Region)
        .unwrap_or_else(|| "us-east-1".to_owned());
    let client = client(&http)?;
    let store = builder.with_client_options(http).build()?;
    let versions = S3Versions {
        endpoint,
        region,
        prefix: prefix.to_owned(),
        credentials: signed.then(|| Arc::clone(store.credentials())),
        client,
    };
    Ok((store, versions))
}

fn client(http: &ClientOptions) -> Result<HttpClient> {
    // Small answers only: here a limit on the whole request is right.
    let options = http.clone().with_config(ClientConfigKey::Timeout, "30 seconds");
    ReqwestConnector::default().connect(&options)
}

/// The URL of the bucket, by object_store's own rule (its `AmazonS3Builder::build`).
fn bucket_endpoint(builder: &AmazonS3Builder, bucket: &str) -> String {
    let value = |key| builder.get_config_value(&key);
    let virtual_hosted =
        value(AmazonS3ConfigKey::VirtualHostedStyleRequest).is_some_and(|v| v == "true" || v == "1");
    let region = value(AmazonS3ConfigKey::Region).unwrap_or_else(|| "us-east-1".to_owned());
    let endpoint = value(AmazonS3ConfigKey::S3Endpoint).or_else(|| value(AmazonS3ConfigKey::Endpoint));
    match (endpoint, virtual_hosted) {
        (Some(endpoint), true) => endpoint.trim_end_matches('/').to_owned(),
        (Some(endpoint), false) => format!("{}/{bucket}", endpoint.trim_end_matches('/')),
        (None, true) => format!("https://{bucket}.s3.{region}.amazonaws.com"),
        (None, false) => format!("https://s3.{region}.amazonaws.com/{bucket}"),
    }
}

/// What S3 keeps of overwritten objects.
#[derive(Debug)]
pub struct S3Versions {
    endpoint: String,
    region: String,
    prefix: String,
    /// Absent when requests are not signed.
    credentials: Option<AwsCredentialProvider>,
    client: HttpClient,
}

/// How the service refused.
#[derive(Debug, thiserror::Error)]
#[error("S3 answered {status}: {body}")]
struct Refused {
    status: u16,
    body: String,
}

fn generic(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic {
        store: "S3",
        source: source.into(),
    }
}

impl S3Versions {
    /// One signed GET on the bucket.
    async fn ask<T: DeserializeOwned>(&self, query: &[(&str, &str)]) -> Result<T> {
        let url = format!("{}?{}", self.endpoint, encoded(query));
        let text = self.call("GET", url).await?;
        quick_xml::de::from_str(&text).map_err(generic)
    }

    /// One signed call; the answer's text when it was successful.
    async fn call(&self, method: &str, url: String) -> Result<String> {
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method.parse().map_err(generic)?;
        *request.uri_mut() = url.parse().map_err(generic)?;
        if let Some(credentials) = &self.credentials {
            let credential = credentials.get_credential().await?;
            AwsAuthorizer::new(&credential, "s3", &self.region).try_authorize(&mut request, None)?;
        }
        let answer = self.client.execute(request).await.map_err(generic)?;
        let status = answer.status().as_u16();
        let mut stream = answer.into_body().bytes_stream();
        let mut body = Vec::new();
        while let Some(piece) = stream.try_next().await.map_err(generic)? {
            if body.len() + piece.len() > MAX_ANSWER {
                return Err(generic("the answer is longer than any listing page"));
            }
            body.extend_from_slice(&piece);
        }
        let text = String::from_utf8(body).map_err(generic)?;
        let path = || self.endpoint.clone();
        match status {
            200 | 204 => Ok(text),
            _ => {
                let refused = Refused {
                    status,
                    body: text.chars().take(500).collect(),
                };
                Err(match status {
                    401 => Error::Unauthenticated {
                        path: path(),
                        source: refused.into(),
                    },
                    403 => Error::PermissionDenied {
                        path: path(),
                        source: refused.into(),
                    },
                    404 => Error::NotFound {
                        path: path(),
                        source: refused.into(),
                    },
                    501 => Error::NotSupported {
                        source: refused.into(),
                    },
                    _ => generic(refused),
                })
            }
        }
    }
}

/// Whether the service's answer names this error.
fn says(refused: &(dyn std::error::Error + 'static), code: &str) -> bool {
    let refused = refused.downcast_ref::<Refused>();
    refused.is_some_and(|r| r.body.contains(&format!("<Code>{code}")))
}

/// A query string in SigV4's own encoding, sorted, so that what is sent is what
/// is signed.
fn encoded(query: &[(&str, &str)]) -> String {
    let mut pairs: Vec<String> = query
        .iter()
        .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
        .collect();
    pairs.sort();
    pairs.join("&")
}

fn encode(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => write!(out, "%{byte:02X}").expect("writing to a String cannot fail"),
        }
    }
    out
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VersionsPage {
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    next_key_marker: Option<String>,
    #[serde(default)]
    next_version_id_marker: Option<String>,
    #[serde(default)]
    version: Vec<VersionElement>,
    #[serde(default)]
    delete_marker: Vec<DeleteMarkerElement>,
}

impl VersionsPage {
    /// The keys of the page with what stands at each: versions and deletions.
    fn counts(&self) -> BTreeMap<&str, usize> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for version in &self.version {
            *counts.entry(&version.key).or_default() += 1;
        }
        // A deletion alone makes a key one that was rewritten.
        for marker in &self.delete_marker {
            *counts.entry(&marker.key).or_default() += 2;
        }
        counts
    }

    /// Where to go on; `None` at the end.
    fn next(&self) -> Result<Option<(String, String)>> {
        match (self.is_truncated, &self.next_key_marker) {
            (false, _) => Ok(None),
            (true, None) => Err(generic("a truncated listing without a marker to go on from")),
            (true, Some(key)) => Ok(Some((
                key.clone(),
                self.next_version_id_marker.clone().unwrap_or_default(),
            ))),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DeleteMarkerElement {
    key: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VersionElement {
    key: String,
    version_id: String,
    is_latest: bool,
    last_modified: Timestamp,
    size: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VersioningConfiguration {
    #[serde(default)]
    status: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ObjectLockConfiguration {
    #[serde(default)]
    object_lock_enabled: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RetentionOfObject {
    #[serde(default)]
    mode: Option<String>,
    #[serde(default)]
    retain_until_date: Option<Timestamp>,
}

impl RetentionOfObject {
    /// S3 knows two modes; only COMPLIANCE binds everybody.
    fn lock(&self) -> Lock {
        match (self.mode.as_deref(), self.retain_until_date) {
            (Some("COMPLIANCE"), Some(until)) => Lock::Until(until),
            (Some(_), Some(until)) => Lock::Liftable(until),
            _ => Lock::None,
        }
    }
}

impl S3Versions {
    /// The URL of the object at `path`, with a query.
    fn object_url(&self, path: &Path, query: &[(&str, &str)]) -> String {
        let key: Vec<String> = self.in_bucket(path.as_ref()).split('/').map(encode).collect();
        format!("{}/{}?{}", self.endpoint, key.join("/"), encoded(query))
    }

    /// `path` in the bucket.
    fn in_bucket(&self, path: &str) -> String {
        match self.prefix.as_str() {
            "" => path.to_owned(),
            prefix => format!("{prefix}/{path}"),
        }
    }

    /// One page of the versions of all keys that begin with `prefix`.
    async fn page(&self, prefix: &str, marker: Option<&(String, String)>) -> Result<VersionsPage> {
        let mut query = vec![("versions", ""), ("prefix", prefix)];
        if let Some((key_marker, version_marker)) = marker {
            query.push(("key-marker", key_marker));
            // Without a version the listing goes on behind the key.
            if !version_marker.is_empty() {
                query.push(("version-id-marker", version_marker));
            }
        }
        self.ask(&query).await
    }
}

/// How far a listing of rewritten objects has come.
enum Rewritten {
    /// From here on; the last key of the page before and what it had there.
    At(Option<(String, String)>, Option<(String, usize)>),
    /// All was listed.
    Over,
}

#[async_trait]
impl VersionHistory for S3Versions {
    async fn versions(&self, path: &Path) -> Result<Vec<Version>> {
        let key = self.in_bucket(path.as_ref());
        let mut found = Vec::new();
        let mut marker = None;
        loop {
            let page = self.page(&key, marker.as_ref()).await?;
            let next = page.next()?;
            // Other keys may begin with this one; they sort behind it.
            let mut passed = false;
            for version in page.version {
                if version.key == key {
                    found.push(Version {
                        id: Some(version.version_id),
                        modified: version.last_modified,
                        size: version.size,
                        latest: version.is_latest,
                    });
                } else {
                    passed |= version.key > key;
                }
            }
            match next {
                Some(next) if !passed => marker = Some(next),
                _ => break,
            }
        }
        // S3 lists in the order of storing, the newest first. Its times are no
        // better: several versions may have the same.
        found.reverse();
        Ok(found)
    }

    fn rewritten(&self, prefix: &str) -> BoxStream<'_, Result<String>> {
        let (prefix, own) = (self.in_bucket(prefix), self.in_bucket("").len());
        let begin = Rewritten::At(None, None);
        futures::stream::try_unfold(begin, move |at| {
            let prefix = prefix.clone();
            async move {
                let Rewritten::At(marker, carried) = at else {
                    return Ok(None);
                };
                let page = self.page(&prefix, marker.as_ref()).await?;
                let next = page.next()?;
                let mut counts: BTreeMap<String, usize> = carried.into_iter().collect();
                for (key, count) in page.counts() {
                    *counts.entry(key.to_owned()).or_default() += count;
                }
                // The last key may go on in the next page.
                let carried = match next {
                    Some(_) => counts.pop_last(),
                    None => None,
                };
                let keys = counts.into_iter().filter(|(_, count)| *count > 1);
                let keys: Vec<Result<String>> = keys
                    .map(|(key, _)| Ok(key.get(own..).unwrap_or(&key).to_owned()))
                    .collect();
                let then = match next {
                    Some(next) => Rewritten::At(Some(next), carried),
                    None => Rewritten::Over,
                };
                Ok::<_, Error>(Some((futures::stream::iter(keys), then)))
            }
        })
        .try_flatten()
        .boxed()
    }

    async fn lock(&self, path: &Path, version: Option<&str>) -> Result<Lock> {
        let mut query = vec![("retention", "")];
        query.extend(version.map(|id| ("versionId", id)));
        match self.call("GET", self.object_url(path, &query)).await {
            Ok(text) => {
                let said: RetentionOfObject = quick_xml::de::from_str(&text).map_err(generic)?;
                Ok(said.lock())
            }
            // That is S3's answer for an object without one, as for a bucket without
            // any (`NoSuchObjectLockConfiguration`, `InvalidRequest`).
            Err(Error::NotFound { source, .. }) if says(&*source, "NoSuchObjectLockConfiguration") => {
                Ok(Lock::None)
            }
            Err(Error::Generic { source, .. })
                if says(&*source, "InvalidRequest") || says(&*source, "NoSuchObjectLock") =>
            {
                Ok(Lock::None)
            }
            Err(e) => Err(e),
        }
    }

    async fn protection(&self) -> Result<Protection> {
        let versioning = match self.ask::<VersioningConfiguration>(&[("versioning", "")]).await {
            Ok(answer) => Some(answer.status.as_deref() == Some("Enabled")),
            Err(Error::PermissionDenied { .. } | Error::NotSupported { .. }) => None,
            Err(e) => return Err(e),
        };
        let object_lock = match self.ask::<ObjectLockConfiguration>(&[("object-lock", "")]).await {
            Ok(answer) => Some(answer.object_lock_enabled.as_deref() == Some("Enabled")),
            // S3 answers 404 when a bucket has no such configuration.
            Err(Error::NotFound { .. }) => Some(false),
            Err(Error::PermissionDenied { .. } | Error::NotSupported { .. }) => None,
            Err(e) => return Err(e),
        };
        Ok(Protection {
            versioning,
            object_lock,
        })
    }

    async fn delete_version(&self, path: &Path, version: &str) -> Result<()> {
        let url = self.object_url(path, &[("versionId", version)]);
        self.call("DELETE", url).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded_as_they_are_signed() {
        assert_eq!(
            encoded(&[("versions", ""), ("prefix", "a/b c"), ("key-marker", "ü")]),
            "key-marker=%C3%BC&prefix=a%2Fb%20c&versions="
        );
    }

    #[test]
    fn a_lock_is_read() {
        let until = "2026-12-21T14:32:07.000000Z".parse().unwrap();
        let said = |mode: &str| {
            let text = format!(
                "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>{mode}</Mode>\
                 <RetainUntilDate>2026-12-21T14:32:07Z</RetainUntilDate></Retention>"
            );
            quick_xml::de::from_str::<RetentionOfObject>(&text)
                .unwrap()
                .lock()
        };
        assert_eq!(said("COMPLIANCE"), Lock::Until(until));
        assert_eq!(said("GOVERNANCE"), Lock::Liftable(until));
        let nothing = quick_xml::de::from_str::<RetentionOfObject>("<Retention/>").unwrap();
        assert_eq!(nothing.lock(), Lock::None);
    }

    #[test]
    fn a_version_listing_is_read() {
        let text = r#"<?xml version="1.0" encoding="UTF-8"?>
            <ListVersionsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
              <Name>b</Name><Prefix>p</Prefix><IsTruncated>true</IsTruncated>
              <NextKeyMarker>k</NextKeyMarker><NextVersionIdMarker>v0</NextVersionIdMarker>
              <Version><Key>k</Key><VersionId>v1</VersionId><IsLatest>true</IsLatest>
                <LastModified>2026-11-21T14:32:07.000Z</LastModified><ETag>"x"</ETag><Size>5</Size>
                <Owner><ID>o</ID></Owner></Version>
              <DeleteMarker><Key>k</Key><VersionId>v2</VersionId><IsLatest>false</IsLatest>
                <LastModified>2026-11-21T14:32:08.000Z</LastModified></DeleteMarker>
              <Version><Key>k</Key><VersionId>v0</VersionId><IsLatest>false</IsLatest>
                <LastModified>2026-11-21T14:32:06.000Z</LastModified><Size>4</Size></Version>
            </ListVersionsResult>"#;
        let page: VersionsPage = quick_xml::de::from_str(text).unwrap();
        assert!(page.is_truncated);
        assert_eq!(page.next_key_marker.as_deref(), Some("k"));
        assert_eq!(
            page.version
                .iter()
                .map(|v| (v.version_id.as_str(), v.size))
                .collect::<Vec<_>>(),
            [("v1", 5), ("v0", 4)]
        );
        assert_eq!(page.counts().into_iter().collect::<Vec<_>>(), [("k", 4)]);
        assert_eq!(page.next().unwrap(), Some(("k".to_owned(), "v0".to_owned())));
        let deleted: VersionsPage = quick_xml::de::from_str(
            "<ListVersionsResult><IsTruncated>false</IsTruncated><Version><Key>a</Key><VersionId>1</VersionId>\
             <IsLatest>true</IsLatest><LastModified>2026-11-22T00:00:00Z</LastModified><Size>1</Size></Version>\
             <DeleteMarker><Key>b</Key><VersionId>2</VersionId></DeleteMarker></ListVersionsResult>",
        )
        .unwrap();
        assert_eq!(
            deleted.counts().into_iter().collect::<Vec<_>>(),
            [("a", 1), ("b", 2)]
        );
        assert_eq!(deleted.next().unwrap(), None);
        let empty: VersionsPage = quick_xml::de::from_str(
            "<ListVersionsResult><IsTruncated>false</IsTruncated></ListVersionsResult>",
        )
        .unwrap();
        assert!(empty.version.is_empty());
        let none: VersioningConfiguration = quick_xml::de::from_str("<VersioningConfiguration/>").unwrap();
        assert_eq!(none.status, None);
    }

    #[test]
    fn endpoints_follow_object_stores_rule() {
        for (options, expected) in [
            (vec![], "https://s3.us-east-1.amazonaws.com/b"),
            (
                vec![("aws_region", "eu-west-1")],
                "https://s3.eu-west-1.amazonaws.com/b",
            ),
            (
                vec![("aws_endpoint", "http://localhost:9/")],
                "http://localhost:9/b",
            ),
            (
                vec![
                    ("aws_endpoint", "https://b.example"),
                    ("aws_virtual_hosted_style_request", "true"),
                ],
                "https://b.example",
            ),
        ] {
            let mut builder = AmazonS3Builder::new().with_bucket_name("b");
            for (key, value) in options {
                builder = builder.with_config(key.parse().unwrap(), value);
            }
            assert_eq!(bucket_endpoint(&builder, "b"), expected);
        }
    }
}
