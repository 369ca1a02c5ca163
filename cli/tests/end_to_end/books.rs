//! An ERP's books, small: invoices in the database, each with one attachment in
//! a filestore that is named and sharded as Odoo does it. [`Journal`] is what
//! their writer knows to be committed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_tests::postgres::{TestPostgres, finished, program, wait_until};
use sha1::Sha1;

/// The database.
pub const DATABASE: &str = "erp";
/// Invoices that are there from the start.
pub const FIRST: u32 = 300;
/// The invoices that somebody deletes by mistake: those up to this number.
pub const MISTAKEN: u32 = 100;

const SCHEMA: &str = "
    CREATE TABLE public.account_move (id int PRIMARY KEY, name text NOT NULL, amount_total numeric(14,2) NOT NULL);
    CREATE TABLE public.ir_attachment (
        id serial PRIMARY KEY, name text NOT NULL, res_model text, res_id int, store_fname text,
        checksum varchar(40), file_size int, mimetype text);
    CREATE INDEX ON public.ir_attachment (store_fname);";

/// One row of the books, as it is read.
const ROWS: &str = "
    SELECT m.id, m.name, m.amount_total, a.store_fname, a.checksum, a.file_size
    FROM public.account_move m FULL JOIN public.ir_attachment a ON a.res_id = m.id ORDER BY 1";

/// Invoices by number, each with its row.
pub type Journal = BTreeMap<u32, String>;

/// The content of attachment `n`: text, and a tail that does not compress.
fn document(n: u32) -> Vec<u8> {
    let mut content = format!("Invoice document {n}\n").into_bytes();
    let mut state = u64::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for _ in 0..200 + n % 300 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes());
    }
    content
}

/// Where the filestore keeps `content`, and its checksum.
fn named(content: &[u8]) -> (String, String) {
    let checksum = Sha1::from(content).digest().to_string();
    (format!("{}/{checksum}", &checksum[..2]), checksum)
}

fn row(n: u32) -> String {
    let content = document(n);
    let (name, checksum) = named(&content);
    format!(
        "{n}|INV/{n:06}|{}.00|{name}|{checksum}|{}",
        n % 5000,
        content.len()
    )
}

/// Writes attachment `n` in place, as Odoo does: no temporary name, no fsync.
fn write(filestore: &Path, n: u32) -> Result<()> {
    let content = document(n);
    let path = filestore.join(named(&content).0);
    if let Some(shard) = path.parent() {
        fs::create_dir_all(shard)?;
    }
    Ok(fs::write(path, content)?)
}

/// The statements that post the invoices `from..=to`.
fn posting(from: u32, to: u32) -> String {
    let (mut moves, mut attachments) = (Vec::new(), Vec::new());
    for n in from..=to {
        let content = document(n);
        let (name, checksum) = named(&content);
        moves.push(format!("({n}, 'INV/{n:06}', {})", n % 5000));
        attachments.push(format!(
            "('invoice-{n}.pdf', 'account.move', {n}, '{name}', '{checksum}', {}, 'application/pdf')",
            content.len()
        ));
    }
    format!(
        "BEGIN; INSERT INTO public.account_move VALUES {};
         INSERT INTO public.ir_attachment (name, res_model, res_id, store_fname, checksum, file_size, mimetype) VALUES {};
         COMMIT;",
        moves.join(", "),
        attachments.join(", ")
    )
}

/// The office: a server, a filestore, and people at work.
#[derive(Debug)]
pub struct Office {
    /// The server.
    pub server: TestPostgres,
    /// The filestore's directory.
    pub filestore: PathBuf,
    journal: Arc<Mutex<Journal>>,
}

/// Somebody who posts invoices until asked to stop.
#[derive(Debug)]
pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Office {
    /// Opens the books on `server`.
    pub fn open(server: TestPostgres, filestore: PathBuf) -> Result<Self> {
        fs::create_dir_all(filestore.join("checklist"))?;
        server.psql(&format!("CREATE DATABASE {DATABASE}"))?;
        server.psql_in(DATABASE, SCHEMA)?;
        let mut journal = Journal::new();
        for n in 1..=FIRST {
            write(&filestore, n)?;
            journal.insert(n, row(n));
        }
        server.psql_in(DATABASE, &posting(1, FIRST))?;
        Ok(Self {
            server,
            filestore,
            journal: Arc::new(Mutex::new(journal)),
        })
    }

    /// What is known to be committed now.
    pub fn journal(&self) -> Journal {
        self.journal.lock().expect("no holder panics").clone()
    }

    /// Somebody begins to post invoices, one after another: the file, then the
    /// commit, then the entry in the journal.
    pub fn write_on(&self) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let (asked, journal) = (Arc::clone(&stop), Arc::clone(&self.journal));
        let (filestore, conninfo) = (self.filestore.clone(), self.server.conninfo(DATABASE));
        let thread = std::thread::spawn(move || {
            let mut n = journal
                .lock()
                .expect("no holder panics")
                .keys()
                .last()
                .copied()
                .unwrap_or(0)
                .max(FIRST);
            while !asked.load(Ordering::Relaxed) {
                n += 1;
                write(&filestore, n)?;
                let mut psql = program("psql");
                psql.args([
                    "-XAtq",
                    "-v",
                    "ON_ERROR_STOP=1",
                    "-d",
                    &conninfo,
                    "-c",
                    &posting(n, n),
                ]);
                finished(&mut psql)?;
                journal.lock().expect("no holder panics").insert(n, row(n));
            }
            Ok(())
        });
        Writer { stop, thread }
    }

    /// Waits until `more` invoices were posted by `writer`.
    pub fn wait_posted(&self, writer: &Writer, more: usize) -> Result<()> {
        let wanted = self.journal().len() + more;
        wait_until(&format!("{more} more invoices are posted"), || {
            ensure!(!writer.thread.is_finished(), "the writer ended");
            Ok(self.journal().len() >= wanted)
        })
    }

    /// The server's clock, as an argument of `--to-time`.
    pub fn now(&self) -> Result<String> {
        self.server
            .psql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
    }

    /// Somebody deletes invoices with their attachments, and Odoo marks the files
    /// as perhaps not needed. Returns the names of the files.
    pub fn make_mistake(&self) -> Result<Vec<String>> {
        let deleted = self.server.psql_in(
            DATABASE,
            &format!(
                "BEGIN; DELETE FROM public.ir_attachment WHERE res_id <= {MISTAKEN} RETURNING store_fname;
                 DELETE FROM public.account_move WHERE id <= {MISTAKEN}; COMMIT;"
            ),
        )?;
        self.journal
            .lock()
            .expect("no holder panics")
            .retain(|n, _| *n > MISTAKEN);
        let files: Vec<String> = deleted.lines().map(str::to_owned).collect();
        for name in &files {
            let mark = self.filestore.join("checklist").join(name);
            if let Some(shard) = mark.parent() {
                fs::create_dir_all(shard)?;
            }
            fs::write(mark, b"")?;
        }
        ensure!(
            files.len() == MISTAKEN as usize,
            "{} files are unreferenced",
            files.len()
        );
        Ok(files)
    }

    /// Odoo's collection: files that were marked for `delay` are deleted.
    pub fn collect(&self, files: &[String], delay: Duration) -> Result<()> {
        for name in files {
            let mark = self.filestore.join("checklist").join(name);
            let marked = fs::metadata(&mark)?.modified()?;
            wait_until("a file was marked for long enough", || {
                Ok(marked.elapsed().is_ok_and(|age| age >= delay))
            })?;
            fs::remove_file(self.filestore.join(name))?;
            fs::remove_file(mark)?;
        }
        Ok(())
    }
}

impl Writer {
    /// Asks the writer to stop, and waits.
    pub fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the writer does not panic")
    }
}

/// Compares a copy with what was known: every row, and every byte of every file
/// that a row names.
pub fn compare(copy: &TestPostgres, filestore: &Path, known: &Journal) -> Result<()> {
    let found = copy.psql_in(DATABASE, ROWS)?;
    let found: Vec<&str> = found.lines().collect();
    let wanted: Vec<&str> = known.values().map(String::as_str).collect();
    if let Some((found, wanted)) = found.iter().zip(&wanted).find(|(f, w)| f != w) {
        anyhow::bail!("the copy has {found:?} where {wanted:?} was committed");
    }
    ensure!(
        found.len() == wanted.len(),
        "{} rows of {}",
        found.len(),
        wanted.len()
    );
    for n in known.keys() {
        let content = document(*n);
        let name = named(&content).0;
        let there = fs::read(filestore.join(&name));
        ensure!(
            there.is_ok_and(|bytes| bytes == content),
            "attachment {n} ({name}) is not what was written"
        );
    }
    Ok(())
}
