//! How the drill sees the repository: as it is, or as the scenario says.
//!
//! A scenario may cut regions off and withhold the usual keys. Then the
//! repository is opened anew, through a [`View`] and with the escrow identity
//! alone, and the restore is planned anew from what is seen: on the worst day the
//! plan, too, is made of what is left. What fails here is a result of the drill,
//! because the intent is on record already.

use std::collections::BTreeSet;
use std::sync::Arc;

use holdfast_agent::ledger::Ledger;
use holdfast_agent::restore::{Access, Opening, plan_request};
use holdfast_plan::restore::{Request, RestorePlan};
use holdfast_proto::names::{RecipientRole, Region};
use holdfast_repository::clock;
use holdfast_repository::seal::Identities;

use super::{Chosen, DrillRequest, Measured, Runner};
use crate::checks::Check;
use crate::evidence::statement::results::{CheckClass, CheckResult};
use crate::view::View;

/// The repository as the drill sees it, and the plan made of that.
pub struct Sight {
    /// The repository, opened.
    pub access: Access,
    /// What it holds.
    pub ledger: Ledger,
    /// What is restored.
    pub plan: RestorePlan,
    /// How recovery opens the repository.
    pub opening: Opening,
    /// Through what it is seen; absent when it is seen as it is.
    pub view: Option<View>,
}

impl Sight {
    /// Whether recovery has to open the repository in a way of its own.
    pub fn is_special(&self) -> bool {
        self.opening.lens.is_some() || self.opening.identities.is_some()
    }
}

/// Opens the drill's eyes. `None` when nothing can be seen, which is in
/// `measured`.
pub async fn open(
    runner: &Runner,
    access: &Access,
    request: &DrillRequest,
    chosen: &Chosen,
    measured: &mut Measured,
) -> Option<Sight> {
    let scenario = &request.scenario;
    let aimed = request.aim.only_region.is_some();
    if !scenario.has_view() && !scenario.only_escrow && !aimed {
        return Some(Sight {
            access: access.clone(),
            ledger: chosen.ledger.clone(),
            plan: chosen.plan.clone(),
            opening: Opening::default(),
            view: None,
        });
    }
    let cut = cut(runner, request);
    let view = (scenario.has_view() || aimed).then(|| View::cutting(cut.clone()));
    let opening = Opening {
        lens: view.clone().map(|view| Arc::new(view) as _),
        identities: scenario.only_escrow.then(|| request.identities.clone()),
    };
    let fetch = &runner.fetch;
    let opened = opening
        .open(
            &fetch.repository,
            &fetch.trust_root,
            &request.cluster,
            &fetch.identities,
        )
        .await;
    let seen = Check::mandatory("repository-opens", CheckClass::Integrity);
    let opened = match opened {
        Ok(opened) => opened,
        Err(e) => {
            tracing::error!(err = %format!("{:#}", anyhow::Error::new(e)), "the repository does not open");
            measured.checks.push(seen.compared(false, "opened", "not opened"));
            return None;
        }
    };
    measured.checks.push(seen.compared(true, "opened", "opened"));
    measured.findings.extend(opened.findings().cloned());
    if scenario.only_escrow {
        measured.checks.push(escrow_alone(&opened, &request.identities));
    }
    let mut wanted = chosen.wanted.clone();
    wanted.accept_unreachable.extend(cut);
    let (plan, ledger) = replanned(&opened, request, &wanted, measured).await?;
    Some(Sight {
        access: opened,
        ledger,
        plan,
        opening,
        view,
    })
}

/// The regions that the scenario cuts off, and all but the one that the drill is to
/// prove.
fn cut(runner: &Runner, request: &DrillRequest) -> BTreeSet<Region> {
    let configured = runner.regions();
    let cut = request.scenario.view.cut.iter();
    let mut cut: BTreeSet<Region> = cut.flat_map(|choice| choice.of(&configured)).collect();
    if let Some(only) = &request.aim.only_region {
        cut.extend(configured.into_iter().filter(|region| region != only));
    }
    cut
}

async fn replanned(
    access: &Access,
    request: &DrillRequest,
    wanted: &Request,
    measured: &mut Measured,
) -> Option<(RestorePlan, Ledger)> {
    let check = Check::mandatory("plan", CheckClass::Recovery);
    let planned = plan_request(
        &access.repository,
        &access.trust,
        Some(&access.keyring),
        &request.cluster,
        wanted,
        clock::now(),
    )
    .await;
    match planned {
        Ok((plan, ledger)) => {
            measured.checks.push(check.compared(true, "planned", "planned"));
            Some((plan, ledger))
        }
        Err(e) => {
            tracing::error!(err = %format!("{:#}", anyhow::Error::new(e)), "what is seen leads to no plan");
            measured
                .checks
                .push(check.compared(false, "planned", "impossible"));
            None
        }
    }
}

/// The identities given are the escrow's, and every key that was opened is sealed
/// to them in that role.
fn escrow_alone(access: &Access, identities: &Identities) -> CheckResult {
    let check = Check::mandatory("escrow-alone", CheckClass::Integrity);
    let given: BTreeSet<String> = identities.iter().map(|i| i.recipient().to_string()).collect();
    let all = access.keyring.opened().count();
    let escrow = access
        .keyring
        .opened()
        .filter(|key| {
            let roles = key.sealed_to.iter().filter(|to| given.contains(&to.recipient));
            let roles: BTreeSet<RecipientRole> = roles.map(|to| to.role).collect();
            roles == BTreeSet::from([RecipientRole::Escrow])
        })
        .count();
    check.compared(
        escrow == all && all > 0,
        format!("{all} keys opened by escrow"),
        format!("{escrow} keys opened by escrow"),
    )
}

/// Whether the regions that are cut off were asked, and refused everything.
pub fn cut_off(view: &View) -> Option<CheckResult> {
    let regions: Vec<String> = view.cut().iter().map(ToString::to_string).collect();
    if regions.is_empty() {
        return None;
    }
    let check = Check::mandatory("region-cut-off", CheckClass::Isolation);
    let refused = view.refused();
    Some(check.compared(
        refused > 0,
        format!("every call to {} refused", regions.join(", ")),
        format!("{refused} calls refused"),
    ))
}
