//! The Job and its pod.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, EnvVar, EnvVarSource, ObjectFieldSelector,
    PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile, SecretVolumeSource,
    SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{NAME, Order, TMP, labels, named, resources};
use crate::parcel::{CONFIG, HOME, SCRATCH};

/// The container in the pod.
pub const CONTAINER: &str = "runner";
/// How long the pod has to end when it is asked to. The runner does not stop in
/// order: what it leaves, the namespace takes with it.
const ENDING_SECONDS: i64 = 5;
/// How long a finished Job stays where nobody deletes its namespace.
const JOB_KEPT_SECONDS: i32 = 3600;

/// The Job: one pod, once, for so long.
pub fn job(order: &Order<'_>) -> Job {
    Job {
        metadata: named(order),
        spec: Some(JobSpec {
            active_deadline_seconds: i64::try_from(order.pod_limit().as_secs()).ok(),
            backoff_limit: Some(0),
            completions: Some(1),
            parallelism: Some(1),
            ttl_seconds_after_finished: Some(JOB_KEPT_SECONDS),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels()),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(order)),
            },
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}

fn pod(order: &Order<'_>) -> PodSpec {
    let settings = order.settings;
    PodSpec {
        restart_policy: Some("Never".to_owned()),
        service_account_name: Some(NAME.to_owned()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(ENDING_SECONDS),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(settings.user),
            run_as_group: Some(settings.user),
            fs_group: Some(settings.user),
            seccomp_profile: Some(runtime_default()),
            ..PodSecurityContext::default()
        }),
        volumes: Some(vec![
            Volume {
                name: "home".to_owned(),
                secret: Some(SecretVolumeSource {
                    secret_name: Some(NAME.to_owned()),
                    default_mode: Some(0o440),
                    ..SecretVolumeSource::default()
                }),
                ..Volume::default()
            },
            scratch("scratch", None, settings.scratch.to_string()),
            scratch("tmp", None, TMP.to_string()),
            // What PostgreSQL's workers share; counted as memory of the pod.
            scratch("shm", Some("Memory"), (settings.memory.bytes() / 2).to_string()),
        ]),
        containers: vec![container(order)],
        ..PodSpec::default()
    }
}

fn scratch(name: &str, medium: Option<&str>, limit: String) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: medium.map(str::to_owned),
            size_limit: Some(Quantity(limit)),
        }),
        ..Volume::default()
    }
}

fn runtime_default() -> SeccompProfile {
    SeccompProfile {
        type_: "RuntimeDefault".to_owned(),
        ..SeccompProfile::default()
    }
}

fn container(order: &Order<'_>) -> Container {
    let settings = order.settings;
    let size = resources(settings);
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    let variable = |name: &str, value: &str| EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        ..EnvVar::default()
    };
    let node = EnvVar {
        name: "HOLDFAST_NODE".to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: "spec.nodeName".to_owned(),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    let config = variable("HOLDFAST_CONFIG", &format!("{HOME}/{CONFIG}"));
    let home = variable("HOME", "/tmp");
    let initiator = order.initiator.map(|who| variable("USER", who));
    Container {
        name: CONTAINER.to_owned(),
        image: Some(settings.image.to_string()),
        image_pull_policy: Some(settings.pull.to_string()),
        command: Some(vec![settings.program.clone()]),
        args: Some(order.arguments.clone()),
        env: Some([node, config, home].into_iter().chain(initiator).collect()),
        resources: Some(ResourceRequirements {
            requests: Some(size.clone()),
            limits: Some(size),
            ..ResourceRequirements::default()
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            privileged: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: None,
            }),
            seccomp_profile: Some(runtime_default()),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![
            mount("home", HOME, true),
            mount("scratch", SCRATCH, false),
            mount("tmp", "/tmp", false),
            mount("shm", "/dev/shm", false),
        ]),
        ..Container::default()
    }
}
