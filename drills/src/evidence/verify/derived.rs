//! Files of an export that follow from what was signed and are signed by nobody:
//! the guide, the views, what `openssl` reads.
//!
//! They are derived again. Another version may lay views and guide out differently,
//! which shows in the scripts that came along: then they are not covered, and the
//! report says so beside its verdict. Whoever changes a script gets no further than
//! that.

use super::Export;
use super::archive::{Archive, Found, LogEntries, say};
use super::report::VerifyReport;
use crate::evidence::coverage::CoverageStatement;
use crate::evidence::dsse::Envelope;
use crate::evidence::entry::{Entry, LoggedEntry};
use crate::evidence::export::{Loose, SCRIPTS, distinct, guide, loose_files, shown, shown_coverage};
use crate::evidence::statement::Statement;
use crate::evidence::tlog::tiles::LogFile;
use crate::evidence::view;

/// The scripts that are this version's are covered; says whether all are.
pub(super) fn scripts(dir: &Archive, report: &mut VerifyReport) -> bool {
    let mut own = true;
    for (name, text) in SCRIPTS {
        if !dir.matches(name, text.as_bytes()) {
            own = false;
            report.note(
                "scripts",
                format!("{name} is not this version's: take the scripts from the program you trust"),
            );
        }
    }
    own
}

/// The files for `openssl` are what the envelopes hold; so is the guide, which names
/// them.
pub(super) fn openssl(export: &Export<'_>, loose: &Loose<'_>, report: &mut VerifyReport) -> Option<()> {
    report.step("files for openssl", loose_match(export.dir, loose))?;
    let text = loose_files(loose)
        .map(|signatures| guide(export.trust.root(), &signatures))
        .map_err(say);
    let files = text.map(|text| {
        vec![LogFile {
            path: "VERIFY.md".to_owned(),
            bytes: text.into_bytes(),
        }]
    });
    again(export, "guide", files, report)
}

fn loose_match(dir: &Archive, loose: &Loose<'_>) -> Found<()> {
    let files = distinct(loose_files(loose).map_err(say)?);
    for file in &files {
        if dir.read(&file.path)? != file.bytes {
            return Err(format!(
                "{} is not what the envelopes hold: it was changed",
                file.path
            ));
        }
    }
    Ok(((), format!("{} files agree", files.len())))
}

/// The views of a drill say what its statement says.
pub(super) fn views(
    export: &Export<'_>,
    statement: &Statement,
    envelope: &Envelope,
    report: &mut VerifyReport,
) -> Option<()> {
    if !export.dir.has("views") {
        return Some(());
    }
    let index = export.result.proof.index;
    // A delay is in the page alone and comes from an entry of the log.
    let delay = match &export.log.entries {
        LogEntries::Whole(all) => waited(
            index,
            (0_u64..)
                .zip(all)
                .map(|(n, bytes)| (n.to_string(), Ok(bytes.as_slice()))),
        ),
        LogEntries::Some => export.dir.names("entries").and_then(|names| {
            let read = names.into_iter().map(|name| {
                let bytes = export.dir.read(&format!("entries/{name}"));
                (name, bytes)
            });
            waited(index, read)
        }),
        LogEntries::Hashes => Ok(None),
    };
    let derived = delay.and_then(|delay| {
        let shown = shown(statement, envelope, index, export.trust, delay);
        view::files(&shown).map_err(say)
    });
    again(export, "views", derived, report)
}

/// The page of a month says what its statement says. Earlier versions made none.
pub(super) fn coverage_page(
    export: &Export<'_>,
    statement: &CoverageStatement,
    report: &mut VerifyReport,
) -> Option<()> {
    if !export.dir.has("views") {
        return Some(());
    }
    let (envelope, index) = (&export.result.entry.envelope, export.result.proof.index);
    let shown = shown_coverage(statement, envelope, index, export.trust);
    let derived = view::coverage::file(&shown).map(|file| vec![file]);
    again(export, "views", derived.map_err(say), report)
}

/// How long the restore at `index` had waited, as one of `entries` says. One that cannot
/// be read may be the one that says it.
fn waited<B: AsRef<[u8]>>(
    index: u64,
    entries: impl Iterator<Item = (String, Result<B, String>)>,
) -> Result<Option<u64>, String> {
    for (name, bytes) in entries {
        let logged =
            LoggedEntry::parse(bytes?.as_ref()).map_err(|e| format!("entry {name} cannot be read: {e}"))?;
        if let Entry::Received(received) = logged.entry
            && received.entry == index
        {
            return Ok(Some(received.delay_ms));
        }
    }
    Ok(None)
}

/// Compares files with what they were derived to again.
pub(super) fn again(
    export: &Export<'_>,
    what: &'static str,
    derived: Result<Vec<LogFile>, String>,
    report: &mut VerifyReport,
) -> Option<()> {
    let files = match derived {
        Ok(files) => files,
        Err(why) => return report.step(what, Err(why)),
    };
    // All of them are looked at: each that is as it should be is covered.
    let others: Vec<&LogFile> = files
        .iter()
        .filter(|f| !export.dir.matches(&f.path, &f.bytes))
        .collect();
    match (others.first(), export.own_version) {
        (None, _) => {
            let detail = "what it says follows from what was signed".to_owned();
            report.step::<_, String>(what, Ok(((), detail)))
        }
        (Some(file), true) => {
            let why = format!("{} is not what the statement says: it was changed", file.path);
            report.step(what, Err(why))
        }
        (Some(_), false) => {
            report.note(
                what,
                "from another version, or changed; not checked: rely on statement.json",
            );
            Some(())
        }
    }
}
