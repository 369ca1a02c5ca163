//! Every finding that there is, by name: what ends it, and where its runbook is.
//!
//! What a finding says (its detail) is written where it is raised; what holds for
//! every finding of a name is written here, once. `docs/operations/findings.md` has a
//! section for each name: what it means, what may be lost, and what to do.
//!
//! The tests beside this file read the sources of all crates: a name that is raised
//! and not listed here fails them, as does one that is listed and raised nowhere, and
//! one that the page has no section for.

/// Where the runbooks are, from the root of the sources.
pub const PAGE: &str = "docs/operations/findings.md";

/// What holds for every finding of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The name.
    pub name: &'static str,
    /// What ends it: a sentence for a person.
    pub clears: &'static str,
}

/// What is known of the findings of a name; `None` for a name of another version.
pub fn known(name: &str) -> Option<&'static Known> {
    let at = KNOWN.binary_search_by(|known| known.name.cmp(name)).ok()?;
    Some(&KNOWN[at])
}

/// What ends the findings of a name.
pub fn clears(name: &str) -> Option<&'static str> {
    known(name).map(|known| known.clears)
}

/// The section of [`PAGE`] about the findings of a name.
pub fn runbook(name: &str) -> Option<String> {
    known(name).map(|known| format!("{PAGE}#{}", known.name))
}

const fn ends(name: &'static str, clears: &'static str) -> Known {
    Known { name, clears }
}

/// All of them, in order of their names.
#[rustfmt::skip]
pub const KNOWN: &[Known] = &[
    ends("agent-silent", "Ends when the agent is heard again."),
    ends("alert-route-failing", "Ends when the receiver takes a message."),
    ends("approval-not-stored", "Said once, by the command that wrote it: what it says counts from the replicas that have it."),
    ends("base-backup-failed", "Ends when a base backup is complete. The agent tries again by itself."),
    ends("base-failed", "Ends when a base backup that the coordinator asked for is complete. It is tried again by itself."),
    ends("base-missing", "Ends when the first base backup is in the repository."),
    ends("base-overdue", "Ends when a base backup newer than the one that was due is in the repository."),
    ends("base-unusable", "Printed as long as that base backup is in the repository and its WAL is not: later ones are not concerned."),
    ends("believed-object-unreadable", "Ends when the trust chain is read anew and a replica that has the object answers."),
    ends("catalogue-unreadable", "Ends with the next configuration bundle for which the agent's role may connect to the database."),
    ends("certificate-expiring", "Ends when a certificate is in use that has enough of its time left."),
    ends("certificate-not-taken-up", "Ends when the files hold a certificate and its key."),
    ends("checkpoint-failed", "Ends when a checkpoint of the filestores that the coordinator asked for is complete. It is tried again by itself."),
    ends("clock-skew", "Ends when the two clocks are at most five seconds apart."),
    ends("cluster-not-protected", "Ends when the agent's session for the cluster begins. It tries again by itself."),
    ends("cluster-unreported", "Ends when an agent reports the cluster, or the policy names it no more."),
    ends("cluster-without-policy", "Ends when the policy in force names the cluster."),
    ends("configuration-failed", "Ends when a configuration bundle is complete. It is tried again by itself."),
    ends("configuration-pattern-empty", "Ends with the next configuration bundle for which a file has a name of the pattern, or when the agent begins without the pattern."),
    ends("configuration-unreadable", "Ends with the next configuration bundle that the file is in, or when the agent begins with a configuration that does not name it."),
    ends("content-unreferenced", "Nothing has to end it: what an interrupted backup left stays, and a backup under way will refer to it."),
    ends("coordinator-unreachable", "Ends when a coordinator answers the agent."),
    ends("copies-missing", "Ends when the newest base backup is on as many replicas as its tier asks for."),
    ends("copy-out-of-memory", "Stands in the evidence of that drill for good: the next drill says anew how it was."),
    ends("create-not-enforced", "Ends when the agent begins and the store refuses the second create of a key."),
    ends("drill-abandoned", "Ends when its end is in the log, as a drill-failed, or a later drill of the cluster comes to a result."),
    ends("drill-deadline-exceeded", "Said once, of that drill: the next one says anew how it was."),
    ends("drill-evicted", "Said once, of that drill: the next one says anew how it was."),
    ends("drill-failed", "Ends when a later drill of the cluster comes to a result, or to none by its deadline: it is about the last one that is over."),
    ends("drill-killed", "Said once, of that drill: the next one says anew how it was."),
    ends("drill-not-started", "Said once, of that drill: the next one says anew how it was."),
    ends("drill-out-of-memory", "Said once, of that drill: the next one says anew how it was."),
    ends("drill-overdue", "Ends when a drill at that level or above passes, or the tier asks for it less often."),
    ends("drill-pod-deleted", "Said once, of that drill: the next one says anew how it was."),
    ends("drill-stopped", "Said once, of that drill: the next one says anew how it was."),
    ends("evidence-coverage-too-long", "Ends when the coordinator begins anew, unless the statement is still too long."),
    ends("evidence-entry-unreadable", "Stands as long as the entry is in the log, which is for good, unless a newer coordinator can read it."),
    ends("evidence-missing", "Ends when the entry is on a replica again."),
    ends("evidence-not-believed", "Ends when the entry verifies: its signer is enrolled, or a good copy is within reach."),
    ends("evidence-pending-refused", "Ends when the coordinator begins anew and no such statement waits, or the one that waits is accepted."),
    ends("evidence-population-too-long", "Ends when the coordinator begins anew, unless the entry is still too long."),
    ends("evidence-result-refused", "Ends when the coordinator begins anew and the result is acceptable to it, as when its runner was enrolled meanwhile."),
    ends("fence-failed", "Ends when a recovery point is signed, or nothing has changed since the last one."),
    ends("file-unreadable", "Ends when a base backup is complete."),
    ends("files-lost", "Said once, of that restore: another one says anew how it was."),
    ends("filestore-capture-failed", "Ends when a checkpoint of the filestores is complete. It is tried again by itself."),
    ends("filestore-dirty", "Ends with the next fence before which every file can be proven whole."),
    ends("filestore-special-file", "Ends when the agent begins anew and the filestore has no such name."),
    ends("filestore-torn-at-source", "Ends when the file has the content that its name says, or is gone."),
    ends("filestore-unreadable", "Ends when the agent can read the file or list the directory, or the file is gone."),
    ends("former-leader", "Ends when the coordinator that answers leads in the newest term that the agent has seen."),
    ends("heal-failed", "Said once, by the command that met the bad copy; it is tried again when the object is read next."),
    ends("healed", "Nothing has to end it: it says what was repaired, once."),
    ends("history-damaged", "Printed as long as no replica has a good copy of the history."),
    ends("history-diverged", "Ends when the server shows the WAL that is archived last, or the cluster has a new lineage."),
    ends("history-missing", "Printed until the history is on a replica that answers. The agent stores it when it connects to the server."),
    ends("hold-not-believed", "Printed as long as that record is in the repository: a hold that is placed anew counts from then on."),
    ends("key-object-refused", "Printed as long as no copy of the key object verifies."),
    ends("lease-lost", "Ends when the agent is started anew: until then it leaves the cluster alone."),
    ends("limits-not-enforced", "Stands in the evidence of that drill for good: the next drill says anew how it was."),
    ends("link-not-followed", "Ends with the next base backup that does not meet the link."),
    ends("loop-failing", "Ends when the loop runs without an error. It is tried again by itself."),
    ends("namespace-remains", "Said once, of that drill: `holdfast drill sweep` deletes what is left."),
    ends("never-proven", "Ends when a drill at that level or above passes, or the tier does not ask for it."),
    ends("no-base-backup", "Ends when a base backup is complete: it begins as soon as WAL flows."),
    ends("no-leader", "Ends when the coordinator has the lease, or sees who has it."),
    ends("no-page-checksums", "Ends with the next base backup after `pg_checksums --enable`."),
    ends("not-enrolled", "Ends when the agent has its certificate."),
    ends("nothing-restorable", "Printed until a base backup with its WAL is in the repository."),
    ends("nothing-stored", "Printed until something of the cluster is in the repository."),
    ends("object-damaged", "Ends when the copy is whole again or is not met any more. Healing and replication bring a good copy where there is one."),
    ends("object-lock-off", "Ends when the agent begins and the bucket has object lock."),
    ends("object-lost", "Printed as long as the object that needs it is in the repository, unless a replica brings back what is lost."),
    ends("object-missing", "Ends when the replica holds the object again: replication brings it."),
    ends("object-not-believed", "Printed until the object verifies: its signer is enrolled, or a good copy is within reach."),
    ends("object-overwritten", "Printed as long as the current version is not the original."),
    ends("object-unknown", "Printed as long as the object is in the repository."),
    ends("page-damaged", "Ends with the next base backup in which the pages of the file are good."),
    ends("pod-network-unprobed", "Said once, of that drill, until `closed` of [runner.kubernetes] names an address."),
    ends("point-overdue", "Ends when a newer joint recovery point is in the repository."),
    ends("policy-ambiguous", "Ends when at most one [[cluster]] of the policy in force matches the cluster best."),
    ends("policy-invalid", "Ends when the file is correct, or again the policy in force."),
    ends("policy-weakening-waits", "Ends when enough people have approved exactly that change, or the file asks for no less."),
    ends("previous-base-unreadable", "Ends with the next base backup that can read the one before."),
    ends("record-not-believed", "Ends when a newer record of its kind is believed, or this one verifies."),
    ends("reference-unread", "Ends with the next fence that records the values."),
    ends("remote-apply-refused", "Ends within seconds of synchronous_commit = on, or another synchronous_standby_names, being loaded."),
    ends("replica-behind", "Ends when the replica holds what it lacked: the coordinator replicates it."),
    ends("replica-unreachable", "Ends when the replica answers again."),
    ends("replicas-unlisted", "Ends when a replica answers and the server is followed again."),
    ends("residency-refused", "Ends when the policy in force lets the cluster's data be where the replica is, or the replica is configured no more."),
    ends("rpo-missed", "Ends when everything committed up to within the objective is in the repository."),
    ends("rpo-unknown", "Ends when it can be measured again how far the repository holds the WAL."),
    ends("rto-at-risk", "Ends when nine in ten restores of the cluster would be within its recovery time objective: after a base backup, with a faster place, or when drills measured better."),
    ends("server-behind-archive", "Ends when the server has at least the WAL that is archived, or the cluster has a new lineage."),
    ends("server-in-recovery", "Ends when the server is promoted, or the agent is connected to the primary."),
    ends("server-unreachable", "Ends when the agent follows the server again. It tries again by itself."),
    ends("task-failing", "Ends when the task has run for a minute without failing. It is started again by itself."),
    ends("tier-differs", "Ends when the agent's configuration names the tier of the policy, and the agent was started anew."),
    ends("too-few-replicas", "Ends when the repository has as many replicas as the tier asks for copies, or the tier asks for fewer."),
    ends("trust-unreadable", "Ends when the trust chain can be read, and is no shorter than the one read before."),
    ends("two-agents", "Ends a minute after the second agent was last heard."),
    ends("unknown-object", "Ends with the next replication after the object is gone."),
    ends("versioning-off", "Ends when the agent begins and the store keeps versions."),
    ends("versioning-unknown", "Ends when the agent begins and its credentials may ask whether versions are kept."),
    ends("versions-unknown", "Ends when the credentials may list versions."),
    ends("wal-archive-off", "Ends when the server runs with archive_mode on."),
    ends("wal-archive-unbounded", "Ends when archive_timeout is more than 0."),
    ends("wal-archiver-failing", "Ends when the server hands a file over."),
    ends("wal-copies-reduced", "Ends when the replicas have caught up, and the disk has room again or the slot holds little."),
    ends("wal-gap", "Ends when a base backup that began behind the missing WAL is complete. What is lost stays a gap in `holdfast points`."),
    ends("wal-history-unreadable", "Ends when the agent can read the timeline's history."),
    ends("wal-hole", "Ends when the missing WAL is on a replica, or a base backup that began behind it is."),
    ends("wal-left-behind", "Ends when the agent is started anew: it says what happened at a promotion."),
    ends("wal-not-compared", "Ends when a base backup that began behind that position is complete."),
    ends("wal-not-understood", "Ends when the agent is started anew: it says what was stored at that position."),
    ends("wal-object-damaged", "Ends when the agent is started anew; `holdfast verify --deep` says whether a good copy is left."),
    ends("wal-object-lost", "Printed whenever that object is asked for, as long as no replica has a good copy."),
    ends("wal-push-conflict", "Ends when the file is taken, or nobody has handed it over for ten minutes."),
    ends("wal-push-foreign", "Ends when the file is taken, or nobody has handed it over for ten minutes; for a database that the agent does not protect at all, when the agent is started anew."),
    ends("wal-push-refused", "Ends when the file is taken, or nobody has handed it over for ten minutes."),
    ends("wal-replica-failing", "Ends when the replica takes WAL again. What it missed is brought to it."),
    ends("wal-slot-given-up", "Ends when a replica takes WAL again."),
    ends("wal-slot-in-use", "Ends when the agent streams again."),
    ends("wal-slot-invalidated", "Ends when a base backup that began behind the missing WAL is complete."),
    ends("wal-slot-unused", "Ends when the slot is dropped."),
    ends("wal-socket-failed", "Ends when the socket can be made. It is tried again every ten seconds."),
    ends("wal-start-unknown", "Ends when all replicas can be listed, or the configuration names only those that can, and the server is followed."),
    ends("wal-unknown", "Printed until the cluster's records can be listed and read."),
    ends("wal-valve-blind", "Ends when the agent sees the volume of pg_wal, or max_slot_wal_keep_size is set, and the server can be asked."),
    ends("wrong-system", "Ends when the cluster's own server answers at the address, or the configuration names the new system identifier."),
];

#[cfg(test)]
mod tests;
