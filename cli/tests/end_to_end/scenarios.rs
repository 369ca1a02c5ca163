//! Scenarios, played by the program as an operator plays them: each does its
//! damage for real and passes, and each has a case in which it must fail.
//!
//! The office is protected once; the drills follow each other.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use holdfast_drills::scratch::newest_programs;
use holdfast_tests::postgres::StopMode;
use holdfast_tests::s3::Service;
use serde_json::Value;

use super::books::{DATABASE, FIRST, MISTAKEN, Office};
use super::place::{Place, REGIONS};
use super::stage::{CLUSTER, FILESTORE, Protection, Stage, each, subjects};
use super::story::{wait_protected, wait_safe};

/// A protected office whose books were closed: the server is gone, the
/// coordinator goes on, and everything lies in both regions.
pub struct Closed {
    /// Where everything lies.
    pub stage: Stage,
    /// It goes on.
    pub coordinator: super::stage::Daemon,
    /// Just before somebody deleted invoices.
    pub before: String,
    /// The files of the source, as they were when it was closed.
    pub source: Fingerprints,
}

/// The restore point that was named before the "upgrade".
const NAMED: &str = "before-upgrade";

pub fn closed_office(place: Place) -> Result<Closed> {
    let stage = Stage::set(place)?;
    stage.found()?;
    let office = stage.open_office()?;
    let tablespace = stage.path("tablespace");
    fs::create_dir_all(&tablespace)?;
    office.server.psql(&format!(
        "CREATE TABLESPACE archive LOCATION '{}'",
        tablespace.display()
    ))?;
    office.server.psql_in(
        DATABASE,
        "CREATE TABLE public.old_moves TABLESPACE archive AS SELECT * FROM public.account_move;
         CREATE TABLE public.version AS SELECT '16.0.1.3'::text AS latest",
    )?;
    record_references(&stage, &office)?;
    let mut protection = stage.protect()?;
    let writer = office.write_on();
    wait_protected(&stage, &mut protection)?;
    office.wait_posted(&writer, 5)?;
    writer.stop()?;
    office
        .server
        .psql(&format!("SELECT pg_create_restore_point('{NAMED}')"))?;
    office
        .server
        .psql_in(DATABASE, "UPDATE public.version SET latest = '17.0.1.0'")?;
    let before = office.now()?;
    office.make_mistake()?;
    wait_safe(&stage, &office, &mut protection)?;
    let Protection { coordinator, agent } = protection;
    agent.stop()?;
    stage.wait_sound()?;
    let source = close(office, &stage)?;
    Ok(Closed {
        stage,
        coordinator,
        before,
        source,
    })
}

/// The agent records counts and sums at every fence, by the grants that `agent sql`
/// prints.
fn record_references(stage: &Stage, office: &Office) -> Result<()> {
    let config = stage.path("agent.toml");
    let text = fs::read_to_string(&config)?;
    let often = text.replacen(
        "tier = \"platinum\"\n",
        "tier = \"platinum\"\nreference_interval = \"1s\"\n",
        1,
    );
    let value = |name: &str, reads: &str| {
        format!("\n[[cluster.reference]]\nname = \"{name}\"\ndatabase = \"{DATABASE}\"\n{reads}\n")
    };
    let references = [
        value("moves", "table = \"public.account_move\""),
        value("attachment-ids", "sequence = \"public.ir_attachment_id_seq\""),
        value(
            "amounts",
            "query = \"SELECT id % 3, sum(amount_total) FROM public.account_move GROUP BY 1\"",
        ),
    ];
    fs::write(&config, often + &references.concat())?;
    let sql = stage.run(
        "operator",
        &["agent", "sql", "--config", &config.display().to_string()],
    )?;
    let grants = sql.split_once("\\connect").context("no grants are printed")?.1;
    ensure!(
        grants.contains("GRANT SELECT ON TABLE public.account_move"),
        "{sql}"
    );
    let grants = grants.lines().filter(|line| line.starts_with("GRANT"));
    for grant in grants {
        office.server.psql_in(DATABASE, grant)?;
    }
    Ok(())
}

/// The office closes in order; its files lie where they were.
fn close(mut office: Office, stage: &Stage) -> Result<Fingerprints> {
    office.server.stop(StopMode::Fast)?;
    fingerprints(stage)
}

/// Paths of the source with size, time of change and digest.
pub type Fingerprints = Vec<(String, u64, std::time::SystemTime, String)>;

/// What lies in the source's data directory, its tablespace and its filestore.
pub fn fingerprints(stage: &Stage) -> Result<Fingerprints> {
    let mut found = Vec::new();
    let mut open: Vec<_> = ["primary", "tablespace", "filestore"]
        .map(|d| stage.path(d))
        .into();
    while let Some(path) = open.pop() {
        let meta = fs::symlink_metadata(&path)?;
        let digest = if meta.is_dir() {
            for entry in fs::read_dir(&path)? {
                open.push(entry?.path());
            }
            String::new()
        } else if meta.is_file() {
            holdfast_proto::Sha256Digest::of(&fs::read(&path)?).to_string()
        } else {
            // A link to a tablespace, or a socket: where it leads to.
            fs::read_link(&path)
                .map(|to| to.display().to_string())
                .unwrap_or_default()
        };
        found.push((path.display().to_string(), meta.len(), meta.modified()?, digest));
    }
    found.sort();
    Ok(found)
}

/// Runs a drill; what it printed as JSON, whatever its verdict.
fn drill(stage: &Stage, scenario: &str, more: &[&str]) -> Result<Value> {
    let line = [
        "drill",
        "run",
        "--cluster",
        CLUSTER,
        "--scenario",
        scenario,
        "--json",
    ];
    let output = stage.attempt("restorer", &[&line[..], more].concat())?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    let drill: Value =
        serde_json::from_str(&printed).with_context(|| format!("{scenario}: {printed}{said}"))?;
    // Shown when the test fails: the log alone says why a check could not run.
    eprintln!("{scenario}: {}\n{said}", drill["verdict"]);
    let passed = drill["verdict"].as_str().is_some_and(|v| v.starts_with("PASS"));
    ensure!(
        output.status.success() == passed,
        "{:?}: {drill:#}",
        output.status
    );
    ensure!(drill["countersigned"] == true, "{drill:#}");
    drawn_again(stage, &drill)?;
    Ok(drill)
}

/// The drill's evidence as an export has it: both verifiers draw its moment and its
/// files again, whatever became of the drill.
pub fn drawn_again(stage: &Stage, drill: &Value) -> Result<()> {
    let id = drill["id"].as_str().context("the drill has no id")?;
    let export = stage.text(&format!("evidence-{id}"));
    stage.run("restorer", &["evidence", "export", id, "--directory", &export])?;
    let verified = stage.run("restorer", &["evidence", "verify", &export])?;
    let config = fs::read_to_string(stage.path("restorer.toml"))?;
    let root = config
        .split('"')
        .skip_while(|part| !part.contains("trust_root"))
        .nth(1)
        .context("restorer.toml names no trust root")?;
    let script = Command::new("python3")
        .args(["-B", &format!("{export}/verify.py"), "--root", root, &export])
        .output()?;
    let said = String::from_utf8_lossy(&script.stdout);
    ensure!(
        script.status.success() && said.contains(" drawn again"),
        "{verified}\n{said}{}",
        String::from_utf8_lossy(&script.stderr)
    );
    eprintln!("{said}");
    Ok(())
}

/// The result of one check: its outcome and what was found.
pub fn check<'d>(drill: &'d Value, id: &str) -> Result<(&'d str, &'d str)> {
    let found = each(&drill["checks"]).iter().find(|c| c["id"] == id);
    let found = found.with_context(|| format!("there is no check {id} in {drill:#}"))?;
    Ok((
        found["result"].as_str().unwrap_or_default(),
        found["actual"].as_str().unwrap_or_default(),
    ))
}

fn passed(drill: &Value, scenario: &str) -> Result<()> {
    ensure!(drill["verdict"] == "PASS", "{scenario}: {drill:#}");
    Ok(())
}

pub const COUNT: &str = "query=SELECT count(*) FROM account_move";

fn there_is(stage: &Stage, scenario: &str, more: &[&str]) -> Result<Value> {
    let (database, minimum) = (
        format!("database={DATABASE}"),
        format!("minimum={}", FIRST - MISTAKEN),
    );
    let set = ["--set", &database, "--set", COUNT, "--set", &minimum];
    drill(stage, scenario, &[&set[..], more].concat())
}

fn identity(stage: &Stage, name: &str) -> String {
    stage.text(&format!("keys/{name}.agekey"))
}

/// Writes a scenario of one's own; its path.
pub fn own(stage: &Stage, name: &str, text: &str) -> Result<String> {
    let path = stage.path(&format!("{name}.toml"));
    fs::write(&path, text)?;
    Ok(path.display().to_string())
}

#[test]
fn every_scenario_does_what_its_name_says_and_fails_when_it_must() -> Result<()> {
    let closed = closed_office(Place::directories())?;
    let stage = &closed.stage;
    let real = tree(stage)?;
    storage_corruption(stage)?;
    region_loss(stage)?;
    key_loss(stage)?;
    failed_upgrade(stage)?;
    ransomware_on_directories(stage, &closed.before)?;
    own_scenarios(stage)?;
    // Nothing of the repository changed but its evidence, and nothing of the
    // source at all: tablespaces went elsewhere.
    ensure!(tree(stage)? == real, "a drill changed the repository");
    ensure!(
        fingerprints(stage)? == closed.source,
        "a drill changed the source"
    );
    ensure!(
        fs::read_dir(stage.path("drills"))?.next().is_none(),
        "a drill left something in its scratch space"
    );
    closed.coordinator.stop()
}

/// Every object of both regions but the evidence, with its digest.
fn tree(stage: &Stage) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut open: Vec<_> = REGIONS.map(|region| stage.path(region).join("tenants")).into();
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else {
                let digest = holdfast_proto::Sha256Digest::of(&fs::read(&path)?);
                found.push((path.display().to_string(), digest.to_string()));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn storage_corruption(stage: &Stage) -> Result<()> {
    let drill = there_is(
        stage,
        "storage-corruption",
        &["--identity", &identity(stage, "drill")],
    )?;
    passed(&drill, "storage-corruption")?;
    let (_, noticed) = check(&drill, "damage-noticed")?;
    for kind in ["flipped", "truncated", "gone"] {
        ensure!(!noticed.contains(&format!(" 0 {kind}")), "{noticed}");
    }
    let healed = subjects(&drill["findings"], "healed");
    for finding in ["object-damaged", "object-missing"] {
        let named = subjects(&drill["findings"], finding);
        ensure!(!named.is_empty(), "no {finding} in {:#}", drill["findings"]);
        for subject in named {
            ensure!(subject.starts_with(REGIONS[0]), "{subject}");
            ensure!(healed.contains(&subject), "{subject} was not healed");
        }
    }
    // With both regions damaged nothing can come back, and the drill says so.
    let both = own(
        stage,
        "both-damaged",
        "name = \"both-damaged\"\ntitle = \"t\"\nlevel = \"L3\"\n[view.damage]\nregions = [\"all\"]\nflipped = 1000\n",
    )?;
    let failed = drill_fails(stage, &both, &["--identity", &identity(stage, "drill")])?;
    ensure!(check(&failed, "restore")?.0 == "FAIL", "{failed:#}");
    Ok(())
}

/// A drill that must fail, and is on record all the same.
fn drill_fails(stage: &Stage, scenario: &str, more: &[&str]) -> Result<Value> {
    let drill = drill(stage, scenario, more)?;
    ensure!(drill["verdict"] == "FAIL", "{scenario}: {drill:#}");
    let listed = stage.run("restorer", &["evidence", "list"])?;
    let id = drill["id"].as_str().context("the drill has no id")?;
    ensure!(listed.contains(id), "{id} is not in\n{listed}");
    Ok(drill)
}

fn region_loss(stage: &Stage) -> Result<()> {
    let drill = there_is(stage, "region-loss", &["--identity", &identity(stage, "drill")])?;
    passed(&drill, "region-loss")?;
    ensure!(check(&drill, "region-cut-off")?.0 == "PASS", "{drill:#}");
    ensure!(drill["rto"]["actual_ms"].as_u64() > Some(0), "{:#}", drill["rto"]);
    ensure!(
        subjects(&drill["findings"], "replica-unreachable").contains(&REGIONS[0]),
        "{:#}",
        drill["findings"]
    );
    // The second region has lost its packs, which nobody had noticed while the
    // first was there.
    let head = "title = \"t\"\nlevel = \"L3\"\n[view]\n";
    let text = format!(
        "name = \"hollow\"\n{head}cut = [\"first\"]\n[view.damage]\nregions = [\"{}\"]\ngone = 1000\n",
        REGIONS[1]
    );
    let hollow = own(stage, "hollow", &text)?;
    let failed = drill_fails(stage, &hollow, &["--identity", &identity(stage, "drill")])?;
    ensure!(check(&failed, "restore")?.0 == "FAIL", "{failed:#}");
    // No region is left at all.
    let text = format!("name = \"nothing-left\"\n{head}cut = [\"all\"]\n");
    let nothing = own(stage, "nothing-left", &text)?;
    let failed = drill_fails(stage, &nothing, &["--identity", &identity(stage, "drill")])?;
    ensure!(check(&failed, "repository-opens")?.0 == "FAIL", "{failed:#}");
    Ok(())
}

fn key_loss(stage: &Stage) -> Result<()> {
    let drill = there_is(stage, "key-loss", &["--identity", &identity(stage, "escrow")])?;
    passed(&drill, "key-loss")?;
    ensure!(check(&drill, "escrow-alone")?.0 == "PASS", "{drill:#}");
    // The recovery identity opens everything too, and is not what this is about.
    let other = there_is(stage, "key-loss", &["--identity", &identity(stage, "recovery")])?;
    ensure!(other["verdict"] == "FAIL", "{other:#}");
    ensure!(check(&other, "escrow-alone")?.0 == "FAIL", "{other:#}");
    // An escrow identity that opens nothing: the wrong key lay in the safe.
    let elsewhere = stage.text("other-keys");
    stage.run("operator", &["keys", "generate", "--directory", &elsewhere])?;
    let wrong = stage.text("other-keys/escrow.agekey");
    let wrong = there_is(stage, "key-loss", &["--identity", &wrong])?;
    ensure!(wrong["verdict"] == "FAIL", "{wrong:#}");
    ensure!(check(&wrong, "repository-opens")?.0 == "FAIL", "{wrong:#}");
    // It is attended: no configuration and no schedule brings the identity.
    let line = ["drill", "run", "--cluster", CLUSTER, "--scenario", "key-loss"];
    let escrow = identity(stage, "escrow");
    for more in [&[][..], &["--identity", &escrow, "--scheduled"]] {
        let refused = stage.attempt("restorer", &[&line[..], more].concat())?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(
            refused.status.code() == Some(64) && said.contains("custodian"),
            "{said}"
        );
    }
    Ok(())
}

fn failed_upgrade(stage: &Stage) -> Result<()> {
    let database = format!("database={DATABASE}");
    let play = |name: &str, major: &str, version: &str| {
        let (major, version) = (format!("major={major}"), format!("version={version}"));
        let line = [
            "--identity",
            &identity(stage, "drill"),
            "--to-name",
            name,
            "--set",
            &database,
            "--set",
            "query=SELECT latest FROM version",
            "--set",
            &major,
            "--set",
            &version,
        ];
        drill(stage, "failed-upgrade", &line)
    };
    let old = play(NAMED, &major(), "16.0.1.3")?;
    passed(&old, "failed-upgrade")?;
    let (_, digest) = check(&old, "schema-is-the-old-one")?;
    ensure!(
        digest.starts_with("SHA-256 "),
        "a text stands in the evidence: {digest}"
    );
    let other = play(NAMED, "13", "17.0.1.0")?;
    ensure!(other["verdict"] == "FAIL", "{other:#}");
    for id in ["schema-is-the-old-one", "server-version"] {
        ensure!(check(&other, id)?.0 == "FAIL", "{other:#}");
    }
    // Without the name there is nothing to restore to.
    let set = [
        "--set",
        &database,
        "--set",
        "query=SELECT 1",
        "--set",
        "major=15",
        "--set",
        "version=1",
    ];
    let line = [
        "drill",
        "run",
        "--cluster",
        CLUSTER,
        "--scenario",
        "failed-upgrade",
    ];
    let refused = stage.attempt("restorer", &[&line[..], &set].concat())?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(
        refused.status.code() == Some(64) && said.contains("--to-name"),
        "{said}"
    );
    Ok(())
}

/// The major version of the servers here.
fn major() -> String {
    let (major, _) = newest_programs().expect("the office's server runs");
    major.get().to_string()
}

fn undone<'a>(before: &'a str, query: &'a str, writer: &'a str) -> Vec<&'a str> {
    vec![
        "--to-time",
        before,
        "--writer",
        writer,
        "--set",
        "maximum=0",
        "--set",
        query,
    ]
}

/// What the mistake left behind: invoices that are missing.
fn missing() -> String {
    format!("query=SELECT {MISTAKEN} - count(*) FROM account_move WHERE id <= {MISTAKEN}")
}

/// Directories refuse nothing, and the drill does not say that they do.
fn ransomware_on_directories(stage: &Stage, before: &str) -> Result<()> {
    let (writer, query, database) = (
        stage.text("agent.toml"),
        missing(),
        format!("database={DATABASE}"),
    );
    let mut line = undone(before, &query, &writer);
    line.extend(["--set", &database]);
    let drill = drill(stage, "ransomware", &line)?;
    ensure!(drill["verdict"] == "COULD_NOT_VERIFY", "{drill:#}");
    for region in REGIONS {
        let (result, _) = check(&drill, &format!("outlives-writer-{region}"))?;
        ensure!(result == "COULD_NOT_RUN", "{drill:#}");
    }
    ensure!(check(&drill, "mass-update-undone")?.0 == "PASS", "{drill:#}");
    Ok(())
}

/// Scenarios that operators write themselves, at every level that the shipped ones
/// leave out.
fn own_scenarios(stage: &Stage) -> Result<()> {
    let key = identity(stage, "drill");
    let whole = own(
        stage,
        "whole",
        "name = \"whole\"\ntitle = \"The backup is whole\"\nlevel = \"L1\"\nsample_percent = 100\n",
    )?;
    let drill_l1 = drill(stage, &whole, &["--identity", &key])?;
    passed(&drill_l1, "L1")?;
    ensure!(
        each(&drill_l1["checks"]).iter().all(|c| c["id"] != "restore"),
        "{drill_l1:#}"
    );

    let application = |program: &str, extra: &str| {
        format!(
            "name = \"application\"\ntitle = \"The application works\"\nlevel = \"L4\"\nmoment = \"fence\"\n\
             [[check]]\nid = \"answers\"\nprogram = [\"sh\", \"-c\", '''{program}''']\ntimeout = \"20s\"\n{extra}"
        )
    };
    let asks = format!(
        "test $(id -u) != 0 && test -d \"$HOLDFAST_FILESTORE_{}\" && \
         test $(psql -XAt -d {DATABASE} -c 'SELECT count(*) > 0 FROM account_move') = t && \
         ! psql -X -d {DATABASE} -c 'DELETE FROM account_move'",
        FILESTORE.to_uppercase()
    );
    let good = own(stage, "application", &application(&asks, ""))?;
    let drill_l4 = drill(stage, &good, &["--identity", &key])?;
    passed(&drill_l4, "L4")?;
    ensure!(
        check(&drill_l4, "reconciliation")?.1.starts_with("3 of 3 agree"),
        "{drill_l4:#}"
    );
    // Nothing was written after the last fence but the fence itself: what was
    // recorded there is exact.
    let points = stage.points()?;
    let last = each(&points["points"]).iter().max_by_key(|p| p["at"].to_string());
    let last = last
        .and_then(|p| p["name"].as_str())
        .context("there is no point")?;
    let exact = drill(stage, &good, &["--identity", &key, "--to-name", last])?;
    passed(&exact, "L4")?;
    let agreed = each(&exact["database"]["reconciliation"]);
    // Sequences are logged ahead of themselves.
    let compared: Vec<&Value> = agreed.iter().map(|r| &r["comparison"]).collect();
    ensure!(compared == ["EXACT", "BOUNDS", "EXACT"], "{agreed:#?}");
    let second = "[[check]]\nid = \"as-superuser\"\nprogram = [\"true\"]\nrole = \"postgres\"\n\
                  [[check]]\nid = \"in-time\"\nprogram = [\"sleep\", \"1000\"]\ntimeout = \"1s\"\n";
    let bad = own(stage, "application-bad", &application("exit 3", second))?;
    let failed = drill_fails(stage, &bad, &["--identity", &key])?;
    ensure!(
        check(&failed, "answers")? == ("FAIL", "exit status 3"),
        "{failed:#}"
    );
    ensure!(check(&failed, "as-superuser")?.0 == "COULD_NOT_RUN", "{failed:#}");
    ensure!(check(&failed, "in-time")?.0 == "FAIL", "{failed:#}");

    let dark = own(
        stage,
        "dark",
        "name = \"dark\"\ntitle = \"One region and the escrow are left\"\nlevel = \"L5\"\nmoment = \"fence\"\n\
         [view]\ncut = [\"first\"]\n[keys]\nonly = \"escrow\"\n\
         [[check]]\nid = \"answers\"\nprogram = [\"true\"]\n",
    )?;
    let drill_l5 = drill(stage, &dark, &["--identity", &identity(stage, "escrow")])?;
    passed(&drill_l5, "L5")?;
    ensure!(check(&drill_l5, "settings-restored")?.0 == "PASS", "{drill_l5:#}");

    for (path, sound) in [(&good, true), (&dark, true)] {
        let checked = stage.attempt("operator", &["drill", "check", path])?;
        ensure!(checked.status.success() == sound, "{checked:?}");
    }
    let wrong = own(
        stage,
        "wrong",
        "name = \"wrong\"\ntitel = \"t\"\nlevel = \"L9\"\n",
    )?;
    let checked = stage.attempt("operator", &["drill", "check", &wrong])?;
    let said = String::from_utf8_lossy(&checked.stderr);
    ensure!(checked.status.code() == Some(64), "{said}");
    for words in [
        "wrong.toml:2:1: titel: is not a known key",
        "wrong.toml:3:9: level: ",
    ] {
        ensure!(said.contains(words), "{words} is not in {said}");
    }
    let listed = stage.run("operator", &["drill", "scenarios"])?;
    for name in [
        "storage-corruption",
        "ransomware",
        "--writer FILE",
        "--to-name NAME",
    ] {
        ensure!(listed.contains(name), "{name} is not in {listed}");
    }
    Ok(())
}

/// One bucket as the manual wants it, the other without policy and versions: the
/// drill tells them apart. Then the other is put right, and the drill passes.
#[test]
fn a_writer_with_stolen_credentials_destroys_what_no_policy_guards_and_nothing_else() -> Result<()> {
    let buckets = |service: &Service| Ok([service.documented_bucket()?, service.careless_bucket()?]);
    let Some(place) = Place::s3_with(buckets)? else {
        return Ok(());
    };
    let closed = closed_office(place)?;
    let stage = &closed.stage;
    let (writer, query, database) = (
        stage.text("agent.toml"),
        missing(),
        format!("database={DATABASE}"),
    );
    let mut line = undone(&closed.before, &query, &writer);
    line.extend(["--set", &database]);
    let outlives = |drill: &Value, region: &str| -> Result<(String, String)> {
        let (result, found) = check(drill, &format!("outlives-writer-{region}"))?;
        Ok((result.to_owned(), found.to_owned()))
    };
    const GUARDED: &str =
        "3 originals of 3 read after the attack; 3 overwritten, 0 deleted, 0 versions deleted";

    let careless = drill_fails(stage, "ransomware", &line)?;
    let (result, found) = outlives(&careless, REGIONS[0])?;
    ensure!(result == "PASS" && found.starts_with(GUARDED), "{found}");
    let (result, found) = outlives(&careless, REGIONS[1])?;
    let lost = "0 originals of 3 read after the attack; 3 overwritten, 3 deleted";
    ensure!(result == "FAIL" && found.starts_with(lost), "{found}");
    // What was destroyed in one region came back from the other, and is put right.
    ensure!(
        check(&careless, "mass-update-undone")?.0 == "PASS",
        "{careless:#}"
    );
    ensure!(check(&careless, "attack-put-right")?.0 == "PASS", "{careless:#}");
    ensure!(
        !subjects(&careless["findings"], "object-overwritten").is_empty(),
        "{:#}",
        careless["findings"]
    );
    let verified = stage.json("restorer", &["verify", "--cluster", CLUSTER, "--deep"])?;
    ensure!(each(&verified["findings"]).is_empty(), "{verified:#}");

    let Place::S3(buckets) = &stage.place else {
        unreachable!("the place is on S3");
    };
    buckets.service.guard(&buckets.names[1])?;
    let guarded = drill(stage, "ransomware", &line)?;
    passed(&guarded, "ransomware")?;
    for region in REGIONS {
        let (_, found) = outlives(&guarded, region)?;
        ensure!(found.starts_with(GUARDED), "{region}: {found}");
    }
    closed.coordinator.stop()
}
