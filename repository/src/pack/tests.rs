use super::*;
use crate::seal::{Identities, Identity};
use holdfast_proto::Timestamp;
use holdfast_proto::names::{Epoch, KeyKind};
use std::process::Command;

fn key() -> (EpochKey, Keyring, Identity) {
    let identity = Identity::generate();
    let epoch = Epoch::of(Timestamp::from_unix_micros(1_790_000_000_000_000));
    let key = EpochKey::new(identity.recipient().clone(), epoch, KeyKind::Data);
    (key, Keyring::of(Identities::from(identity.clone())), identity)
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

fn packed(key: &EpochKey, blocks: &[Vec<u8>]) -> SealedPack {
    let mut builder = PackBuilder::new(key, 1).unwrap();
    for (n, raw) in blocks.iter().enumerate() {
        assert_eq!(builder.push_block(raw).unwrap().block as usize, n);
    }
    builder.finish().unwrap().0
}

#[test]
fn blocks_come_back_in_any_order() {
    let (key, keyring, _) = key();
    let blocks = vec![noise(1, 100_000), b"".to_vec(), vec![7; BLOCK], noise(2, 3)];
    let pack = packed(&key, &blocks);
    let mut reader = PackReader::open(&pack.bytes, &keyring, &pack.known()).unwrap();
    for n in [3, 0, 2, 1, 0] {
        assert_eq!(reader.block(n).unwrap(), blocks[n as usize]);
    }
    assert!(matches!(reader.block(4), Err(PackError::Block { block: 4, .. })));
}

#[test]
fn the_age_and_zstd_commands_open_a_pack() {
    let (key, _, identity) = key();
    let blocks = vec![noise(1, 100_000), vec![7; 200_000], noise(2, 3)];
    let dir = tempfile::tempdir().unwrap();
    identity.save(&dir.path().join("id")).unwrap();
    std::fs::write(dir.path().join("pack"), packed(&key, &blocks).bytes).unwrap();
    let out = Command::new("sh")
        .args(["-c", "age -d -i id pack | zstd -d"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_eq!(
        out.stdout,
        blocks.concat(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

#[test]
fn a_pack_stays_within_its_bound_and_says_when_it_is_full() {
    let (key, keyring, _) = key();
    let mut builder = PackBuilder::new(&key, 1).unwrap();
    let mut pushed = 0;
    while builder.has_room_for(BLOCK) {
        builder.push_block(&noise(pushed, BLOCK)).unwrap();
        pushed += 1;
    }
    assert!(builder.is_full());
    assert!(pushed >= 15, "{pushed} blocks of noise should fit");
    while builder.push_block(&noise(99, 100_000)).is_ok() {}
    assert!(matches!(
        builder.push_block(&noise(99, 100_000)),
        Err(PackError::Full)
    ));
    let (pack, _) = builder.finish().unwrap();
    assert!(pack.bytes.len() <= MAX_PACK, "{}", pack.bytes.len());
    assert!(pack.bytes.len() > MAX_PACK - (1 << 20));
    let mut reader = PackReader::open(&pack.bytes, &keyring, &pack.known()).unwrap();
    assert_eq!(reader.block(3).unwrap(), noise(3, BLOCK));
    let mut builder = PackBuilder::new(&key, 1).unwrap();
    assert!(matches!(
        builder.push_block(&vec![0; MAX_BLOCK + 1]),
        Err(PackError::BlockTooLarge(_))
    ));
}

#[test]
fn damage_and_wrong_keys_are_refused() {
    let (key_, keyring, _) = key();
    let (_, other, stranger) = key();
    let pack = packed(&key_, &[noise(1, 50_000), noise(2, 50_000)]);
    let known = pack.known();
    for at in [0, 100, pack.bytes.len() / 2, pack.bytes.len() - 1] {
        let mut flipped = pack.bytes.to_vec();
        flipped[at] ^= 4;
        assert!(matches!(
            PackReader::open(&flipped, &keyring, &known),
            Err(PackError::Digest(_))
        ));
        // Even when the digest is made to fit, the seal does not hold.
        let mut lied = known.clone();
        lied.pack.sha256 = Sha256Digest::of(&flipped);
        assert!(
            matches!(
                PackReader::open(&flipped, &keyring, &lied),
                Err(PackError::Seal(_))
            ),
            "{at}"
        );
    }
    assert!(PackReader::open(&pack.bytes[..pack.bytes.len() - 1], &keyring, &known).is_err());
    assert!(matches!(
        PackReader::open(&pack.bytes, &other, &known),
        Err(PackError::NoKey(_))
    ));
    let mut wrong = known.clone();
    wrong.pack.sealed_to = stranger.recipient().fingerprint();
    assert!(matches!(
        PackReader::open(&pack.bytes, &other, &wrong),
        Err(PackError::Seal(SealError::WrongIdentity))
    ));

    // A valid pack by somebody else who knows the recipient, listed by its digest:
    // the blocks are not the catalogue's.
    let forged = packed(&key_, &[noise(1, 50_000), noise(3, 50_000)]);
    let mut listed = forged.known();
    listed.digests = known.digests.clone();
    let mut reader = PackReader::open(&forged.bytes, &keyring, &listed).unwrap();
    assert!(reader.block(0).is_ok());
    assert!(matches!(reader.block(1), Err(PackError::Block { block: 1, .. })));

    let mut short = known.clone();
    short.pack.blocks.pop();
    short.digests.pop();
    assert!(matches!(
        PackReader::open(&pack.bytes, &keyring, &short),
        Err(PackError::Table { .. })
    ));
    let mut lying = known.clone();
    lying.pack.blocks[0].1 -= 1;
    assert!(
        PackReader::open(&pack.bytes, &keyring, &lying)
            .unwrap()
            .block(0)
            .is_err()
    );
    let mut few = known;
    few.digests.pop();
    assert!(matches!(
        PackReader::open(&pack.bytes, &keyring, &few),
        Err(PackError::Table { .. })
    ));
}

#[test]
fn single_frames_round_trip_within_their_limit() {
    let (key, keyring, _) = key();
    for raw in [Vec::new(), noise(5, 70_000), vec![0; 16 << 20]] {
        let sealed = seal_frame(&key, &raw, 1).unwrap();
        assert_eq!(
            open_frame(&keyring, &key.fingerprint, &sealed, raw.len()).unwrap(),
            raw
        );
        if !raw.is_empty() {
            let refused = open_frame(&keyring, &key.fingerprint, &sealed, raw.len() - 1);
            assert!(matches!(refused, Err(PackError::Frame { .. })));
        }
        let doubled = [&sealed[..], &sealed[..]].concat();
        assert!(open_frame(&keyring, &key.fingerprint, &doubled, 2 * raw.len()).is_err());
    }
}
