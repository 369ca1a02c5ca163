//! What the keys of configuration files mean, in a sentence, for editors.
//!
//! A test compares the paths with what the readers ask for: none is missing, and
//! none is left over.

use super::schema::SchemaKind;

/// The sentence for a key, by its path.
pub fn of(kind: SchemaKind, path: &str) -> Option<&'static str> {
    let found = tables(kind)
        .into_iter()
        .flatten()
        .find(|(known, _)| *known == path);
    found.map(|(_, words)| *words)
}

/// Every path that has a sentence.
#[cfg(test)]
pub fn all(kind: SchemaKind) -> impl Iterator<Item = &'static str> {
    tables(kind).into_iter().flatten().map(|(path, _)| *path)
}

type Table = &'static [(&'static str, &'static str)];

fn tables(kind: SchemaKind) -> Vec<Table> {
    match kind {
        SchemaKind::Policy => vec![POLICY, TIERS, CALENDARS],
        SchemaKind::Agent => vec![AGENT, REPOSITORY],
        SchemaKind::Coordinator => vec![COORDINATOR, REPOSITORY],
        SchemaKind::Holdfast => vec![HOLDFAST, REPOSITORY],
        SchemaKind::Scenario => vec![SCENARIO],
    }
}

const POLICY: Table = &[
    (
        "time_zone",
        "IANA zone in which schedules and calendars are read. Default UTC.",
    ),
    ("drills", "What drills have to cover, and how many there may be."),
    (
        "drills.window",
        "Within it each cluster is restored from each replica, with each live epoch's keys, from each kind of base. Default 92d.",
    ),
    (
        "drills.per_day",
        "Drills that the runners can carry out in a day, all together. Default 4.",
    ),
    (
        "residency",
        "Residency zones: where data may lie, be restored for a drill, and be exported to.",
    ),
    ("residency[].name", "The zone's name, for tenants and clusters."),
    (
        "residency[].regions",
        "Regions that are allowed, by the names that replicas have.",
    ),
    (
        "residency[].providers",
        "Providers that are allowed: local, aws, google, azure or a name of your own. Default any.",
    ),
    (
        "tenant",
        "Legal entities and teams. Once one is named, clusters of others are refused.",
    ),
    (
        "tenant[].name",
        "The tenant's short name: what stands before the slash of a cluster.",
    ),
    ("tenant[].legal_entity", "Its name in the world."),
    ("tenant[].residency", "The residency zone of its clusters."),
    (
        "cluster",
        "Clusters, by name or by labels, with what is asked for each.",
    ),
    ("cluster[].cluster", "The cluster as TENANT/NAME."),
    (
        "cluster[].match",
        "Labels that a cluster must have, instead of its name. A named cluster is never matched.",
    ),
    (
        "cluster[].tier",
        "Its tier: platinum, gold, silver, bronze or one of your own.",
    ),
    (
        "cluster[].time_zone",
        "IANA zone in which its schedules are read.",
    ),
    (
        "cluster[].residency",
        "Its own residency zone, instead of its tenant's.",
    ),
    (
        "cluster[].environment",
        "Production, staging and the like, for its evidence. It decides nothing.",
    ),
    (
        "cluster[].business_services",
        "Business services that depend on it, for its evidence. They decide nothing.",
    ),
    ("cluster[].schedule", "Its own schedules, instead of the tier's."),
    (
        "cluster[].schedule.base_backup",
        "When a base backup is taken: five cron fields.",
    ),
    (
        "cluster[].schedule.filestore_checkpoint",
        "When a filestore is captured whole: five cron fields.",
    ),
    (
        "cluster[].schedule.configuration",
        "When settings and secrets are captured: five cron fields.",
    ),
    (
        "cluster[].retention",
        "How long its backups are kept, key by key instead of what the tier says.",
    ),
    (
        "cluster[].retention.backups",
        "At least so many of the newest base backups.",
    ),
    (
        "cluster[].retention.window",
        "Every moment of so long before now can be restored.",
    ),
    (
        "cluster[].retention.daily",
        "The newest backup of each of so many days.",
    ),
    (
        "cluster[].retention.weekly",
        "The newest backup of each of so many weeks.",
    ),
    (
        "cluster[].retention.monthly",
        "The newest backup of each of so many months.",
    ),
    (
        "cluster[].retention.yearly",
        "The newest backup of each of so many years.",
    ),
    ("group", "Groups of people who approve."),
    ("group[].name", "The group's name."),
    (
        "group[].members",
        "Its members, by their names in the trust chain.",
    ),
    ("approval", "What needs how many approvers of which groups."),
    ("approval[].acts", "The acts that the rule is about."),
    ("approval[].approvers", "How many different people."),
    (
        "approval[].groups",
        "Of which groups. Default: anyone who is enrolled as an approver.",
    ),
    ("approval[].expires", "How long an approval counts. Default 24h."),
    ("route", "Where findings are sent."),
    ("route[].name", "The route's name."),
    ("route[].kind", "How an alert is written."),
    (
        "route[].url_env",
        "The environment variable that holds the address.",
    ),
    (
        "route[].severity",
        "The least severity that is sent. Default warning.",
    ),
    (
        "route[].tenants",
        "Whose findings. Default everyone's, and those of the fleet.",
    ),
    ("limits", "The most pieces of work at the same time."),
    ("limits.per_host", "Of one agent's host."),
    ("limits.per_region", "Into one region."),
    ("limits.per_store", "Into one store."),
];

const TIERS: Table = &[
    (
        "tiers",
        "Tiers: changed numbers of shipped ones, and tiers of your own.",
    ),
    (
        "tiers.*.like",
        "A tier that this one is like, but for what is said here.",
    ),
    ("tiers.*.purpose", "What it is for, in words."),
    (
        "tiers.*.rpo",
        "Recovery point objective: the most that may be lost.",
    ),
    (
        "tiers.*.rto",
        "Recovery time objective: the longest that a restore may take.",
    ),
    (
        "tiers.*.tip_interval",
        "The longest that new WAL waits before it is uploaded; at most rpo.",
    ),
    ("tiers.*.copies", "Replicas that hold a backup in the end."),
    (
        "tiers.*.copies_before_ack",
        "Replicas that hold WAL before PostgreSQL may forget it; at most copies.",
    ),
    (
        "tiers.*.base_backup",
        "When a base backup is taken: five cron fields.",
    ),
    (
        "tiers.*.replay_share",
        "A base backup is taken out of turn when a restore would replay WAL for more than so many hundredths of rto; 0: never.",
    ),
    (
        "tiers.*.fence_interval",
        "Between joint points of database and filestores.",
    ),
    (
        "tiers.*.filestore_checkpoint",
        "When a filestore is captured whole: five cron fields.",
    ),
    (
        "tiers.*.configuration",
        "When settings and secrets are captured: five cron fields.",
    ),
    (
        "tiers.*.attest_interval",
        "Between the agent's signed statements of how far it is; at most rpo.",
    ),
    (
        "tiers.*.retention",
        "How long backups are kept. What any of the numbers keeps is kept.",
    ),
    (
        "tiers.*.retention.backups",
        "At least so many of the newest base backups.",
    ),
    (
        "tiers.*.retention.window",
        "Every moment of so long before now can be restored.",
    ),
    (
        "tiers.*.retention.daily",
        "The newest backup of each of so many days.",
    ),
    (
        "tiers.*.retention.weekly",
        "The newest backup of each of so many weeks.",
    ),
    (
        "tiers.*.retention.monthly",
        "The newest backup of each of so many months.",
    ),
    (
        "tiers.*.retention.yearly",
        "The newest backup of each of so many years.",
    ),
    ("tiers.*.drill", "Restores that prove the tier."),
    (
        "tiers.*.drill[].scenario",
        "The scenario, from `holdfast drill scenarios`.",
    ),
    ("tiers.*.drill[].level", "How much it has to prove."),
    ("tiers.*.drill[].every", "The longest time between two that pass."),
];

const CALENDARS: Table = &[
    (
        "calendar",
        "Recurring windows in which policy says something else: payroll, month end.",
    ),
    ("calendar[].name", "The calendar's name."),
    (
        "calendar[].time_zone",
        "IANA zone of its clock. Default the policy's.",
    ),
    (
        "calendar[].begins",
        "No window begins earlier; every window begins at its time of day.",
    ),
    (
        "calendar[].recurrence",
        "RFC 5545 recurrence rule, for example FREQ=MONTHLY;BYMONTHDAY=-1.",
    ),
    ("calendar[].duration", "How long a window lasts, in elapsed time."),
    ("calendar[].except", "Days on which no window begins."),
    ("calendar[].clusters", "Clusters that it concerns."),
    ("calendar[].tenants", "Tenants whose clusters it concerns."),
    ("calendar[].tiers", "Tiers whose clusters it concerns."),
    (
        "calendar[].rpo",
        "The most that may be lost inside a window; tighter than the tier's.",
    ),
    (
        "calendar[].pin",
        "At which ends of a window a recovery point is kept.",
    ),
    ("calendar[].freeze", "What waits until a window is over."),
    (
        "calendar[].more_approvers",
        "How many more have to approve inside a window.",
    ),
];

const REPOSITORY: Table = &[
    (
        "repository",
        "Where backups lie, and from where everything is believed.",
    ),
    (
        "repository.trust_root",
        "The root key's fingerprint, from `holdfast keys generate`.",
    ),
    (
        "repository.replicas",
        "The replicas, in the order in which they are read.",
    ),
    (
        "repository.replicas[].url",
        "file:///directory, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix.",
    ),
    (
        "repository.replicas[].region",
        "The region's name, unique in the repository.",
    ),
    (
        "repository.replicas[].options",
        "object_store's own options; secrets by _file or _env.",
    ),
    (
        "repository.replicas[].accept_without_conditional_create",
        "Work with a store that does not enforce create-if-absent.",
    ),
    (
        "repository.replicas[].provider",
        "Who runs the store, when its location does not say it.",
    ),
];

const COORDINATOR: Table = &[
    ("name", "The coordinator's name in the trust chain."),
    (
        "listen_agents",
        "Where agents call in, by mutual TLS. Default 127.0.0.1:7443.",
    ),
    (
        "listen_http",
        "Where page, status and metrics are served. Default 127.0.0.1:7480.",
    ),
    (
        "http_tls",
        "Serves page, status and metrics over TLS; the files are read anew when they change.",
    ),
    ("http_tls.cert", "Certificate chain (PEM)."),
    ("http_tls.key", "Its key (PEM)."),
    (
        "accept_plain_http_beyond_loopback",
        "Serve page and metrics beyond this machine without TLS, where something else encrypts.",
    ),
    ("state_dir", "The cache's directory."),
    (
        "policy",
        "The policy's file. It is read again whenever it changes.",
    ),
    ("signing_key", "ECDSA P-256 key, enrolled as coordinator."),
    ("log_key", "Ed25519 key of the evidence log."),
    (
        "replicate_after",
        "How long a replica may lack something before it is copied. Default 1min.",
    ),
    (
        "lease",
        "How long a lease of the leader is good for, among several coordinators. Default 30s.",
    ),
    (
        "runbooks",
        "Where people read docs/operations/findings.md: names of findings link there, https://HOST/PATH.",
    ),
    ("access", "Who may read page, status and metrics."),
    (
        "access.public_url",
        "How browsers call the coordinator, when a proxy before it has TLS: https://HOST.",
    ),
    (
        "access.session_idle",
        "Sessions end so long after their last request. Default 1h.",
    ),
    (
        "access.session_longest",
        "Sessions end so long after the login in any case. Default 12h.",
    ),
    (
        "access.open_metrics",
        "Whether /metrics is for everyone who can connect. Default false.",
    ),
    ("access.oidc", "The OpenID provider where people log in."),
    (
        "access.oidc.issuer",
        "What it calls itself, letter by letter: https://id.example.com.",
    ),
    ("access.oidc.client_id", "What it calls the coordinator."),
    (
        "access.oidc.client_secret_file",
        "The file with the client's secret; none for a public client.",
    ),
    (
        "access.oidc.client_secret_env",
        "The environment variable with the client's secret.",
    ),
    (
        "access.oidc.audience",
        "Whom programs' access tokens must be for. Without it none are taken.",
    ),
    (
        "access.oidc.groups_claim",
        "The claim with a person's groups. Default groups.",
    ),
    (
        "access.oidc.scopes",
        "What is asked for. Default openid, profile and email.",
    ),
    (
        "access.oidc.ca",
        "The authority of the provider's certificate (PEM), when this machine does not know it.",
    ),
    ("access.token", "Tokens of people and programs."),
    ("access.token[].name", "What grants and logs call it."),
    (
        "access.token[].hash",
        "Its hash, printed by `holdfast coordinator token`.",
    ),
    ("access.grant", "What is granted; all else is refused."),
    (
        "access.grant[].to",
        "token:NAME, or of the OpenID provider group:NAME, subject:NAME or client:NAME.",
    ),
    (
        "access.grant[].role",
        "viewer, auditor, operator, approver, key-custodian, policy-admin, monitor or admin.",
    ),
    (
        "access.grant[].scope",
        "Over what: \"*\", \"acme/*\" or \"acme/erp\".",
    ),
    (
        "access.grant[].until",
        "The moment at which it ends, for example 2026-12-31T00:00:00Z.",
    ),
    ("tls", "Certificates for the agents' side."),
    ("tls.cert", "Certificate chain (PEM)."),
    ("tls.key", "Its key (PEM)."),
    (
        "tls.client_ca",
        "Authorities that agents' certificates are checked against (PEM).",
    ),
    ("tls.ended", "Certificates of agents that count no more."),
    ("tls.ended[].agent", "Whose."),
    (
        "tls.ended[].before",
        "Those that were issued before this moment, for example 2026-11-28T12:00:00Z.",
    ),
    (
        "enrolment",
        "Certificates that agents get for a token and renew. Without it none are issued.",
    ),
    (
        "enrolment.cert",
        "The certificate of this coordinator's authority over agents (PEM); `holdfast coordinator issuer` makes it.",
    ),
    ("enrolment.key", "Its key (PEM), which stays on this machine."),
    (
        "enrolment.lifetime",
        "How long certificates are valid, 10s to 1826d. Default 90d.",
    ),
];

const HOLDFAST: Table = &[
    ("identity", "An age identity file that opens backups."),
    (
        "coordinator",
        "The coordinator's address for people, https://HOST or http://HOST:PORT.",
    ),
    (
        "coordinator_ca",
        "Certificates that the coordinator's is checked against (PEM), instead of those that this machine believes.",
    ),
    (
        "coordinator_token_file",
        "The file with the token that the coordinator is asked with.",
    ),
    (
        "coordinator_oidc",
        "Or where a token for it is got: client credentials at an OpenID provider.",
    ),
    (
        "coordinator_oidc.issuer",
        "What the provider calls itself, letter by letter.",
    ),
    ("coordinator_oidc.client_id", "What it calls this program."),
    (
        "coordinator_oidc.client_secret_file",
        "The file with the client's secret.",
    ),
    (
        "coordinator_oidc.client_secret_env",
        "The environment variable with the client's secret.",
    ),
    (
        "coordinator_oidc.audience",
        "Whom the token is to be for: access.oidc.audience of the coordinator.",
    ),
    (
        "coordinator_oidc.scope",
        "What is asked for, when the provider wants to hear of it.",
    ),
    (
        "coordinator_oidc.ca",
        "The authority of the provider's certificate (PEM), when this machine does not know it.",
    ),
    (
        "region",
        "The region that this machine is in, for rules of residency.",
    ),
    ("provider", "Who runs this machine, for rules of residency."),
    (
        "policy",
        "The policy, by whose residency zones commands are refused. Default the runner's.",
    ),
    ("runner", "Needed by `holdfast drill run` alone."),
    ("runner.name", "The runner's name in the trust chain."),
    (
        "runner.signing_key",
        "Ed25519 key that signs intents and results.",
    ),
    ("runner.scratch", "Where copies are made and removed again."),
    ("runner.policy", "The policy that results are held against."),
    (
        "runner.witnesses",
        "Keys of witnesses that must have seen an intent before its drill begins.",
    ),
    (
        "runner.memory",
        "The most memory that a drill's copy may use, where a cgroup can be made.",
    ),
    (
        "runner.cpu",
        "The most processors that a drill's copy may use, where a cgroup can be made.",
    ),
    (
        "runner.kubernetes",
        "How drills run in pods, with `drill run --kubernetes`.",
    ),
    (
        "runner.kubernetes.kubeconfig",
        "How the cluster is reached. Default KUBECONFIG, or the pod's own account.",
    ),
    (
        "runner.kubernetes.namespace_prefix",
        "What every namespace's name begins with, before the drill's id.",
    ),
    (
        "runner.kubernetes.image",
        "The image: holdfast, PostgreSQL of the source's major version, bash and util-linux.",
    ),
    ("runner.kubernetes.pull", "Whether nodes may pull the image."),
    ("runner.kubernetes.program", "The program in the image."),
    (
        "runner.kubernetes.user",
        "The user and group that the pod runs as, never 0.",
    ),
    ("runner.kubernetes.memory", "Memory of the pod; more is killed."),
    ("runner.kubernetes.cpu", "Processors of the pod."),
    ("runner.kubernetes.scratch", "Room for the copy; more is evicted."),
    (
        "runner.kubernetes.reach",
        "What the pod must reach, as CIDR:PORT: the object stores.",
    ),
    (
        "runner.kubernetes.dns",
        "Whether the pod asks the cluster's DNS for them.",
    ),
    (
        "runner.kubernetes.closed",
        "What the pod must not reach, as HOST:PORT: tried from the pod.",
    ),
    (
        "runner.kubernetes.start",
        "How long the pod may take before it runs.",
    ),
    (
        "runner.kubernetes.grace",
        "What the pod has beyond the drill's own limit, to log its result.",
    ),
];

const AGENT: Table = &[
    ("name", "The agent's name in the trust chain."),
    ("state_dir", "Its directory. Default /var/lib/holdfast."),
    (
        "wal_socket",
        "Where `holdfast wal push` finds it. Default in state_dir.",
    ),
    ("signing_key", "The key with which it signs (PEM)."),
    (
        "threads",
        "Threads that compress and seal. Default one for each CPU.",
    ),
    ("recipients", "To whom the keys of backups are sealed."),
    (
        "recipients.file",
        "The file that `holdfast keys generate` wrote, instead of the lists.",
    ),
    ("recipients.drill", "age recipients of drills."),
    ("recipients.recovery", "age recipients of restores."),
    ("recipients.escrow", "age recipients of last resort."),
    ("coordinator", "How the agent reaches its coordinator."),
    ("coordinator.url", "https://host:port."),
    (
        "coordinator.standbys",
        "https://host:port of the coordinators that are called when that one does not lead.",
    ),
    (
        "coordinator.ca",
        "Certificates that the coordinator's is checked against (PEM).",
    ),
    (
        "coordinator.cert",
        "The agent's certificate (PEM). Without cert and key the agent gets one with a token, and renews it.",
    ),
    ("coordinator.key", "The key of that certificate (PEM)."),
    (
        "coordinator.enrolment_token_file",
        "The file with the one-time token for the first certificate; `holdfast coordinator invite` makes it.",
    ),
    ("cluster", "What it protects."),
    ("cluster[].cluster", "The cluster as TENANT/NAME."),
    ("cluster[].tier", "Its tier: what counts without a coordinator."),
    (
        "cluster[].labels",
        "What a policy's patterns may match, when the policy does not name the cluster.",
    ),
    (
        "cluster[].residency",
        "Where its data may lie, whatever a coordinator says.",
    ),
    ("cluster[].residency.zone", "The zone's name, for messages."),
    ("cluster[].residency.regions", "Regions that are allowed."),
    (
        "cluster[].residency.providers",
        "Providers that are allowed. Default any.",
    ),
    ("cluster[].postgres", "How to connect: a libpq connection string."),
    (
        "cluster[].data_directory",
        "The data directory as the agent sees it. Default what the server says.",
    ),
    (
        "cluster[].wal",
        "Where WAL comes from: stream (a slot) or archive (archive_command). Default stream.",
    ),
    ("cluster[].slot", "Its replication slot. Default holdfast."),
    (
        "cluster[].wal_valve",
        "When the slot may no longer hold all WAL that is not stored.",
    ),
    (
        "cluster[].wal_valve.one_copy_at",
        "Percent of pg_wal's volume in use from which one replica is enough. Default 80.",
    ),
    (
        "cluster[].wal_valve.give_up_at",
        "Percent at which the slot is dropped; 100 is never. Default 90.",
    ),
    (
        "cluster[].generation",
        "The lineage's generation to begin, after a restore or a rollback.",
    ),
    (
        "cluster[].system_identifier",
        "The server's system identifier, when another database has replaced the cluster.",
    ),
    ("cluster[].take_over", "The agent whose lease is taken over."),
    ("cluster[].peers", "Agents beside the cluster's other nodes."),
    (
        "cluster[].promoted_timeline",
        "The timeline that the cluster was promoted to, where its standby was not seen to follow.",
    ),
    ("cluster[].filestore", "Folders of files beside it."),
    ("cluster[].filestore[].name", "Its name in the repository."),
    ("cluster[].filestore[].path", "Its root."),
    (
        "cluster[].filestore[].adapter",
        "How its names prove content: odoo or none.",
    ),
    (
        "cluster[].filestore[].database",
        "The database whose rows name its files.",
    ),
    (
        "cluster[].filestore[].collector_delay",
        "How long at least a file that nothing references stays.",
    ),
    (
        "cluster[].filestore[].full_sweep",
        "How often every file's stat is compared. Default 1h.",
    ),
    (
        "cluster[].reference",
        "Values that are recorded at fences, for drills to compare with.",
    ),
    ("cluster[].reference[].name", "The value's name."),
    ("cluster[].reference[].database", "The database that is asked."),
    ("cluster[].reference[].table", "A table whose rows are counted."),
    (
        "cluster[].reference[].sequence",
        "A sequence whose last value is read.",
    ),
    (
        "cluster[].reference[].query",
        "A query that gives keys and values.",
    ),
    (
        "cluster[].reference_interval",
        "The least time between two fences that record values. Default 1h.",
    ),
    (
        "cluster[].configuration",
        "What goes into configuration bundles, beside what the server names.",
    ),
    (
        "cluster[].configuration.files",
        "Files and patterns that a drill may open.",
    ),
    (
        "cluster[].configuration.secret_files",
        "Files and patterns that only recovery and escrow may open.",
    ),
];

const SCENARIO: Table = &[
    ("name", "The scenario's name."),
    ("title", "What it shows, in a sentence."),
    ("level", "How much it proves."),
    (
        "moment",
        "Which moment it restores to: any, time, name or fence. Default any.",
    ),
    (
        "sample_percent",
        "The share of ciphertexts that is read, in percent. Default 5.",
    ),
    ("parameters", "What the command line sets, each with its meaning."),
    (
        "view",
        "What the drill does not see of the repository, or sees damaged.",
    ),
    (
        "view.cut",
        "Regions that are out of reach: first, all, or a name.",
    ),
    ("view.damage", "Objects that are damaged."),
    ("view.damage.regions", "In which regions. Default first."),
    ("view.damage.flipped", "How many have a bit flipped."),
    ("view.damage.truncated", "How many are cut short."),
    ("view.damage.gone", "How many are gone."),
    ("keys", "Which keys there are."),
    ("keys.only", "escrow: the escrow identity alone."),
    ("attack", "Turns credentials against the backup."),
    ("attack.with", "writer: the agent's."),
    ("server", "The server that the copy must have."),
    ("server.major", "PostgreSQL's major version."),
    ("check", "What is looked at on the copy."),
    ("check[].id", "The check's name."),
    ("check[].class", "What kind of proof it is."),
    ("check[].timeout", "How long it may take. Default 60s."),
    ("check[].weight", "mandatory or optional. Default mandatory."),
    (
        "check[].program",
        "A program and its arguments: exit status 0 is a pass.",
    ),
    ("check[].role", "The role that it connects as."),
    ("check[].database", "The database that is asked."),
    ("check[].query", "A query that gives one value."),
    ("check[].at_least", "The value is at least this number."),
    ("check[].at_most", "The value is at most this number."),
    ("check[].equals", "The value is this number."),
    ("check[].text", "The value is this text."),
];
