//! The evidence log on a real repository: what the keeper logs by itself, a
//! witness beside it, restores that come late, and a month's coverage, which is
//! exported and attacked before both verifiers.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_drills::evidence::coverage::Month;
use holdfast_drills::evidence::dsse::Envelope;
use holdfast_drills::evidence::entry::{Entry, LoggedEntry};
use holdfast_drills::evidence::export;
use holdfast_drills::evidence::tlog::tiles::LogFile;
use holdfast_drills::evidence::verify::verify_export;
use holdfast_drills::keeper::{EvidenceKeeper, InForce};
use holdfast_drills::log::{DrillLog, LogError};
use holdfast_drills::pages::{Asked, EvidencePages, Sees};
use holdfast_drills::publish;
use holdfast_drills::witness::{Witness, WitnessError};
use holdfast_proto::{Sha256Digest, Timestamp};
use holdfast_repository::signing::SigningKey;
use holdfast_tests::evidence::{EvidenceScene, day, policy};
use serde_json::json;

fn count(entries: &[LoggedEntry], which: fn(&Entry) -> bool) -> usize {
    entries.iter().filter(|e| which(&e.entry)).count()
}

#[tokio::test]
async fn the_keeper_logs_each_day_and_each_change_of_policy_once() -> Result<()> {
    let mut scene = EvidenceScene::new().await?;
    for at in [day("10-01"), day("10-01"), day("10-02")] {
        scene.pass(at).await?;
    }
    // Another process, with another policy, and the same one again.
    scene.keeper = EvidenceKeeper::of(policy(&["acme/erp", "acme/crm"]));
    scene.pass(day("10-02")).await?;
    scene.keeper = EvidenceKeeper::of(policy(&["acme/crm", "acme/erp"]));
    scene.pass(day("10-02")).await?;
    let entries = scene.log().await?.entries().await?;
    assert_eq!(count(&entries, |e| matches!(e, Entry::Heartbeat(_))), 2);
    assert_eq!(count(&entries, |e| matches!(e, Entry::Population(_))), 2);
    let head = scene.log().await?.checkpoint().await?.context("no checkpoint")?;
    assert_eq!(head.checkpoint().size, entries.len() as u64);
    Ok(())
}

#[tokio::test]
async fn a_policy_is_named_when_it_comes_into_force() -> Result<()> {
    let mut scene = EvidenceScene::new().await?;
    let digest = |text: &str| Sha256Digest::of(text.as_bytes());
    let in_force = |text: &str, changes: &[&str]| InForce {
        digest: digest(text),
        changes: changes.iter().map(|c| (*c).to_owned()).collect(),
    };
    scene.keeper.asks(policy(&["acme/erp"]), in_force("one", &[]));
    scene.pass(day("10-01")).await?;
    scene.pass(day("10-01")).await?;
    let change = "acme/erp: rpo from 1min to 30s (strengthens)";
    scene
        .keeper
        .asks(policy(&["acme/erp"]), in_force("two", &[change]));
    scene.pass(day("10-02")).await?;
    // Another process with the same policy, then with far too much to say.
    scene.keeper = EvidenceKeeper::default();
    scene.keeper.asks(policy(&["acme/erp"]), in_force("two", &[]));
    scene.pass(day("10-02")).await?;
    let many = vec![change; 5_000];
    scene.keeper.asks(policy(&["acme/erp"]), in_force("three", &many));
    scene.pass(day("10-02")).await?;
    let entries = scene.log().await?.entries().await?;
    let named: Vec<_> = entries
        .iter()
        .filter_map(|entry| match &entry.entry {
            Entry::Policy(taken) => Some(taken.clone()),
            _ => None,
        })
        .collect();
    let steps: Vec<_> = named.iter().map(|taken| (taken.from, taken.to)).collect();
    assert_eq!(
        steps,
        [
            (None, digest("one")),
            (Some(digest("one")), digest("two")),
            (Some(digest("two")), digest("three"))
        ]
    );
    assert_eq!(named[1].changes, [change]);
    let last = named[2].changes.last().context("no sentence")?;
    assert_eq!(
        *last,
        format!("and {} more", 5_000 - (named[2].changes.len() - 1))
    );
    Ok(())
}

#[tokio::test]
async fn a_witness_follows_the_log_and_notices_when_it_is_rewritten() -> Result<()> {
    let mut scene = EvidenceScene::new().await?;
    scene.pass(day("10-01")).await?;
    let state = scene.vault.dir().join("witness.json");
    let mut witness = Witness::open("auditor.example", SigningKey::generate_ed25519()?, &state, true)?;
    let log = scene.log().await?;
    let first = witness
        .look(&log, day("10-01"))
        .await?
        .context("nothing to see")?;
    assert!(witness.look(&log, day("10-01")).await?.is_none());
    // A runner that knows this witness waits for it, and not for the coordinator alone.
    let key = witness.note_key()?;
    let draw = holdfast_drills::evidence::sampling::Draw {
        slot: "one".into(),
        cluster: scene.vault.cluster.clone(),
        window: None,
        points: None,
        files_percent: None,
    };
    let population = draw.population(day("10-01"));
    let waiting = log.clone().witnessed_by(std::slice::from_ref(&key));
    let runner = SigningKey::generate_ed25519()?;
    let brief = Duration::from_millis(600);
    let unseen = tokio::select! {
        waited = waiting.log_population(&population, &runner, brief) => waited,
        gone = coordinate(&mut scene) => gone,
    };
    ensure!(matches!(unseen, Err(LogError::NoWitness { .. })), "{unseen:?}");
    let long = Duration::from_secs(60);
    let (_, sealed) = tokio::select! {
        waited = waiting.log_population(&population, &runner, long) => waited?,
        gone = attend(&mut scene, &mut witness, &log) => gone?,
    };
    assert_eq!(sealed.witness.name(), Some("auditor.example"));
    sealed.checkpoint.witnessed(&key)?;
    let newest = sealed.checkpoint.checkpoint().size;
    ensure!(newest > first.seen.size, "the log grew");
    let held = log.held(newest, &sealed.witness).await?;
    assert_eq!(held.map(|c| c.to_bytes()), Some(sealed.checkpoint.to_bytes()));

    // The log's owner takes an entry away and signs anew.
    for region in 0..2 {
        let place = scene.vault.place(region).join("evidence/log");
        let last = place.join(format!("entries/{:016}", first.seen.size - 1));
        std::fs::write(&last, scene.restore(day("10-01"), &scene.runner, |_| {})?.bytes())?;
        std::fs::remove_dir_all(place.join("checkpoints"))?;
    }
    scene.keeper = EvidenceKeeper::default();
    scene.pass(day("10-01")).await?;
    let refused = witness.look(&scene.log().await?, day("10-01")).await;
    ensure!(matches!(refused, Err(WitnessError::Refused(_))), "{refused:?}");
    Ok(())
}

/// The coordinator at work, without a witness.
async fn coordinate(
    scene: &mut EvidenceScene,
) -> Result<(holdfast_drills::log::Place, holdfast_drills::log::Sealed), LogError> {
    loop {
        // Its own errors show in who waits for it.
        if scene.pass(day("10-01")).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Coordinator and witness at work, until whoever waits for them has enough.
async fn attend(
    scene: &mut EvidenceScene,
    witness: &mut Witness,
    log: &DrillLog,
) -> Result<(holdfast_drills::log::Place, holdfast_drills::log::Sealed)> {
    loop {
        scene.pass(day("10-01")).await?;
        witness.look(log, day("10-01")).await?;
    }
}

#[tokio::test]
async fn a_restore_that_waited_is_logged_with_its_delay() -> Result<()> {
    let mut scene = EvidenceScene::new().await?;
    scene.pass(day("10-01")).await?;
    let entry = scene.restore(day("10-01"), &scene.runner, |_| {})?;
    scene.leave(&entry).await?;
    // What nobody may leave: a drill, and what a stranger signed.
    let stranger = SigningKey::generate_ed25519()?;
    let drill = scene.restore(day("10-02"), &scene.runner, |v| {
        v["predicate"]["drill"]["kind"] = json!("ON_DEMAND");
    })?;
    let foreign = scene.restore(day("10-03"), &stranger, |_| {})?;
    scene.leave(&drill).await?;
    scene.leave(&foreign).await?;

    let done = scene.pass(day("10-04")).await?;
    assert_eq!((done.received, done.countersigned), (1, 1));
    let refused = done
        .findings
        .iter()
        .filter(|f| f.name == "evidence-pending-refused");
    assert_eq!(refused.count(), 2);
    assert_eq!(scene.pass(day("10-04")).await?.received, 0);
    let log = scene.log().await?;
    let entries = log.entries().await?;
    let received = entries.iter().find_map(|e| match &e.entry {
        Entry::Received(r) => Some(r.clone()),
        _ => None,
    });
    let received = received.context("nothing says how long it waited")?;
    assert_eq!(received.delay_ms, 3 * 86_400_000 - 5000);

    // It verifies as what it is, with both verifiers.
    let input = publish::gather(&log, &entries, received.entry, publish::Audience::Tenant).await?;
    let files = export::files(&input)?;
    both(&scene, &files)?.map_err(|said| anyhow::anyhow!(said))?;
    let page = files
        .iter()
        .find(|f| f.path == "views/report.html")
        .context("no page")?;
    let page = String::from_utf8_lossy(&page.bytes);
    ensure!(page.contains("2 d 23 h after the restore ended"), "{page}");
    Ok(())
}

/// What the coordinator's page serves, and what it does not.
#[tokio::test]
async fn pages_show_what_a_believed_key_has_signed() -> Result<()> {
    let mut scene = EvidenceScene::new().await?;
    scene.pass(day("10-01")).await?;
    let entry = scene.restore(day("10-01"), &scene.runner, |_| {})?;
    scene.leave(&entry).await?;
    scene.pass(day("10-02")).await?;
    // Whoever can write to the repository writes a statement of their own.
    let stranger = SigningKey::generate_ed25519()?;
    let foreign = scene.restore(day("10-03"), &stranger, |_| {})?;
    let log = scene.log().await?;
    log.store().append(foreign.bytes().to_vec().into()).await?;
    scene.pass(day("10-03")).await?;
    let id = |entry: &LoggedEntry| match &entry.entry {
        Entry::Result(s) => s.predicate.drill.id.to_string(),
        _ => String::new(),
    };
    let (own, other) = (id(&entry), id(&foreign));
    let trust = scene.vault.trust().await?;
    let mut pages = EvidencePages::default();
    let mut served = BTreeMap::new();
    for path in [
        String::new(),
        own.clone(),
        format!("{own}/junit.xml"),
        format!("{own}/evidence.zip"),
        format!("{own}/nothing"),
        other.clone(),
        "evidence.css".to_owned(),
        "coverage/0.zip".to_owned(),
    ] {
        let asked = Asked {
            path: &path,
            query: "",
            sees: Sees::ALL,
        };
        let answer = pages.answer(&scene.vault.repository, &trust, asked, day("10-03"));
        let found = answer.await.map_err(|why| anyhow::anyhow!(why))?;
        served.insert(path, found.map(|d| d.bytes));
    }
    let list = String::from_utf8(served[""].clone().context("no list")?)?;
    ensure!(list.contains(&own) && !list.contains(&other), "{list}");
    let page = String::from_utf8(served[&own].clone().context("no page")?)?;
    ensure!(
        page.contains("could not verify") && page.contains("/evidence.zip"),
        "{page}"
    );
    ensure!(served[&other].is_none() && served[&format!("{own}/nothing")].is_none());
    ensure!(served["coverage/0.zip"].is_none() && served["evidence.css"].is_some());
    let zip = served[&format!("{own}/evidence.zip")]
        .as_ref()
        .context("no zip")?;
    ensure!(zip.starts_with(b"PK"), "no zip");

    // Whoever may see another cluster only sees none of it, and no export of all.
    for (sees, shown) in [
        (
            Sees {
                whole: false,
                cluster: &|_| false,
            },
            [false; 3],
        ),
        (
            Sees {
                whole: false,
                cluster: &|c| c.to_string() == "acme/erp",
            },
            [true, true, false],
        ),
    ] {
        for (path, shown) in [
            own.clone(),
            format!("{own}/statement.json"),
            format!("{own}/evidence.zip"),
        ]
        .iter()
        .zip(shown)
        {
            let asked = Asked {
                path,
                query: "",
                sees,
            };
            let answer = pages.answer(&scene.vault.repository, &trust, asked, day("10-03"));
            let found = answer.await.map_err(|why| anyhow::anyhow!(why))?;
            ensure!(found.is_some() == shown, "{path}: {}", found.is_some());
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_month_is_counted_signed_and_withstands_attacks() -> Result<()> {
    let mut scene = EvidenceScene::new().await?;
    scene.pass(day("10-01")).await?;
    // A coordinator that was away over the end of October catches up.
    scene.pass(day("11-01")).await?;
    let october = |e: &Entry| matches!(e, Entry::Coverage(c) if c.predicate.month.to_string() == "2026-10");
    assert_eq!(count(&scene.log().await?.entries().await?, october), 1);
    // Two drills announced and never ended; weeks end on 5, 12, 19 and 26 November.
    for at in [day("11-02"), day("11-13")] {
        scene.announce(at).await?;
        assert_eq!(scene.pass(at.plus_millis(7_200_000)).await?.abandoned, 1);
    }
    // A third is still under way when the month ends: it is waited for.
    let late: Timestamp = "2026-11-30T23:30:00Z".parse()?;
    scene.announce(late).await?;
    let coverage = |e: &Entry| matches!(e, Entry::Coverage(c) if c.predicate.month.to_string() == "2026-11");
    scene.pass("2026-12-01T00:10:00Z".parse()?).await?;
    assert_eq!(count(&scene.log().await?.entries().await?, coverage), 0);
    for _ in 0..3 {
        scene.pass("2026-12-01T01:00:00Z".parse()?).await?;
    }
    let log = scene.log().await?;
    let entries = log.entries().await?;
    assert_eq!(count(&entries, coverage), 1, "once");
    let index = entries
        .iter()
        .position(|e| coverage(&e.entry))
        .context("no coverage")?;
    let Entry::Coverage(statement) = &entries[index].entry else {
        anyhow::bail!("no coverage");
    };
    let c = &statement.predicate;
    assert_eq!(c.month, "2026-11".parse::<Month>()?);
    let gold = c.tiers.first().context("no tier")?.slots;
    assert_eq!((gold.expected, gold.failed, gold.missed), (4, 2, 2));
    assert_eq!((c.drills.begun, c.drills.failed), (3, 3));

    let input = publish::gather_coverage(&log, &entries, index as u64).await?;
    let sound = export::coverage_files(&input)?;
    both(&scene, &sound)?.map_err(|said| anyhow::anyhow!(said))?;
    paint_coverage(&scene, &sound)?;
    attack_coverage(&scene, &input, &sound)
}

/// A month's page is derived, and nobody signs it: one that was changed is found, or
/// named as what nothing vouches for.
fn paint_coverage(scene: &EvidenceScene, sound: &[LogFile]) -> Result<()> {
    let mut painted = sound.to_vec();
    let page = painted
        .iter_mut()
        .find(|f| f.path == "views/coverage.html")
        .context("no page")?;
    let text = String::from_utf8(page.bytes.clone())?;
    ensure!(
        text.contains("not covered") && text.contains("acme/erp"),
        "{text}"
    );
    page.bytes = text.replace("not covered", "covered").into_bytes();
    let dir = tempfile::tempdir()?;
    let at = dir.path().join("export");
    export::write(&at, &painted)?;
    let root = scene.vault.root();
    let report = verify_export(&at, Some(root)).to_string();
    ensure!(
        report.contains("views/coverage.html is not what the statement says"),
        "{report}"
    );
    let (accepted, said) = python(&at, &root.to_string())?;
    let mut named = said.lines().filter(|l| l.starts_with("NOT COVERED"));
    ensure!(
        accepted && named.any(|l| l.contains("views/coverage.html")),
        "{said}"
    );
    Ok(())
}

/// Two tenants, one log: what one of them is given says nothing of the other.
#[tokio::test]
async fn an_export_names_no_other_tenant() -> Result<()> {
    let mut scene = EvidenceScene::new().await?;
    scene.keeper = EvidenceKeeper::of(policy(&["acme/erp", "umbrella/payroll"]));
    scene.pass(day("10-01")).await?;
    let entry = scene.restore(day("10-01"), &scene.runner, |_| {})?;
    scene.leave(&entry).await?;
    scene.pass(day("10-02")).await?;
    let log = scene.log().await?;
    let entries = log.entries().await?;
    let index = entries
        .iter()
        .position(|e| matches!(e.entry, Entry::Result(_)))
        .context("no result")?;
    let names = |bytes: &[u8]| {
        let payload = Envelope::parse(bytes).map_or_else(|_| bytes.to_vec(), |e| e.payload);
        String::from_utf8_lossy(&payload).contains("umbrella")
    };
    ensure!(
        entries.iter().any(|e| names(e.bytes())),
        "the other tenant is in the log"
    );
    let input = publish::gather(&log, &entries, index as u64, publish::Audience::Tenant).await?;
    let files = export::files(&input)?;
    ensure!(files.iter().any(|f| f.path.starts_with("entries/")), "no entries");
    for file in &files {
        ensure!(!names(&file.bytes), "{} names the other tenant", file.path);
        ensure!(!file.path.starts_with("tile/entries/"), "{}", file.path);
    }
    both(&scene, &files)?.map_err(|said| anyhow::anyhow!(said))?;
    // Who may see every tenant is given the whole log.
    let input = publish::gather(&log, &entries, index as u64, publish::Audience::Operator).await?;
    let files = export::files(&input)?;
    ensure!(
        files.iter().any(|f| f.path.starts_with("tile/entries/")),
        "not the whole log"
    );
    both(&scene, &files)?.map_err(|said| anyhow::anyhow!(said))?;
    Ok(())
}

/// A failed drill dropped, a number changed, an entry changed, another's entry.
fn attack_coverage(scene: &EvidenceScene, input: &export::CoverageInput, sound: &[LogFile]) -> Result<()> {
    let refused = |what: &str, files: &[LogFile]| -> Result<()> {
        let said = both(scene, files)?;
        ensure!(said.is_err(), "{what} was accepted:\n{said:?}");
        Ok(())
    };
    let listed: Vec<usize> = (0..sound.len())
        .filter(|n| sound[*n].path.starts_with("entries/"))
        .collect();
    for n in &listed {
        let mut dropped = sound.to_vec();
        let gone = dropped.remove(*n);
        refused(&format!("{} dropped", gone.path), &dropped)?;
        let mut changed = sound.to_vec();
        let middle = changed[*n].bytes.len() / 2;
        changed[*n].bytes[middle] ^= 1;
        refused(&format!("{} changed", gone.path), &changed)?;
    }
    let mut swapped = sound.to_vec();
    let (a, b) = (swapped[listed[0]].bytes.clone(), swapped[listed[1]].bytes.clone());
    (swapped[listed[0]].bytes, swapped[listed[1]].bytes) = (b, a);
    refused("entries swapped", &swapped)?;

    // The coordinator itself signs a better count: counting again tells.
    let Entry::Coverage(statement) = &input.entry.entry else {
        anyhow::bail!("no coverage");
    };
    let mut better = (**statement).clone();
    for slots in better
        .predicate
        .tiers
        .iter_mut()
        .map(|t| &mut t.slots)
        .chain(better.predicate.clusters.iter_mut().map(|c| &mut c.slots))
    {
        (slots.expected, slots.missed) = (slots.expected - 1, slots.missed - 1);
    }
    let mut lied = input.clone();
    lied.entry = LoggedEntry::sign_coverage(&better, &scene.keys.coordinator)?;
    let mut leaves = lied.tree.leaves().to_vec();
    leaves[lied.index as usize] = holdfast_drills::evidence::tlog::leaf_hash(lied.entry.bytes());
    lied.tree = holdfast_drills::evidence::tlog::Tree::from_leaf_hashes(leaves);
    let head = holdfast_drills::evidence::tlog::Checkpoint::new(
        lied.checkpoint.checkpoint().origin.clone(),
        lied.tree.len(),
        lied.tree.root(),
    );
    lied.checkpoint = holdfast_drills::evidence::tlog::SignedCheckpoint::sign(head, &scene.keys.log)?;
    refused("a better count", &export::coverage_files(&lied)?)?;

    // Signed by somebody who may not.
    let mut forged = input.clone();
    forged.entry = LoggedEntry::sign_coverage(statement, &scene.runner)?;
    let mut files = sound.to_vec();
    for (path, bytes) in [
        ("result.entry", forged.entry.bytes().to_vec()),
        ("envelope.json", forged.entry.bytes().to_vec()),
    ] {
        files
            .iter_mut()
            .find(|f| f.path == path)
            .context("a file is missing")?
            .bytes = bytes;
    }
    refused("a runner's signature", &files)
}

/// What both verifiers make of an export. They must agree.
fn both(scene: &EvidenceScene, files: &[LogFile]) -> Result<Result<(), String>> {
    let dir = tempfile::tempdir()?;
    let at = dir.path().join("export");
    export::write(&at, files)?;
    let root = scene.vault.root();
    let report = verify_export(&at, Some(root));
    let (accepted, said) = python(&at, &root.to_string())?;
    ensure!(
        report.accepted() == accepted,
        "they disagree:\n{report}\n--- verify.py:\n{said}"
    );
    Ok(if accepted {
        Ok(())
    } else {
        Err(format!("{report}\n{said}"))
    })
}

fn python(dir: &Path, root: &str) -> Result<(bool, String)> {
    let done = Command::new("python3")
        .arg(dir.join("verify.py"))
        .args(["--root", root])
        .arg(dir)
        .output()?;
    let said = [done.stdout, done.stderr].concat();
    Ok((done.status.success(), String::from_utf8_lossy(&said).into_owned()))
}
