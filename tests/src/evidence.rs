//! An evidence log without drills: a repository, a runner's and a coordinator's
//! keys, and entries as they would write them.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use bytes::Bytes;
use holdfast_drills::evidence::entry::{Due, Entry, IntendedRecovery, Intent, LoggedEntry, Member};
use holdfast_drills::evidence::statement::recovery::RecoveryTarget;
use holdfast_drills::evidence::statement::{DrillKind, Level, Statement};
use holdfast_drills::keeper::{EvidenceKeeper, EvidenceKeys, EvidencePass, EvidencePassError};
use holdfast_drills::log::DrillLog;
use holdfast_proto::Timestamp;
use holdfast_proto::names::DrillId;
use holdfast_proto::record::TrustRole;
use holdfast_repository::evidence::EvidenceStore;
use holdfast_repository::signing::SigningKey;
use serde_json::{Value, json};

use crate::vault::Vault;

/// Between the drills of [`policy`], in milliseconds.
pub const WEEK: u64 = 7 * 86_400_000;

/// A repository, everybody's keys, and a coordinator's keeper.
pub struct EvidenceScene {
    /// The repository.
    pub vault: Vault,
    /// The runner's key.
    pub runner: SigningKey,
    /// The coordinator's keys.
    pub keys: EvidenceKeys,
    /// The coordinator's keeper.
    pub keeper: EvidenceKeeper,
}

/// Noon of a day of 2026, as `11-21`.
pub fn day(text: &str) -> Timestamp {
    format!("2026-{text}T12:00:00Z").parse().expect("a day")
}

/// A policy that asks each cluster for a drill a week.
pub fn policy(clusters: &[&str]) -> BTreeMap<holdfast_proto::names::TenantName, Vec<Member>> {
    let member = |cluster: &&str| Member {
        cluster: cluster.parse().expect("a cluster"),
        tier: "gold".parse().expect("a tier"),
        drills: vec![Due {
            scenario: "accidental-deletion".parse().expect("a scenario"),
            level: Level::L3,
            every_ms: WEEK,
        }],
    };
    let mut tenants: BTreeMap<_, Vec<Member>> = BTreeMap::new();
    for member in clusters.iter().map(member) {
        let tenant = member.cluster.tenant.clone();
        tenants.entry(tenant).or_default().push(member);
    }
    tenants
}

impl EvidenceScene {
    /// A repository of two regions, with everybody enrolled.
    pub async fn new() -> Result<Self> {
        let vault = Vault::new(2).await?;
        let (runner, log) = (SigningKey::generate_ed25519()?, SigningKey::generate_ed25519()?);
        let coordinator = SigningKey::generate_p256()?;
        vault.enrol("runner-1", TrustRole::Runner, &runner).await?;
        vault
            .enrol("coordinator-1", TrustRole::Coordinator, &coordinator)
            .await?;
        vault
            .enrol("coordinator-1-log", TrustRole::Coordinator, &log)
            .await?;
        Ok(Self {
            vault,
            runner,
            keys: EvidenceKeys { coordinator, log },
            keeper: EvidenceKeeper::of(policy(&["acme/erp"])),
        })
    }

    /// The coordinator's keeper has its turn at `now`.
    pub async fn pass(&mut self, now: Timestamp) -> Result<EvidencePass, EvidencePassError> {
        let trust = self.vault.trust().await.expect("a trust chain");
        self.keeper
            .pass(&self.vault.repository, &trust, &self.keys, now)
            .await
    }

    /// The log, as a drill or an operator opens it.
    pub async fn log(&self) -> Result<DrillLog> {
        Ok(DrillLog::open(&self.vault.repository, &self.vault.trust().await?).await?)
    }

    /// Logs an intent, as its runner would; its deadline is an hour later.
    pub async fn announce(&self, at: Timestamp) -> Result<u64> {
        let log = self.log().await?;
        let sequence = log.sequence(&self.vault.cluster).await?;
        let intent = Intent {
            drill: DrillId::from_parts(at, sequence.next.into()),
            slot: None,
            cluster: self.vault.cluster.clone(),
            sequence: sequence.next,
            previous: sequence.previous,
            kind: DrillKind::Scheduled,
            level: Level::L3,
            scenario: "accidental-deletion".parse()?,
            recovery: IntendedRecovery {
                target: RecoveryTarget::Latest,
                base: None,
                point: None,
            },
            seed: None,
            at,
            deadline: at.plus_millis(3_600_000),
        };
        let entry = LoggedEntry::sign(&intent, &self.runner)?;
        Ok(log.store().append(Bytes::copy_from_slice(entry.bytes())).await?)
    }

    /// A statement of a restore at `at`, in the words of the format, by `signer`.
    pub fn restore(
        &self,
        at: Timestamp,
        signer: &SigningKey,
        change: impl FnOnce(&mut Value),
    ) -> Result<LoggedEntry> {
        let mut value = json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{ "name": "base-backup", "digest": { "sha256": "ab".repeat(32) } }],
            "predicateType": "https://holdfast.dev/recovery-drill/v1",
            "predicate": {
                "drill": { "id": DrillId::from_parts(at, 7), "sequence": 0, "kind": "REAL_RESTORE", "level": "L2",
                           "scenario": "restore" },
                "scope": { "tenant": "acme", "cluster": "erp" },
                "actors": { "runner": { "identity": "runner-1", "key": signer.fingerprint(), "version": "0.1.0" } },
                "timings": { "phases": [{ "phase": "BASE_FETCH", "start": at, "end": at.plus_millis(5000) }] },
                "results": { "verdict": "COULD_NOT_VERIFY", "reasons": ["nothing was checked"] },
            },
        });
        change(&mut value);
        let statement: Statement = serde_json::from_value(value)?;
        Ok(LoggedEntry::sign_result(&statement, signer)?)
    }

    /// Leaves a restore's statement to be logged.
    pub async fn leave(&self, entry: &LoggedEntry) -> Result<()> {
        let Entry::Result(statement) = &entry.entry else {
            anyhow::bail!("no result");
        };
        let bytes = Bytes::copy_from_slice(entry.bytes());
        let copies =
            EvidenceStore::put_pending(&self.vault.repository, statement.predicate.drill.id, bytes).await?;
        ensure!(copies == 2, "{copies} replicas took it");
        Ok(())
    }
}
