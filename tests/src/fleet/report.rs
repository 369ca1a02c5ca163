//! What the kernel says of a process, and figures as a page has them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// What `/proc` says of a process.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    /// Resident memory, in bytes.
    pub resident: u64,
    /// The most that it was.
    pub most: u64,
    /// Processor time, its own and the kernel's for it.
    pub cpu: Duration,
}

impl Process {
    /// Reads it.
    ///
    /// # Errors
    /// There is no such process.
    pub fn look(pid: u32) -> Result<Self> {
        let place = Path::new("/proc").join(pid.to_string());
        let status = std::fs::read_to_string(place.join("status"))?;
        let kilobytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let stat = std::fs::read_to_string(place.join("stat"))?;
        // The name of the program stands in brackets and may hold blanks.
        let (_, fields) = stat.rsplit_once(')').context("a process has a name")?;
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|ticks| ticks.parse::<u64>().ok())
            .sum();
        Ok(Self {
            resident: kilobytes("VmRSS:").context("it has memory")? << 10,
            most: kilobytes("VmHWM:").context("it has memory")? << 10,
            // The kernel counts a hundred ticks in a second on every Linux that there is.
            cpu: Duration::from_millis(10) * u32::try_from(ticks)?,
        })
    }
}

/// `12.3 ms`, `1.23 s`.
pub fn length(took: Duration) -> String {
    let ms = took.as_secs_f64() * 1000.0;
    match ms {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 100.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.2} s", ms / 1000.0),
    }
}

/// `123 MB`, `45 kB`.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", (bytes + 500) / 1_000),
        _ => format!("{} MB", (bytes + 500_000) / 1_000_000),
    }
}

/// `12,345`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The values of a metric in an exposition, by the value of one of its labels.
pub fn metric(exposition: &str, name: &str, label: &str) -> Vec<(String, f64)> {
    let lines = exposition
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
    lines
        .filter_map(|line| {
            let (labels, value) = line.split_once("} ")?;
            let (_, rest) = labels.split_once(&format!("{label}=\""))?;
            let (text, _) = rest.split_once('"')?;
            Some((text.to_owned(), value.parse().ok()?))
        })
        .collect()
}

/// Puts `text` between the two marks in a file.
///
/// # Errors
/// The file does not have them.
pub fn put_between(file: &Path, mark: &str, text: &str) -> Result<()> {
    let whole = std::fs::read_to_string(file)?;
    let (begin, end) = (
        format!("<!-- {mark}: begin -->\n"),
        format!("<!-- {mark}: end -->"),
    );
    let (before, rest) = whole.split_once(&begin).context("the page has no such mark")?;
    let (_, after) = rest
        .split_once(&end)
        .context("the page has no end of that mark")?;
    std::fs::write(file, format!("{before}{begin}{text}{end}{after}"))?;
    Ok(())
}
