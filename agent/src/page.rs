//! Data pages of relation files: their checksum and what it says.
//!
//! Follows `src/include/storage/checksum_impl.h`, `bufpage.h` and
//! `PageIsVerifiedExtended` of PostgreSQL 14 to 18: a page of 8 KiB carries 16
//! bits of a checksum made of 32 parallel FNV-1a hashes, mixed with its block
//! number within the relation fork. It does not read files and does not decide
//! what a failed page means for a backup; that is [`crate::base`]'s business.
//!
//! The checksum is written over fixed arrays so that the compiler keeps all 32
//! hashes in vector registers.

use holdfast_proto::pg::Lsn;

/// Bytes of a data page: `BLCKSZ` of every build that is packaged.
pub const PAGE: usize = 8192;

/// Parallel hashes.
const LANES: usize = 32;

/// Bytes that one round takes.
const ROW: usize = LANES * 4;

const FNV_PRIME: u32 = 16_777_619;

/// The initial state of each hash (`checksumBaseOffsets`).
const BASE_OFFSETS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// What a page says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageCheck {
    /// Never written: all bytes are zero.
    New,
    /// The checksum holds.
    Good,
    /// The checksum does not hold, or a page that claims to be new is not empty.
    Bad {
        /// The checksum in the page.
        found: u16,
        /// The checksum of the page.
        expected: u16,
        /// The position of the last change, as the page says; `None` for zero.
        lsn: Option<Lsn>,
    },
}

/// Checks one page that is block `block` of its relation fork.
pub fn check(page: &[u8; PAGE], block: u32) -> PageCheck {
    let upper = u16::from_le_bytes([page[14], page[15]]);
    if upper == 0 && is_zero(page) {
        return PageCheck::New;
    }
    let found = u16::from_le_bytes([page[8], page[9]]);
    let expected = checksum(page, block);
    if upper != 0 && found == expected {
        PageCheck::Good
    } else {
        PageCheck::Bad {
            found,
            expected,
            lsn: last_change(page),
        }
    }
}

/// The page's `pd_lsn`: the end of the WAL record that changed it last; `None`
/// for zero.
pub fn last_change(page: &[u8; PAGE]) -> Option<Lsn> {
    let half = |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
    let lsn = u64::from(half(0)) << 32 | u64::from(half(4));
    (lsn != 0).then(|| Lsn::new(lsn))
}

/// The checksum that a page at `block` must carry (`pg_checksum_page`).
pub fn checksum(page: &[u8; PAGE], block: u32) -> u16 {
    let (rows, _) = page.as_chunks::<ROW>();
    let mut sums = BASE_OFFSETS;
    // The checksum's own two bytes count as zero.
    let mut first = rows[0];
    first[8] = 0;
    first[9] = 0;
    round(&mut sums, &first);
    for row in &rows[1..] {
        round(&mut sums, row);
    }
    for _ in 0..2 {
        round(&mut sums, &[0; ROW]);
    }
    let folded = sums.iter().fold(0, |all, sum| all ^ sum);
    ((folded ^ block) % 65_535 + 1) as u16
}

#[inline(always)]
fn round(sums: &mut [u32; LANES], row: &[u8; ROW]) {
    let (words, _) = row.as_chunks::<4>();
    for lane in 0..LANES {
        let mixed = sums[lane] ^ u32::from_le_bytes(words[lane]);
        sums[lane] = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
    }
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (rows, rest) = bytes.as_chunks::<64>();
    rows.iter()
        .all(|row| row.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise() -> [u8; PAGE] {
        let mut state = 1u32;
        std::array::from_fn(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
    }

    /// The values that `pg_checksum_page` of PostgreSQL 15's header computes.
    #[test]
    fn agrees_with_postgresql() {
        let page = noise();
        for (block, expected) in [(0, 45143), (131_071, 58376), (u32::MAX - 1, 20395)] {
            assert_eq!(checksum(&page, block), expected);
        }
    }

    #[test]
    fn tells_new_good_and_bad_apart() {
        assert_eq!(check(&[0; PAGE], 7), PageCheck::New);
        let mut page = noise();
        let sum = checksum(&page, 7);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(check(&page, 7), PageCheck::Good);
        assert!(
            matches!(check(&page, 8), PageCheck::Bad { .. }),
            "a page at another place"
        );

        let mut damaged = page;
        damaged[5000] ^= 1;
        let PageCheck::Bad { found, expected, lsn } = check(&damaged, 7) else {
            panic!("one flipped bit was not seen");
        };
        assert_eq!((found, expected), (sum, checksum(&damaged, 7)));
        assert_eq!(lsn, last_change(&page));

        let mut hollow = [0; PAGE];
        hollow[8000] = 1;
        assert!(
            matches!(check(&hollow, 0), PageCheck::Bad { lsn: None, .. }),
            "neither new nor a page"
        );
    }
}
