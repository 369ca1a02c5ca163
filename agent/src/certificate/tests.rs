use std::os::unix::fs::PermissionsExt;

use super::*;

fn time(at: Timestamp) -> Duration {
    Duration::from_micros(u64::try_from(at.unix_micros()).unwrap())
}

fn certificate(key: &KeyPair, begins: Timestamp, ends: Timestamp) -> String {
    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + time(begins);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + time(ends);
    params.self_signed(key).unwrap().pem()
}

/// One that is valid from a moment to another.
fn credential(begins: Timestamp, ends: Timestamp) -> Credential {
    let key = NextKey(KeyPair::generate().unwrap());
    let text = key.with(&certificate(&key.0, begins, ends));
    Credential::read(text, "a test").unwrap()
}

fn kept() -> (tempfile::TempDir, Kept) {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(&dir.path().join("state")).unwrap();
    let kept = Kept::of(&state);
    (dir, kept)
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn a_key_is_on_disk_before_it_is_used_and_asked_with_again() {
    let (_dir, kept) = kept();
    let first = kept.next_key().unwrap();
    let mode = std::fs::metadata(&kept.next).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // The process died before an answer came.
    let again = kept.next_key().unwrap();
    assert_eq!(again.0.public_key_raw(), first.0.public_key_raw());
    assert!(kept.current().unwrap().is_none() && kept.unproven().unwrap().is_none());

    // What was issued waits until it is proven, and is not the one in use.
    let (begins, ends) = (at("2026-11-28T12:00:00Z"), at("2027-02-26T12:00:00Z"));
    let text = first.with(&certificate(&first.0, begins, ends));
    let issued = Credential::read(text, "a test").unwrap();
    kept.keep_next(&issued).unwrap();
    assert!(kept.current().unwrap().is_none());
    assert_eq!(kept.unproven().unwrap().as_ref(), Some(&issued));

    kept.adopt(&issued).unwrap();
    assert_eq!(kept.current().unwrap().as_ref(), Some(&issued));
    assert!(kept.unproven().unwrap().is_none());
    let mode = std::fs::metadata(&kept.current).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // The next one has a key of its own.
    let next = kept.next_key().unwrap();
    assert_ne!(next.0.public_key_raw(), first.0.public_key_raw());
    assert_eq!(kept.current().unwrap().as_ref(), Some(&issued));
}

#[test]
fn what_cannot_be_read_is_not_used() {
    let (_dir, kept) = kept();
    let (begins, ends) = (at("2026-11-28T12:00:00Z"), at("2027-02-26T12:00:00Z"));
    let whole = credential(begins, ends);
    for bad in ["", "half", &whole.text[..whole.text.len() / 2]] {
        durable::replace(&kept.current, bad.as_bytes()).unwrap();
        durable::replace(&kept.next, bad.as_bytes()).unwrap();
        assert!(kept.current().unwrap().is_none(), "{bad}");
        assert!(kept.next_key().is_ok(), "{bad}");
    }
    assert!(!format!("{whole:?}").contains("PRIVATE"));
    assert_eq!((whole.begins, whole.ends), (begins, ends));
    assert_eq!(whole.due(), at("2027-01-27T12:00:00Z"));
    // It is renewed, again and again, before anybody hears of it.
    assert_eq!(
        holdfast_plan::certificate::urgency(begins, ends, whole.due().plus_millis(5 * 86_400_000)),
        None
    );
}
