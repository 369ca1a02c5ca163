//! One file for an export: a zip without compression, which every system opens.
//!
//! Entries are stored in the order given, with a fixed date, so that the same
//! export gives the same bytes. Sizes stay below what plain zip can say (4 GiB,
//! 65,535 files); more is refused.

use crate::evidence::tlog::tiles::LogFile;

/// An export that a plain zip cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the export is too large for a zip file: write it into a directory")]
pub struct TooLarge;

/// 1980-01-01, the earliest that a zip can say: an export has no date of its own.
const DATE: u16 = 1 << 5 | 1;
/// UTF-8 names.
const FLAGS: u16 = 1 << 11;
/// The format's version that is needed to read it: 1.0.
const VERSION: u16 = 10;

/// The zip's bytes; every file lies below the folder `top`.
pub fn zip(top: &str, files: &[LogFile]) -> Result<Vec<u8>, TooLarge> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for file in files {
        let name = format!("{top}/{}", file.path);
        let offset = size(out.len())?;
        let mut header = Vec::new();
        header.extend(VERSION.to_le_bytes());
        header.extend(FLAGS.to_le_bytes());
        header.extend([0, 0, 0, 0]); // stored; midnight
        header.extend(DATE.to_le_bytes());
        header.extend(crc32(&file.bytes).to_le_bytes());
        header.extend(size(file.bytes.len())?.to_le_bytes());
        header.extend(size(file.bytes.len())?.to_le_bytes());
        header.extend(u16::try_from(name.len()).map_err(|_| TooLarge)?.to_le_bytes());
        header.extend([0, 0]); // no extra field

        out.extend(b"PK\x03\x04");
        out.extend(&header);
        out.extend(name.as_bytes());
        out.extend(&file.bytes);

        directory.extend(b"PK\x01\x02");
        directory.extend((3u16 << 8 | VERSION).to_le_bytes()); // made on Unix
        directory.extend(&header);
        directory.extend([0; 6]); // no comment; first disk; no internal attributes
        directory.extend((0o100_644u32 << 16).to_le_bytes());
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (count, at) = (
        u16::try_from(files.len()).map_err(|_| TooLarge)?,
        size(out.len())?,
    );
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend(count.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend(size(directory.len())?.to_le_bytes());
    out.extend(at.to_le_bytes());
    out.extend([0, 0]);
    Ok(out)
}

fn size(n: usize) -> Result<u32, TooLarge> {
    u32::try_from(n).ok().filter(|n| *n < u32::MAX).ok_or(TooLarge)
}

/// CRC-32 as zip has it (ISO 3309, reflected, polynomial 0xEDB88320).
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| {
            if c & 1 == 1 { c >> 1 ^ 0xEDB8_8320 } else { c >> 1 }
        })
    };
    !bytes.iter().fold(u32::MAX, step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_crc_is_the_one_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(b""), 0);
    }

    /// Python's own reader checks every header and every CRC.
    #[test]
    fn other_programs_open_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("evidence.zip");
        let files = [
            ("a.txt", &b"one\n"[..]),
            ("tile/0/000.p/1", &[0xff; 300]),
            ("empty", b""),
        ];
        let files = files.map(|(path, bytes)| LogFile {
            path: path.to_owned(),
            bytes: bytes.to_vec(),
        });
        std::fs::write(&path, zip("evidence", &files).unwrap()).unwrap();
        let script = "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); assert z.testzip() is None; \
                      print(sorted((i.filename, i.file_size) for i in z.infolist()))";
        let done = Command::new("python3")
            .args(["-c", script])
            .arg(&path)
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(
            String::from_utf8_lossy(&done.stdout).trim(),
            "[('evidence/a.txt', 4), ('evidence/empty', 0), ('evidence/tile/0/000.p/1', 300)]"
        );
    }
}
