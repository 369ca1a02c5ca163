//! Compares a restored copy with what the writer knows to be committed.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use holdfast_proto::Timestamp;
use serde::Serialize;
use sha1::Sha1;
use tokio_postgres::Client;

use super::writer::Journal;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Invoices that should stand at the moment.
    pub invoices_expected: usize,
    /// Invoices in the copy that should.
    pub invoices_found: usize,
    /// Invoices that are missing from the copy.
    pub invoices_missing: usize,
    /// Invoices in the copy that should not be there.
    pub invoices_unexpected: usize,
    /// Invoice lines that do not balance or whose invoice is missing.
    pub lines_wrong: i64,
    /// Rows compared in all tables.
    pub rows_compared: usize,
    /// Attachments that the copy's rows reference.
    pub attachments_referenced: usize,
    /// Files with the right size and SHA-1.
    pub attachments_equal: usize,
    /// Files that are missing.
    pub attachments_missing: usize,
    /// Files whose size or SHA-1 differs.
    pub attachments_different: usize,
}

/// Compares the copy with the journal at `moment`.
pub async fn compare(
    client: &Client,
    filestore: &Path,
    journal: &Journal,
    moment: Timestamp,
) -> anyhow::Result<Comparison> {
    let rows = client
        .query(
            "SELECT m.id, a.store_fname, a.checksum, a.file_size
             FROM public.account_move m
             LEFT JOIN public.ir_attachment a ON a.res_model = 'account.move' AND a.res_id = m.id",
            &[],
        )
        .await?;
    type Row = (Option<String>, Option<String>, Option<i32>);
    let mut found: BTreeMap<i32, Row> = rows
        .iter()
        .map(|r| (r.get(0), (r.get(1), r.get(2), r.get(3))))
        .collect();
    let mut result = Comparison {
        rows_compared: rows.len(),
        ..Comparison::default()
    };
    for (id, posted) in journal.at(moment) {
        result.invoices_expected += 1;
        match found.remove(&id) {
            Some((Some(name), Some(sum), Some(size)))
                if name == posted.attachment.store_fname
                    && sum == posted.attachment.checksum
                    && size == posted.attachment.size as i32 =>
            {
                result.invoices_found += 1;
            }
            _ => result.invoices_missing += 1,
        }
    }
    result.invoices_unexpected = found.len();
    let row = client
        .query_one(
            "SELECT count(*) FILTER (WHERE wrong), coalesce(sum(lines), 0)::bigint FROM (
                 SELECT count(*) AS lines, m.id IS NULL OR sum(l.debit) <> m.amount_total
                        OR sum(l.credit) <> m.amount_total AS wrong
                 FROM public.account_move_line l FULL JOIN public.account_move m ON m.id = l.move_id
                 GROUP BY m.id, m.amount_total) balances",
            &[],
        )
        .await?;
    result.lines_wrong = row.get(0);
    result.rows_compared += usize::try_from(row.get::<_, i64>(1)).unwrap_or(0);
    for row in client
        .query(
            "SELECT store_fname, checksum, file_size FROM public.ir_attachment",
            &[],
        )
        .await?
    {
        result.rows_compared += 1;
        result.attachments_referenced += 1;
        let (name, sum, size): (String, String, i32) = (row.get(0), row.get(1), row.get(2));
        match std::fs::File::open(filestore.join(&name)) {
            Ok(mut file) => {
                let mut content = Vec::new();
                file.read_to_end(&mut content)?;
                let equal =
                    content.len() == size as usize && Sha1::from(&content).digest().to_string() == sum;
                if equal {
                    result.attachments_equal += 1;
                } else {
                    result.attachments_different += 1;
                }
            }
            Err(_) => result.attachments_missing += 1,
        }
    }
    Ok(result)
}
