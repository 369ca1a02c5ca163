//! What was restored, where to, and how it was drawn.

use super::super::Shown;
use super::super::words::{bytes, count, second};
use super::{Fact, code, fact};
use crate::evidence::statement::context::{SEEDED_POINT, Sampling};
use crate::evidence::statement::recovery::{EgressProbe, Isolation, RecoveryTarget, ReplicaLock, TargetKind};

pub(super) fn restored(shown: &Shown<'_>) -> Vec<Fact> {
    let Some(r) = &shown.statement.predicate.recovery_point else {
        return Vec::new();
    };
    let target = match &r.target {
        RecoveryTarget::Time(at) => format!("the moment {at}"),
        RecoveryTarget::Lsn(lsn) => format!("the position {lsn}"),
        RecoveryTarget::Name(name) => format!("the restore point {name}"),
        RecoveryTarget::Latest => "the end of what is archived".to_owned(),
    };
    let mut out = vec![
        fact("Told to reach", target),
        fact(
            "PostgreSQL",
            format!("{}.{}", r.version_num / 10_000, r.version_num % 10_000),
        ),
        code("System identifier", r.system_identifier),
        code("Timeline", r.timeline),
        code("Base backup", r.base.id),
        code("Base from and to", format!("{} to {}", r.base.start, r.base.stop)),
    ];
    out.extend(r.base.bytes.map(|n| fact("Base size", bytes(n))));
    out.extend(r.wal_bytes_replayed.map(|n| fact("WAL replayed", bytes(n))));
    out.extend(r.reached.map(|lsn| code("Recovery ended at", lsn)));
    out.extend(
        r.last_replayed_commit
            .as_ref()
            .map(|c| fact("Last transaction", format!("{} at {}", c.lsn, c.time))),
    );
    out.extend(
        r.filestore_watermark
            .map(|at| fact("Files as of", at.to_string())),
    );
    if !r.replicas.is_empty() {
        let names: Vec<String> = r.replicas.iter().map(read_from).collect();
        out.push(fact("Read from", names.join(", ")));
    }
    if let Some(e) = &r.encryption {
        let epochs: Vec<String> = e.epochs.iter().map(ToString::to_string).collect();
        let words = format!(
            "{} recipients; keys of {} opened",
            e.recipients.len(),
            epochs.join(", ")
        );
        out.push(fact("Sealed to", words));
    }
    out
}

pub(super) fn place(shown: &Shown<'_>) -> Vec<Fact> {
    let Some(t) = &shown.statement.predicate.target else {
        return Vec::new();
    };
    let isolation = match t.isolation {
        Isolation::NetworkPolicy => "a Kubernetes namespace that network policy closes",
        Isolation::LinuxNamespaces => "Linux namespaces without a network",
        Isolation::SocketFilter => "a filter of system calls under which no network socket can be made",
        Isolation::PrivateDirectory => "a private directory; the network was not closed",
    };
    let yes = |b: bool| if b { "yes" } else { "NO" };
    let mut out = vec![fact("Kept apart by", isolation)];
    out.extend(t.region.as_ref().map(|region| fact("Region", region.as_str())));
    if t.kind == TargetKind::Kubernetes {
        let uid = t.namespace.as_deref().unwrap_or("not said");
        out.push(fact("Kubernetes namespace", uid));
        out.extend(t.node.as_deref().map(|node| fact("Node", node)));
    }
    out.extend(t.egress_probe.map(|probe| {
        fact(
            "An attempt to get out",
            if probe == EgressProbe::Blocked {
                "failed, as it must"
            } else {
                "SUCCEEDED"
            },
        )
    }));
    out.extend(
        t.segregated_from_source
            .map(|b| fact("Cut off from the source", yes(b))),
    );
    out.extend(t.neutralised.map(|b| fact("Jobs and mail stopped first", yes(b))));
    out.extend(t.destroyed_at.map(|at| fact("Destroyed", second(at))));
    out
}

pub(super) fn sampling(s: &Sampling) -> Vec<Fact> {
    let how = match s.selected {
        Some(_) if s.method == SEEDED_POINT => {
            "drawn from all joint recovery points by a seed that nobody could choose"
        }
        Some(_) => "drawn from all restorable moments by a seed that nobody could choose",
        None => "named by whoever started the drill",
    };
    let mut out = vec![fact("The moment was", how)];
    out.extend(s.selected.map(|at| fact("Drawn", at.to_string())));
    out.extend(
        s.population_index
            .map(|n| fact("Population logged", format!("entry {n}"))),
    );
    out.extend(
        s.checkpoint_size
            .map(|n| fact("Seed follows from", format!("the checkpoint of {n} entries"))),
    );
    out.extend(s.slot.as_ref().map(|slot| code("Slot", slot)));
    out.extend(s.population_digest.map(|d| code("Population", d)));
    out.extend(s.seed.map(|d| code("Seed", d)));
    out.extend(s.file_sample.as_ref().map(|f| {
        fact(
            "Stored files read and hashed again",
            format!(
                "{} of {}, drawn by the same seed",
                count(f.drawn),
                count(f.population)
            ),
        )
    }));
    out
}

pub(super) fn drawn_at(s: &Sampling) -> Option<u64> {
    let (window, at) = (s.window?, s.selected?);
    let whole = window.until.millis_since(window.from).max(1);
    Some((at.millis_since(window.from).saturating_mul(1000) / whole).min(1000))
}

fn read_from(replica: &ReplicaLock) -> String {
    match (replica.locked_until, replica.unlocked, replica.looked_at) {
        (Some(until), _, _) => format!("{} (locked until {})", replica.region, second(until)),
        (None, Some(unlocked), Some(all)) => format!("{} ({unlocked} of {all} not locked)", replica.region),
        _ => replica.region.to_string(),
    }
}
