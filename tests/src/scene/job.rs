//! A restore as a value that another process carries out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use holdfast_agent::restore::{FetchBy, Options, Target};
use holdfast_plan::restore::RestorePlan;
use holdfast_proto::Fingerprint;
use holdfast_proto::names::FilestoreName;
use holdfast_repository::RepositoryConfig;
use serde::{Deserialize, Serialize};

use super::Scene;

/// All that a restore is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct RestoreJob {
    /// What to do.
    pub plan: RestorePlan,
    data: PathBuf,
    tablespaces: Option<PathBuf>,
    filestores: BTreeMap<FilestoreName, PathBuf>,
    repository: RepositoryConfig,
    trust_root: Fingerprint,
    identities: Vec<PathBuf>,
    program: PathBuf,
    check_room: bool,
}

impl RestoreJob {
    /// Where to.
    pub fn target(&self) -> Target {
        Target {
            data: self.data.clone(),
            tablespaces_under: self.tablespaces.clone(),
            filestores: self.filestores.clone(),
            ..Target::default()
        }
    }

    /// Where from.
    pub fn fetch(&self) -> FetchBy {
        FetchBy {
            repository: self.repository.clone(),
            trust_root: self.trust_root,
            identities: self.identities.clone(),
            program: self.program.clone(),
            prefetch: 3,
            restore_command: None,
        }
    }

    /// How.
    pub fn options(&self) -> Options {
        let mut options = Options::new(self.fetch());
        options.threads = 2;
        options.check_room = self.check_room;
        options
    }
}

impl Scene {
    /// Writes a job for `plan` into the target `name`, and the command that
    /// carries it out.
    pub async fn job(&self, plan: RestorePlan, name: &str, check_room: bool) -> Result<(PathBuf, Command)> {
        let target = self.target(name);
        self.job_to(plan, target, name, check_room).await
    }

    /// As [`Scene::job`], with any target.
    pub async fn job_to(
        &self,
        plan: RestorePlan,
        target: Target,
        name: &str,
        check_room: bool,
    ) -> Result<(PathBuf, Command)> {
        let fetch = self.options().await?.fetch;
        let job = RestoreJob {
            plan,
            data: target.data,
            tablespaces: target.tablespaces_under,
            filestores: target.filestores,
            repository: fetch.repository,
            trust_root: fetch.trust_root,
            identities: fetch.identities,
            program: fetch.program.clone(),
            check_room,
        };
        let path = self.vault.dir().join(format!("{name}.job.json"));
        std::fs::write(&path, serde_json::to_vec(&job)?)?;
        let mut command = Command::new(fetch.program);
        command.arg("restore").arg(&path);
        Ok((path, command))
    }
}
