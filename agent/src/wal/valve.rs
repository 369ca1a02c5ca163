//! The disk valve: WAL that waits for the replicas must not fill the server's disk.
//!
//! A store that is out of reach is weathered by the slot, and the slot holds WAL
//! for as long as that takes: until the volume is full and the server stops.
//! Before that the valve opens, in two steps:
//!
//! 1. *One copy*: the server may remove what a single replica holds, whatever the
//!    tier asks for. What counts as acknowledged does not change, so the RPO that
//!    is measured stays the true one.
//! 2. *Given up*: the slot is dropped. What the server removes before it was
//!    stored is a gap, and a new base backup follows it. The line rests until a
//!    replica takes WAL again, so that no new slot fills the rest of the disk.
//!
//! Both are findings from the moment at which they happen. Where the server has a
//! `max_slot_wal_keep_size` of its own, the first step is taken in time for it.
//!
//! What to do is decided by [`next`], which is pure; [`watch`] looks and does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_proto::finding::Severity;
use holdfast_proto::record::GapCause;
use holdfast_repository::replica::explained;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};

use super::shared::Shared;
use super::unheld::keep;
use crate::postgres::{PgError, PgTarget, ReplicationConnection, SlotName, sql_connect};
use crate::state::Record;

/// What the slot holds below this is not what fills a disk.
const HEAVY: u64 = 128 << 20;
/// How far the volume must be below the first limit before the valve shuts.
const CALM: u32 = 3;
/// How little the copies that the tier asks for may lack before the valve shuts.
const CAUGHT_UP: u64 = 16 << 20;
/// How long what the server said about its disk is believed.
const SETTINGS_LAST: Duration = Duration::from_secs(300);

/// The data directory, what a slot may hold, and what ours holds.
const LOOK: &str = "SELECT (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'data_directory'), \
     (SELECT setting::pg_catalog.int8 FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size'), \
     (SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn)::pg_catalog.int8 \
      FROM pg_catalog.pg_replication_slots WHERE slot_name = $1)";

/// When the valve opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValveLimits {
    /// Percent of the volume in use at which one copy is enough.
    pub one_copy_at: u32,
    /// Percent of the volume in use at which the slot is given up.
    pub give_up_at: u32,
    /// Time between two looks.
    pub every: Duration,
    /// Bytes that the slot must hold for the valve to be of use.
    pub heavy: u64,
}

impl Default for ValveLimits {
    fn default() -> Self {
        Self {
            one_copy_at: 80,
            give_up_at: 90,
            every: Duration::from_secs(5),
            heavy: HEAVY,
        }
    }
}

/// What the valve works with.
#[derive(Debug, Clone, Default)]
pub struct Valve {
    /// When it opens.
    pub limits: ValveLimits,
    /// The data directory as the agent sees it, when that is not what the server says.
    pub data_directory: Option<PathBuf>,
}

/// How far the valve is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Position {
    /// The tier's copies are waited for.
    #[default]
    Shut,
    /// One replica is enough; when that began, or was looked at last, the slot
    /// held so many bytes.
    OneCopy {
        /// Bytes that the slot held.
        held: u64,
    },
    /// The slot is dropped.
    GivenUp,
}

/// What the decision is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pressure {
    /// Percent of the volume in use that `pg_wal` is on; `None` when the agent
    /// does not see it.
    volume: Option<u32>,
    /// Percent used of what the server lets a slot hold; `None` without a limit.
    budget: Option<u32>,
    /// Bytes of WAL that the slot holds.
    held: u64,
    /// Bytes that the tier's copies lack of what the best replica has; `None`
    /// when one of them is unknown.
    lacking: Option<u64>,
    /// Whether a replica has taken all that was handed over.
    flows: bool,
}

impl Pressure {
    fn most(&self) -> u32 {
        self.volume.max(self.budget).unwrap_or(0)
    }
}

fn next(position: Position, limits: &ValveLimits, pressure: &Pressure) -> Position {
    let heavy = pressure.held >= limits.heavy;
    let held = pressure.held;
    match position {
        Position::GivenUp if pressure.flows => Position::Shut,
        Position::GivenUp => Position::GivenUp,
        Position::Shut if heavy && pressure.most() >= limits.one_copy_at => Position::OneCopy { held },
        Position::Shut => Position::Shut,
        // A slot that holds less than before is being emptied; the room comes
        // with the server's next checkpoint.
        Position::OneCopy { held: before }
            if heavy && held >= before && pressure.volume >= Some(limits.give_up_at) =>
        {
            Position::GivenUp
        }
        Position::OneCopy { .. } => {
            let calm = pressure.most() + CALM <= limits.one_copy_at || !heavy;
            let caught_up = pressure.lacking.is_some_and(|bytes| bytes <= CAUGHT_UP);
            if calm && caught_up {
                Position::Shut
            } else {
                Position::OneCopy { held }
            }
        }
    }
}

/// Looks after the valve for ever.
pub(super) async fn watch(
    shared: Arc<Shared>,
    target: PgTarget,
    slot: SlotName,
    valve: Valve,
    unheld: Record,
) {
    let mut looks = interval(valve.limits.every);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watcher = Watcher {
        shared,
        target,
        slot,
        valve,
        unheld,
        settings: None,
    };
    loop {
        looks.tick().await;
        match watcher.turn().await {
            Ok(()) => watcher.blind(None),
            // A server that is away is the line's finding, and writes no WAL that
            // anybody knows of.
            Err(error) if watcher.streams() => watcher.blind(Some(&explained(&error))),
            Err(error) => tracing::info!(err = %error, "the disk valve could not be looked after"),
        }
    }
}

/// What the server says about its disk.
#[derive(Debug)]
struct Settings {
    pg_wal: Option<PathBuf>,
    /// Bytes that a slot may hold; `None` without a limit.
    most_held: Option<u64>,
    read: Instant,
}

struct Watcher {
    shared: Arc<Shared>,
    target: PgTarget,
    slot: SlotName,
    valve: Valve,
    unheld: Record,
    settings: Option<Settings>,
}

/// Looks after the valve for as long as no line runs, because the repository cannot be
/// reached or what begins a line fails: nothing takes WAL, so the second step is all
/// there is to do. Returns why the slot was given up, and runs for ever while it is not.
pub async fn watch_alone(target: &PgTarget, slot: &SlotName, valve: &Valve, unheld: &Record) -> String {
    // Not at once: what begins a line mostly succeeds, and then another one looks.
    let mut looks = interval_at(Instant::now() + valve.limits.every, valve.limits.every);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // One copy is no choice while there is none.
    let mut position = Position::OneCopy { held: 0 };
    loop {
        looks.tick().await;
        let seen = match observe(target, slot, valve).await {
            Ok((settings, held)) => Pressure {
                volume: settings.pg_wal.as_deref().and_then(in_use),
                budget: settings.most_held.map(|most| percent(held, most)),
                held,
                lacking: None,
                flows: false,
            },
            Err(error) => {
                tracing::debug!(err = %explained(&error), "the disk valve could not be looked after");
                continue;
            }
        };
        position = next(position, &valve.limits, &seen);
        if position == Position::GivenUp {
            // Before it happens: whoever goes on must not say that somebody else did it.
            keep(unheld, Some(GapCause::ValveGaveUp));
            match drop_slot(target, slot).await {
                Ok(()) => return given_up(&seen),
                Err(error) => {
                    tracing::warn!(err = %explained(&error), "the replication slot cannot be given up");
                    position = Position::OneCopy { held: 0 };
                }
            }
        }
    }
}

/// What the server says of its disk, and how many bytes of WAL the slot holds.
async fn observe(target: &PgTarget, slot: &SlotName, valve: &Valve) -> Result<(Settings, u64), PgError> {
    let client = sql_connect(target).await?;
    let row = client.query_one(LOOK, &[&slot.as_str()]).await?;
    let held = u64::try_from(row.try_get::<_, Option<i64>>(2)?.unwrap_or(0)).unwrap_or(0);
    let directory = match &valve.data_directory {
        Some(directory) => Some(directory.clone()),
        None => row.try_get::<_, Option<String>>(0)?.map(PathBuf::from),
    };
    // In megabytes; below zero is no limit.
    let most_held = u64::try_from(row.try_get::<_, Option<i64>>(1)?.unwrap_or(-1)).ok();
    let settings = Settings {
        pg_wal: directory.map(|directory| directory.join("pg_wal")),
        most_held: most_held.map(|megabytes| megabytes << 20),
        read: Instant::now(),
    };
    Ok((settings, held))
}

/// Drops the slot, unless it is dropped already.
async fn drop_slot(target: &PgTarget, slot: &SlotName) -> Result<(), PgError> {
    let mut connection = ReplicationConnection::connect(target).await?;
    if connection.read_slot(slot).await?.is_some() {
        connection.drop_slot(slot).await?;
        tracing::warn!(%slot, "replication slot given up");
    }
    Ok(())
}

impl Watcher {
    async fn turn(&mut self) -> Result<(), PgError> {
        let position = self.shared.valve();
        if position == Position::Shut && self.is_roomy() {
            return Ok(());
        }
        let seen = self.look().await?;
        let then = next(position, &self.valve.limits, &seen);
        if then != position {
            self.shared.set_valve(then);
        }
        say(&self.shared, then, &seen);
        if then == Position::GivenUp {
            keep(&self.unheld, Some(GapCause::ValveGaveUp));
            // The line closes its connection when it sees the valve's position.
            drop_slot(&self.target, &self.slot).await?;
        }
        Ok(())
    }

    fn streams(&self) -> bool {
        self.shared.state().is_some_and(|state| state.connected)
    }

    /// Says that nothing keeps WAL from filling the disk: the server cannot be
    /// asked, or neither its volume nor a limit of its own is known.
    fn blind(&self, error: Option<&str>) {
        let (findings, subject) = (&self.shared.findings, self.shared.publisher.cluster.to_string());
        let unseen = self.settings.as_ref().is_some_and(|settings| {
            settings.most_held.is_none() && settings.pg_wal.as_deref().and_then(in_use).is_none()
        });
        let why = match error {
            Some(error) => error,
            None if unseen => "the agent does not see the volume of pg_wal",
            None => return findings.clear("wal-valve-blind", &subject),
        };
        findings.raise(
            Severity::Warning,
            "wal-valve-blind",
            subject,
            format!(
                "{why}: while no replica takes WAL, nothing keeps it from filling the server's disk. Let the agent see \
                 the data directory, or set max_slot_wal_keep_size"
            ),
        );
    }

    /// Whether the volume alone says that there is no need to ask the server.
    fn is_roomy(&self) -> bool {
        let settings = self
            .settings
            .as_ref()
            .filter(|s| s.read.elapsed() < SETTINGS_LAST);
        settings.is_some_and(|settings| {
            let used = settings.pg_wal.as_deref().and_then(in_use);
            settings.most_held.is_none() && used.is_some_and(|used| used < self.valve.limits.one_copy_at)
        })
    }

    async fn look(&mut self) -> Result<Pressure, PgError> {
        let (settings, held) = observe(&self.target, &self.slot, &self.valve).await?;
        let settings = self.settings.insert(settings);
        Ok(Pressure {
            volume: settings.pg_wal.as_deref().and_then(in_use),
            budget: settings.most_held.map(|most| percent(held, most)),
            held,
            lacking: self.shared.ledger(|ledger| {
                let (all, one) = (ledger.acknowledged()?, ledger.held_by(1)?);
                Some(one.bytes_since(all).unwrap_or(0))
            }),
            flows: self.shared.in_flight() == 0,
        })
    }
}

fn say(shared: &Shared, position: Position, pressure: &Pressure) {
    let findings = &shared.findings;
    let subject = &shared.publisher.cluster.to_string();
    let full = fullness(pressure);
    match position {
        Position::Shut => {
            findings.clear("wal-copies-reduced", subject);
            findings.clear("wal-slot-given-up", subject);
        }
        Position::OneCopy { .. } => findings.raise(
            Severity::Critical,
            "wal-copies-reduced",
            subject.as_str(),
            format!(
                "{full} and the slot holds {} MB of WAL: the server may remove what one replica holds, which is fewer \
                 than the tier's copies. Bring the replicas back, or give the volume more room",
                pressure.held >> 20
            ),
        ),
        Position::GivenUp => {
            findings.raise(Severity::Critical, "wal-slot-given-up", subject.as_str(), given_up(pressure));
        }
    }
}

/// What is said of a slot that was given up.
fn given_up(pressure: &Pressure) -> String {
    format!(
        "{} and no replica takes WAL: the slot was dropped so that the server does not stop. WAL that it removes now is \
         lost to restores. Bring a replica back: the line then goes on, and a new base backup is taken if there is a gap",
        fullness(pressure)
    )
}

fn fullness(pressure: &Pressure) -> String {
    match (pressure.volume, pressure.budget) {
        (Some(volume), _) => format!("The volume of pg_wal is {volume} % full"),
        (None, Some(budget)) => format!("The slot holds {budget} % of what the server lets it hold"),
        (None, None) => "The volume of pg_wal could not be looked at".to_owned(),
    }
}

/// Percent of the volume in use that a directory is on, as `df` counts it.
fn in_use(directory: &Path) -> Option<u32> {
    let volume = rustix::fs::statvfs(directory).ok()?;
    let used = volume.f_blocks.saturating_sub(volume.f_bfree);
    Some(percent(used, used + volume.f_bavail))
}

fn percent(part: u64, whole: u64) -> u32 {
    let share = u128::from(part) * 100 / u128::from(whole.max(1));
    u32::try_from(share.min(100)).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Pressure = Pressure {
        volume: Some(40),
        budget: None,
        held: 16 << 20,
        lacking: Some(0),
        flows: true,
    };

    fn after(position: Position, pressure: Pressure) -> Position {
        next(position, &ValveLimits::default(), &pressure)
    }

    #[test]
    fn opens_step_by_step_and_only_when_the_slot_is_the_cause() {
        let held = 1 << 30;
        let filling = Pressure {
            volume: Some(95),
            held,
            lacking: None,
            flows: false,
            ..QUIET
        };
        // Never both steps at once: the first may be enough.
        let one = after(Position::Shut, filling);
        assert_eq!(one, Position::OneCopy { held });
        assert_eq!(after(one, filling), Position::GivenUp);
        // Somebody else fills the disk: dropping the slot would not help.
        let other = Pressure { held: 1, ..filling };
        assert_eq!(after(Position::Shut, other), Position::Shut);
        assert_eq!(after(one, other), Position::OneCopy { held: 1 });
        // The slot empties: the next checkpoint brings room.
        let emptying = Pressure {
            held: held / 2,
            ..filling
        };
        assert_eq!(after(one, emptying), Position::OneCopy { held: held / 2 });
        // Below the second limit it stays at the first step.
        let less = Pressure {
            volume: Some(85),
            ..filling
        };
        assert_eq!(after(one, less), Position::OneCopy { held });
    }

    #[test]
    fn the_servers_own_limit_counts_for_the_first_step_alone() {
        let held = 1 << 30;
        let limited = Pressure {
            volume: None,
            budget: Some(99),
            held,
            lacking: None,
            flows: false,
        };
        let one = after(Position::Shut, limited);
        assert_eq!(one, Position::OneCopy { held });
        assert_eq!(after(one, limited), one);
    }

    #[test]
    fn shuts_when_the_copies_are_there_again() {
        let one = Position::OneCopy { held: 1 << 30 };
        assert_eq!(after(one, QUIET), Position::Shut);
        let behind = Pressure {
            lacking: Some(CAUGHT_UP + 1),
            ..QUIET
        };
        assert!(matches!(after(one, behind), Position::OneCopy { .. }));
        let unknown = Pressure {
            lacking: None,
            ..QUIET
        };
        assert!(matches!(after(one, unknown), Position::OneCopy { .. }));
        // Given up until a replica takes what waits.
        let stuck = Pressure {
            flows: false,
            ..QUIET
        };
        assert_eq!(after(Position::GivenUp, stuck), Position::GivenUp);
        assert_eq!(after(Position::GivenUp, QUIET), Position::Shut);
    }
}
