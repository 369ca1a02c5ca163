//! Numbers and moments as people read them.

use holdfast_proto::Timestamp;

/// `1 min 20 s`, `850 ms`: the two largest units.
pub(super) fn span(ms: u64) -> String {
    let two = |large: u64, a: &str, small: u64, b: &str| match small {
        0 => format!("{large} {a}"),
        _ => format!("{large} {a} {small} {b}"),
    };
    let s = ms / 1000;
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", s, ms % 1000 / 100),
        60_000..3_600_000 => two(s / 60, "min", s % 60, "s"),
        3_600_000..172_800_000 => two(s / 3600, "h", s % 3600 / 60, "min"),
        _ => two(s / 86_400, "d", s % 86_400 / 3600, "h"),
    }
}

/// `31.0 MB`, in powers of ten.
pub(super) fn bytes(n: u64) -> String {
    let units = ["kB", "MB", "GB", "TB", "PB"];
    let (mut tenths, mut unit) = (n.saturating_mul(10), "bytes");
    for next in units {
        if tenths < 10_000 {
            break;
        }
        (tenths, unit) = (tenths / 1000, next);
    }
    match unit {
        "bytes" => format!("{n} bytes"),
        _ => format!("{}.{} {unit}", tenths / 10, tenths % 10),
    }
}

/// `20,728`.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `2026-11-21 14:00:02 UTC`.
pub(super) fn second(at: Timestamp) -> String {
    at.to_chrono().format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// `BASE_FETCH` as `base fetch`.
pub(super) fn plain(word: &str) -> String {
    word.replace('_', " ").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_250, "1.2 s"),
            (80_000, "1 min 20 s"),
            (7_200_000, "2 h"),
            (266_400_000, "3 d 2 h"),
        ] {
            assert_eq!(span(ms), text);
        }
        for (n, text) in [(0, "0 bytes"), (999, "999 bytes"), (31_000_000, "31.0 MB")] {
            assert_eq!(bytes(n), text);
        }
        for (n, text) in [
            (1, "1"),
            (999, "999"),
            (20_728, "20,728"),
            (1_000_000, "1,000,000"),
        ] {
            assert_eq!(count(n), text);
        }
    }
}
