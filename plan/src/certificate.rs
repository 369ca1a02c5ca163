//! When somebody has to hear that a certificate ends.

use holdfast_proto::Timestamp;
use holdfast_proto::finding::Severity;

/// With so much of a certificate's time left somebody must look, in milliseconds: a month
/// and a week, and never more than a quarter and a tenth of its lifetime.
const WARNING: u64 = 30 * 86_400_000;
const CRITICAL: u64 = 7 * 86_400_000;

/// How much it matters at a moment that a certificate, which is valid from `begins` until
/// `ends`, has not been replaced; `None` while there is enough time.
pub fn urgency(begins: Timestamp, ends: Timestamp, now: Timestamp) -> Option<Severity> {
    let (lifetime, left) = (ends.millis_since(begins), ends.millis_since(now));
    if left <= CRITICAL.min(lifetime / 10) {
        Some(Severity::Critical)
    } else if left <= WARNING.min(lifetime / 4) {
        Some(Severity::Warning)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_hears_of_it_in_good_time() {
        let begins: Timestamp = "2026-11-28T12:00:00Z".parse().unwrap();
        let day = 86_400_000;
        // Days of validity, and from which day left on it is a warning and critical.
        for (lifetime, warning, critical) in [(90, 22, 7), (6 * 365, 30, 7), (10, 2, 1)] {
            let ends = begins.plus_millis(lifetime * day);
            let with = |left: i64| urgency(begins, ends, ends.plus_millis(-left * day));
            assert_eq!(with(warning + 1), None, "{lifetime}");
            assert_eq!(with(warning), Some(Severity::Warning), "{lifetime}");
            assert_eq!(with(critical), Some(Severity::Critical), "{lifetime}");
            assert_eq!(with(-1), Some(Severity::Critical), "{lifetime}");
        }
    }
}
