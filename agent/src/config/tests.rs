//! What is accepted, and what is said about everything else.

use super::*;

const ROOT: &str = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

/// The shortest configuration, with the recipients in it.
fn small() -> String {
    format!(
        r#"name = "agent-1"
signing_key = "/etc/holdfast/agent-1.key"
recipients.recovery = ["{RECIPIENT}"]
[repository]
trust_root = "{ROOT}"
replicas = [{{ url = "file:///srv/a", region = "a" }}, {{ url = "file:///srv/b", region = "b" }}]
[[cluster]]
cluster = "acme/erp"
tier = "platinum"
postgres = "host=/run/postgresql user=holdfast dbname=postgres"
"#
    )
}

#[track_caller]
fn refused(text: &str, expected: &[&str]) {
    let error = AgentConfig::parse("agent.toml".as_ref(), text).expect_err("it must be refused");
    let found: Vec<String> = error.problems.iter().map(ToString::to_string).collect();
    assert_eq!(found, expected);
}

/// Alone, an agent could only guess at the numbers of a tier that is not shipped.
#[test]
fn an_unknown_tier_needs_a_coordinator() {
    let unknown = small().replace("\"platinum\"", "\"platinium\"");
    refused(
        &unknown,
        &[
            "agent.toml:9: cluster[0].tier: \"platinium\" is none of the shipped tiers (bronze, gold, platinum, silver): \
           correct it, or add the [coordinator] whose policy has it",
        ],
    );
    let coordinator =
        "[coordinator]\nurl = \"https://c:1\"\nca = \"/ca\"\ncert = \"/cert\"\nkey = \"/key\"\n[[cluster]]";
    let coordinated = unknown.replace("[[cluster]]", coordinator);
    let config = AgentConfig::parse("agent.toml".as_ref(), &coordinated).unwrap();
    assert_eq!(config.clusters[0].tier.as_str(), "platinium");
}

#[test]
fn ten_lines_suffice() {
    let config = AgentConfig::parse("agent.toml".as_ref(), &small()).unwrap();
    assert_eq!(small().lines().count(), 10);
    assert_eq!(config.state_dir, PathBuf::from("/var/lib/holdfast"));
    assert_eq!(config.clusters[0].slot.as_str(), "holdfast");
    assert!(config.coordinator.is_none() && config.clusters[0].filestores.is_empty());
    let shown: Vec<String> = config.settings().iter().map(ToString::to_string).collect();
    assert!(
        shown.contains(&"cluster[0].tier = platinum  (agent.toml:9)".to_owned()),
        "{shown:#?}"
    );
    assert!(
        shown.contains(&"state_dir = /var/lib/holdfast  (default)".to_owned()),
        "{shown:#?}"
    );
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let text = r#"name = "Agent 1"
state_dir = "relative"
identity = "AGE-SECRET-KEY-1"
thread = 4

[repository]
trust_root = "abc"
replicas = [
  { url = "ftp://x", region = "a" },
]

[recipients]
drill = ["age1nonsense"]

[coordinator]
url = "http://coordinator:8443"
ca = "/etc/holdfast/ca.pem"

[[cluster]]
cluster = "erp"
tier = 7
postgres = "host=/run/postgresql user=holdfast password=hunter2"
wal_valve = { one_copy_at = 90, give_up_at = 80 }

[[cluster.filestore]]
name = "attachments"
path = "/srv/files"
adapter = "oddo"
collector_delay = 3600
"#;
    let error = AgentConfig::parse("agent.toml".as_ref(), text).expect_err("it must be refused");
    let found: Vec<(usize, &str)> = error.problems.iter().map(|p| (p.line, p.path.as_str())).collect();
    assert_eq!(
        found,
        [
            (1, "name"),
            (1, "signing_key"),
            (2, "state_dir"),
            (3, "identity"),
            (4, "thread"),
            (7, "repository.trust_root"),
            (8, "repository.replicas"),
            (12, "recipients.recovery"),
            (13, "recipients.drill"),
            (16, "coordinator.url"),
            (20, "cluster[0].cluster"),
            (21, "cluster[0].tier"),
            (22, "cluster[0].postgres"),
            (23, "cluster[0].wal_valve.give_up_at"),
            (28, "cluster[0].filestore[0].adapter"),
            (29, "cluster[0].filestore[0].collector_delay"),
        ],
        "{error}"
    );
    let what = |path: &str| &error.problems.iter().find(|p| p.path == path).expect(path).what;
    assert!(what("thread").contains("did you mean \"threads\"?"));
    assert!(
        what("cluster[0].postgres").contains("password"),
        "{}",
        what("cluster[0].postgres")
    );
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn an_agent_never_holds_what_opens_or_deletes() {
    refused(
        &small().replace(
            "[repository]",
            "identity = \"/etc/holdfast/identity\"\n[repository]",
        ),
        &[
            "agent.toml:4: identity: an agent holds nothing that opens a backup: remove it, and give the identity to \
           whoever restores (holdfast restore run --identity FILE)",
        ],
    );
    refused(
        &small().replace(
            "trust_root",
            "delete_credentials = \"/etc/holdfast/admin\"\ntrust_root",
        ),
        &[
            "agent.toml:5: repository.delete_credentials: an agent holds nothing that deletes a backup: remove it; only \
           `holdfast repo reclaim`, run elsewhere, has such credentials",
        ],
    );
}

#[test]
fn a_broken_line_is_named_and_the_rest_is_still_read() {
    let error = AgentConfig::parse(
        "agent.toml".as_ref(),
        &small().replace("\"acme/erp\"", "\"acme/erp"),
    )
    .unwrap_err();
    assert_eq!(error.problems[0].line, 8, "{error}");
}

#[test]
fn recipients_may_stand_in_a_file_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("recipients.toml");
    let config = small().replace(
        &format!("recipients.recovery = [\"{RECIPIENT}\"]"),
        &format!("recipients.file = {file:?}"),
    );
    let parse = || AgentConfig::parse("agent.toml".as_ref(), &config);
    assert!(parse().unwrap_err().problems[0].what.contains("cannot be read"));
    std::fs::write(&file, format!("recovery = [\"{RECIPIENT}\"]\nescro = []\n")).unwrap();
    let error = parse().unwrap_err();
    assert_eq!(error.problems.len(), 1);
    assert_eq!((error.problems[0].line, &error.problems[0].file), (2, &file));
    std::fs::write(
        &file,
        format!("recovery = [\"{RECIPIENT}\"]\ndrill = [\"{RECIPIENT}\"]\n"),
    )
    .unwrap();
    let config = parse().unwrap();
    let roles: Vec<_> = config.recipients.iter().map(|r| r.role).collect();
    assert_eq!(roles, [RecipientRole::Drill, RecipientRole::Recovery]);
}

#[test]
fn reference_values_are_named_and_qualified() {
    let with = |rest: &str| small() + "[[cluster.reference]]\n" + rest;
    let sound = with("name = \"moves\"\ndatabase = \"erp\"\ntable = \"public.account_move\"\n")
        + "[[cluster.reference]]\nname = \"ids\"\ndatabase = \"erp\"\nsequence = \"public.account_move_id_seq\"\n";
    let config = AgentConfig::parse("agent.toml".as_ref(), &sound).unwrap_or_else(|e| panic!("{e}"));
    let cluster = &config.clusters[0];
    assert_eq!(cluster.reference_interval, Duration::from_secs(3600));
    let queries: Vec<String> = cluster
        .references
        .iter()
        .map(crate::reference::Reference::query)
        .collect();
    assert_eq!(
        queries,
        [
            "SELECT count(*) FROM public.account_move",
            "SELECT last_value FROM public.account_move_id_seq"
        ]
    );
    assert_eq!(
        cluster.references[1].grant("hold\"fast"),
        "GRANT SELECT ON SEQUENCE public.account_move_id_seq TO \"hold\"\"fast\";"
    );
    for (rest, what) in [
        ("name = \"a\"\ndatabase = \"erp\"\n", "write one of `table`"),
        (
            "name = \"a\"\ndatabase = \"erp\"\ntable = \"public.t\"\nquery = \"SELECT 1\"\n",
            "write one of `table`",
        ),
        (
            "name = \"a\"\ndatabase = \"erp\"\ntable = \"t\"\n",
            "with its schema",
        ),
        (
            "name = \"a\"\ndatabase = \"erp\"\ntable = \"public.t; DROP\"\n",
            "with its schema",
        ),
        (
            "name = \"A b\"\ndatabase = \"erp\"\nquery = \"SELECT 1\"\n",
            "is no value's name",
        ),
        (
            "name = \"a\"\ndatabase = \"erp\"\nquery = \"SELECT 1\"\nevery = \"1h\"\n",
            "every",
        ),
    ] {
        let error = AgentConfig::parse("agent.toml".as_ref(), &with(rest)).unwrap_err();
        assert!(error.to_string().contains(what), "{error} lacks {what}");
    }
}

#[test]
fn the_shipped_example_is_sound() {
    let example = include_str!("../../../config/agent.toml");
    let lists = format!("recovery = [\"{RECIPIENT}\"]");
    let text = example.replace("file = \"/etc/holdfast/recipients.toml\"", &lists);
    // References to the environment are followed: here they lead to what is there.
    let text = text
        .replace("HOLDFAST_S3_ID", "PATH")
        .replace("HOLDFAST_S3_SECRET", "PATH");
    let config = AgentConfig::parse("config/agent.toml".as_ref(), &text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(
        config.clusters[0].filestores[0].collector_delay,
        Some(Duration::from_secs(12 * 3600))
    );

    // What is not written is shown with what it is.
    let valve = config
        .settings()
        .iter()
        .find(|s| s.path == "cluster[0].wal_valve.give_up_at");
    assert!(
        valve.is_some_and(|s| s.source == reader::Source::Default && s.value == "90"),
        "{valve:?}"
    );

    // What is commented out is sound as well.
    let all: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(setting) if setting.split(' ').nth(1) == Some("=") => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let config = AgentConfig::parse("config/agent.toml".as_ref(), &all).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(
        (config.threads.get(), config.clusters[0].lineage.generation),
        (4, Some(2))
    );
}
