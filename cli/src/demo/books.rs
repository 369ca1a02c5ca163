//! The books of the demo: an ERP-like schema, its invoices, and a filestore
//! named and sharded as Odoo does it (`xx/<sha1>`, `checklist/` beside it).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha1::Sha1;
use tokio_postgres::Client;

/// Invoices that are there before the story begins.
pub const INVOICES: u32 = 20_400;
/// The month that somebody deletes by mistake.
pub const MONTH: &str = "2026-06";
/// The database's name.
pub const DATABASE: &str = "erp";

/// The tables that Odoo's accounting keeps invoices in, cut down to what the
/// story needs.
const SCHEMA: &str = "
    CREATE TABLE public.res_partner (
        id serial PRIMARY KEY, name text NOT NULL, vat text, city text);
    CREATE TABLE public.account_move (
        id serial PRIMARY KEY, name text NOT NULL UNIQUE, partner_id int NOT NULL REFERENCES public.res_partner,
        company_id int NOT NULL, date date NOT NULL, state text NOT NULL, amount_total numeric(14,2) NOT NULL);
    CREATE TABLE public.account_move_line (
        id serial PRIMARY KEY, move_id int NOT NULL REFERENCES public.account_move, name text NOT NULL,
        debit numeric(14,2) NOT NULL DEFAULT 0, credit numeric(14,2) NOT NULL DEFAULT 0);
    CREATE INDEX ON public.account_move_line (move_id);
    CREATE INDEX ON public.account_move (date);
    CREATE TABLE public.ir_attachment (
        id serial PRIMARY KEY, name text NOT NULL, res_model text, res_id int, store_fname text,
        checksum varchar(40), file_size int, mimetype text);
    CREATE INDEX ON public.ir_attachment (store_fname);
    CREATE INDEX ON public.ir_attachment (res_id);
";

/// An attachment as its row names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// `xx/<sha1>`.
    pub store_fname: String,
    /// SHA-1 of the content, in hexadecimal.
    pub checksum: String,
    /// Bytes.
    pub size: u32,
}

/// The filestore's directory.
#[derive(Debug, Clone)]
pub struct Filestore {
    root: PathBuf,
}

impl Filestore {
    /// Opens or makes the directory.
    pub fn create(root: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(root.join("checklist"))?;
        Ok(Self { root })
    }

    /// Its root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Writes the content of document `n` in place, as Odoo does: no temporary
    /// name, no fsync.
    pub fn write(&self, n: u32) -> io::Result<Attachment> {
        let content = document(n);
        let checksum = Sha1::from(&content).digest().to_string();
        let store_fname = format!("{}/{checksum}", &checksum[..2]);
        let path = self.root.join(&store_fname);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, &content)?;
        Ok(Attachment {
            store_fname,
            checksum,
            size: content.len() as u32,
        })
    }

    /// Marks a file as perhaps unreferenced: the collector looks at it later.
    pub fn mark(&self, store_fname: &str) -> io::Result<()> {
        let path = self.root.join("checklist").join(store_fname);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, b"")
    }

    /// Marks older than `age`, as (mark, store_fname).
    pub fn marks(&self, age: std::time::Duration) -> io::Result<Vec<(PathBuf, String)>> {
        let mut found = Vec::new();
        for shard in fs::read_dir(self.root.join("checklist"))? {
            let shard = shard?;
            for mark in fs::read_dir(shard.path())? {
                let mark = mark?;
                let old = mark.metadata()?.modified()?.elapsed().is_ok_and(|e| e >= age);
                if old {
                    let name = format!(
                        "{}/{}",
                        shard.file_name().to_string_lossy(),
                        mark.file_name().to_string_lossy()
                    );
                    found.push((mark.path(), name));
                }
            }
        }
        Ok(found)
    }
}

/// The content of document `n`: a page of text and a scan-like tail that does
/// not compress, 1 to 13 KiB.
fn document(n: u32) -> Vec<u8> {
    let mut state = u64::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut content = format!("Invoice document {n}\n").into_bytes();
    for line in 0..(next() % 24) {
        content.extend_from_slice(
            format!(
                "{line:3}  excavation, formwork and concrete, lot {:6}, quantity {:5}\n",
                n % 977,
                line * 7
            )
            .as_bytes(),
        );
    }
    for _ in 0..(128 + next() % 1300) {
        content.extend_from_slice(&next().to_le_bytes());
    }
    content
}

/// Makes the schema and the invoices that are there from the start, each with
/// one attachment. Returns the attachments in the order of invoice ids.
pub async fn open_books(client: &Client, filestore: &Filestore) -> anyhow::Result<Vec<Attachment>> {
    client.batch_execute(SCHEMA).await?;
    client
        .batch_execute(&format!(
            "INSERT INTO public.res_partner (name, vat, city)
                 SELECT 'Partner ' || n, 'XX' || (100000 + n), 'City ' || n % 50 FROM generate_series(1, 300) n;
             INSERT INTO public.account_move (name, partner_id, company_id, date, state, amount_total)
                 SELECT 'INV/2026/' || lpad(n::text, 6, '0'), 1 + n % 300, 1 + n % 4,
                        date '2026-01-01' + (n % 320), 'posted', 100 + n % 5000
                 FROM generate_series(1, {INVOICES}) n;
             INSERT INTO public.account_move_line (move_id, name, debit, credit)
                 SELECT m.id, side, CASE side WHEN 'receivable' THEN amount_total ELSE 0 END,
                        CASE side WHEN 'receivable' THEN 0 ELSE amount_total END
                 FROM public.account_move m, unnest(ARRAY['receivable', 'revenue']) side;"
        ))
        .await?;
    let filestore = filestore.clone();
    let attachments = tokio::task::spawn_blocking(move || {
        (1..=INVOICES)
            .map(|n| filestore.write(n))
            .collect::<io::Result<Vec<_>>>()
    })
    .await??;
    for (chunk_at, chunk) in attachments.chunks(2000).enumerate() {
        let base = chunk_at * 2000;
        let ids: Vec<i32> = (0..chunk.len()).map(|i| (base + i + 1) as i32).collect();
        let names: Vec<&str> = chunk.iter().map(|a| a.store_fname.as_str()).collect();
        let sums: Vec<&str> = chunk.iter().map(|a| a.checksum.as_str()).collect();
        let sizes: Vec<i32> = chunk.iter().map(|a| a.size as i32).collect();
        client
            .execute(
                "INSERT INTO public.ir_attachment (name, res_model, res_id, store_fname, checksum, file_size, mimetype)
                 SELECT 'invoice-' || i || '.pdf', 'account.move', i, f, c, s, 'application/pdf'
                 FROM unnest($1::int[], $2::text[], $3::text[], $4::int[]) AS t (i, f, c, s)",
                &[&ids, &names, &sums, &sizes],
            )
            .await?;
    }
    client.batch_execute("ANALYZE; CHECKPOINT").await?;
    Ok(attachments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_the_same_every_time_and_differ_from_each_other() {
        assert_eq!(document(7), document(7));
        assert_ne!(document(7), document(8));
        assert!(
            (1..=20_000)
                .step_by(997)
                .all(|n| (1000..16_000).contains(&document(n).len()))
        );
    }
}
