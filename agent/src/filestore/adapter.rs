//! What an application's naming says about a filestore's files.
//!
//! An adapter answers three questions: which paths are not content at all, what
//! a name promises about a file's bytes, and whether files are ever changed in
//! place. It reads nothing.

use crate::config::AdapterKind;

impl AdapterKind {
    /// Whether a path (relative to the root) is the application's own bookkeeping
    /// and no content. Odoo queues names for its collector under `checklist/`.
    pub fn ignores(self, path: &[u8]) -> bool {
        match self {
            AdapterKind::Odoo => path == b"checklist" || path.starts_with(b"checklist/"),
            AdapterKind::None => false,
        }
    }

    /// The SHA-1 that a file's name promises for its content: in Odoo's filestore
    /// `xx/` and 40 hexadecimal digits that begin with the same `xx`.
    pub fn promised_sha1(self, path: &[u8]) -> Option<[u8; 20]> {
        if self != AdapterKind::Odoo {
            return None;
        }
        let (directory, name) = path.split_at_checked(2)?;
        let name = name.strip_prefix(b"/")?;
        let lower = name.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if name.len() != 40 || !lower || !name.starts_with(directory) {
            return None;
        }
        let mut sha1 = [0; 20];
        hex::decode_to_slice(name, &mut sha1).ok()?;
        Some(sha1)
    }

    /// Whether a file may change without its directory's times telling: then only
    /// comparing every file's stat finds all changes.
    pub fn changes_in_place(self) -> bool {
        self == AdapterKind::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odoo_names_promise_their_sha1() {
        let odoo = AdapterKind::Odoo;
        let good = b"da/da39a3ee5e6b4b0d3255bfef95601890afd80709";
        assert_eq!(
            odoo.promised_sha1(good).map(hex::encode).as_deref(),
            Some("da39a3ee5e6b4b0d3255bfef95601890afd80709")
        );
        assert_eq!(AdapterKind::None.promised_sha1(good), None);
        for other in [
            &b"db/da39a3ee5e6b4b0d3255bfef95601890afd80709"[..],
            b"da/DA39a3ee5e6b4b0d3255bfef95601890afd80709",
            b"da/da39a3ee",
            b"da39a3ee5e6b4b0d3255bfef95601890afd80709",
            b"x/da/da39a3ee5e6b4b0d3255bfef95601890afd80709",
            b"",
        ] {
            assert_eq!(odoo.promised_sha1(other), None);
        }
        assert!(
            odoo.ignores(b"checklist") && odoo.ignores(b"checklist/da/da39") && !odoo.ignores(b"checklists")
        );
        assert!(!AdapterKind::None.ignores(b"checklist"));
    }
}
