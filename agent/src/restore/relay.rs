//! A relay for `wal fetch`: a server on a Unix socket hands files over for
//! processes that cannot reach the repository themselves, such as a copy in a
//! namespace without a network.
//!
//! The client says which file it wants and where, in one line of JSON; the
//! server fetches it exactly as `wal fetch` would and answers with its exit code
//! and a reason. Everything else (no server, half an answer) is a failure, never
//! an absence.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::access::Opening;
use super::fetch::{ABSENT, Answer, FAILED, SERVED, fetch_by};

/// The longest request that is read.
const MAX_LINE: u64 = 16 * 1024;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    name: String,
    path: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answered {
    code: u8,
    why: String,
}

/// A running relay; it ends when dropped.
#[derive(Debug)]
pub struct Relay {
    socket: PathBuf,
    over: Arc<AtomicBool>,
}

impl Relay {
    /// Listens on `socket` and serves files of the restore whose pin is given,
    /// into places below `root` only. Each request has a thread of its own: there
    /// are a few, PostgreSQL asks for one file at a time. The repository is opened
    /// as `opening` says; what is fetched ahead is fetched by a process of its own,
    /// which opens it the usual way: a restore with another one has no prefetching.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn start(socket: PathBuf, pin: PathBuf, root: PathBuf, opening: Opening) -> std::io::Result<Self> {
        let listener = UnixListener::bind(&socket)?;
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        std::thread::Builder::new()
            .name("wal-relay".into())
            .spawn(move || {
                let place = Arc::new((pin, root, opening));
                for stream in listener.incoming() {
                    let (false, Ok(stream)) = (stop.load(Ordering::Acquire), stream) else {
                        break;
                    };
                    let place = Arc::clone(&place);
                    std::thread::spawn(move || {
                        if let Err(e) = serve(&stream, &place.0, &place.1, &place.2) {
                            tracing::debug!(err = %e, "a relayed request broke off");
                        }
                    });
                }
            })?;
        Ok(Self { socket, over })
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        // Wakes the listener, which then sees that it is over.
        let _ = UnixStream::connect(&self.socket);
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn serve(mut stream: &UnixStream, pin: &Path, root: &Path, opening: &Opening) -> std::io::Result<()> {
    let mut line = String::new();
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut line)?;
    let failed = |why: String| Answered { code: FAILED, why };
    let answered = match serde_json::from_str::<Asked>(&line) {
        Ok(asked) if is_below(&asked.path, root) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            match runtime.block_on(fetch_by(&asked.name, &asked.path, pin, opening)) {
                Ok(Answer::Served) => Answered {
                    code: SERVED,
                    why: String::new(),
                },
                Ok(Answer::Absent(why)) => Answered { code: ABSENT, why },
                Err(e) => failed(e.to_string()),
            }
        }
        Ok(asked) => failed(format!(
            "{} is outside of the scratch space",
            asked.path.display()
        )),
        Err(e) => failed(format!("the request cannot be read: {e}")),
    };
    let mut bytes = serde_json::to_vec(&answered)?;
    bytes.push(b'\n');
    stream.write_all(&bytes)
}

fn is_below(path: &Path, root: &Path) -> bool {
    let plain = path
        .components()
        .all(|c| !matches!(c, std::path::Component::ParentDir));
    path.is_absolute() && plain && path.starts_with(root)
}

/// Asks the relay at `socket` for `name` at `path` and returns the exit code.
/// Prints to standard error. Blocks.
pub fn ask(socket: &Path, name: &str, path: &Path) -> u8 {
    match try_ask(socket, name, path) {
        Ok(Answered { code: SERVED, .. }) => SERVED,
        Ok(Answered { code: ABSENT, why }) => {
            eprintln!("holdfast: {name} does not exist: {why}");
            ABSENT
        }
        Ok(Answered { why, .. }) => {
            eprintln!("holdfast: {name} cannot be handed over: {why}");
            FAILED
        }
        Err(e) => {
            eprintln!(
                "holdfast: {name} cannot be asked for at {}: {e}",
                socket.display()
            );
            FAILED
        }
    }
}

fn try_ask(socket: &Path, name: &str, path: &Path) -> std::io::Result<Answered> {
    let asked = Asked {
        name: name.to_owned(),
        path: std::path::absolute(path)?,
    };
    let mut stream = UnixStream::connect(socket)?;
    let mut line = serde_json::to_vec(&asked)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_relay_is_a_failure_not_an_absence() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            ask(
                &dir.path().join("none"),
                "000000010000000000000001",
                &dir.path().join("x")
            ),
            FAILED
        );
    }

    #[test]
    fn a_place_outside_and_a_missing_pin_are_failures() {
        let dir = tempfile::tempdir().unwrap();
        let relay = Relay::start(
            dir.path().join("s"),
            dir.path().join("pin.json"),
            dir.path().join("root"),
            Opening::default(),
        )
        .unwrap();
        let socket = relay.socket().to_owned();
        for path in [
            "/elsewhere/x".into(),
            dir.path().join("root/x"),
            dir.path().join("root/../x"),
        ] {
            assert_eq!(ask(&socket, "000000010000000000000001", &path), FAILED);
        }
    }

    #[test]
    fn below_means_below() {
        let root = Path::new("/a/b");
        assert!(is_below(Path::new("/a/b/c"), root));
        assert!(!is_below(Path::new("/a/bc"), root) && !is_below(Path::new("/a/b/../c"), root));
        assert!(!is_below(Path::new("a/b/c"), root));
    }
}
