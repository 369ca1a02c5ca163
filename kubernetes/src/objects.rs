//! The objects that a drill's place is made of. Pure: an order in, objects out.
//!
//! Whatever can be set so that it would have to be granted is set to the least:
//! no token of a service account, no root, no capability, no writable root file
//! system, no other pod, no service, no way in, and no way out but to the object
//! stores. What is asked for is one size of memory, processors and disk, as request
//! and limit.

mod pod;

pub use pod::{CONTAINER, job};

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_drills::evidence::tlog::LogOrigin;
use holdfast_proto::Timestamp;
use holdfast_proto::names::{ActorName, ClusterId, DrillId};
use k8s_openapi::ByteString;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    LimitRange, LimitRangeItem, LimitRangeSpec, Namespace, ResourceQuota, ResourceQuotaSpec, Secret,
    ServiceAccount,
};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, MicroTime, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff;

use crate::parcel::Parcel;
use crate::settings::Settings;

/// What every scratch namespace is known by.
pub const SELECTOR: &str = "app.kubernetes.io/managed-by=holdfast,app.kubernetes.io/component=drill";
/// Every object but the namespace has this name.
pub const NAME: &str = "drill";
/// Annotations of a namespace.
pub const DRILL: &str = "holdfast.dev/drill";
/// The cluster whose copy is in it.
pub const CLUSTER: &str = "holdfast.dev/cluster";
/// The runner that made it.
pub const RUNNER: &str = "holdfast.dev/runner";
/// The log that the drill belongs into.
pub const LOG: &str = "holdfast.dev/log";
/// When nobody works in it any more, whatever happens.
pub const DEADLINE: &str = "holdfast.dev/deadline";

/// Room besides the copy's: `/tmp`.
const TMP: u64 = 256 << 20;
/// One drill to be run.
#[derive(Debug, Clone)]
pub struct Order<'a> {
    /// The drill.
    pub drill: DrillId,
    /// Whose data.
    pub cluster: &'a ClusterId,
    /// The runner's name.
    pub runner: &'a ActorName,
    /// The log that it is announced in.
    pub log: &'a LogOrigin,
    /// Who started it.
    pub initiator: Option<&'a str>,
    /// What the program in the pod is called with.
    pub arguments: Vec<String>,
    /// How long the drill may take.
    pub limit: Duration,
    /// How.
    pub settings: &'a Settings,
}

impl Order<'_> {
    /// The namespace's name.
    pub fn namespace(&self) -> String {
        format!(
            "{}-{}",
            self.settings.prefix,
            self.drill.to_string().to_lowercase()
        )
    }

    /// How long the pod may run.
    pub fn pod_limit(&self) -> Duration {
        self.limit + self.settings.grace
    }
}

fn labels() -> BTreeMap<String, String> {
    SELECTOR
        .split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn named(order: &Order<'_>) -> ObjectMeta {
    ObjectMeta {
        name: Some(NAME.to_owned()),
        namespace: Some(order.namespace()),
        labels: Some(labels()),
        ..ObjectMeta::default()
    }
}

fn map<V: Clone>(pairs: &[(&str, V)]) -> Option<BTreeMap<String, V>> {
    Some(pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect())
}

/// The namespace: by whom, for what, and until when.
pub fn namespace(order: &Order<'_>, now: Timestamp) -> Namespace {
    let latest = order.settings.start + order.pod_limit();
    let mut labels = labels();
    // Enforced by the API server from 1.23 on, a label like any other before.
    labels.insert(
        "pod-security.kubernetes.io/enforce".to_owned(),
        "restricted".to_owned(),
    );
    Namespace {
        metadata: ObjectMeta {
            name: Some(order.namespace()),
            labels: Some(labels),
            annotations: map(&[
                (DRILL, order.drill.to_string()),
                (CLUSTER, order.cluster.to_string()),
                (RUNNER, order.runner.to_string()),
                (LOG, order.log.to_string()),
                (DEADLINE, now.plus_millis(latest.as_millis() as i64).to_string()),
            ]),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    }
}

/// The sign that the dispatcher lives: renewed while it does.
pub fn lease(order: &Order<'_>, holder: &str, lasts: Duration, now: jiff::Timestamp) -> Lease {
    Lease {
        metadata: named(order),
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: i32::try_from(lasts.as_secs()).ok(),
            acquire_time: Some(MicroTime(now)),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    }
}

fn resources(settings: &Settings) -> BTreeMap<String, Quantity> {
    let disk = settings.scratch.bytes() + TMP;
    [
        ("memory", settings.memory.to_string()),
        ("cpu", settings.cpu.to_string()),
        ("ephemeral-storage", disk.to_string()),
    ]
    .map(|(name, text)| (name.to_owned(), Quantity(text)))
    .into()
}

/// One pod of the size that is asked for, and nothing else.
pub fn quota(order: &Order<'_>) -> ResourceQuota {
    let mut hard = BTreeMap::new();
    for (name, quantity) in resources(order.settings) {
        hard.insert(format!("requests.{name}"), quantity.clone());
        hard.insert(format!("limits.{name}"), quantity);
    }
    for (name, most) in [("pods", "1"), ("services", "0"), ("persistentvolumeclaims", "0")] {
        hard.insert(name.to_owned(), Quantity(most.to_owned()));
    }
    ResourceQuota {
        metadata: named(order),
        spec: Some(ResourceQuotaSpec {
            hard: Some(hard),
            ..ResourceQuotaSpec::default()
        }),
        ..ResourceQuota::default()
    }
}

/// No container without limits, and none above.
pub fn limits(order: &Order<'_>) -> LimitRange {
    let size = resources(order.settings);
    LimitRange {
        metadata: named(order),
        spec: Some(LimitRangeSpec {
            limits: vec![LimitRangeItem {
                type_: "Container".to_owned(),
                max: Some(size.clone()),
                default: Some(size.clone()),
                default_request: Some(size),
                ..LimitRangeItem::default()
            }],
        }),
    }
}

/// Nothing comes in, and nothing gets out but to the object stores and, where it is
/// asked for, the cluster's DNS.
pub fn network(order: &Order<'_>) -> NetworkPolicy {
    let port = |protocol: &str, port: u16| NetworkPolicyPort {
        protocol: Some(protocol.to_owned()),
        port: Some(IntOrString::Int(i32::from(port))),
        ..NetworkPolicyPort::default()
    };
    let stores = order.settings.reach.iter().map(|reach| NetworkPolicyEgressRule {
        to: Some(vec![NetworkPolicyPeer {
            ip_block: Some(IPBlock {
                cidr: reach.cidr.clone(),
                except: None,
            }),
            ..NetworkPolicyPeer::default()
        }]),
        ports: Some(vec![port("TCP", reach.port)]),
    });
    let dns = order.settings.dns.then(|| NetworkPolicyEgressRule {
        to: Some(vec![NetworkPolicyPeer {
            namespace_selector: Some(LabelSelector::default()),
            pod_selector: Some(LabelSelector {
                match_labels: map(&[("k8s-app", "kube-dns".to_owned())]),
                ..LabelSelector::default()
            }),
            ..NetworkPolicyPeer::default()
        }]),
        ports: Some(vec![port("UDP", 53), port("TCP", 53)]),
    });
    NetworkPolicy {
        metadata: named(order),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector::default()),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: None,
            egress: Some(stores.chain(dns).collect()),
        }),
    }
}

/// An account that is good for nothing: no token of it is in the pod.
pub fn account(order: &Order<'_>) -> ServiceAccount {
    ServiceAccount {
        metadata: named(order),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// The parcel.
pub fn secret(order: &Order<'_>, parcel: &Parcel) -> Secret {
    let files = parcel.files();
    Secret {
        metadata: named(order),
        immutable: Some(true),
        data: Some(
            files
                .map(|(name, bytes)| (name.to_owned(), ByteString(bytes.to_vec())))
                .collect(),
        ),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests;
