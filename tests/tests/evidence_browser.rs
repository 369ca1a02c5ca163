//! The pages of the evidence in a real browser: every text can be read, light and
//! dark, wide and narrow, and everything can be reached by the tabulator key, in
//! order, and seen to be reached.

use anyhow::{Context, Result, ensure};
use holdfast_drills::evidence::coverage::{Counted, CoverageStatement, derive};
use holdfast_drills::evidence::entry::{
    Due, Heartbeat, IntendedRecovery, Intent, LoggedEntry, Member, Population,
};
use holdfast_drills::evidence::statement::recovery::RecoveryTarget;
use holdfast_drills::evidence::statement::{DrillKind, Level, Statement};
use holdfast_drills::evidence::view::coverage::ShownCoverage;
use holdfast_drills::evidence::view::{self, Shown, list};
use holdfast_drills::pages::Sees;
use holdfast_proto::names::DrillId;
use holdfast_proto::record::TrustRole;
use holdfast_proto::{Sha256Digest, Timestamp};
use holdfast_repository::signing::SigningKey;
use holdfast_tests::browser::{Browser, serve};
use serde_json::{Value, json};

/// Texts whose contrast is less than WCAG 2.1 asks of AA: 4.5, and 3 where they are
/// large. A text's ground is what lies under it, layer by layer.
const CONTRAST: &str = include_str!("contrast.js");

/// Everything that the keyboard should reach, in the order of the document.
const STOPS: &str = "[...document.querySelectorAll('a[href], button, summary, [tabindex=\"0\"]')]";

const PAGES: [&str; 5] = [
    "/evidence",
    "/evidence/passed",
    "/evidence/failed",
    "/evidence/coverage/covered",
    "/evidence/coverage/missed",
];

fn at(time: &str) -> Timestamp {
    format!("2026-11-21T{time}Z").parse().expect("a time of day")
}

/// A statement with something in every section of its page.
fn statement(n: u128, change: impl FnOnce(&mut Value)) -> Result<Statement> {
    let digest = |text: &str| Sha256Digest::of(text.as_bytes());
    let check = |id: &str, class: &str, result: &str| {
        let ran = matches!(result, "PASS" | "FAIL");
        let mut check = json!({ "id": id, "class": class, "result": result, "expected": "0", "actual": "3 of 4",
                                "data_proving": true, "mandatory": true });
        if ran {
            check["duration_ms"] = json!(1200);
        }
        check
    };
    let phase = |phase: &str, start: &str, end: &str| json!({ "phase": phase, "start": at(start), "end": at(end), "bytes": 31_000_000, "items": 12 });
    let mut value = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{ "name": "base-backup", "digest": { "sha256": digest("base") } }],
        "predicateType": "https://holdfast.dev/recovery-drill/v1",
        "predicate": {
            "drill": { "id": DrillId::from_parts(at("14:00:00"), n), "sequence": 1, "kind": "SCHEDULED", "level": "L3",
                       "scenario": "accidental-deletion", "why": ["its tier wants one every 7d"],
                       "intent": { "log": "holdfast.dev/log/test", "index": 0, "digest": digest("intent"),
                                   "checkpoint_size": 4, "witness": "none" } },
            "scope": { "tenant": "acme", "cluster": "erp", "legal_entity": "Acme Bau GmbH", "environment": "production",
                       "tier": "platinum", "business_services": ["payroll", "invoicing"] },
            "actors": { "initiator": "schedule",
                        "runner": { "identity": "runner-1", "key": digest("runner"), "version": "0.1.0" },
                        "backup_writer": { "identity": "agent-1", "key": digest("agent") },
                        "separation_of_duties": { "runner_is_not_writer": true } },
            "policy": { "id": "policy.toml", "digest": digest("policy"), "objectives": { "rpo_ms": 5000, "rto_ms": 900_000 } },
            "sampling": { "method": "seeded-window", "population_size": 46_800_000_000_u64, "population_index": 1,
                          "checkpoint_size": 2, "slot": "acme/erp/x", "seed": digest("seed"),
                          "population_digest": digest("population"), "selected": at("11:11:11"),
                          "window": { "from": at("00:00:00"), "until": at("13:00:00") },
                          "file_sample": { "population": 1400, "drawn": 70, "population_digest": digest("files") } },
            "recovery_point": { "kind": "PITR", "system_identifier": "7381234567890123456", "version_num": 150_020,
                                "timeline": 1, "target": { "kind": "TIME", "value": at("11:11:11") },
                                "base": { "id": "01M8EBDNXWVE8H2W55MHEW8SBV", "start": "0/2000028", "stop": "0/2000100",
                                          "bytes": 31_000_000, "kind": "full" },
                                "reached": "0/5000A0", "replicas": [{ "region": "west", "looked_at": 9, "unlocked": 1 }] },
            "target": { "kind": "local", "isolation": "linux-namespaces", "egress_probe": "BLOCKED",
                        "segregated_from_source": true, "neutralised": true, "destroyed_at": at("14:02:00") },
            "timings": { "clock_offset_ms": -3, "clock_error_ms": 12,
                         "phases": [phase("PROVISION", "14:00:01", "14:00:02"), phase("BASE_FETCH", "14:00:02", "14:00:30"),
                                    phase("WAL_REPLAY", "14:00:30", "14:01:00"), phase("CHECKS", "14:01:10", "14:01:20")] },
            "results": { "verdict": "PASS", "rto": { "actual_ms": 80_000, "definition": "from PROVISION to PROMOTE", "met": true },
                         "rpo": { "database_lag_ms": 900, "filestore_lag_ms": 4000, "definition": "age of what is lost", "met": true },
                         "checks": [check("amcheck", "STRUCTURE", "PASS"), check("attachments", "REFERENTIAL", "PASS")],
                         "filestore": { "referenced": 20_000, "present": 20_000, "missing_in_backup": 0, "missing_at_source": 0,
                                        "digest_mismatch": 0, "size_mismatch": 0, "extras_left_out": 1 } },
            "controls": ["ISO-27001:2022 A.8.13", "SOC-2 A1.2"],
            "unknown": [{ "field": "retention", "reason": "the log's entries have no lock" }],
        },
    });
    change(&mut value);
    if value["predicate"]["results"]["verdict"] == json!("FAIL") {
        value["predicate"]["results"]["checks"] = json!([
            check("amcheck", "STRUCTURE", "FAIL"),
            check("collations", "STRUCTURE", "SKIPPED"),
            check("attachments", "REFERENTIAL", "COULD_NOT_RUN")
        ]);
    }
    Ok(serde_json::from_value(value)?)
}

/// The pages, by their paths.
fn pages() -> Result<Vec<(&'static str, String)>> {
    let key = SigningKey::generate_ed25519()?;
    let signer = |role, name: &str| (role, name.to_owned(), key.fingerprint());
    let passed = statement(1, |_| {})?;
    let failed = statement(2, |v| {
        let p = &mut v["predicate"];
        p["results"]["verdict"] = json!("FAIL");
        p["results"]["reasons"] = json!([
            "check amcheck (STRUCTURE) failed",
            "recovery took longer than the objective"
        ]);
        p["results"]["rto"]["actual_ms"] = json!(1_900_000);
        p["results"]["rto"]["met"] = json!(false);
        p["exceptions"] =
            json!([{ "accepts": "rpo", "reason": "known", "owner": "team-erp", "due": at("23:00:00") }]);
        p["results"]["rpo"]["filestore_lag_ms"] = Value::Null;
    })?;
    let drill = |statement: &Statement| {
        let shown = Shown {
            statement,
            digest: Sha256Digest::of(&statement.to_bytes()),
            index: 17,
            signers: vec![
                signer(TrustRole::Runner, "runner-1"),
                signer(TrustRole::Coordinator, "coordinator-1"),
            ],
            root: key.fingerprint(),
            delay_ms: None,
        };
        view::page::served(&shown)
    };
    let intent = |n: u128, kind: DrillKind| -> Result<LoggedEntry> {
        let intent = Intent {
            drill: DrillId::from_parts(at("14:00:00"), n),
            slot: None,
            cluster: "acme/erp".parse()?,
            sequence: 1,
            previous: None,
            kind,
            level: Level::L3,
            scenario: "accidental-deletion".parse()?,
            recovery: IntendedRecovery {
                target: RecoveryTarget::Latest,
                base: None,
                point: None,
            },
            seed: None,
            at: at("14:00:00"),
            deadline: at("15:00:00"),
        };
        Ok(LoggedEntry::sign(&intent, &key)?)
    };
    let members = |every_ms: u64, since: &str| -> Result<Population> {
        let due = Due {
            scenario: "accidental-deletion".parse()?,
            level: Level::L3,
            every_ms,
        };
        let member = Member {
            cluster: "acme/erp".parse()?,
            tier: "platinum".parse()?,
            drills: vec![due],
        };
        Ok(Population::of_tenant(
            "acme".parse()?,
            vec![member],
            since.parse()?,
        ))
    };
    let month = |days: u64, since: &str, drills: bool| -> Result<CoverageStatement> {
        let mut entries = vec![LoggedEntry::sign(&members(days * 86_400_000, since)?, &key)?];
        if drills {
            entries.insert(0, intent(1, DrillKind::Scheduled)?);
            entries.push(LoggedEntry::sign_result(&passed, &key)?);
        }
        let counted = Counted {
            log: "holdfast.dev/log/test".parse()?,
            size: entries.len() as u64,
            root: Sha256Digest::of(b"root"),
        };
        let coverage = derive(
            (0..).zip(&entries),
            &counted,
            &"acme".parse()?,
            "2026-11".parse()?,
        );
        Ok(CoverageStatement::new(coverage))
    };
    let coverage = |statement: &CoverageStatement| {
        view::coverage::served(&ShownCoverage {
            statement,
            digest: Sha256Digest::of(&statement.to_bytes()),
            index: 9,
            signers: vec![signer(TrustRole::Coordinator, "coordinator-1")],
            root: key.fingerprint(),
        })
    };
    // One slot of twenty days ends in the month and began after the policy asked for it.
    let covered = month(20, "2026-11-02T00:00:00Z", true)?;
    let missed = month(7, "2026-01-01T00:00:00Z", false)?;
    let entries = vec![
        intent(1, DrillKind::Scheduled)?,
        LoggedEntry::sign_result(&passed, &key)?,
        intent(3, DrillKind::OnChange)?,
        LoggedEntry::sign(&Heartbeat { at: at("14:30:00") }, &key)?,
        LoggedEntry::sign_coverage(&missed, &key)?,
    ];
    let list = list::served(&entries, &list::Filter::default(), Sees::ALL, at("14:40:00"))?;
    let bodies = [
        list,
        drill(&passed)?,
        drill(&failed)?,
        coverage(&covered)?,
        coverage(&missed)?,
    ];
    Ok(PAGES.into_iter().zip(bodies).collect())
}

/// A browser, and where the pages are.
fn opened() -> Result<(Browser, String)> {
    let pages = pages()?;
    let at = serve(move |path| match path {
        "/evidence/evidence.css" => Some(("text/css; charset=utf-8", view::STYLE.as_bytes().to_vec())),
        path => {
            let (_, body) = pages.iter().find(|(p, _)| *p == path)?;
            Some(("text/html; charset=utf-8", body.clone().into_bytes()))
        }
    })?;
    Ok((Browser::start()?, format!("http://{at}")))
}

#[test]
fn every_text_can_be_read() -> Result<()> {
    let (mut browser, base) = opened()?;
    for scheme in ["light", "dark"] {
        for width in [1280, 390] {
            browser.look(width, scheme)?;
            for page in PAGES {
                browser.open(&format!("{base}{page}"))?;
                let found = browser.ask(CONTRAST)?;
                let texts = found["texts"].as_u64().context("a count")?;
                ensure!(texts > 20, "{page}: only {texts} texts were found");
                let bad = found["bad"].as_array().context("a list")?;
                ensure!(bad.is_empty(), "{page}, {scheme}, {width} px wide: {bad:#?}");
                let wide = browser
                    .ask("document.documentElement.scrollWidth - document.documentElement.clientWidth")?;
                ensure!(wide == json!(0), "{page} at {width} px is {wide} px too wide");
                picture(&mut browser, page, scheme, width)?;
            }
        }
    }
    Ok(())
}

/// What looks for texts that cannot be read finds one.
#[test]
fn a_text_that_cannot_be_read_is_found() -> Result<()> {
    let (mut browser, base) = opened()?;
    browser.look(1280, "light")?;
    browser.open(&format!("{base}/evidence"))?;
    for (colour, size, found) in [
        ("#999", "16px", 1),
        ("#666", "16px", 0),
        ("#888", "30px", 0),
        ("#bbb", "30px", 1),
    ] {
        let add = format!(
            "{{ const p = document.createElement('p'); p.textContent = 'faint'; p.style.color = '{colour}'; \
             p.style.background = '#fff'; p.style.fontSize = '{size}'; document.querySelector('main').append(p); 0 }}"
        );
        browser.ask(&add)?;
        let bad = browser.ask(CONTRAST)?["bad"].as_array().map_or(0, Vec::len);
        ensure!(bad == found, "{colour} at {size}: {bad} found");
        browser.ask("document.querySelector('main').lastElementChild.remove()")?;
    }
    Ok(())
}

#[test]
fn the_keyboard_reaches_everything_in_order() -> Result<()> {
    let (mut browser, base) = opened()?;
    for scheme in ["light", "dark"] {
        for page in PAGES {
            browser.look(1280, scheme)?;
            browser.open(&format!("{base}{page}"))?;
            let stops = browser.ask(&format!("{STOPS}.length"))?;
            let stops = stops.as_u64().context("a count")?;
            ensure!(stops >= 3, "{page}: only {stops} places to go to");
            for n in 0..stops {
                browser.tab()?;
                let seen = browser.ask(&format!(
                    "(() => {{ const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect(); \
                     return {{ place: {STOPS}.indexOf(e), what: e.outerHTML.slice(0, 80), \
                     ring: e.matches(':focus-visible') && s.outlineStyle !== 'none' ? parseFloat(s.outlineWidth) : 0, \
                     seen: r.width > 0 && r.height > 0 && r.bottom > 0 && r.top < innerHeight }} }})()"
                ))?;
                ensure!(seen["place"] == json!(n), "{page}: stop {n} is {seen}");
                ensure!(
                    seen["ring"].as_f64() >= Some(2.0),
                    "{page}: nothing shows that {seen} has the focus"
                );
                ensure!(
                    seen["seen"] == json!(true),
                    "{page}: {seen} has the focus out of sight"
                );
            }
        }
    }
    Ok(())
}

/// Keeps a picture for people where HOLDFAST_PICTURES names a directory.
fn picture(browser: &mut Browser, page: &str, scheme: &str, width: u32) -> Result<()> {
    use base64::Engine;
    let Some(directory) = std::env::var_os("HOLDFAST_PICTURES") else {
        return Ok(());
    };
    let name = page.trim_matches('/').replace('/', "-");
    let bytes = base64::engine::general_purpose::STANDARD.decode(browser.picture()?)?;
    let path = std::path::Path::new(&directory).join(format!("{name}-{scheme}-{width}.png"));
    std::fs::write(path, bytes)?;
    Ok(())
}
