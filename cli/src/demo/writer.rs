//! The people at work: one posts invoices with attachments the whole time, one
//! collects files that nothing references any more, and somebody makes a
//! mistake. The [`Journal`] is what they know to be committed: every entry
//! carries the commit time that PostgreSQL itself recorded.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast_proto::Timestamp;
use tokio_postgres::{Client, Row};
use tokio_util::sync::CancellationToken;

use super::books::{Attachment, Filestore, INVOICES, MONTH};

/// How long the collector leaves an unreferenced file alone.
pub const COLLECTOR_DELAY: Duration = Duration::from_secs(25);
/// The pause between an invoice and the next.
pub const POST_EVERY: Duration = Duration::from_millis(40);

/// An invoice with its attachment, and when its row came and went.
#[derive(Debug, Clone)]
pub struct Posted {
    /// The attachment that its row names.
    pub attachment: Attachment,
    /// Commit time of the transaction that posted it; `None` for those that
    /// were there from the start.
    pub committed: Option<Timestamp>,
    /// Commit time of the transaction that deleted it.
    pub deleted: Option<Timestamp>,
}

/// What the writer knows to be committed, by invoice id, and whether it ever
/// stood still.
#[derive(Debug, Clone)]
pub struct Journal {
    invoices: BTreeMap<i32, Posted>,
    last_acknowledged: Instant,
    longest_pause: Duration,
}

impl Journal {
    /// The invoices of the start; work begins `now`.
    pub fn opened(attachments: Vec<Attachment>, now: Instant) -> Self {
        let posted = |attachment| Posted {
            attachment,
            committed: None,
            deleted: None,
        };
        Self {
            invoices: (1..).zip(attachments.into_iter().map(posted)).collect(),
            last_acknowledged: now,
            longest_pause: Duration::ZERO,
        }
    }

    /// A commit was acknowledged.
    pub fn acknowledged(&mut self, id: i32, attachment: Attachment, committed: Timestamp, now: Instant) {
        self.paused_until(now);
        self.last_acknowledged = now;
        let posted = Posted {
            attachment,
            committed: Some(committed),
            deleted: None,
        };
        self.invoices.insert(id, posted);
    }

    /// The deletion of an invoice was acknowledged.
    pub fn deleted(&mut self, id: i32, committed: Timestamp) {
        if let Some(posted) = self.invoices.get_mut(&id) {
            posted.deleted = Some(committed);
        }
    }

    /// Work went on, or was over, at `now`: the pause before it counts.
    pub fn paused_until(&mut self, now: Instant) {
        self.longest_pause = self.longest_pause.max(now.duration_since(self.last_acknowledged));
    }

    /// The longest time between two acknowledged commits.
    pub fn longest_pause(&self) -> Duration {
        self.longest_pause
    }

    /// The invoices that stand at `moment`.
    pub fn at(&self, moment: Timestamp) -> impl Iterator<Item = (i32, &Posted)> {
        self.invoices
            .iter()
            .filter(move |(_, p)| {
                p.committed.is_none_or(|c| c <= moment) && p.deleted.is_none_or(|d| d > moment)
            })
            .map(|(id, p)| (*id, p))
    }

    /// Every invoice that was ever acknowledged.
    pub fn all(&self) -> impl Iterator<Item = (i32, &Posted)> {
        self.invoices.iter().map(|(id, p)| (*id, p))
    }

    /// Invoices that were posted since the start.
    pub fn posted(&self) -> usize {
        self.invoices.values().filter(|p| p.committed.is_some()).count()
    }
}

/// The journal as writer, collector and story share it.
pub type SharedJournal = Arc<Mutex<Journal>>;

fn moment(row: &Row, column: usize) -> Timestamp {
    Timestamp::from_chrono(row.get::<_, chrono::DateTime<chrono::Utc>>(column))
}

/// Posts an invoice every 40 ms until cancelled or until the database is gone:
/// the file first, then the commit, then the entry in the journal.
pub async fn post_invoices(
    mut client: Client,
    filestore: Filestore,
    journal: SharedJournal,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(POST_EVERY);
    // Late is late: people do not hurry to catch up.
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut n = INVOICES;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = tick.tick() => {}
        }
        n += 1;
        let attachment = filestore.write(n)?;
        let transaction = client.transaction().await?;
        let row = transaction
            .query_one(
                "INSERT INTO public.account_move (name, partner_id, company_id, date, state, amount_total)
                 VALUES ('INV/2026/' || lpad($1::int::text, 6, '0'), 1 + $1 % 300, 1 + $1 % 4, date '2026-11-20',
                         'posted', 100 + $1 % 5000)
                 RETURNING id, pg_catalog.pg_current_xact_id()::text",
                &[&(n as i32)],
            )
            .await?;
        let (id, xid): (i32, String) = (row.get(0), row.get(1));
        transaction
            .execute(
                "INSERT INTO public.account_move_line (move_id, name, debit, credit)
                 SELECT $1, side, CASE side WHEN 'receivable' THEN 100 + $2 % 5000 ELSE 0 END,
                        CASE side WHEN 'receivable' THEN 0 ELSE 100 + $2 % 5000 END
                 FROM unnest(ARRAY['receivable', 'revenue']) side",
                &[&id, &(n as i32)],
            )
            .await?;
        transaction
            .execute(
                "INSERT INTO public.ir_attachment (name, res_model, res_id, store_fname, checksum, file_size, mimetype)
                 VALUES ('invoice-' || $1::int || '.pdf', 'account.move', $1, $2, $3, $4, 'application/pdf')",
                &[&id, &attachment.store_fname, &attachment.checksum, &(attachment.size as i32)],
            )
            .await?;
        transaction.commit().await?;
        let acknowledged = Instant::now();
        let row = client
            .query_one(
                "SELECT pg_catalog.pg_xact_commit_timestamp($1::text::xid)",
                &[&xid],
            )
            .await;
        // Acknowledged, but its commit time could not be asked for any more:
        // the database died in between. It counts as committed now.
        let committed = row.as_ref().map_or_else(|_| now(), |row| moment(row, 0));
        journal
            .lock()
            .expect("no holder of the journal panics")
            .acknowledged(id, attachment, committed, acknowledged);
        row?;
    }
}

fn now() -> Timestamp {
    Timestamp::from_chrono(chrono::Utc::now())
}

/// Deletes unreferenced files late, as Odoo's garbage collection does: from the
/// checklist, when the mark is old enough and no row names the file. Returns how
/// many it deleted when cancelled.
pub async fn collect_garbage(
    client: Client,
    filestore: Filestore,
    stop: CancellationToken,
    deleted: Arc<std::sync::atomic::AtomicUsize>,
) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = tick.tick() => {}
        }
        let marks = filestore.marks(COLLECTOR_DELAY)?;
        if marks.is_empty() {
            continue;
        }
        let names: Vec<&str> = marks.iter().map(|(_, name)| name.as_str()).collect();
        let referenced: std::collections::BTreeSet<String> = client
            .query(
                "SELECT store_fname FROM public.ir_attachment WHERE store_fname = ANY($1)",
                &[&names],
            )
            .await?
            .iter()
            .map(|row| row.get(0))
            .collect();
        for (mark, name) in marks {
            if !referenced.contains(&name) {
                std::fs::remove_file(filestore.root().join(&name))?;
                deleted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            std::fs::remove_file(mark)?;
        }
    }
}

/// What the mistake did.
#[derive(Debug, Clone)]
pub struct Mistake {
    /// The server's clock just before.
    pub before: Timestamp,
    /// Its commit time.
    pub committed: Timestamp,
    /// How many invoices it deleted, each with an attachment.
    pub invoices: usize,
}

/// Deletes a month of invoices with their lines and attachments.
pub async fn make_mistake(
    client: &mut Client,
    filestore: &Filestore,
    journal: &SharedJournal,
) -> anyhow::Result<Mistake> {
    let before = moment(
        &client
            .query_one("SELECT pg_catalog.clock_timestamp()", &[])
            .await?,
        0,
    );
    let transaction = client.transaction().await?;
    let condition = "IN (SELECT id FROM public.account_move WHERE to_char(date, 'YYYY-MM') = $1)";
    let names: Vec<String> = transaction
        .query(
            &format!("DELETE FROM public.ir_attachment WHERE res_id {condition} RETURNING store_fname"),
            &[&MONTH],
        )
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    transaction
        .execute(
            &format!("DELETE FROM public.account_move_line WHERE move_id {condition}"),
            &[&MONTH],
        )
        .await?;
    let rows = transaction
        .query(
            "DELETE FROM public.account_move WHERE to_char(date, 'YYYY-MM') = $1
             RETURNING id, pg_catalog.pg_current_xact_id()::text",
            &[&MONTH],
        )
        .await?;
    transaction.commit().await?;
    let xid: String = rows
        .first()
        .map(|row| row.get(1))
        .ok_or_else(|| anyhow::anyhow!("the month is empty"))?;
    let committed = moment(
        &client
            .query_one(
                "SELECT pg_catalog.pg_xact_commit_timestamp($1::text::xid)",
                &[&xid],
            )
            .await?,
        0,
    );
    for name in &names {
        filestore.mark(name)?;
    }
    let mut journal = journal.lock().expect("no holder of the journal panics");
    for row in &rows {
        journal.deleted(row.get(0), committed);
    }
    Ok(Mistake {
        before,
        committed,
        invoices: rows.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_knows_what_stands_at_a_moment() {
        let at = Timestamp::from_unix_micros;
        let attachment = Attachment {
            store_fname: "aa/aa".into(),
            checksum: "aa".into(),
            size: 1,
        };
        let begin = Instant::now();
        let mut journal = Journal::opened(vec![attachment.clone(); 2], begin);
        journal.acknowledged(3, attachment, at(10), begin);
        journal.deleted(3, at(20));
        let ids = |t| journal.at(at(t)).map(|(id, _)| id).collect::<Vec<_>>();
        assert_eq!(ids(9), [1, 2]);
        assert_eq!(ids(10), [1, 2, 3]);
        assert_eq!(ids(20), [1, 2]);
        assert_eq!(journal.posted(), 1);
    }

    #[test]
    fn the_longest_pause_counts_its_ends() {
        let attachment = Attachment {
            store_fname: "aa/aa".into(),
            checksum: "aa".into(),
            size: 1,
        };
        let begin = Instant::now();
        let after = |millis| begin + Duration::from_millis(millis);
        let mut journal = Journal::opened(Vec::new(), begin);
        journal.acknowledged(1, attachment.clone(), Timestamp::from_unix_micros(1), after(30));
        journal.acknowledged(2, attachment, Timestamp::from_unix_micros(2), after(50));
        assert_eq!(journal.longest_pause(), Duration::from_millis(30));
        journal.paused_until(after(100));
        assert_eq!(journal.longest_pause(), Duration::from_millis(50));
    }
}
