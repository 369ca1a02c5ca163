//! What people see: logging, tables, amounts, lines that fit, progress.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use holdfast_agent::progress::Meter;
use holdfast_proto::Timestamp;
use indicatif::{ProgressBar, ProgressStyle};
use tracing_subscriber::EnvFilter;

/// Starts logging to standard error.
pub fn start_logging(filter: &str, json: bool) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|e| {
        eprintln!("warning: the log filter {filter:?} is not understood ({e}); logging warnings");
        EnvFilter::new("warn")
    });
    // The client of Kubernetes calls every answer that is none an error. Whoever asked
    // tries again, and says what it comes to.
    let answers = "kube_client::client::builder=off".parse().expect("a directive");
    let filter = filter.add_directive(answers);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if json {
        builder.json().init();
    } else {
        builder
            .with_ansi(std::io::stderr().is_terminal())
            .compact()
            .init();
    }
}

/// Bytes for people: binary units, three digits.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{n} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A span for people: milliseconds below a second, then seconds, minutes, hours.
pub fn span(millis: u64) -> String {
    match millis {
        0..=999 => format!("{millis} ms"),
        1_000..=59_999 => format!("{}.{} s", millis / 1000, millis % 1000 / 100),
        60_000..=3_599_999 => format!("{} min {:02} s", millis / 60_000, millis % 60_000 / 1000),
        _ => format!("{} h {:02} min", millis / 3_600_000, millis % 3_600_000 / 60_000),
    }
}

/// A number of things: `1 file`, `2 files`.
pub fn count(n: u64, one: &str) -> String {
    format!("{n} {one}{}", if n == 1 { "" } else { "s" })
}

/// A moment for people, to the second.
pub fn second(t: Timestamp) -> String {
    t.to_chrono().format("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// A moment for people, to the millisecond.
pub fn moment(t: Timestamp) -> String {
    t.to_chrono().format("%Y-%m-%d %H:%M:%S%.3fZ").to_string()
}

/// Columns of a terminal that shows nothing wider: output that goes elsewhere.
const PLAIN_WIDTH: usize = 100;

/// The columns that standard output has.
pub fn width() -> usize {
    rustix::termios::tcgetwinsize(std::io::stdout())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns > 0)
        .unwrap_or(PLAIN_WIDTH)
}

/// The columns of the terminal that standard output is; nothing when it goes
/// elsewhere: what a program reads is not broken.
fn terminal() -> Option<usize> {
    std::io::stdout().is_terminal().then(width)
}

/// Prints text for people: on a terminal, lines that do not fit go on beneath,
/// further in.
pub fn print(text: &str) {
    let mut out = String::new();
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        match terminal() {
            Some(columns) => out.push_str(&fold(line, columns, indent + 4, "")),
            None => out.push_str(line),
        }
        out.push('\n');
    }
    print!("{out}");
    let _ = std::io::stdout().flush();
}

/// Prints rows in columns, the first row being the heading, as wide as the
/// terminal. Says whether digests were cut for that.
pub fn print_table(rows: &[Vec<String>]) -> bool {
    let Some(columns) = terminal() else {
        print!("{}", table(rows));
        return false;
    };
    let fits = |rows: &[Vec<String>]| widths(rows).iter().map(|w| w + 2).sum::<usize>() <= columns + 2;
    let cut = if fits(rows) { None } else { cut_digests(rows) };
    print!("{}", table_within(cut.as_deref().unwrap_or(rows), columns));
    cut.is_some()
}

/// Breaks a line between words so that no part is wider than `width`: parts
/// after the first begin with `hang` spaces, parts before the last end in
/// `mark`. A word that is too long by itself stays whole.
pub fn fold(line: &str, width: usize, hang: usize, mark: &str) -> String {
    let width = width.saturating_sub(mark.chars().count());
    let mut out = String::new();
    let (mut used, mut said, mut first) = (0, false, true);
    for word in line.split(' ') {
        let length = word.chars().count();
        if said && used + 1 + length > width {
            out.truncate(out.trim_end().len());
            out.push_str(mark);
            out.push('\n');
            out.push_str(&" ".repeat(hang));
            (used, said) = (hang, false);
        } else if !first {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += length;
        said |= length > 0;
        first = false;
    }
    out
}

/// Digits of a digest that are shown where the whole does not fit.
const CUT: usize = 16;

/// The rows with every long hexadecimal number cut, when there is one.
fn cut_digests(rows: &[Vec<String>]) -> Option<Vec<Vec<String>>> {
    let is_digest = |t: &str| t.len() >= 40 && t.bytes().all(|b| b.is_ascii_hexdigit());
    rows.iter().flatten().any(|t| is_digest(t)).then(|| {
        let cut = |text: &String| match is_digest(text) {
            true => format!("{}…", &text[..CUT]),
            false => text.clone(),
        };
        rows.iter().map(|row| row.iter().map(cut).collect()).collect()
    })
}

/// The widest of each column.
fn widths(rows: &[Vec<String>]) -> Vec<usize> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let of = |c: usize| {
        let cells = rows.iter().filter_map(|r| r.get(c));
        cells.map(|t| t.chars().count()).max().unwrap_or(0)
    };
    (0..columns).map(of).collect()
}

/// A table that is no wider than `columns`: cells are broken between words, the
/// widest columns first. When not even that suffices, a line for each cell.
fn table_within(rows: &[Vec<String>], columns: usize) -> String {
    let words: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let longest = |t: &String| t.split(' ').max_by_key(|w| w.chars().count()).map(str::to_owned);
            row.iter().map(|t| longest(t).unwrap_or_default()).collect()
        })
        .collect();
    let least = widths(&words);
    let mut chosen = widths(rows);
    let total = |widths: &[usize]| (widths.iter().sum::<usize>() + 2 * widths.len()).saturating_sub(2);
    while total(&chosen) > columns {
        let widest = (0..chosen.len())
            .filter(|c| chosen[*c] > least[*c])
            .max_by_key(|c| chosen[*c]);
        match widest {
            Some(c) => chosen[c] -= 1,
            None => return one_below_another(rows, columns),
        }
    }
    let mut broken: Vec<Vec<String>> = Vec::new();
    let mut heading = 0;
    for (n, row) in rows.iter().enumerate() {
        let cells: Vec<Vec<String>> = row
            .iter()
            .zip(&chosen)
            .map(|(text, width)| fold(text, *width, 0, "").lines().map(str::to_owned).collect())
            .collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or(1).max(1);
        for line in 0..height {
            let part = |cell: &Vec<String>| cell.get(line).cloned().unwrap_or_default();
            broken.push(cells.iter().map(part).collect());
        }
        if n == 0 {
            heading = height;
        }
    }
    ruled(&broken, &widths(&broken), heading)
}

/// A block for each row, a line for each cell.
fn one_below_another(rows: &[Vec<String>], columns: usize) -> String {
    let Some((heading, rows)) = rows.split_first() else {
        return String::new();
    };
    let named = heading.iter().map(|h| h.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for (n, row) in rows.iter().enumerate() {
        if n > 0 {
            out.push('\n');
        }
        for (name, text) in heading.iter().zip(row).filter(|(_, text)| !text.is_empty()) {
            let line = format!("{name:<named$}  {text}");
            out.push_str(&fold(&line, columns, named + 2, ""));
            out.push('\n');
        }
    }
    out
}

/// Rows in columns, the first row being the heading.
pub fn table(rows: &[Vec<String>]) -> String {
    ruled(rows, &widths(rows), 1)
}

/// Lines in columns; the first `heading` ones stand above the rule.
fn ruled(rows: &[Vec<String>], widths: &[usize], heading: usize) -> String {
    let mut out = String::new();
    for (n, row) in rows.iter().enumerate() {
        let line: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(text, width)| format!("{text:<width$}"))
            .collect();
        out.push_str(line.join("  ").trim_end());
        out.push('\n');
        if n + 1 == heading {
            let rule: Vec<String> = widths.iter().map(|w| "-".repeat(*w)).collect();
            out.push_str(&rule.join("  "));
            out.push('\n');
        }
    }
    out
}

/// A bar of bytes with rate and time left, on a terminal only.
pub fn byte_bar(total: u64, what: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total);
    bar.set_style(bar_style(total > 0));
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Without a total there is nothing to measure against.
fn bar_style(measured: bool) -> ProgressStyle {
    let template = if measured {
        "{msg:<10} {wide_bar:.cyan/blue} {binary_bytes:>10} of {binary_total_bytes:<10} {binary_bytes_per_sec:>12}  {eta:>4} left"
    } else {
        "{msg:<10} {spinner} looking for what is to be done, {elapsed}"
    };
    ProgressStyle::with_template(template).expect("the templates are constants")
}

/// A bar that follows a meter until it is finished.
pub struct Watching {
    bar: ProgressBar,
    task: tokio::task::JoinHandle<()>,
}

/// Follows `meter`, whose total grows as work is found.
pub fn watch_meter(meter: Meter, what: &'static str) -> Watching {
    let bar = byte_bar(0, what);
    let shown = bar.clone();
    let task = tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        let mut measured = false;
        loop {
            tick.tick().await;
            let (done, total) = meter.read();
            if !measured && total > 0 {
                measured = true;
                shown.set_style(bar_style(true));
            }
            shown.set_length(total);
            shown.set_position(done);
        }
    });
    Watching { bar, task }
}

impl Watching {
    /// Takes the bar away.
    pub async fn finish(self) {
        self.task.abort();
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_readable() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
        assert_eq!(span(950), "950 ms");
        assert_eq!(span(12_345), "12.3 s");
        assert_eq!(span(61_000), "1 min 01 s");
        assert_eq!(span(7_260_000), "2 h 01 min");
    }

    #[test]
    fn lines_fit_and_lose_no_word() {
        assert_eq!(fold("  short", 20, 4, " \\"), "  short");
        assert_eq!(
            fold("$ restore run --cluster acme/erp --latest", 24, 4, " \\"),
            "$ restore run \\\n    --cluster acme/erp \\\n    --latest"
        );
        let long = "a word-that-is-longer-than-the-line b";
        assert_eq!(
            fold(long, 10, 2, ""),
            "a\n  word-that-is-longer-than-the-line\n  b"
        );
        for width in 10..60 {
            let line = "  2026-11-22 to 2026-11-23  lineage 7  LSN 0/1 to 0/2  1 bases, 3 points";
            let folded = fold(line, width, 6, "");
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(words(&folded), words(line));
            assert!(
                folded.lines().all(|l| l.chars().count() <= width.max(16)),
                "{width}: {folded}"
            );
        }
    }

    #[test]
    fn columns_line_up() {
        let rows = [["a", "bb"], ["ccc", "d"]].map(|r| r.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "a    bb\n---  --\nccc  d\n");
    }

    #[test]
    fn tables_fit_and_break_between_words() {
        let rows = [
            ["cluster", "last base", "n"],
            ["acme/erp", "2026-11-27 10:58:04Z", "1"],
            ["acme/crm", "-", "0"],
        ]
        .map(|r| r.map(str::to_owned).to_vec());
        assert_eq!(table_within(&rows, 80), table(&rows));
        assert_eq!(
            table_within(&rows, 24),
            "cluster   last base   n\n--------  ----------  -\nacme/erp  2026-11-27  1\n          10:58:04Z\n\
             acme/crm  -           0\n"
        );
        assert_eq!(
            table_within(&rows, 21),
            "cluster    acme/erp\nlast base  2026-11-27\n           10:58:04Z\nn          1\n\n\
             cluster    acme/crm\nlast base  -\nn          0\n"
        );
        let key = vec!["key".to_owned(), "0123456789abcdef".repeat(4)];
        let cut = cut_digests(std::slice::from_ref(&key)).expect("a digest");
        assert_eq!(cut[0], ["key", "0123456789abcdef…"]);
        assert_eq!(cut_digests(&[vec!["01HF8ZK2".to_owned()]]), None);
    }

    #[test]
    fn one_is_singular() {
        assert_eq!(count(1, "file"), "1 file");
        assert_eq!(count(0, "file"), "0 files");
        assert_eq!(count(2, "file"), "2 files");
    }
}
