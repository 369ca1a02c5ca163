//! What the machine allows, and programs started inside it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::Cage;

/// How a copy is cut off from everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IsolationKind {
    /// Linux user, mount, pid, network, IPC and UTS namespaces.
    Namespaces,
    /// A filter of system calls ([`super::confine`]) under which no network
    /// socket can be made: what is left where the kernel refuses namespaces, as
    /// in a restricted pod.
    SocketFilter,
    /// A private directory only: the kernel refuses namespaces here.
    PrivateDirectory,
}

/// The answer of a program that tried to get out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EgressProbe {
    /// Nothing could be reached, and the kernel said so.
    Blocked,
    /// Something outside could be reached, or might have been.
    Open,
    /// No isolation was in place, so nothing was probed.
    NotProbed,
}

/// A way to start programs, found out once.
#[derive(Debug, Clone)]
pub struct Isolation {
    kind: IsolationKind,
    map_user: bool,
    /// The program that confines itself and becomes another.
    confine: Option<PathBuf>,
    /// What bounds the memory and processors of what runs inside.
    cage: Option<Arc<Cage>>,
}

/// The user and group that a mapped program sees itself as: any but root.
const MAPPED_ID: &str = "1000";

/// What the probe tries, in words.
pub const EGRESS_PROBE: &str = "no device but loopback, and no route for TCP to 192.0.2.1 port 9";

/// What the probe runs. bash's own TCP: "Network is unreachable" is the only good
/// answer. A refusal or a time-out would mean that packets left.
pub const EGRESS_SCRIPT: &str = "devices=$(tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | grep -v '^lo$'); \
                      [ -z \"$devices\" ] || exit 3; \
                      export LC_ALL=C; \
                      answer=$( (exec 3<>/dev/tcp/192.0.2.1/9) 2>&1 ) && exit 4; \
                      case \"$answer\" in *'Network is unreachable'*) exit 0;; *) exit 5;; esac";

/// What is tried where a filter of system calls is the wall, in words.
pub const SOCKET_PROBE: &str = "no socket for TCP or UDP, not even to this host's own address";

/// What is run then. An open network would refuse the connection to our own
/// address, or let UDP through: "Network is unreachable" is the filter's answer.
pub const SOCKET_SCRIPT: &str = "export LC_ALL=C; for way in tcp udp; do for to in 127.0.0.1 ::1; do \
                      answer=$( (exec 3<>/dev/$way/$to/9) 2>&1 ) && exit 4; \
                      case \"$answer\" in *'Network is unreachable'*) ;; *) exit 5;; esac; done; done";

/// The words after the program's name that make it confine itself: see
/// [`super::confine::become_program`].
pub const CONFINE: [&str; 2] = ["drill", "confined"];

const NAMESPACES: &[&str] = &[
    "--net",
    "--pid",
    "--ipc",
    "--uts",
    "--mount",
    "--fork",
    "--kill-child=SIGKILL",
    "--mount-proc",
];

impl Isolation {
    /// The strongest isolation that this machine allows. `confine` is the
    /// `holdfast` that puts the filter on itself where there are no namespaces;
    /// without it that wall is not tried.
    pub fn detect(confine: Option<&Path>) -> Self {
        let full = Self {
            kind: IsolationKind::Namespaces,
            map_user: true,
            confine: None,
            cage: None,
        };
        if full.works() {
            return full;
        }
        let filtered = confine.map(|program| Self {
            kind: IsolationKind::SocketFilter,
            confine: Some(program.to_owned()),
            ..Self::plain()
        });
        filtered
            .filter(|wall| wall.probe_egress() == EgressProbe::Blocked)
            .unwrap_or_else(Self::plain)
    }

    /// A private directory, and a user that is not root: as root, programs run
    /// in a user namespace that maps us to an ordinary user, because PostgreSQL
    /// refuses to run as root.
    pub fn plain() -> Self {
        Self {
            kind: IsolationKind::PrivateDirectory,
            map_user: rustix::process::geteuid().is_root(),
            confine: None,
            cage: None,
        }
    }

    /// What is started from now on is in this control group.
    #[must_use]
    pub fn within(mut self, cage: Option<Arc<Cage>>) -> Self {
        self.cage = cage;
        self
    }

    fn works(&self) -> bool {
        self.command("true")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    }

    /// Which isolation this is.
    pub const fn kind(&self) -> IsolationKind {
        self.kind
    }

    /// A command that runs `program` inside, [`tethered`] to this process.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(cage) = &self.cage {
            words.extend(cage.enter().into_iter().map(Into::into));
        }
        if self.map_user {
            words.extend(
                [
                    "unshare",
                    "--user",
                    "--map-user",
                    MAPPED_ID,
                    "--map-group",
                    MAPPED_ID,
                ]
                .map(Into::into),
            );
            if self.kind == IsolationKind::Namespaces {
                words.extend(NAMESPACES.iter().map(Into::into));
            }
            words.push("--".into());
        }
        if let Some(confine) = &self.confine {
            words.push(confine.into());
            words.extend(CONFINE.map(Into::into));
            words.push("--".into());
        }
        words.push(program.as_ref().to_owned());
        let mut command = tethered(&words[0]);
        command.args(&words[1..]);
        command
    }

    /// A command beside what runs inside: same user, no namespaces of its own.
    /// For programs that work on files and end (initdb, pg_controldata).
    pub fn tool(&self, program: impl AsRef<OsStr>) -> Command {
        Self {
            kind: IsolationKind::PrivateDirectory,
            map_user: self.map_user,
            confine: None,
            cage: self.cage.clone(),
        }
        .command(program)
    }

    /// What [`Isolation::probe_egress`] tries, in words, and what it runs.
    pub const fn probe(&self) -> Option<(&'static str, &'static str)> {
        match self.kind {
            IsolationKind::Namespaces => Some((EGRESS_PROBE, EGRESS_SCRIPT)),
            IsolationKind::SocketFilter => Some((SOCKET_PROBE, SOCKET_SCRIPT)),
            IsolationKind::PrivateDirectory => None,
        }
    }

    /// Proves that a program inside cannot reach the network. In namespaces a
    /// connection to an address of TEST-NET-1 must fail because there is no route,
    /// and there must be no device but loopback; under the filter not even a
    /// connection to our own address may be tried.
    pub fn probe_egress(&self) -> EgressProbe {
        let Some((_, script)) = self.probe() else {
            return EgressProbe::NotProbed;
        };
        let probe = self
            .command("bash")
            .args(["-c", script])
            .stdin(Stdio::null())
            .output();
        match probe {
            Ok(output) if output.status.success() => EgressProbe::Blocked,
            _ => EgressProbe::Open,
        }
    }
}

/// A command whose process the kernel kills when the thread that starts it
/// ends, and so when this process dies of whatever cause. Start it from a
/// thread that lives as long as it should.
///
/// `setpriv` does it and then becomes the program: the process id is the
/// program's. Where there is none, the program runs untethered, with a warning.
pub fn tethered(program: impl AsRef<OsStr>) -> Command {
    static TETHER: OnceLock<bool> = OnceLock::new();
    let tether = *TETHER.get_or_init(|| {
        let works = Command::new("setpriv")
            .args(TETHER_ARGUMENTS)
            .arg("true")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success());
        if !works {
            tracing::warn!(
                "setpriv cannot be used: if this process is killed, what it started lives on. Install util-linux"
            );
        }
        works
    });
    if !tether {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(TETHER_ARGUMENTS).arg(program);
    command
}

const TETHER_ARGUMENTS: [&str; 3] = ["--pdeathsig", "KILL", "--"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_inside_is_not_root_and_cannot_get_out() {
        let isolation = Isolation::detect(None);
        let id = isolation.command("id").arg("-u").output().unwrap();
        assert_ne!(String::from_utf8_lossy(&id.stdout).trim(), "0");
        if isolation.kind() == IsolationKind::Namespaces {
            assert_eq!(isolation.probe_egress(), EgressProbe::Blocked);
        }
    }

    /// A child that dies takes what it started with it: the program announces
    /// itself on a pipe, and the pipe ends when its last holder is gone.
    #[test]
    fn what_was_started_dies_with_who_started_it() {
        use std::io::Read;
        for isolation in [Isolation::plain(), Isolation::detect(None)] {
            let inside = isolation.command("sh");
            let mut line = std::iter::once(inside.get_program())
                .chain(inside.get_args())
                .map(|word| word.to_str().unwrap().to_owned())
                .collect::<Vec<_>>();
            line.extend(["-c".to_owned(), "echo inside; exec sleep 1000".to_owned()]);
            // The parent waits for it, as we do, until it is killed.
            let mut parent = Command::new("sh")
                .args(["-c", "\"$@\" & wait", "sh"])
                .args(&line)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut out = parent.stdout.take().unwrap();
            let mut word = [0; 7];
            out.read_exact(&mut word).unwrap();
            assert_eq!(&word, b"inside\n");
            parent.kill().unwrap();
            parent.wait().unwrap();
            assert_eq!(
                out.read_to_end(&mut Vec::new()).unwrap(),
                0,
                "{:?}",
                isolation.kind()
            );
        }
    }

    #[test]
    fn no_isolation_is_never_called_blocked() {
        assert_eq!(Isolation::plain().probe_egress(), EgressProbe::NotProbed);
    }
}
