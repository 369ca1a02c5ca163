use super::*;
use crate::pack::PackReader;
use crate::packer::Packer;
use crate::seal::{Identities, Identity, IndexKey};
use holdfast_proto::Timestamp;
use holdfast_proto::names::{Epoch, KeyKind};
use proptest::prelude::*;

struct Stored {
    keyring: Keyring,
    packs: HashMap<Sha256Digest, Bytes>,
    parts: Vec<SealedPart>,
}

fn line(path: &str, size: usize) -> CatalogueLine {
    CatalogueLine {
        path: path.to_owned(),
        path_bytes: None,
        kind: EntryType::File,
        mode: 0o600,
        size: size as u64,
        mtime: None,
        b3: None,
        note: None,
    }
}

fn key() -> (EpochKey, Keyring) {
    let identity = Identity::generate();
    let epoch = Epoch::of(Timestamp::from_unix_micros(1_790_000_000_000_000));
    let key = EpochKey::new(identity.recipient().clone(), epoch, KeyKind::Data);
    (key, Keyring::of(Identities::from(identity)))
}

/// Packs files with a packer for each of `workers`, one assembler, one table.
fn capture(files: &[(String, Vec<u8>)], workers: usize) -> Stored {
    let (key, keyring) = key();
    let index_key = IndexKey::generate();
    let mut writer = PartWriter::new(key.clone());
    let (mut packs, mut parts) = (HashMap::new(), Vec::new());
    let mut packers: Vec<Packer> = (0..workers)
        .map(|_| Packer::new(key.clone(), index_key.clone(), 1))
        .collect();
    let mut drain = |packer: &mut Packer| {
        while let Some(pack) = packer.take_pack() {
            packs.insert(pack.sha256, pack.bytes);
        }
        while let Some(entry) = packer.take_entry() {
            parts.extend(writer.add(entry).unwrap());
        }
    };
    for (n, (path, content)) in files.iter().enumerate() {
        let packer = &mut packers[n % workers];
        // Read in uneven pieces, as from a file.
        for run in content.chunks(700_001) {
            packer.push(run).unwrap();
        }
        packer
            .end(
                path.as_bytes(),
                Some(index_key.content_id(content)),
                line(path, content.len()),
            )
            .unwrap();
        drain(packer);
    }
    for packer in &mut packers {
        packer.flush().unwrap();
        drain(packer);
    }
    parts.extend(writer.finish().unwrap());
    Stored {
        keyring,
        packs,
        parts,
    }
}

fn restore(stored: &Stored) -> HashMap<String, Vec<u8>> {
    let mut files = HashMap::new();
    let mut readers: HashMap<Sha256Digest, PackReader> = HashMap::new();
    for sealed in &stored.parts {
        let part = read_part(&sealed.index, &sealed.catalogue, &sealed.part, &stored.keyring).unwrap();
        for (index, line) in &part.entries {
            let mut content = Vec::new();
            for Extent(pack, block, offset, length, _) in &index.x {
                let known = &part.packs[*pack as usize];
                let sha256 = known.pack.sha256;
                let reader = readers.entry(sha256).or_insert_with(|| {
                    PackReader::open(&stored.packs[&sha256], &stored.keyring, known).unwrap()
                });
                let raw = reader.block(*block).unwrap();
                content.extend_from_slice(&raw[*offset as usize..(*offset + *length) as usize]);
            }
            assert!(
                files.insert(line.path.clone(), content).is_none(),
                "{} twice",
                line.path
            );
        }
    }
    files
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn files_come_back_whole(sizes in proptest::collection::vec(prop_oneof![0usize..100, 0usize..3_000_000], 1..12), workers in 1usize..4) {
        let files: Vec<(String, Vec<u8>)> =
            sizes.iter().enumerate().map(|(n, size)| (format!("f{n}"), noise(n as u64, *size))).collect();
        let back = restore(&capture(&files, workers));
        prop_assert_eq!(back.len(), files.len());
        for (path, content) in &files {
            prop_assert!(back[path] == *content, "{path}");
        }
    }
}

#[test]
fn a_capture_of_several_packs_and_many_small_files_comes_back() {
    let mut files = vec![("large".to_owned(), noise(1, 40 << 20))];
    files.extend((0..500u64).map(|n| (format!("small/{n}"), noise(n, 900))));
    let stored = capture(&files, 2);
    assert!(stored.packs.len() >= 3);
    let back = restore(&stored);
    assert!(files.iter().all(|(path, content)| back[path] == *content));
}

#[test]
fn parts_close_at_their_bound() {
    let (key, keyring) = key();
    let mut writer = PartWriter::new(key);
    let entry = |n: usize| Entry {
        path: ContentId::new([n as u8; 16]),
        content: None,
        pieces: vec![],
        line: line(&format!("empty/{n}"), 0),
    };
    let mut parts: Vec<SealedPart> = (0..PART_ENTRIES + 1)
        .filter_map(|n| writer.add(entry(n)).unwrap())
        .collect();
    parts.extend(writer.finish().unwrap());
    assert_eq!(
        parts.iter().map(|p| p.part.entries).collect::<Vec<_>>(),
        [PART_ENTRIES as u64, 1]
    );
    let last = read_part(&parts[1].index, &parts[1].catalogue, &parts[1].part, &keyring).unwrap();
    assert_eq!(last.entries[0].1.path, format!("empty/{PART_ENTRIES}"));
}

#[test]
fn a_discarded_entry_leaves_the_others_whole() {
    let (key, keyring) = key();
    let mut packer = Packer::new(key.clone(), IndexKey::generate(), 1);
    packer.push(&noise(1, 5000)).unwrap();
    packer.discard();
    packer.push(b"kept").unwrap();
    packer.end(b"kept", None, line("kept", 4)).unwrap();
    assert!(packer.take_entry().is_none(), "its pack is not sealed yet");
    packer.flush().unwrap();
    let pack = packer.take_pack().unwrap();
    let mut writer = PartWriter::new(key);
    writer.add(packer.take_entry().unwrap()).unwrap();
    let parts = vec![writer.finish().unwrap().unwrap()];
    let stored = Stored {
        keyring,
        packs: HashMap::from([(pack.sha256, pack.bytes)]),
        parts,
    };
    assert_eq!(restore(&stored)["kept"], b"kept");
}

#[test]
fn the_clear_half_tells_no_names_and_damage_is_refused() {
    let stored = capture(&[("salaries.ods".to_owned(), noise(1, 5000))], 1);
    let sealed = &stored.parts[0];
    let text = zstd::decode_all(&sealed.index[..]).unwrap();
    assert!(!String::from_utf8_lossy(&text).contains("salaries"));
    assert_eq!(read_index(&sealed.index, &sealed.part).unwrap().lines.len(), 1);

    for half in ["index", "catalogue"] {
        for at in [0usize, 20, usize::MAX] {
            let (mut index, mut catalogue) = (sealed.index.to_vec(), sealed.catalogue.to_vec());
            let bytes = if half == "index" {
                &mut index
            } else {
                &mut catalogue
            };
            let at = at.min(bytes.len() - 1);
            bytes[at] ^= 1;
            let refused = read_part(&index, &catalogue, &sealed.part, &stored.keyring).unwrap_err();
            assert!(matches!(refused, ManifestError::Digest { .. }), "{refused}");
        }
    }
    let refused = read_part(
        &sealed.index,
        &sealed.catalogue,
        &sealed.part,
        &Keyring::default(),
    )
    .unwrap_err();
    assert!(matches!(
        refused,
        ManifestError::Pack {
            source: PackError::NoKey(_),
            ..
        }
    ));
}

#[test]
fn contradictions_are_refused() {
    let stored = capture(
        &[("a".to_owned(), noise(1, 5000)), ("b".to_owned(), noise(2, 50))],
        1,
    );
    let sealed = &stored.parts[0];
    let clear = read_index(&sealed.index, &sealed.part).unwrap();
    let open = read_part(&sealed.index, &sealed.catalogue, &sealed.part, &stored.keyring).unwrap();
    let digests: Vec<_> = open.packs.iter().map(|p| p.digests.clone()).collect();
    let lines: Vec<_> = open.entries.iter().map(|e| e.1.clone()).collect();
    join(clear.clone(), digests.clone(), lines.clone()).unwrap();
    join(clear.clone(), vec![vec![]], lines.clone()).unwrap();

    let mut longer = lines.clone();
    longer[0].size += 1;
    assert!(join(clear.clone(), digests.clone(), longer).is_err());
    assert!(join(clear.clone(), digests.clone(), lines[..1].to_vec()).is_err());
    let mut more = digests.clone();
    more[0].push(digests[0][0]);
    assert!(join(clear.clone(), more, lines).is_err());

    let mut beyond = clear.clone();
    beyond.lines[0].x[0].3 += 10_000_000;
    assert!(check_index(&beyond, &sealed.part).is_err());
    let mut overflow = clear.clone();
    overflow.lines[0].x[0].2 = u32::MAX;
    assert!(check_index(&overflow, &sealed.part).is_err());
    let mut missing = clear;
    missing.packs.clear();
    assert!(check_index(&missing, &sealed.part).is_err());
}
