//! The cluster's API server, and the few things that are asked of it.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff;
use kube::api::{Api, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams, Preconditions};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::fate::Seen;
use crate::objects::{CONTAINER, NAME, SELECTOR};

/// How often something is looked at while it is waited for.
pub const LOOK: Duration = Duration::from_secs(1);

/// The cluster could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// There is no way to it.
    #[error(
        "no Kubernetes cluster is configured ({0}): name a kubeconfig in [runner.kubernetes], or set KUBECONFIG"
    )]
    Config(String),
    /// The account that we have may not.
    #[error(
        "the Kubernetes cluster forbids us to {what} ({message}): docs/operations/kubernetes.md lists what a dispatcher may do"
    )]
    Forbidden {
        /// What was tried.
        what: String,
        /// The API server's words.
        message: String,
    },
    /// The API server refused.
    #[error("cannot {what}: {message}")]
    Refused {
        /// What was tried.
        what: String,
        /// The API server's words.
        message: String,
    },
    /// The API server did not answer.
    #[error("cannot {what}: the API server does not answer ({source})")]
    Unreachable {
        /// What was tried.
        what: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// A namespace did not go.
    #[error(
        "the namespace {namespace} is still there after {seconds} s: look at it with kubectl, and delete what keeps it"
    )]
    Remains {
        /// Which.
        namespace: String,
        /// How long was waited.
        seconds: u64,
    },
}

impl KubernetesError {
    fn of(what: impl Into<String>, e: kube::Error) -> Self {
        let what = what.into();
        match e {
            kube::Error::Api(status) if status.code == 403 && status.reason == "Forbidden" => {
                Self::Forbidden {
                    what,
                    message: status.message,
                }
            }
            kube::Error::Api(status) => Self::Refused {
                what,
                message: status.message,
            },
            e => Self::Unreachable {
                what,
                source: Box::new(e),
            },
        }
    }
}

/// A connection to a cluster.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cluster")
    }
}

fn is_missing(e: &kube::Error) -> bool {
    matches!(e, kube::Error::Api(status) if status.code == 404)
}

impl Cluster {
    /// Connects as the file says, else as `KUBECONFIG` or the pod that we are in does.
    pub async fn connect(kubeconfig: Option<&Path>) -> Result<Self, KubernetesError> {
        let none = |e: &dyn std::fmt::Display| KubernetesError::Config(e.to_string());
        let config = match kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(|e| none(&e))?;
                let options = KubeConfigOptions::default();
                Config::from_custom_kubeconfig(file, &options)
                    .await
                    .map_err(|e| none(&e))?
            }
            None => Config::infer().await.map_err(|e| none(&e))?,
        };
        let client = Client::try_from(config).map_err(|e| none(&e))?;
        Ok(Self { client })
    }

    fn inside<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn namespaces(&self) -> Api<Namespace> {
        Api::all(self.client.clone())
    }

    /// Makes a namespace and gives back its UID.
    pub async fn make(&self, namespace: &Namespace) -> Result<String, KubernetesError> {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let made = self.namespaces().create(&PostParams::default(), namespace).await;
        let made = made.map_err(|e| KubernetesError::of(format!("make the namespace {name}"), e))?;
        Ok(made.metadata.uid.unwrap_or_default())
    }

    /// Makes an object in a namespace.
    pub async fn create<K>(&self, namespace: &str, object: &K) -> Result<(), KubernetesError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Serialize
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let made = self
            .inside::<K>(namespace)
            .create(&PostParams::default(), object)
            .await;
        let what = || format!("make the {} in the namespace {namespace}", K::kind(&()));
        made.map(drop).map_err(|e| KubernetesError::of(what(), e))
    }

    /// Says that the dispatcher lives.
    pub async fn renew(&self, namespace: &str, now: jiff::Timestamp) -> Result<(), KubernetesError> {
        let patch = serde_json::json!({ "spec": { "renewTime": MicroTime(now) } });
        let renewed = self.inside::<Lease>(namespace);
        let renewed = renewed
            .patch(NAME, &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        renewed
            .map(drop)
            .map_err(|e| KubernetesError::of("renew the lease", e))
    }

    /// The dispatcher's lease on a namespace, if there is one.
    pub async fn lease(&self, namespace: &str) -> Result<Option<Lease>, KubernetesError> {
        let found = self.inside::<Lease>(namespace).get_opt(NAME).await;
        found.map_err(|e| KubernetesError::of("read a lease", e))
    }

    /// Looks at the Job and its pods. `first` is the pod that was seen first.
    pub async fn look(&self, namespace: &str, first: Option<String>) -> Result<Seen, KubernetesError> {
        // Pods before the Job: a Job that failed has said so before its pod is gone.
        let pods = self.inside::<Pod>(namespace).list(&ListParams::default()).await;
        let pods = pods
            .map_err(|e| KubernetesError::of("look at the drill's pod", e))?
            .items;
        let job = self.inside::<Job>(namespace).get_opt(NAME).await;
        let job = job.map_err(|e| KubernetesError::of("look at the drill's Job", e))?;
        let first = first.or_else(|| pods.first()?.metadata.uid.clone());
        Ok(Seen { job, pods, first })
    }

    /// What the cluster says went wrong in a namespace, newest last.
    pub async fn warnings(&self, namespace: &str) -> Result<Vec<String>, KubernetesError> {
        let events = self.inside::<Event>(namespace).list(&ListParams::default()).await;
        let events = events.map_err(|e| KubernetesError::of("read the namespace's events", e))?;
        let warnings = events
            .items
            .into_iter()
            .filter(|e| e.type_.as_deref() == Some("Warning"));
        Ok(warnings.filter_map(|e| e.message).collect())
    }

    /// The pod's log from its beginning, as it is written; ends with the container.
    /// Nothing when the pod is gone.
    pub async fn follow(
        &self,
        namespace: &str,
        pod: &str,
    ) -> Result<Option<impl futures::AsyncBufRead + use<>>, KubernetesError> {
        let parameters = LogParams {
            container: Some(CONTAINER.to_owned()),
            follow: true,
            ..LogParams::default()
        };
        match self.inside::<Pod>(namespace).log_stream(pod, &parameters).await {
            Ok(stream) => Ok(Some(stream)),
            Err(e) if is_missing(&e) => Ok(None),
            Err(e) => Err(KubernetesError::of("read the pod's log", e)),
        }
    }

    /// Every scratch namespace of the cluster.
    pub async fn scratch(&self) -> Result<Vec<Namespace>, KubernetesError> {
        let found = self
            .namespaces()
            .list(&ListParams::default().labels(SELECTOR))
            .await;
        Ok(found
            .map_err(|e| KubernetesError::of("list scratch namespaces", e))?
            .items)
    }

    /// Deletes a namespace and waits until it is gone. With `uid`, that very one.
    pub async fn remove(
        &self,
        name: &str,
        uid: Option<&str>,
        patience: Duration,
    ) -> Result<(), KubernetesError> {
        let parameters = DeleteParams {
            preconditions: uid.map(|uid| Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let deadline = Instant::now() + patience;
        let mut tick = tokio::time::interval(LOOK);
        let mut asked = false;
        loop {
            tick.tick().await;
            let step = if asked {
                self.namespaces().get_opt(name).await.map(|found| found.is_none())
            } else {
                match self.namespaces().delete(name, &parameters).await {
                    Err(e) if is_missing(&e) => Ok(true),
                    // It is being deleted already.
                    Err(kube::Error::Api(status)) if status.code == 409 => {
                        asked = true;
                        Ok(false)
                    }
                    answer => answer.map(|_| {
                        asked = true;
                        false
                    }),
                }
            };
            match step {
                Ok(true) => return Ok(()),
                Ok(false) if Instant::now() < deadline => {}
                Ok(false) => {
                    return Err(KubernetesError::Remains {
                        namespace: name.to_owned(),
                        seconds: patience.as_secs(),
                    });
                }
                Err(e) if matches!(e, kube::Error::Api(_)) || Instant::now() > deadline => {
                    return Err(KubernetesError::of(format!("delete the namespace {name}"), e));
                }
                Err(e) => tracing::warn!(namespace = name, err = %e, "the API server does not answer"),
            }
        }
    }
}
