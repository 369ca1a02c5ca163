//! `GET /cost` and `GET /v1/cost`: what is stored and asked for, by tenant.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use axum::{Extension, Json};
use holdfast_proto::Timestamp;
use holdfast_proto::message::RequestFacts;
use holdfast_proto::names::{ClusterId, Region, TenantName};
use serde::Serialize;
use utoipa::ToSchema;

use super::guard::Caller;
use super::pages::{People, visitor};
use super::problem::Refusal;
use super::routes::Route;
use crate::desk::{State as Facts, now};
use crate::loops::stored::{Amount, Lying, Stored};
use crate::page::{Moment, Visitor};

/// What is stored and asked for.
#[derive(Debug, Serialize, ToSchema)]
pub struct CostStatus {
    /// As of when.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Tenants that the caller sees clusters of, by name.
    tenants: Vec<TenantCost>,
}

/// A tenant's share: of those of its clusters that the caller sees.
#[derive(Debug, Serialize, ToSchema)]
pub struct TenantCost {
    /// The tenant.
    #[schema(value_type = String)]
    tenant: TenantName,
    /// Bytes stored, over all regions.
    bytes: u64,
    /// Objects stored, over all regions.
    objects: u64,
    /// Its clusters, by name.
    clusters: Vec<ClusterCost>,
}

/// A cluster's share.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClusterCost {
    /// The cluster.
    #[schema(value_type = String)]
    cluster: ClusterId,
    /// When its objects were counted; absent when they were not yet.
    #[schema(value_type = Option<String>, format = DateTime)]
    counted: Option<Timestamp>,
    /// Each region.
    regions: Vec<RegionCost>,
}

/// A cluster in a region.
#[derive(Debug, Serialize, ToSchema)]
pub struct RegionCost {
    /// The region.
    #[schema(value_type = String)]
    region: Region,
    /// WAL.
    wal: Option<AmountStatus>,
    /// Packs: what base backups, filestores and settings are made of.
    packs: Option<AmountStatus>,
    /// Everything that says what the rest is.
    records: Option<AmountStatus>,
    /// Why nothing was counted.
    uncounted: Option<String>,
    /// What the agent asked for since it began.
    asked: Option<AskedStatus>,
}

/// Objects and their bytes.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct AmountStatus {
    /// Objects.
    objects: u64,
    /// Their bytes.
    bytes: u64,
}

impl From<Amount> for AmountStatus {
    fn from(amount: Amount) -> Self {
        Self {
            objects: amount.objects,
            bytes: amount.bytes,
        }
    }
}

/// What an agent asked of a region for a cluster.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct AskedStatus {
    /// When the agent began to count, by its clock.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// Until when it was heard.
    #[schema(value_type = String, format = DateTime)]
    until: Timestamp,
    /// Objects stored, or attempts to.
    writes: u64,
    /// Objects read, in whole or in part, and looked at.
    reads: u64,
    /// Pages of listings, of a thousand names at most.
    lists: u64,
    /// Bytes sent in objects.
    sent: u64,
    /// Bytes received in objects.
    received: u64,
}

impl AskedStatus {
    fn of(facts: &RequestFacts, until: Timestamp) -> Self {
        let asked = facts.requests;
        Self {
            since: facts.since,
            until,
            writes: asked.writes,
            reads: asked.reads,
            lists: asked.lists,
            sent: asked.sent,
            received: asked.received,
        }
    }
}

/// Everything about the clusters that `sees` lets through.
fn cost(facts: &Facts, at: Timestamp, sees: impl Fn(&ClusterId) -> bool) -> CostStatus {
    let known: std::collections::BTreeSet<&ClusterId> = facts
        .surveys
        .keys()
        .chain(facts.reports.keys())
        .filter(|cluster| sees(cluster))
        .collect();
    let mut tenants: BTreeMap<&TenantName, TenantCost> = BTreeMap::new();
    for cluster in known {
        let stored = facts.stored.get(cluster);
        let tenant = tenants.entry(&cluster.tenant).or_insert_with(|| TenantCost {
            tenant: cluster.tenant.clone(),
            bytes: 0,
            objects: 0,
            clusters: Vec::new(),
        });
        for lying in stored.iter().flat_map(|stored| stored.regions.values()) {
            tenant.bytes += lying.all().bytes;
            tenant.objects += lying.all().objects;
        }
        let report = facts.reports.get(cluster);
        let asked: BTreeMap<&Region, AskedStatus> = report
            .iter()
            .flat_map(|report| {
                let requests = report.facts.requests.iter();
                requests.map(|facts| (&facts.region, AskedStatus::of(facts, report.heard)))
            })
            .collect();
        tenant.clusters.push(ClusterCost {
            cluster: cluster.clone(),
            counted: stored.map(|stored| stored.at),
            regions: regions(stored, &asked),
        });
    }
    CostStatus {
        at,
        tenants: tenants.into_values().collect(),
    }
}

fn regions(stored: Option<&Stored>, asked: &BTreeMap<&Region, AskedStatus>) -> Vec<RegionCost> {
    let none = BTreeMap::new();
    let lying: &BTreeMap<Region, Lying> = stored.map_or(&none, |stored| &stored.regions);
    let unlisted = stored.iter().flat_map(|stored| &stored.unlisted);
    let unlisted: BTreeMap<&Region, &String> = unlisted.collect();
    let names: std::collections::BTreeSet<&Region> = lying
        .keys()
        .chain(unlisted.keys().copied())
        .chain(asked.keys().copied())
        .collect();
    names
        .into_iter()
        .map(|region| RegionCost {
            region: region.clone(),
            wal: lying.get(region).map(|lying| lying.wal.into()),
            packs: lying.get(region).map(|lying| lying.packs.into()),
            records: lying.get(region).map(|lying| lying.records.into()),
            uncounted: unlisted.get(region).map(|why| (*why).clone()),
            asked: asked.get(region).copied(),
        })
        .collect()
}

/// What is stored and asked for, by tenant and cluster: the sums behind a store's bill.
#[utoipa::path(
    get,
    path = "/v1/cost",
    responses((status = 200, body = CostStatus, description = "What is stored and asked for"))
)]
pub async fn status(State(people): State<People>, Extension(caller): Extension<Caller>) -> Json<CostStatus> {
    Json(cost(&people.desk.state(), now(), |c| caller.reach.sees(c)))
}

/// The page.
#[derive(Template)]
#[template(path = "cost.html")]
struct CostPage {
    visitor: Visitor,
    coordinator: String,
    at: Moment,
    tenants: Vec<TenantRow>,
}

/// A tenant on it.
struct TenantRow {
    tenant: String,
    stored: String,
    objects: String,
    rows: Vec<Row>,
}

/// A cluster in a region on it.
struct Row {
    cluster: String,
    /// Rows of this cluster, in its first; 0 in the others.
    spans: usize,
    counted: Option<Moment>,
    region: String,
    stored: String,
    share: String,
    objects: String,
    uncounted: String,
    writes: String,
    reads: String,
    lists: String,
    moved: String,
    since: String,
}

/// The page.
pub async fn page(
    State(people): State<People>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Refusal> {
    let at = now();
    let status = cost(&people.desk.state(), at, |c| caller.reach.sees(c));
    let page = CostPage {
        visitor: visitor(&people, &caller, Route::CostPage),
        coordinator: people.desk.config.name.to_string(),
        at: Moment::of(at, at),
        tenants: status
            .tenants
            .iter()
            .map(|tenant| tenant_row(tenant, at))
            .collect(),
    };
    let page = page
        .render()
        .map_err(|e| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    Ok(Html(page).into_response())
}

fn tenant_row(tenant: &TenantCost, at: Timestamp) -> TenantRow {
    TenantRow {
        tenant: tenant.tenant.to_string(),
        stored: bytes(tenant.bytes),
        objects: number(tenant.objects),
        rows: tenant
            .clusters
            .iter()
            .flat_map(|cluster| rows(cluster, at))
            .collect(),
    }
}

fn rows(cluster: &ClusterCost, at: Timestamp) -> Vec<Row> {
    let name = cluster.cluster.cluster.to_string();
    let counted = cluster.counted.map(|counted| Moment::of(counted, at));
    let spans = cluster.regions.len();
    if spans == 0 {
        return vec![Row::empty(name, counted)];
    }
    let regions = cluster.regions.iter().enumerate();
    regions
        .map(|(n, region)| {
            let mut row = Row::empty(if n == 0 { name.clone() } else { String::new() }, None);
            row.spans = if n == 0 { spans } else { 0 };
            if n == 0 {
                row.counted.clone_from(&counted);
            }
            row.region = region.region.to_string();
            row.uncounted = region.uncounted.clone().unwrap_or_default();
            if let (Some(wal), Some(packs), Some(records)) = (region.wal, region.packs, region.records) {
                row.stored = bytes(wal.bytes + packs.bytes + records.bytes);
                row.objects = number(wal.objects + packs.objects + records.objects);
                row.share = format!(
                    "{} WAL, {} packs, {} records",
                    bytes(wal.bytes),
                    bytes(packs.bytes),
                    bytes(records.bytes)
                );
            }
            if let Some(asked) = region.asked {
                let days = asked.until.millis_since(asked.since) as f64 / 86_400_000.0;
                let daily = |n: u64| {
                    // Of an agent that began a moment ago nothing can be said by the day.
                    (days > 1.0 / 24.0).then(|| n as f64 / days)
                };
                let shown = |n: u64| match daily(n) {
                    Some(daily) => number(daily.round() as u64),
                    None => format!("{} so far", number(n)),
                };
                row.writes = shown(asked.writes);
                row.reads = shown(asked.reads);
                row.lists = shown(asked.lists);
                row.moved = match (daily(asked.sent), daily(asked.received)) {
                    (Some(sent), Some(received)) => {
                        format!("{} sent, {} received", bytes(sent as u64), bytes(received as u64))
                    }
                    _ => format!("{} sent, {} received", bytes(asked.sent), bytes(asked.received)),
                };
                row.since = Moment::of(asked.since, at).ago;
            }
            row
        })
        .collect()
}

impl Row {
    fn empty(cluster: String, counted: Option<Moment>) -> Self {
        Self {
            cluster,
            spans: 1,
            counted,
            region: String::new(),
            stored: String::new(),
            share: String::new(),
            objects: String::new(),
            uncounted: String::new(),
            writes: String::new(),
            reads: String::new(),
            lists: String::new(),
            moved: String::new(),
            since: String::new(),
        }
    }
}

/// Bytes in the unit that keeps them short, by powers of ten as stores bill them.
fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{n} B"),
        _ if value < 9.995 => format!("{value:.2} {}", UNITS[unit]),
        _ if value < 99.95 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// A number with its thousands apart.
fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_written_for_people() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_000), "1.00 kB");
        assert_eq!(bytes(999_600), "1.00 MB");
        assert_eq!(bytes(12_340_000_000), "12.3 GB");
        assert_eq!(bytes(4_560_000_000_000_000), "4560 TB");
        assert_eq!(number(7), "7");
        assert_eq!(number(1_234_567), "1,234,567");
        assert_eq!(number(123_456), "123,456");
    }
}
