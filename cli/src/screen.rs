//! What people see: logging, tables, amounts, lines that fit, progress.

use std::io::IsTerminal;
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

/// Rows in columns, the first row being the heading.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|c| {
            rows.iter()
                .filter_map(|r| r.get(c))
                .map(|t| t.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    for (n, row) in rows.iter().enumerate() {
        let line: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(text, width)| format!("{text:<width$}"))
            .collect();
        out.push_str(line.join("  ").trim_end());
        out.push('\n');
        if n == 0 {
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
    let style = ProgressStyle::with_template(
        "{msg:<10} {wide_bar:.cyan/blue} {binary_bytes:>10} of {binary_total_bytes:<10} {binary_bytes_per_sec:>12}  {eta:>4} left",
    )
    .expect("the template is a constant");
    bar.set_style(style);
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
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
        loop {
            tick.tick().await;
            let (done, total) = meter.read();
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
}
