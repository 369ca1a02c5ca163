//! How `holdfast wal push` hands a file to the running agent: over a Unix socket.
//!
//! PostgreSQL starts the command for one segment after the other. The agent has the
//! keys, knows the cluster, and keeps its connections to the stores; the command opens
//! the file and passes it on, open, with a line of JSON. So both need not see it under
//! the same path. The agent answers with a line of JSON once the file is safe.
//!
//! The socket is its owner's alone (0600): whoever may write to it is believed about
//! where a file comes from, and about nothing that the file itself says otherwise.
//!
//! Everything that is not an answer (no agent, half a line) is a failure, and
//! PostgreSQL asks again.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_proto::finding::Severity;
use holdfast_proto::names::{ClusterId, SystemId};
use rustix::fs::OFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::Agent;
use crate::base::control;
use crate::wal::push::{Push, PushError, Taken, WalFile, system_of};

/// The longest request that is read.
const MAX_LINE: usize = 4096;
/// How long the two sides wait for each other's lines.
const LINE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a push may take; PostgreSQL then asks again.
const PATIENCE: Duration = Duration::from_secs(60);
/// How soon a socket that could not be made is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// Files that wait for the one before them.
const QUEUE: usize = 4;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    cluster: Option<ClusterId>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    system: Option<SystemId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Stored,
    Already,
    NotNeeded,
    Conflict,
    Refused,
    Later,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answered {
    outcome: Outcome,
    why: String,
}

impl From<Result<Taken, PushError>> for Answered {
    fn from(taken: Result<Taken, PushError>) -> Self {
        let why = taken.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let outcome = match taken {
            Ok(Taken::Stored) => Outcome::Stored,
            Ok(Taken::Already) => Outcome::Already,
            Ok(Taken::NotNeeded) => Outcome::NotNeeded,
            Err(PushError::Conflict(_)) => Outcome::Conflict,
            Err(PushError::Refused(_) | PushError::Foreign(_)) => Outcome::Refused,
            Err(PushError::Later(_)) => Outcome::Later,
        };
        Self { outcome, why }
    }
}

/// Where a session takes pushes, and for which system it writes.
type Behind = (SystemId, mpsc::Sender<Push>);

/// Where a cluster's session takes pushes; nobody is behind it while none runs.
#[derive(Debug, Clone, Default)]
pub struct Door(Arc<Mutex<Option<Behind>>>);

impl Door {
    /// Opens it for a session that writes for `system`, in the place of one before.
    pub fn open(&self, system: SystemId) -> mpsc::Receiver<Push> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((system, sender));
        receiver
    }

    fn behind(&self) -> Option<Behind> {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.clone().filter(|(_, sender)| !sender.is_closed())
    }
}

/// Takes pushes at `socket` until told to stop. A socket that cannot be made is a
/// finding, and is tried again.
pub async fn serve(agent: &Arc<Agent>, socket: &Path, stop: &CancellationToken) {
    let subject = socket.display().to_string();
    loop {
        match listen(socket) {
            Ok(listener) => {
                agent.clear_everywhere("wal-socket-failed", &subject);
                accept(agent, &listener, stop).await;
            }
            Err(error) => {
                let detail = format!(
                    "nobody can push WAL, because the socket cannot be made ({error}): set wal_socket to a path of less \
                     than 100 bytes in a directory that the agent may write"
                );
                agent.raise_everywhere(Severity::Critical, "wal-socket-failed", &subject, &detail);
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
    // One that stays is replaced by the next agent.
    let _ = std::fs::remove_file(socket);
}

/// The state directory is claimed, so what stands there is of an agent that is gone.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn accept(agent: &Arc<Agent>, listener: &UnixListener, stop: &CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let stream = match accepted.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::info!(err = %error, "a push could not be accepted");
                return;
            }
        };
        let agent = agent.clone();
        tokio::spawn(async move {
            if let Err(error) = answer(&agent, stream).await {
                tracing::debug!(err = %error, "a push broke off");
            }
        });
    }
}

async fn answer(agent: &Agent, stream: UnixStream) -> io::Result<()> {
    let broken = |_| io::Error::other("the task failed");
    let (stream, asked) = spawn_blocking(move || {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(LINE_PATIENCE))?;
        stream.set_write_timeout(Some(LINE_PATIENCE))?;
        let asked = receive(&stream)?;
        Ok::<_, io::Error>((stream, asked))
    })
    .await
    .map_err(broken)??;
    let (asked, file) = asked;
    let answered = Answered::from(take(agent, asked, file).await);
    spawn_blocking(move || send_line(&stream, &answered))
        .await
        .map_err(broken)?
}

async fn take(agent: &Agent, asked: Asked, file: File) -> Result<Taken, PushError> {
    let kind: WalFile = asked
        .name
        .parse()
        .map_err(|e| PushError::Refused(format!("{e}")))?;
    let door = door(agent, &asked, &file)?;
    let (sender, answer) = oneshot::channel();
    let push = Push {
        name: asked.name,
        kind,
        file,
        system: asked.system,
        answer: sender,
    };
    let taking = async {
        let gone = || PushError::Later("the agent has begun anew meanwhile".to_owned());
        door.send(push).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    };
    match tokio::time::timeout(PATIENCE, taking).await {
        Ok(taken) => taken,
        Err(_) => Err(PushError::Later(format!(
            "it was not safe within {} s: look at the agent's findings",
            PATIENCE.as_secs()
        ))),
    }
}

/// Finds the cluster that a file belongs to: the one that was named, the only one, or
/// the one of its system identifier.
fn door(agent: &Agent, asked: &Asked, file: &File) -> Result<mpsc::Sender<Push>, PushError> {
    let absent = |cluster: &ClusterId| {
        PushError::Later(format!(
            "the agent does not write for {cluster} at this moment: look at its findings"
        ))
    };
    let named = match (&asked.cluster, agent.clusters.as_slice()) {
        (Some(id), _) => Some(agent.cluster(id).ok_or_else(|| {
            PushError::Refused(format!(
                "the running agent does not protect {id}: correct --cluster, or restart the agent"
            ))
        })?),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    if let Some(cluster) = named {
        let behind = cluster
            .pushes
            .behind()
            .ok_or_else(|| absent(&cluster.config.id))?;
        return Ok(behind.1);
    }
    let Some(system) = asked.system.or_else(|| system_of(file)) else {
        return Err(PushError::Refused(
            "it does not say of which cluster it is: add --cluster to archive_command".to_owned(),
        ));
    };
    let mut missing = None;
    for cluster in &agent.clusters {
        match cluster.pushes.behind() {
            Some((of, sender)) if of == system => return Ok(sender),
            Some(_) => {}
            None => missing = Some(&cluster.config.id),
        }
    }
    Err(match missing {
        Some(id) => absent(id),
        None => {
            let detail = format!(
                "{} was handed over and not taken: it is of system identifier {system}, and the agent protects no such \
                 cluster. Find out which server calls `holdfast wal push`",
                asked.name
            );
            agent.raise_everywhere(
                Severity::Critical,
                "wal-push-foreign",
                &system.to_string(),
                &detail,
            );
            PushError::Foreign(detail)
        }
    })
}

/// One line, and the file that came with it.
fn receive(stream: &UnixStream) -> io::Result<(Asked, File)> {
    let mut file = None;
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut piece = [0; MAX_LINE];
        let received = recvmsg(
            stream,
            &mut [IoSliceMut::new(&mut piece)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                file = files.last().map(File::from).or(file);
            }
        }
        line.extend_from_slice(&piece[..received.bytes]);
        if received.bytes == 0 || line.len() > MAX_LINE {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let asked = serde_json::from_slice(&line)?;
    Ok((asked, file.ok_or(io::ErrorKind::InvalidData)?))
}

fn send_line(mut stream: &UnixStream, answered: &Answered) -> io::Result<()> {
    let mut line = serde_json::to_vec(answered)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Why a file was not handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// It cannot be opened.
    #[error("{} cannot be opened: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket is another user's.
    #[error(
        "the agent's socket {} is another user's: the agent has to run as the user that PostgreSQL runs as. The server \
         keeps the file and hands it over again", socket.display()
    )]
    NotOurs {
        /// The socket.
        socket: PathBuf,
    },
    /// No agent answers.
    #[error(
        "the agent cannot be reached at {} ({source}): start it (holdfast agent run), or correct --config or --socket. \
         The server keeps the file and hands it over again", socket.display()
    )]
    NoAgent {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The agent will not take it.
    #[error("the agent does not take {name}: {why}")]
    Refused {
        /// Which.
        name: String,
        /// Why.
        why: String,
    },
    /// The agent cannot take it now.
    #[error("{name} is not safe yet: {why}")]
    Later {
        /// Which.
        name: String,
        /// Why.
        why: String,
    },
}

/// Opens a regular file. A pipe would be waited for, for ever.
fn regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0))
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        ));
    }
    Ok(file)
}

/// Hands the file at `path` to the agent at `socket` and waits until it is safe.
/// Blocks.
pub fn hand_over(socket: &Path, path: &Path, cluster: Option<&ClusterId>) -> Result<Taken, HandOverError> {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let file = regular(path).map_err(|source| HandOverError::File {
        path: path.to_owned(),
        source,
    })?;
    // PostgreSQL runs the command in the data directory, and the path is relative to it.
    let data = path.parent().and_then(Path::parent).map(|parent| match parent {
        here if here.as_os_str().is_empty() => Path::new("."),
        other => other,
    });
    let control = data
        .filter(|data| data.join("global/pg_control").exists())
        .and_then(|data| control::read(data).ok());
    let asked = Asked {
        name: name.clone(),
        cluster: cluster.cloned(),
        system: control.map(|(control, _)| control.system),
    };
    let answered = converse(socket, &asked, &file).map_err(|source| {
        let socket = socket.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied => HandOverError::NotOurs { socket },
            _ => HandOverError::NoAgent { socket, source },
        }
    })?;
    let why = answered.why;
    match answered.outcome {
        Outcome::Stored => Ok(Taken::Stored),
        Outcome::Already => Ok(Taken::Already),
        Outcome::NotNeeded => Ok(Taken::NotNeeded),
        Outcome::Conflict | Outcome::Refused => Err(HandOverError::Refused { name, why }),
        Outcome::Later => Err(HandOverError::Later { name, why }),
    }
}

fn converse(socket: &Path, asked: &Asked, file: &File) -> io::Result<Answered> {
    let stream = UnixStream::connect(socket)?;
    stream.set_write_timeout(Some(LINE_PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE + LINE_PATIENCE))?;
    let mut line = serde_json::to_vec(asked)?;
    line.push(b'\n');
    let files = [file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = sendmsg(&stream, &[IoSlice::new(&line)], &mut control, SendFlags::empty())?;
    (&stream).write_all(&line[sent..])?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&answer)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_file_travels_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0000000100000000000000AB");
        std::fs::write(&path, b"wal").unwrap();
        let socket = dir.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let agent = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let (asked, mut file) = receive(&stream).unwrap();
            let mut content = String::new();
            file.read_to_string(&mut content).unwrap();
            let why = format!("{} {content} {:?}", asked.name, asked.system);
            let outcome = Outcome::Conflict;
            send_line(&stream, &Answered { outcome, why }).unwrap();
        });
        let refused = hand_over(&socket, &path, None).unwrap_err().to_string();
        assert!(
            refused.ends_with("0000000100000000000000AB wal None"),
            "{refused}"
        );
        agent.join().unwrap();
    }

    #[test]
    fn no_agent_and_half_an_answer_are_failures() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0000000100000000000000AB");
        std::fs::write(&path, b"wal").unwrap();
        let socket = dir.path().join("s");
        let none = hand_over(&socket, &path, None);
        assert!(matches!(none, Err(HandOverError::NoAgent { .. })), "{none:?}");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let agent = std::thread::spawn(move || drop(listener.accept().unwrap()));
        let half = hand_over(&socket, &path, None);
        assert!(matches!(half, Err(HandOverError::NoAgent { .. })), "{half:?}");
        agent.join().unwrap();
        let absent = hand_over(&socket, &dir.path().join("none"), None);
        assert!(matches!(absent, Err(HandOverError::File { .. })), "{absent:?}");
    }
}
