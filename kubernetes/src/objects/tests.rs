use super::*;

fn settings() -> Settings {
    Settings {
        kubeconfig: None,
        prefix: crate::settings::Prefix::default(),
        image: "localhost/holdfast:1".parse().unwrap(),
        pull: crate::settings::Pull::Never,
        program: "/usr/local/bin/holdfast".into(),
        user: 65532,
        memory: "1Gi".parse().unwrap(),
        cpu: "500m".parse().unwrap(),
        scratch: "8Gi".parse().unwrap(),
        reach: vec!["10.0.3.7/32:443".parse().unwrap()],
        dns: false,
        closed: Vec::new(),
        start: Duration::from_secs(60),
        grace: Duration::from_secs(120),
    }
}

fn with<T>(settings: &Settings, look: impl FnOnce(&Order<'_>) -> T) -> T {
    look(&Order {
        drill: "01JD5V1C3K8Q2M4N6P8R0S2T4V".parse().unwrap(),
        cluster: &"acme/erp".parse().unwrap(),
        runner: &"runner-1".parse().unwrap(),
        log: &"holdfast.dev/log/1".parse().unwrap(),
        initiator: Some("ops"),
        arguments: vec!["drill".into(), "run".into()],
        limit: Duration::from_secs(600),
        settings,
    })
}

#[test]
fn the_namespace_says_whose_it_is_and_until_when() {
    let now = Timestamp::from_unix_micros(1_790_000_000_000_000);
    let made = with(&settings(), |order| namespace(order, now)).metadata;
    let name = made.name.unwrap();
    assert_eq!(name, "holdfast-drill-01jd5v1c3k8q2m4n6p8r0s2t4v");
    let annotations = made.annotations.unwrap();
    assert_eq!(annotations[CLUSTER], "acme/erp");
    // 60 s to start, 600 s to work, 120 s to log.
    assert_eq!(annotations[DEADLINE], now.plus_millis(780_000).to_string());
    let labels = made.labels.unwrap();
    assert_eq!(labels["app.kubernetes.io/managed-by"], "holdfast");
    assert_eq!(labels["pod-security.kubernetes.io/enforce"], "restricted");
}

/// What Kubernetes' "restricted" standard demands, and what goes beyond it.
#[test]
fn the_pod_may_do_nothing_that_it_can_do_without() {
    let job = with(&settings(), job);
    let spec = job.spec.unwrap();
    assert_eq!(
        (spec.backoff_limit, spec.active_deadline_seconds),
        (Some(0), Some(720))
    );
    let pod = spec.template.spec.unwrap();
    assert_eq!(pod.restart_policy.as_deref(), Some("Never"));
    assert_eq!(pod.automount_service_account_token, Some(false));
    assert_eq!(
        (&pod.host_network, &pod.host_pid, &pod.host_ipc),
        (&None, &None, &None)
    );
    let own = pod.security_context.unwrap();
    assert_eq!((own.run_as_non_root, own.run_as_user), (Some(true), Some(65532)));
    assert_eq!(own.seccomp_profile.unwrap().type_, "RuntimeDefault");
    assert_eq!(pod.containers.len(), 1);
    let container = &pod.containers[0];
    let context = container.security_context.as_ref().unwrap();
    assert_eq!(context.allow_privilege_escalation, Some(false));
    assert_eq!(context.read_only_root_filesystem, Some(true));
    assert_eq!(
        context.capabilities.as_ref().unwrap().drop,
        Some(vec!["ALL".to_owned()])
    );
    assert_eq!(context.capabilities.as_ref().unwrap().add, None);
    let size = container.resources.as_ref().unwrap();
    assert_eq!(size.requests, size.limits);
    // Everything that it writes to has a bound.
    for volume in pod.volumes.unwrap().iter().filter(|v| v.name != "home") {
        let bound = volume.empty_dir.as_ref().unwrap().size_limit.as_ref();
        assert!(bound.is_some(), "{}", volume.name);
    }
}

#[test]
fn the_pod_fits_its_quota_and_nothing_else_does() {
    let settings = settings();
    let hard = with(&settings, quota).spec.unwrap().hard.unwrap();
    let pod = with(&settings, job).spec.unwrap().template.spec.unwrap();
    for (name, wanted) in pod.containers[0]
        .resources
        .as_ref()
        .unwrap()
        .limits
        .as_ref()
        .unwrap()
    {
        assert_eq!(&hard[&format!("limits.{name}")], wanted);
        assert_eq!(&hard[&format!("requests.{name}")], wanted);
    }
    assert_eq!((hard["pods"].0.as_str(), hard["services"].0.as_str()), ("1", "0"));
}

#[test]
fn the_network_is_closed_but_for_the_stores() {
    let mut settings = settings();
    let policy = with(&settings, network).spec.unwrap();
    assert_eq!(policy.pod_selector, Some(LabelSelector::default()), "every pod");
    assert_eq!(policy.policy_types.unwrap(), ["Ingress", "Egress"]);
    assert_eq!(policy.ingress, None, "nothing comes in");
    let out = policy.egress.unwrap();
    assert_eq!(out.len(), 1);
    let to = &out[0].to.as_ref().unwrap()[0];
    assert_eq!(to.ip_block.as_ref().unwrap().cidr, "10.0.3.7/32");
    assert_eq!(
        out[0].ports.as_ref().unwrap()[0].port,
        Some(IntOrString::Int(443))
    );
    settings.dns = true;
    let out = with(&settings, network).spec.unwrap().egress.unwrap();
    assert_eq!(out[1].ports.as_ref().unwrap()[0].port, Some(IntOrString::Int(53)));
}
