//! `[runner.kubernetes]`: what a drill's pod is given, as its user says it.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use holdfast_drills::scratch::{Cpu, Size};
use holdfast_plan::document::Section;
use holdfast_plan::period::Period;

/// Characters of a namespace's name that a drill's id and the dash before it take.
const ID: usize = 27;
/// The longest name of a namespace.
const MAX_NAME: usize = 63;

/// How drills run on a Kubernetes cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How the cluster is reached; absent within one, or as `KUBECONFIG` says.
    pub kubeconfig: Option<PathBuf>,
    /// What every namespace's name begins with, before the drill's id.
    pub prefix: Prefix,
    /// The image: holdfast, PostgreSQL of the source's major version, bash and util-linux.
    pub image: Image,
    /// Whether nodes may pull it.
    pub pull: Pull,
    /// The program in the image.
    pub program: String,
    /// The user and group that the pod runs as, never 0.
    pub user: i64,
    /// Memory of the pod; more is killed.
    pub memory: Size,
    /// Processors of the pod.
    pub cpu: Cpu,
    /// Room for the copy; more is evicted.
    pub scratch: Size,
    /// What the pod must reach: the object stores.
    pub reach: Vec<Reach>,
    /// Whether the pod asks the cluster's DNS for them.
    pub dns: bool,
    /// What it must not reach, `host:port`: tried from the pod.
    pub closed: Vec<String>,
    /// How long the pod may take before it runs.
    pub start: Duration,
    /// What the pod has beyond the drill's own limit, to log its result.
    pub grace: Duration,
}

impl Settings {
    /// Reads the section. Relative paths count from `base`.
    pub fn read(section: &mut Section<'_>, base: &Path) -> Option<Self> {
        let kubeconfig = section.optional::<PathBuf>("kubeconfig").map(|p| base.join(p));
        let prefix = section.optional("namespace_prefix");
        let image = section.required("image", "registry.example/holdfast@sha256:…");
        let pull = section.optional("pull");
        let program = section.optional("program");
        let user = section.optional_number("user", 1..=u64::from(u32::MAX) / 2);
        let memory = section.required("memory", "4Gi");
        let cpu = section.required("cpu", "2");
        let scratch = section.required("scratch", "200Gi");
        let reach = section.texts::<Reach>("reach");
        if reach.as_ref().is_none_or(Vec::is_empty) {
            section.problem("reach names no object store, and a pod reaches nothing else: add for example reach = [\"10.0.3.0/24:443\"]");
        }
        let dns = section.optional_bool("dns");
        let closed = section.texts::<HostPort>("closed").unwrap_or_default();
        let start = section.optional::<Period>("start");
        let grace = section.optional::<Period>("grace");
        Some(Self {
            kubeconfig,
            prefix: prefix.unwrap_or_default(),
            image: image?,
            pull: pull.unwrap_or_default(),
            program: program.unwrap_or_else(|| "/usr/local/bin/holdfast".to_owned()),
            user: i64::try_from(user.unwrap_or(65532)).unwrap_or(65532),
            memory: memory?,
            cpu: cpu?,
            scratch: scratch?,
            reach: reach?,
            dns: dns.unwrap_or(false),
            closed: closed.into_iter().map(|HostPort(text)| text).collect(),
            start: start.map_or(Duration::from_secs(180), Period::to_std),
            grace: grace.map_or(Duration::from_secs(300), Period::to_std),
        })
    }
}

/// A text that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is {what}")]
pub struct BadSetting {
    text: String,
    what: &'static str,
}

fn bad<T>(text: &str, what: &'static str) -> Result<T, BadSetting> {
    let text = text.chars().take(100).collect();
    Err(BadSetting { text, what })
}

/// What the names of scratch namespaces begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix(String);

impl Default for Prefix {
    fn default() -> Self {
        Self("holdfast-drill".to_owned())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Prefix {
    type Err = BadSetting;

    fn from_str(text: &str) -> Result<Self, BadSetting> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let sound = text.bytes().all(plain)
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.len() + ID <= MAX_NAME;
        if sound {
            Ok(Self(text.to_owned()))
        } else {
            bad(
                text,
                "no beginning of a namespace's name: a letter, then at most 35 of a-z, 0-9 and '-'",
            )
        }
    }
}

/// An image by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image(String);

impl Image {
    /// Its digest, when it is named by one: then what runs is known before it runs.
    pub fn digest(&self) -> Option<&str> {
        let (_, digest) = self.0.split_once('@')?;
        Some(digest)
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Image {
    type Err = BadSetting;

    fn from_str(text: &str) -> Result<Self, BadSetting> {
        let name = text.split_once('@').map_or(text, |(name, _)| name);
        let digest = text.split_once('@').map(|(_, digest)| digest);
        let hex = |d: &str| d.len() == 64 && d.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if name.is_empty() || text.contains(char::is_whitespace) {
            return bad(text, "not an image's name");
        }
        if digest.is_some_and(|d| !d.strip_prefix("sha256:").is_some_and(hex)) {
            return bad(
                text,
                "an image with a digest that is none: sha256: and 64 hexadecimal digits",
            );
        }
        Ok(Self(text.to_owned()))
    }
}

/// Whether nodes may pull the image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pull {
    /// When it is not there.
    #[default]
    IfNotPresent,
    /// It has to be there.
    Never,
    /// Every time.
    Always,
}

impl fmt::Display for Pull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl FromStr for Pull {
    type Err = BadSetting;

    fn from_str(text: &str) -> Result<Self, BadSetting> {
        [Pull::IfNotPresent, Pull::Never, Pull::Always]
            .into_iter()
            .find(|pull| pull.to_string() == text)
            .map_or_else(|| bad(text, "none of IfNotPresent, Never and Always"), Ok)
    }
}

/// Addresses and the port that a pod may open connections to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The addresses, as `10.0.3.0/24`.
    pub cidr: String,
    /// The port.
    pub port: u16,
}

impl FromStr for Reach {
    type Err = BadSetting;

    fn from_str(text: &str) -> Result<Self, BadSetting> {
        let parts = || {
            let (cidr, port) = text.rsplit_once(':')?;
            let (address, bits) = cidr.split_once('/')?;
            let address: IpAddr = address.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits: u8 = bits.parse().ok()?;
            Some((cidr, port.parse::<u16>().ok()?)).filter(|(_, port)| bits <= most && *port > 0)
        };
        match parts() {
            Some((cidr, port)) => Ok(Self {
                cidr: cidr.to_owned(),
                port,
            }),
            None => bad(
                text,
                "no addresses with a port: for example 10.0.3.0/24:443, or 10.0.3.7/32:443 for one",
            ),
        }
    }
}

/// `host:port`.
struct HostPort(String);

impl FromStr for HostPort {
    type Err = BadSetting;

    fn from_str(text: &str) -> Result<Self, BadSetting> {
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Self(text.to_owned()))
            }
            _ => bad(text, "no address with a port: for example 10.0.0.5:5432"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_plan::document;

    fn read(text: &str) -> Result<Settings, String> {
        let read = document::read(text, "k", |mut root| {
            let read = Settings::read(&mut root, Path::new("/etc/holdfast"));
            root.finish();
            read
        });
        read.map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            lines.join("\n")
        })
    }

    #[test]
    fn the_least_that_is_needed() {
        let s = read("image = \"i\"\nmemory = \"2Gi\"\ncpu = \"500m\"\nscratch = \"8Gi\"\nreach = [\"10.0.3.0/24:443\"]").unwrap();
        assert_eq!(s.memory.bytes(), 2 << 30);
        assert_eq!(
            (s.user, s.prefix.to_string()),
            (65532, "holdfast-drill".to_owned())
        );
        assert_eq!(s.image.digest(), None);
        assert_eq!(
            s.reach[0],
            Reach {
                cidr: "10.0.3.0/24".into(),
                port: 443
            }
        );
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let said = read(
            "image = \"a@sha256:12\"\nmemory = \"2G\"\ncpu = \"0\"\nscratch = \"-1Gi\"\nreach = [\"10.0.0.0/33:1\"]\n\
             closed = [\"x\"]\nuser = 0\nnamespace_prefix = \"Drill\"\npull = \"Sometimes\"\ngrace = \"5\"",
        )
        .unwrap_err();
        for word in [
            "digest that is none",
            "no size",
            "no number of processors",
            "-1Gi",
            "10.0.0.0/33:1",
            "no address with",
            "from 1",
            "no beginning",
            "none of IfNotPresent",
            "length of time",
        ] {
            assert!(said.contains(word), "{word} is not in\n{said}");
        }
        assert!(
            read("image = \"i\"\nmemory = \"2Gi\"\ncpu = \"1\"\nscratch = \"8Gi\"")
                .unwrap_err()
                .contains("object store")
        );
    }

    #[test]
    fn an_image_by_digest_is_known_beforehand() {
        let hex = "ab".repeat(32);
        let image: Image = format!("localhost/holdfast@sha256:{hex}").parse().unwrap();
        assert_eq!(image.digest(), Some(format!("sha256:{hex}").as_str()));
        let six: Reach = "fd00::/64:443".parse().unwrap();
        assert_eq!((six.cidr.as_str(), six.port), ("fd00::/64", 443));
    }
}
