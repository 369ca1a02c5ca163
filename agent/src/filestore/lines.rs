//! How remembered entries are written into a manifest's parts.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_proto::Timestamp;
use holdfast_proto::manifest::{CatalogueLine, EntryType};
use holdfast_repository::manifest::{Entry as Line, Piece};
use holdfast_repository::pack::KnownPack;
use holdfast_repository::seal::IndexKey;

use super::record::{Content, Entry, Stat};

/// The catalogue's half of a line about `path`.
fn catalogue(path: &[u8], kind: EntryType, stat: Option<&Stat>) -> CatalogueLine {
    let text = String::from_utf8_lossy(path);
    let path_bytes = matches!(text, std::borrow::Cow::Owned(_)).then(|| STANDARD.encode(path));
    CatalogueLine {
        path: text.into_owned(),
        path_bytes,
        kind,
        mode: stat.map_or(0, Stat::permissions),
        size: 0,
        mtime: stat.map(|s| Timestamp::from_unix_micros(s.mtime.div_euclid(1000))),
        b3: None,
        note: None,
    }
}

fn plain(key: &IndexKey, path: &[u8], line: CatalogueLine) -> Line {
    Line {
        path: key.path_id(path),
        content: None,
        pieces: Vec::new(),
        line,
    }
}

/// The line of a captured file or link; `None` for one without content.
pub fn captured<'p>(
    key: &IndexKey,
    path: &[u8],
    entry: &Entry,
    pack: impl Fn(u32) -> Option<&'p Arc<KnownPack>>,
) -> Option<Line> {
    match &entry.content {
        Content::File { b3, id, extents } => {
            let mut line = catalogue(path, EntryType::File, Some(&entry.stat));
            line.size = entry.stat.size;
            line.b3 = Some(*b3);
            let pieces: Option<Vec<Piece>> = (extents.iter())
                .map(|(place, id)| {
                    Some(Piece {
                        pack: Arc::clone(pack(place.pack)?),
                        block: place.block,
                        offset: place.offset,
                        length: place.length,
                        id: *id,
                    })
                })
                .collect();
            Some(Line {
                path: key.path_id(path),
                content: Some(*id),
                pieces: pieces?,
                line,
            })
        }
        Content::Symlink(target) => {
            let mut line = catalogue(path, EntryType::Symlink, Some(&entry.stat));
            line.note = Some(String::from_utf8_lossy(target).into_owned());
            Some(plain(key, path, line))
        }
        Content::Absent => None,
    }
}

/// The line of a directory.
pub fn directory(key: &IndexKey, path: &[u8], stat: &Stat) -> Line {
    plain(key, path, catalogue(path, EntryType::Directory, Some(stat)))
}

/// The line of what went away.
pub fn removed(key: &IndexKey, path: &[u8]) -> Line {
    plain(key, path, catalogue(path, EntryType::Removed, None))
}

/// The line of what is not proven.
pub fn dirty(key: &IndexKey, path: &[u8], stat: Option<&Stat>, why: &str) -> Line {
    let mut line = catalogue(path, EntryType::Dirty, stat);
    line.note = Some(why.to_owned());
    plain(key, path, line)
}

/// Whether every reader of the journal would take the two entries for the same.
/// Where their content lies, and when their inode changed, is nobody's business.
pub fn same_to_readers(a: &Entry, b: &Entry) -> bool {
    let told = |e: &Entry| {
        (
            e.stat.size,
            e.stat.mtime.div_euclid(1000),
            e.stat.permissions(),
            e.trouble,
        )
    };
    let content = match (&a.content, &b.content) {
        (Content::File { b3: x, .. }, Content::File { b3: y, .. }) => x == y,
        (x, y) => x == y,
    };
    content && told(a) == told(b)
}
