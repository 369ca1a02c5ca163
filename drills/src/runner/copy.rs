//! The copy: restored by the production restore, recovered in isolation,
//! looked at, stopped.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use holdfast_agent::reference;
use holdfast_agent::restore::relay::Relay;
use holdfast_agent::restore::{self, FetchBy, Options, Outcome, Purpose, Target, fetch};
use holdfast_proto::Timestamp;
use holdfast_proto::names::PointId;
use holdfast_proto::pg::{Lsn, TimelineHistory, TimelineId};
use holdfast_repository::clock;

use super::{DrillRequest, Measured, Runner, Say, Sight};
use crate::checks::{Check, foreign_keys, programs, queries, reconciliation, references, structure};
use crate::evidence::statement::Level;
use crate::evidence::statement::recovery::Phase;
use crate::evidence::statement::results::{CheckClass, CheckResult};
use crate::scenario::Played;
use crate::scratch::{Isolation, PrivateServer, ServerOptions};

/// The end of a record may lie before the start of the next by a page header
/// and alignment.
const PAGE_HEADER: u64 = 48;

/// What a copy is made of.
pub struct Copy<'a> {
    pub runner: &'a Runner,
    pub request: &'a DrillRequest,
    pub sight: &'a Sight,
    pub isolation: &'a Isolation,
    pub played: &'a Played,
    /// The joint recovery point that is restored to, when it is one.
    pub fence: Option<PointId>,
}

impl Copy<'_> {
    /// Restores, recovers, checks. What fails is in `measured`.
    pub async fn prove(&self, space: &Path, measured: &mut Measured, say: Say<'_>) {
        say("restoring");
        let Some(outcome) = self.restore(space, measured).await else {
            return;
        };
        say("recovering the copy in isolation");
        let recovered = self.recover(space, &outcome, measured).await;
        // Recovery fetches by itself: what it met on the way is noted beside its pin.
        let notes = outcome.pin.parent().unwrap_or(space);
        measured.findings.extend(fetch::read_findings(notes));
        let Some((mut server, relay)) = recovered else {
            return;
        };
        say("checking the copy");
        measured.begin(Phase::Checks);
        self.check(&server, space, measured).await;
        self.use_it(&server, space, measured, say).await;
        if let Err(e) = server.check_alive() {
            measured.note_broken("copy-stays-up", &e);
        }
        match server.stop(Duration::from_secs(120)).await {
            Ok(()) => self.check_stopped(space, measured).await,
            Err(e) => measured.note_broken("copy-stops", &e),
        }
        drop(relay);
        let checks = measured.checks.len() as u64;
        measured.end(Phase::Checks, None, Some(checks));
    }

    /// Whether nothing is left but the second region and the escrow's keys: then
    /// the settings come out of the bundles, too.
    fn is_dark(&self) -> bool {
        self.request.scenario.level == Level::L5
    }

    /// How recovery fetches WAL. Who sees the repository in a way of their own
    /// does so over the relay alone: a process that fetched ahead would see it as
    /// it is, and would need the identity in a file.
    fn fetch_by(&self) -> FetchBy {
        let mut fetch = self.runner.fetch.clone();
        if self.sight.is_special() {
            fetch.prefetch = 0;
        }
        if self.sight.opening.identities.is_some() {
            fetch.identities.clear();
        }
        fetch
    }

    fn major(&self) -> u32 {
        self.sight.plan.base.version_num / 10_000
    }

    async fn restore(&self, space: &Path, measured: &mut Measured) -> Option<Outcome> {
        let check = Check::mandatory("restore", CheckClass::Recovery).data_proving();
        let target = Target {
            data: space.join("data"),
            tablespaces_under: Some(space.join("tablespaces")),
            filestores: self
                .sight
                .plan
                .filestores
                .iter()
                .map(|f| {
                    (
                        f.filestore.clone(),
                        space.join("filestores").join(f.filestore.as_str()),
                    )
                })
                .collect(),
            config: self.is_dark().then(|| space.join("settings")),
            secrets: self.is_dark().then(|| space.join("secrets")),
            ..Target::default()
        };
        let mut options = Options::new(self.fetch_by());
        options.purpose = Purpose::Drill;
        match restore::execute(&self.sight.plan, &self.sight.access, &target, &options).await {
            Ok(outcome) => {
                for phase in &outcome.phases {
                    measured.restored(phase);
                }
                measured.findings.extend(outcome.findings.iter().cloned());
                let files = outcome.files.to_string();
                measured
                    .checks
                    .push(check.compared(outcome.files > 0, "files", files));
                if self.is_dark() {
                    let secrets = self.sight.plan.secrets.is_some();
                    measured.checks.push(settings_restored(space, secrets));
                }
                Some(outcome)
            }
            Err(e) => {
                tracing::error!(err = %e, "the restore failed");
                measured
                    .checks
                    .push(check.compared(false, "restored", "the restore failed"));
                None
            }
        }
    }

    async fn recover(
        &self,
        space: &Path,
        outcome: &Outcome,
        measured: &mut Measured,
    ) -> Option<(PrivateServer, Relay)> {
        let check = Check::mandatory("recovery", CheckClass::Recovery).data_proving();
        let started = clock::now();
        match self.start(space, outcome).await {
            Ok((server, relay)) => {
                let promoted = clock::now();
                let log = std::fs::read_to_string(server.log_path()).unwrap_or_default();
                // The log says when replay ended; without that line all of it was replay.
                let replayed = line_time(&log, "redo done at")
                    .unwrap_or(promoted)
                    .min(promoted)
                    .max(started);
                measured.phase(
                    Phase::WalReplay,
                    started,
                    replayed,
                    Some(self.sight.plan.replay.bytes),
                );
                measured.phase(Phase::Promote, replayed, promoted, None);
                measured.checks.push(check.compared(true, "promoted", "promoted"));
                self.check_target(&server, &log, measured).await;
                Some((server, relay))
            }
            Err(e) => {
                tracing::error!(err = %e, "the copy did not recover");
                measured
                    .checks
                    .push(check.compared(false, "promoted", "the copy did not recover"));
                None
            }
        }
    }

    async fn start(&self, space: &Path, outcome: &Outcome) -> anyhow::Result<(PrivateServer, Relay)> {
        let data = space.join("data");
        // Where the source keeps its configuration outside of the data directory
        // the copy has none, and none is wanted.
        for name in ["postgresql.conf", "pg_ident.conf"] {
            if !data.join(name).exists() {
                std::fs::write(data.join(name), "")?;
            }
        }
        let relay = Relay::start(
            space.join("relay"),
            outcome.pin.clone(),
            data.clone(),
            self.sight.opening.clone(),
        )?;
        let program = self.runner.fetch.program.display();
        let restore_command = format!(
            "'{program}' wal fetch %f \"%p\" --pin '{}' --through '{}'",
            outcome.pin.display(),
            relay.socket().display()
        );
        let mut settings: BTreeMap<&str, String> =
            NEUTRAL.iter().map(|(n, v)| (*n, (*v).to_owned())).collect();
        settings.insert("restore_command", restore_command);
        settings.insert("ident_file", data.join("pg_ident.conf").display().to_string());
        let options = ServerOptions {
            data,
            run: space.join("run"),
            major: self.major(),
            superuser: self.request.superuser.clone(),
            settings: settings.into_iter().map(|(n, v)| (n.to_owned(), v)).collect(),
        };
        let mut server = PrivateServer::start(options, self.isolation.clone())?;
        server.wait_ready(true, self.request.limit).await?;
        Ok((server, relay))
    }

    /// Recovery reached *the* target: where the new timeline begins, and which
    /// transaction was the last.
    async fn check_target(&self, server: &PrivateServer, log: &str, measured: &mut Measured) {
        let replay = &self.sight.plan.replay;
        let check = Check::mandatory("target-reached", CheckClass::Recovery).data_proving();
        let mut at_target = false;
        match new_timeline_begin(server).await {
            Ok(begin) => {
                measured.reached = Some(begin);
                let short = replay.target_lsn.bytes_since(begin);
                let reached = if replay.inclusive {
                    begin > replay.target_lsn && begin <= replay.frontier
                } else {
                    short.is_some_and(|bytes| bytes <= PAGE_HEADER)
                };
                at_target = reached;
                let wanted = if replay.inclusive { "after" } else { "just before" };
                measured.checks.push(check.compared(
                    reached,
                    format!("{wanted} {}", replay.target_lsn),
                    begin,
                ));
            }
            Err(e) => measured.checks.push(check.could_not_run(&e)),
        }
        let Some(expected) = replay.last_commit else {
            return;
        };
        if replay.inclusive && expected.lsn == replay.target_lsn {
            // PostgreSQL ends replay behind this very record before it notes the
            // record's time: that the target was reached is the proof.
            measured.last_commit = at_target.then_some(expected);
            return;
        }
        let check = Check::mandatory("last-transaction", CheckClass::Recovery).data_proving();
        match last_transaction(log) {
            Some(time) => {
                measured.last_commit = (time == expected.time).then_some(expected);
                measured
                    .checks
                    .push(check.compared(time == expected.time, expected.time, time));
            }
            None => measured
                .checks
                .push(check.could_not_run(&"PostgreSQL's log does not name it")),
        }
    }

    async fn check(&self, server: &PrivateServer, space: &Path, measured: &mut Measured) {
        if let Err(e) = queries::make_role(server).await {
            measured.note_broken("query-role", &e);
        }
        measured
            .checks
            .push(structure::version(server, self.sight.plan.base.version_num, self.played.major).await);
        let found = structure::collations(server).await;
        measured.checks.push(found);
        let found = structure::extensions(server).await;
        measured.checks.push(found);
        let mut database = std::mem::take(&mut measured.database);
        let found = structure::amcheck(server, &mut database).await;
        measured.database = database;
        measured.checks.push(found);
        measured.checks.push(foreign_keys::check(server).await);
        if self.request.scenario.level >= Level::L3 {
            for files in &self.sight.plan.filestores {
                let root = space.join("filestores").join(files.filestore.as_str());
                let name = &files.filestore;
                let database = self.request.databases.get(name).map(String::as_str);
                let mut counted = measured.filestore.unwrap_or_default();
                let found = references::closure(server, name, database, &root, &mut counted).await;
                measured.filestore = Some(counted);
                measured.checks.push(found);
            }
        }
        for query in &self.played.queries {
            let found = queries::run(server, query).await;
            measured.checks.push(found);
        }
        self.reconcile(server, measured).await;
    }

    /// Compares with what the source said at the fence. From L4 on it must have
    /// said something.
    async fn reconcile(&self, server: &PrivateServer, measured: &mut Measured) {
        let missing =
            |why: &str| Check::mandatory("reconciliation", CheckClass::Application).could_not_run(&why);
        let demanded = self.request.scenario.level >= Level::L4;
        let point = self.fence.and_then(|id| {
            let mut lineages = self.sight.ledger.facts.lineages.iter();
            lineages.find_map(|l| l.points.iter().find(|p| p.id == id))
        });
        let Some(point) = point else {
            if demanded {
                let why = "values of the source belong to joint recovery points: let the scenario say moment = \"fence\"";
                measured.checks.push(missing(why));
            }
            return;
        };
        match reference::open(&self.sight.access, &point.link).await {
            Ok(Some(values)) => {
                let mut agreed = std::mem::take(&mut measured.database.reconciliation);
                let found = reconciliation::run(server, &values, &mut agreed).await;
                measured.database.reconciliation = agreed;
                measured.checks.push(found);
            }
            Ok(None) if demanded => {
                let why = "the agent recorded no values at the point: add [[cluster.reference]] to its configuration";
                measured.checks.push(missing(why));
            }
            Ok(None) => {}
            Err(e) => measured.checks.push(missing(&e.to_string())),
        }
    }

    /// The scenario's programs use the copy. They may write: everything that only
    /// looks has looked.
    async fn use_it(&self, server: &PrivateServer, space: &Path, measured: &mut Measured, say: Say<'_>) {
        if self.played.programs.is_empty() {
            return;
        }
        say("using the copy as the application does");
        measured.begin(Phase::AppStart);
        let filestores = self.sight.plan.filestores.iter().map(|f| {
            let name = f.filestore.clone();
            let directory = space.join("filestores").join(name.as_str());
            (name, directory)
        });
        let given = programs::Given {
            server,
            isolation: self.isolation.clone(),
            space,
            filestores: filestores.collect(),
        };
        for program in &self.played.programs {
            let found = programs::run(&given, program).await;
            measured.checks.push(found);
        }
        measured.end(Phase::AppStart, None, Some(self.played.programs.len() as u64));
    }

    async fn check_stopped(&self, space: &Path, measured: &mut Measured) {
        let (data, major) = (space.join("data"), self.major());
        let mut database = std::mem::take(&mut measured.database);
        let work = tokio::task::spawn_blocking(move || {
            let found = vec![
                structure::control_file(&data, major),
                structure::page_checksums(&data, major, &mut database),
            ];
            (found, database)
        });
        match work.await {
            Ok((found, database)) => {
                measured.database = database;
                measured.checks.extend(found);
            }
            Err(e) => measured.note_broken("page-checksums", &e),
        }
    }
}

/// What the bundles hold lies in the space: settings, and secrets if there is such
/// a bundle.
fn settings_restored(space: &Path, secrets: bool) -> CheckResult {
    let check = Check::mandatory("settings-restored", CheckClass::Recovery).data_proving();
    let unpacked = |name: &str| space.join(name).join("files").is_dir();
    let word = |there: bool| if there { "unpacked" } else { "missing" };
    let (settings, opened) = (unpacked("settings"), unpacked("secrets"));
    check.compared(
        settings && (opened || !secrets),
        if secrets {
            "settings and secrets"
        } else {
            "settings"
        },
        format!("settings {}, secrets {}", word(settings), word(opened)),
    )
}

/// What keeps a copy from acting on the world: nothing is archived, no
/// subscription and no scheduled job runs, no library of the source is loaded.
const NEUTRAL: &[(&str, &str)] = &[
    ("archive_mode", "off"),
    ("autovacuum", "off"),
    ("hot_standby", "off"),
    ("log_line_prefix", "%m [%p] "),
    ("log_min_messages", "warning"),
    ("log_timezone", "UTC"),
    ("max_logical_replication_workers", "0"),
    ("shared_preload_libraries", ""),
    ("ssl", "off"),
    ("synchronous_standby_names", ""),
    ("timezone", "UTC"),
];

async fn new_timeline_begin(server: &PrivateServer) -> anyhow::Result<Lsn> {
    let client = server.connect("postgres").await?;
    let row = client
        .query_one(
            "SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())",
            &[],
        )
        .await?;
    let name: String = row.get(0);
    let timeline =
        TimelineId::parse_fixed(&name[..8]).ok_or_else(|| anyhow::anyhow!("no timeline in {name}"))?;
    let file = format!("pg_wal/{}", timeline.history_file());
    let text: String = client
        .query_one("SELECT pg_catalog.pg_read_file($1)", &[&file])
        .await?
        .get(0);
    TimelineHistory::parse(timeline, &text)?
        .begin()
        .ok_or_else(|| anyhow::anyhow!("timeline {timeline} has no parent: it was not recovered to"))
}

/// The time of the last transaction that recovery replayed, from its log.
fn last_transaction(log: &str) -> Option<Timestamp> {
    let (_, rest) = log.rsplit_once("last completed transaction was at log time ")?;
    rest.lines().next()?.parse().ok()
}

/// When the last line that contains `what` was written.
fn line_time(log: &str, what: &str) -> Option<Timestamp> {
    let line = log.lines().rev().find(|l| l.contains(what))?;
    format!("{}Z", line.get(..23)?).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_postgres_says_of_recovery() {
        let log = "2026-11-21 23:01:02.003 UTC [7] LOG:  redo done at 0/5000148 system usage: ...\n\
                   2026-11-21 23:01:02.004 UTC [7] LOG:  last completed transaction was at log time 2026-11-21 22:59:58.123456+00\n";
        assert_eq!(
            line_time(log, "redo done at").unwrap().to_string(),
            "2026-11-21T23:01:02.003000Z"
        );
        assert_eq!(
            last_transaction(log).unwrap().to_string(),
            "2026-11-21T22:59:58.123456Z"
        );
        assert_eq!(last_transaction("nothing"), None);
    }
}
