//! Files of an export that nothing signed vouches for: found where they were changed,
//! and named where nobody can say.

use std::fs;

use super::super::super::export::{files, write};
use super::super::super::tlog::tiles::LogFile;
use super::super::*;

use super::world::*;

/// An export in a directory, changed by `tamper` before both verifiers see it: the
/// report, and what the script said.
fn seen(tamper: impl FnOnce(&mut Vec<LogFile>)) -> (VerifyReport, bool, String) {
    let world = World::new();
    let mut export = files(&world.drill(|_| {})).unwrap();
    tamper(&mut export);
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &export).unwrap();
    let report = verify_with(dir.path(), &world.options());
    let (accepted, said) = python(dir.path(), Some(&world.root.fingerprint().to_string()));
    (report, accepted, said)
}

fn change(files: &mut [LogFile], path: &str, from: &str, to: &str) {
    let file = files.iter_mut().find(|f| f.path == path).unwrap();
    let text = String::from_utf8(file.bytes.clone()).unwrap();
    assert!(text.contains(from), "{path} lacks {from}");
    file.bytes = text.replace(from, to).into_bytes();
}

#[test]
fn a_sound_export_is_covered_whole_and_the_script_says_what_it_leaves_out() {
    let (report, accepted, said) = seen(|_| {});
    assert!(report.accepted(), "{report}");
    assert_eq!(report.not_covered, [""; 0]);
    assert!(accepted, "{said}");
    let named = not_covered(&said);
    for path in [
        "VERIFY.md",
        "verify.py",
        "views/report.html",
        "views/junit.xml",
        "views/oscal-assessment-results.json",
        "views/test-result.json",
    ] {
        assert!(named.contains(path), "{path} is passed over in silence:\n{said}");
    }
    for path in ["openssl/", "tile/", "trust/", "statement.json", "byproducts/"] {
        assert!(!named.contains(path), "{path} is not covered:\n{said}");
    }
    assert!(
        said.trim_end()
            .ends_with("NOT what is named above as not covered"),
        "{said}"
    );
}

/// A page that says another verdict than the statement, a test report without its
/// failures, an assessment that is satisfied.
#[test]
fn a_changed_view_is_refused_or_named() {
    for (path, from, to) in [
        ("views/report.html", "acme/erp", "acme/crm"),
        ("views/report.html", "1 min 20 s", "1 min 10 s"),
        ("views/junit.xml", "failures=\"0\"", "failures=\"1\""),
        (
            "views/oscal-assessment-results.json",
            "satisfied",
            "not-satisfied",
        ),
        ("views/test-result.json", "PASSED", "FAILED"),
        ("VERIFY.md", "sha256sum", "echo"),
    ] {
        let (report, accepted, said) = seen(|files| change(files, path, from, to));
        assert!(!report.accepted(), "{path} changed unnoticed:\n{report}");
        assert!(
            report.to_string().contains(&format!("{path} is not what")),
            "{report}"
        );
        assert!(accepted && not_covered(&said).contains(path), "{path}:\n{said}");
    }
}

/// Whoever changes a script, so that the export looks like another version's, gets
/// its pages no further than to the list of what is not covered.
#[test]
fn a_changed_view_beside_a_changed_script_is_named() {
    let (report, _, said) = seen(|files| {
        change(files, "verify_log.py", "pure functions", "sheer functions");
        change(files, "views/report.html", "acme/erp", "acme/crm");
        change(files, "VERIFY.md", "Compare.", "Believe it.");
    });
    assert!(report.accepted(), "{report}");
    assert_eq!(
        report.not_covered,
        ["VERIFY.md", "verify_log.py", "views/report.html"]
    );
    assert!(
        not_covered(&report.to_string()).contains("views/report.html"),
        "{report}"
    );
    assert!(not_covered(&said).contains("views/report.html"), "{said}");
}

#[test]
fn a_planted_file_is_named() {
    let planted = [
        "READ-ME-FIRST.html",
        "views/summary.html",
        "openssl.txt",
        "tile/2/000",
    ];
    let (report, accepted, said) = seen(|files| {
        files.extend(planted.map(|path| LogFile {
            path: path.to_owned(),
            bytes: b"the drill passed".to_vec(),
        }));
    });
    assert!(report.accepted(), "{report}");
    assert_eq!(report.not_covered.len(), planted.len());
    assert!(accepted, "{said}");
    for path in planted {
        assert!(
            not_covered(&report.to_string()).contains(path),
            "{path}:\n{report}"
        );
        assert!(not_covered(&said).contains(path), "{path}:\n{said}");
    }
}

/// What `openssl` is given by hand has to be what was signed, by its name: sound
/// signatures in each other's places are none.
#[test]
fn openssl_files_in_each_others_places_are_refused() {
    let world = World::new();
    let mut export = files(&world.drill(|_| {})).unwrap();
    let sound = export.clone();
    let bytes = |path: &str| sound.iter().find(|f| f.path == path).unwrap().bytes.clone();
    let runner = format!("runner-{}", world.runner.fingerprint().short());
    let (intent, statement) = ("openssl/intent", "openssl/statement");
    replace(
        &mut export,
        &format!("{statement}.signed"),
        bytes(&format!("{intent}.signed")),
    );
    let sig = bytes(&format!("{intent}.{runner}.sig"));
    replace(&mut export, &format!("{statement}.{runner}.sig"), sig);
    refused(world.both(&export), "it was changed");

    let mut export = sound.clone();
    let log = format!("openssl/coordinator-{}.pem", world.log.fingerprint().short());
    replace(&mut export, &format!("openssl/{runner}.pem"), bytes(&log));
    refused(world.both(&export), "it was changed");

    let mut export = sound;
    export.push(LogFile {
        path: "openssl/verdict.signed".into(),
        bytes: b"PASS".to_vec(),
    });
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &export).unwrap();
    let report = verify_with(dir.path(), &world.options());
    assert_eq!(report.not_covered, ["openssl/verdict.signed"], "{report}");
    let (accepted, said) = python(dir.path(), Some(&world.root.fingerprint().to_string()));
    assert!(
        !accepted && said.contains("openssl/verdict.signed is not what was signed"),
        "{said}"
    );
    fs::remove_file(dir.path().join("openssl/verdict.signed")).unwrap();
    assert!(verify_with(dir.path(), &world.options()).not_covered.is_empty());
}
