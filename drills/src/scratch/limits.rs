//! What a copy may use of the machine: a control group of its own, where the kernel
//! has one to give.
//!
//! Version 1 and version 2 of control groups are known. The group is made below the
//! one that this process is in, so that it takes no rights but those that this one
//! was given; under version 2 this process first steps aside into a group of its
//! own, because a group with processes may not share out its controllers. Whoever
//! starts a program through [`Cage::enter`] puts it into the group, with all that it
//! starts. The group is removed when the [`Cage`] is dropped, after whatever is left in
//! it was killed.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The length of the spans in which processors are counted out, in microseconds.
const PERIOD: u64 = 100_000;
/// How long killed processes may take to leave.
const LEAVING: Duration = Duration::from_secs(10);

/// A text that is no size or no number of processors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is {what}")]
pub struct BadLimit {
    text: String,
    what: &'static str,
}

/// A number of bytes, with a binary unit: `64Mi`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    number: u64,
    unit: &'static str,
}

const UNITS: [(&str, u32); 4] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40)];

impl Size {
    /// Bytes.
    pub fn bytes(self) -> u64 {
        let shift = UNITS
            .iter()
            .find(|(unit, _)| *unit == self.unit)
            .map_or(0, |(_, s)| *s);
        self.number << shift
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.number, self.unit)
    }
}

impl FromStr for Size {
    type Err = BadLimit;

    fn from_str(text: &str) -> Result<Self, BadLimit> {
        UNITS
            .iter()
            .find_map(|(unit, shift)| {
                let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
                (number > 0 && number <= u64::MAX >> shift).then_some(Self { number, unit })
            })
            .ok_or_else(|| BadLimit {
                text: text.chars().take(100).collect(),
                what: "no size: a whole number and Ki, Mi, Gi or Ti, for example 4Gi",
            })
    }
}

/// A number of processors in thousandths: `2` or `500m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu(u32);

impl Cpu {
    /// Thousandths of a processor.
    pub const fn millis(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) {
            write!(f, "{}", self.0 / 1000)
        } else {
            write!(f, "{}m", self.0)
        }
    }
}

impl FromStr for Cpu {
    type Err = BadLimit;

    fn from_str(text: &str) -> Result<Self, BadLimit> {
        let millis = match text.strip_suffix('m') {
            Some(millis) => millis.parse().ok(),
            None => text.parse::<u32>().ok().and_then(|n| n.checked_mul(1000)),
        };
        millis.filter(|n| *n > 0).map(Self).ok_or_else(|| BadLimit {
            text: text.chars().take(100).collect(),
            what: "no number of processors: for example 2, or 500m for half of one",
        })
    }
}

/// What a copy may use. Nothing set, nothing is limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory, with the page cache of the files that it reads.
    pub memory: Option<Size>,
    /// Processors.
    pub cpu: Option<Cpu>,
}

/// There is no control group to be had.
#[derive(Debug, thiserror::Error)]
pub enum CageError {
    /// The kernel does not have the controller, or nobody may see it here.
    #[error("there is no control group for {0} here")]
    None(&'static str),
    /// It is there, and we may not.
    #[error("{path}: {source}; a service needs Delegate=yes for it")]
    Denied {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A control group for one drill, in each hierarchy that it takes.
#[derive(Debug)]
pub struct Cage {
    directories: Vec<PathBuf>,
}

/// A controller: its name, and the files that set its bound, by version.
struct Controller {
    name: &'static str,
    first: Vec<(&'static str, String)>,
    second: Vec<(&'static str, String)>,
}

fn controllers(limits: &Limits) -> Vec<Controller> {
    let memory = limits.memory.map(|size| Controller {
        name: "memory",
        first: vec![("memory.limit_in_bytes", size.bytes().to_string())],
        second: vec![("memory.max", size.bytes().to_string())],
    });
    let cpu = limits.cpu.map(|cpu| {
        let quota = u64::from(cpu.millis()) * PERIOD / 1000;
        Controller {
            name: "cpu",
            first: vec![
                ("cpu.cfs_period_us", PERIOD.to_string()),
                ("cpu.cfs_quota_us", quota.to_string()),
            ],
            second: vec![("cpu.max", format!("{quota} {PERIOD}"))],
        }
    });
    memory.into_iter().chain(cpu).collect()
}

/// Where groups are mounted, and where this process is in them.
#[derive(Debug)]
struct Hierarchies {
    mounts: String,
    own: String,
}

impl Hierarchies {
    fn read() -> io::Result<Self> {
        Ok(Self {
            mounts: fs::read_to_string("/proc/mounts")?,
            own: fs::read_to_string("/proc/self/cgroup")?,
        })
    }

    /// Our own group in the first version's hierarchy of a controller.
    fn first(&self, controller: &str) -> Option<PathBuf> {
        let mount =
            self.mount(|kind, options| kind == "cgroup" && options.split(',').any(|o| o == controller))?;
        let path = self.own.lines().find_map(|line| {
            let (names, path) = line.split_once(':')?.1.split_once(':')?;
            names.split(',').any(|n| n == controller).then_some(path)
        })?;
        Some(below(mount, path))
    }

    /// Our own group in the second version's hierarchy.
    fn second(&self) -> Option<PathBuf> {
        let mount = self.mount(|kind, _| kind == "cgroup2")?;
        let path = self.own.lines().find_map(|line| line.strip_prefix("0::"))?;
        Some(below(mount, path))
    }

    fn mount(&self, wanted: impl Fn(&str, &str) -> bool) -> Option<&str> {
        self.mounts.lines().find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (path, kind, options) = (words.next()?, words.next()?, words.next()?);
            wanted(kind, options).then_some(path)
        })
    }
}

fn below(mount: &str, path: &str) -> PathBuf {
    Path::new(mount).join(path.trim_start_matches('/'))
}

fn write(path: PathBuf, text: &str) -> Result<(), CageError> {
    fs::write(&path, text).map_err(|source| CageError::Denied { path, source })
}

fn make_directory(path: &Path) -> Result<(), CageError> {
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(CageError::Denied {
            path: path.to_owned(),
            source: e,
        }),
        _ => Ok(()),
    }
}

impl Cage {
    /// Makes the group `name` with these limits; `None` when nothing is limited.
    ///
    /// # Errors
    /// A controller is not there, or we may not use it. Nothing is left then.
    pub fn make(name: &str, limits: &Limits) -> Result<Option<Self>, CageError> {
        let controllers = controllers(limits);
        if controllers.is_empty() {
            return Ok(None);
        }
        let found = Hierarchies::read().map_err(|source| CageError::Denied {
            path: "/proc/self/cgroup".into(),
            source,
        })?;
        // Dropped on the way out when a later one cannot be made.
        let mut cage = Self {
            directories: Vec::new(),
        };
        for controller in &controllers {
            match found.first(controller.name) {
                Some(own) => cage.bound(own.join(name), &controller.first)?,
                None => {
                    let own = found.second().ok_or(CageError::None(controller.name))?;
                    step_aside(&own, controller.name)?;
                    cage.bound(own.join(name), &controller.second)?;
                }
            }
        }
        Ok(Some(cage))
    }

    /// Removes the empty group `name` that a process which died has left.
    pub fn clear(name: &str) {
        let Ok(found) = Hierarchies::read() else {
            return;
        };
        for controller in ["memory", "cpu"] {
            if let Some(own) = found.first(controller).or_else(|| found.second()) {
                let _ = fs::remove_dir(own.join(name));
            }
        }
    }

    fn bound(&mut self, directory: PathBuf, files: &[(&str, String)]) -> Result<(), CageError> {
        make_directory(&directory)?;
        if !self.directories.contains(&directory) {
            self.directories.push(directory.clone());
        }
        files
            .iter()
            .try_for_each(|(file, text)| write(directory.join(file), text))
    }

    /// The words before a program's that put it into the group, or start nothing.
    pub fn enter(&self) -> Vec<String> {
        let script = "while [ \"$1\" != -- ]; do echo $$ > \"$1/cgroup.procs\" || exit 125; shift; done; shift; exec \"$@\"";
        let directories = self.directories.iter().map(|d| d.display().to_string());
        ["sh", "-c", script, "sh"]
            .map(str::to_owned)
            .into_iter()
            .chain(directories)
            .chain(["--".to_owned()])
            .collect()
    }

    /// How many processes of the group were killed for want of memory.
    pub fn killed(&self) -> u64 {
        let counts = self.directories.iter().flat_map(|d| {
            ["memory.oom_control", "memory.events"]
                .map(|file| fs::read_to_string(d.join(file)).unwrap_or_default())
        });
        counts
            .filter_map(|text| {
                text.lines()
                    .find_map(|line| line.strip_prefix("oom_kill ")?.parse::<u64>().ok())
            })
            .sum()
    }
}

/// Makes room for groups below our own, in the second version.
fn step_aside(own: &Path, controller: &'static str) -> Result<(), CageError> {
    let available = fs::read_to_string(own.join("cgroup.controllers")).unwrap_or_default();
    if !available.split_whitespace().any(|c| c == controller) {
        return Err(CageError::None(controller));
    }
    let shared = own.join("cgroup.subtree_control");
    let has = fs::read_to_string(&shared).unwrap_or_default();
    if has.split_whitespace().any(|c| c == controller) {
        return Ok(());
    }
    let aside = own.join("holdfast-runner");
    make_directory(&aside)?;
    write(aside.join("cgroup.procs"), "0")?;
    write(shared, &format!("+{controller}"))
}

impl Drop for Cage {
    fn drop(&mut self) {
        for directory in &self.directories {
            let deadline = Instant::now() + LEAVING;
            while fs::remove_dir(directory).is_err_and(|e| e.kind() != io::ErrorKind::NotFound) {
                let left = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
                for pid in left.lines().filter_map(|l| Pid::from_raw(l.parse().ok()?)) {
                    let _ = kill_process(pid, Signal::KILL);
                }
                if Instant::now() > deadline {
                    tracing::warn!(path = %directory.display(), "a control group could not be removed");
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_processors_round_trip() {
        for text in ["64Mi", "1Ti", "3Gi"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        assert_eq!("2Gi".parse::<Size>().unwrap().bytes(), 2 << 30);
        for text in ["2", "500m", "1500m"] {
            assert_eq!(text.parse::<Cpu>().unwrap().to_string(), text);
        }
        for text in ["", "0Gi", "2G", "-1Gi", "99999999999Ti", "4"] {
            text.parse::<Size>().unwrap_err();
        }
        for text in ["", "0", "0m", "-1", "half", "9999999"] {
            text.parse::<Cpu>().unwrap_err();
        }
    }

    #[test]
    fn our_own_group_is_found_in_both_versions() {
        let hybrid = Hierarchies {
            mounts: "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
                     cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
                .into(),
            own: "5:cpu,cpuacct:/\n4:memory:/user/1\n0::/user.slice\n".into(),
        };
        let first = |c| hybrid.first(c).map(|p| p.display().to_string());
        assert_eq!(first("memory").as_deref(), Some("/sys/fs/cgroup/memory/user/1"));
        assert_eq!(first("cpu").as_deref(), Some("/sys/fs/cgroup/cpu,cpuacct/"));
        assert_eq!(first("pids"), None);
        assert_eq!(
            hybrid.second().unwrap(),
            Path::new("/sys/fs/cgroup/unified/user.slice")
        );
    }

    #[test]
    fn nothing_limited_needs_no_group() {
        assert!(Cage::make("holdfast-none", &Limits::default()).unwrap().is_none());
    }

    /// What is in the group dies of its bound and not of the machine's, and the group
    /// goes with it. Where this machine has no group to give, it says so.
    #[test]
    fn who_wants_too_much_memory_is_killed() {
        let limits = Limits {
            memory: Some("32Mi".parse().unwrap()),
            cpu: Some("500m".parse().unwrap()),
        };
        let name = format!("holdfast-test-{}", std::process::id());
        let cage = match Cage::make(&name, &limits) {
            Ok(cage) => cage.unwrap(),
            Err(e) => {
                eprintln!("no control group here: {e}");
                return;
            }
        };
        let run = |script: &str| {
            let words = cage.enter();
            let mut command = std::process::Command::new(&words[0]);
            command
                .args(&words[1..])
                .args(["bash", "-c", script])
                .output()
                .unwrap()
        };
        assert!(run("true").status.success());
        let greedy = run("x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}");
        assert!(!String::from_utf8_lossy(&greedy.stdout).contains("200000000"));
        assert!(cage.killed() > 0);
        let directories = cage.directories.clone();
        assert_eq!(directories.len(), 2);
        drop(cage);
        assert!(directories.iter().all(|d| !d.exists()));
    }
}
