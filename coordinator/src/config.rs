//! The coordinator's configuration: TOML, unknown keys refused, everything
//! wrong reported at once.
//!
//! ```toml
//! name = "coordinator-1"
//! listen_agents = "127.0.0.1:7443"       # agents, mutual TLS
//! listen_http = "127.0.0.1:7480"         # page, status, metrics
//! state_dir = "/var/lib/holdfast/coordinator"
//! policy = "/etc/holdfast/policy.toml"
//! signing_key = "/etc/holdfast/coordinator-1.key"
//! log_key = "/etc/holdfast/coordinator-1-log.key"
//! replicate_after = "1min"               # how long a replica may lag behind
//! lease = "30s"                          # without a word of the leader, another one leads
//! runbooks = "https://wiki.example.com/holdfast/findings.md"   # where findings link to
//!
//! [tls]
//! cert = "/etc/holdfast/coordinator-1.crt"
//! key = "/etc/holdfast/coordinator-1.tls.key"
//! client_ca = "/etc/holdfast/ca.crt"
//!
//! [[tls.ended]]                          # certificates that count no more
//! agent = "agent-3"
//! before = "2026-11-28T12:00:00Z"
//!
//! [enrolment]                            # certificates for agents that show a token
//! cert = "/etc/holdfast/issuer.crt"
//! key = "/etc/holdfast/issuer.key"
//! lifetime = "90d"
//!
//! [http_tls]                             # page, status and metrics over TLS
//! cert = "/etc/holdfast/https.crt"
//! key = "/etc/holdfast/https.key"
//!
//! [access]                               # who may read page, status and metrics
//! …                                      # see `access::section`
//!
//! [repository]
//! trust_root = "3f…"
//! replicas = [
//!   { region = "office", url = "file:///srv/holdfast" },
//! ]
//! ```
//!
//! Relative paths count from the directory of the file. There is no field for
//! an identity that opens backups, nor for credentials that delete them: the
//! coordinator has neither.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use holdfast_plan::document::{self, Problem, Section};
use holdfast_plan::period::Period;
use holdfast_plan::policy::{Policy, ResidencyRefused};
use holdfast_plan::schedule::Patience;
use holdfast_plan::shape::Shape;
use holdfast_proto::names::ActorName;
use holdfast_proto::residency::Use;
use holdfast_proto::{Fingerprint, Timestamp};
use holdfast_repository::RepositoryConfig;

use crate::access::AccessRules;
use crate::access::section::read_access;
use crate::repository_section::read_repository;
use crate::runbooks::Runbooks;

/// What a coordinator works by.
#[derive(Debug, Clone)]
pub struct CoordinatorConfig {
    /// Its name in the trust chain.
    pub name: ActorName,
    /// Where agents call in.
    pub listen_agents: SocketAddr,
    /// Where page, status and metrics are served.
    pub listen_http: SocketAddr,
    /// With which certificate; in plain HTTP without it.
    pub http_tls: Option<ServerFiles>,
    /// The cache's directory. Everything in it can be deleted.
    pub state_dir: PathBuf,
    /// The policy's file.
    pub policy_file: PathBuf,
    /// The policy.
    pub policy: Policy,
    /// Its signing key (ECDSA P-256).
    pub signing_key: PathBuf,
    /// The evidence log's key (Ed25519).
    pub log_key: Option<PathBuf>,
    /// Certificates for the agents' side.
    pub tls: TlsFiles,
    /// What is issued to agents. Without it nothing is.
    pub enrolment: Option<EnrolmentConfig>,
    /// Who may read page, status and metrics. Without it: whoever can connect, and
    /// `listen_http` is on the loopback interface.
    pub access: Option<AccessRules>,
    /// The repository.
    pub repository: RepositoryConfig,
    /// From where everything is believed.
    pub trust_root: Fingerprint,
    /// How long a replica may lack something before it is copied to it.
    pub replicate_after: Period,
    /// How long a lease of the leader is good for: 1 s to 5 min.
    pub lease: Period,
    /// Where people read what to do about a finding. Without it nothing links there.
    pub runbooks: Option<Runbooks>,
    /// How long agents are waited for. Not in the file: the numbers belong
    /// together.
    pub patience: Patience,
}

/// Files of the agents' listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain (PEM).
    pub cert: PathBuf,
    /// Its key (PEM).
    pub key: PathBuf,
    /// Authorities that agents' certificates are checked against (PEM).
    pub client_ca: PathBuf,
    /// Certificates that count no more, whoever issued them.
    pub ended: Vec<EndedAgent>,
}

/// A listener's certificate. It is read anew when the files change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// Certificate chain (PEM).
    pub cert: PathBuf,
    /// Its key (PEM).
    pub key: PathBuf,
}

/// The end of an agent's certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedAgent {
    /// Whose.
    pub agent: ActorName,
    /// Those that were issued before this moment.
    pub before: Timestamp,
}

/// What is issued to agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolmentConfig {
    /// The certificate of this coordinator's authority over agents (PEM).
    pub cert: PathBuf,
    /// Its key (PEM).
    pub key: PathBuf,
    /// How long certificates are valid: 10 s to 5 years.
    pub lifetime: Period,
}

/// How long certificates may be valid, in milliseconds: seconds are for trying it out.
const LIFETIMES: std::ops::RangeInclusive<u64> = 10_000..=1826 * 86_400_000;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What stands in it is wrong.
    #[error("{}", lines(.0))]
    Problems(Vec<Problem>),
    /// The policy does not let data be where the replicas are.
    #[error("{}: {}", file.display(), lines(refused))]
    Residency {
        /// The configuration.
        file: PathBuf,
        /// Whose data, and where.
        refused: Vec<ResidencyRefused>,
    },
}

fn lines(problems: &[impl ToString]) -> String {
    problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

/// A path as it stands in the file.
struct PathText(PathBuf);

impl FromStr for PathText {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            Err("must name a file or directory")
        } else {
            Ok(Self(text.into()))
        }
    }
}

/// An address to listen on.
struct Listen(SocketAddr);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Self)
            .map_err(|_| format!("{text:?} is not an address to listen on: write it as \"127.0.0.1:7443\""))
    }
}

impl CoordinatorConfig {
    /// Reads the file and the policy that it names.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = read_file(file)?;
        let directory = file.parent().unwrap_or(Path::new(""));
        let read = Self::parse(&text, &file.display().to_string(), directory);
        let read = read.map_err(ConfigError::Problems)?;
        let text = read_file(&read.policy_file)?;
        let policy =
            Policy::parse(&text, &read.policy_file.display().to_string()).map_err(ConfigError::Problems)?;
        let refused = policy.refusals(Use::Bind, &read.repository.places());
        if !refused.is_empty() {
            let file = file.to_owned();
            return Err(ConfigError::Residency { file, refused });
        }
        Ok(Self { policy, ..read })
    }

    /// What the reader asks for in a file: every key that a coordinator knows, when
    /// the text has every section.
    pub fn shape(text: &str) -> Shape {
        document::read_with_shape(text, "", |mut root| read_root(&mut root, Path::new(""))).1
    }

    /// Reads the text of a configuration; the policy in the result is empty.
    /// `directory` is where relative paths count from.
    pub fn parse(text: &str, file: &str, directory: &Path) -> Result<Self, Vec<Problem>> {
        document::read(text, file, |mut root| {
            let read = read_root(&mut root, directory);
            root.finish();
            read
        })
    }
}

fn read_file(file: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(file).map_err(|source| ConfigError::Read {
        file: file.to_owned(),
        source,
    })
}

fn required_path(
    section: &mut Section<'_>,
    key: &'static str,
    example: &str,
    directory: &Path,
) -> Option<PathBuf> {
    section
        .required::<PathText>(key, example)
        .map(|path| directory.join(path.0))
}

fn read_root(root: &mut Section<'_>, directory: &Path) -> Option<CoordinatorConfig> {
    let name = root.required::<ActorName>("name", "coordinator-1");
    let listen_agents = root
        .optional::<Listen>("listen_agents")
        .map_or(([127, 0, 0, 1], 7443).into(), |l| l.0);
    let listen_http = root.optional_at::<Listen>("listen_http");
    let accept_plain = root
        .optional_bool("accept_plain_http_beyond_loopback")
        .unwrap_or(false);
    let access = root.section("access").map(|mut section| {
        let read = read_access(&mut section, directory);
        section.finish();
        read
    });
    let http_tls = root.section("http_tls").map(|mut section| {
        let cert = required_path(&mut section, "cert", "/etc/holdfast/https.crt", directory);
        let key = required_path(&mut section, "key", "/etc/holdfast/https.key", directory);
        section.finish();
        Some(ServerFiles {
            cert: cert?,
            key: key?,
        })
    });
    let plain_url = |access: &AccessRules| {
        let url = access.public_url.as_ref();
        url.is_some_and(|url| !url.origin().starts_with("https://"))
    };
    if http_tls.is_some() && access.as_ref().is_some_and(|a| a.as_ref().is_some_and(plain_url)) {
        root.problem("access.public_url begins with http://, but [http_tls] serves https: correct it");
    }
    if http_tls.is_some() && accept_plain {
        root.problem(
            "has accept_plain_http_beyond_loopback and [http_tls], which leaves nothing plain: keep one",
        );
    }
    if let Some((listen, at)) = &listen_http
        && !listen.0.ip().is_loopback()
    {
        if access.is_none() {
            root.problem_at(
                at,
                "would show page and metrics to the network without login: add an [access] section (`holdfast \
                 coordinator token` begins it), or listen on 127.0.0.1",
            );
        }
        if !accept_plain && http_tls.is_none() {
            root.problem_at(
                at,
                "would send page, metrics and tokens over the network without encryption: add [http_tls] with cert and \
                 key, listen on 127.0.0.1 behind a proxy that has TLS, or set accept_plain_http_beyond_loopback = true where something else encrypts",
            );
        }
    }
    let state_dir = required_path(root, "state_dir", "/var/lib/holdfast/coordinator", directory);
    let policy_file = required_path(root, "policy", "/etc/holdfast/policy.toml", directory);
    let signing_key = required_path(root, "signing_key", "/etc/holdfast/coordinator-1.key", directory);
    let log_key = root
        .optional::<PathText>("log_key")
        .map(|path| directory.join(path.0));
    let tls = match root.section("tls") {
        Some(mut tls) => {
            let cert = required_path(&mut tls, "cert", "/etc/holdfast/coordinator-1.crt", directory);
            let key = required_path(&mut tls, "key", "/etc/holdfast/coordinator-1.tls.key", directory);
            let client_ca = required_path(&mut tls, "client_ca", "/etc/holdfast/ca.crt", directory);
            let ended: Vec<_> = tls.list("ended").into_iter().map(read_ended).collect();
            tls.finish();
            let ended: Option<Vec<_>> = ended.into_iter().collect();
            cert.zip(key)
                .zip(client_ca.zip(ended))
                .map(|((cert, key), (client_ca, ended))| TlsFiles {
                    cert,
                    key,
                    client_ca,
                    ended,
                })
        }
        None => {
            root.problem("needs a [tls] section with cert, key and client_ca: agents call in by mutual TLS");
            None
        }
    };
    let enrolment = root
        .section("enrolment")
        .map(|section| read_enrolment(section, directory));
    let replicate_after = root.optional::<Period>("replicate_after");
    let lease = root.optional_at::<Period>("lease");
    if let Some((lease, at)) = &lease
        && !(1_000..=300_000).contains(&lease.millis())
    {
        root.problem_at(at, "must be between 1s and 5min");
    }
    let runbooks = root.optional::<Runbooks>("runbooks");
    let (repository, trust_root) = read_believed(root);
    Some(CoordinatorConfig {
        name: name?,
        listen_agents,
        listen_http: listen_http.map_or(([127, 0, 0, 1], 7480).into(), |(l, _)| l.0),
        http_tls: match http_tls {
            Some(files) => Some(files?),
            None => None,
        },
        state_dir: state_dir?,
        policy_file: policy_file?,
        policy: Policy::parse("", "").ok()?,
        signing_key: signing_key?,
        log_key,
        tls: tls?,
        enrolment: match enrolment {
            Some(enrolment) => Some(enrolment?),
            None => None,
        },
        access: match access {
            Some(access) => Some(access?),
            None => None,
        },
        repository: repository?,
        trust_root: trust_root?,
        replicate_after: replicate_after.or(Period::from_millis(60_000))?,
        lease: lease.map(|(lease, _)| lease).or(Period::from_millis(30_000))?,
        runbooks,
        patience: Patience::default(),
    })
}

fn read_ended(mut section: Section<'_>) -> Option<EndedAgent> {
    let agent = section.required::<ActorName>("agent", "agent-3");
    let before = section.required::<Timestamp>("before", "2026-11-28T12:00:00Z");
    section.finish();
    Some(EndedAgent {
        agent: agent?,
        before: before?,
    })
}

fn read_enrolment(mut section: Section<'_>, directory: &Path) -> Option<EnrolmentConfig> {
    let cert = required_path(&mut section, "cert", "/etc/holdfast/issuer.crt", directory);
    let key = required_path(&mut section, "key", "/etc/holdfast/issuer.key", directory);
    let lifetime = section.optional_at::<Period>("lifetime");
    if let Some((lifetime, at)) = &lifetime
        && !LIFETIMES.contains(&lifetime.millis())
    {
        section.problem_at(at, "must be between 10s and 1826d");
    }
    section.finish();
    Some(EnrolmentConfig {
        cert: cert?,
        key: key?,
        lifetime: lifetime
            .map(|(lifetime, _)| lifetime)
            .or(Period::from_millis(90 * 86_400_000))?,
    })
}

/// The repository, with the trust root that a coordinator cannot be without.
fn read_believed(root: &mut Section<'_>) -> (Option<RepositoryConfig>, Option<Fingerprint>) {
    let repository = read_repository(root);
    let trust_root = repository.as_ref().and_then(|repository| repository.trust_root);
    if repository.is_some() && trust_root.is_none() {
        root.problem("repository.trust_root is missing: it is printed by `holdfast keys generate`");
    }
    (repository, trust_root)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
name = "coordinator-1"
state_dir = "state"
policy = "/etc/holdfast/policy.toml"
signing_key = "keys/c.key"
[tls]
cert = "c.crt"
key = "c.key"
client_ca = "ca.crt"
[repository]
trust_root = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
replicas = [{ region = "a", url = "file:///srv/a" }, { region = "b", url = "file:///srv/b" }]
"#;

    fn parse(text: &str) -> Result<CoordinatorConfig, Vec<String>> {
        CoordinatorConfig::parse(text, "c.toml", Path::new("/etc/holdfast"))
            .map_err(|problems| problems.iter().map(Problem::to_string).collect())
    }

    #[test]
    fn defaults_are_on_loopback_and_paths_are_relative_to_the_file() {
        let config = parse(GOOD).unwrap();
        assert_eq!(config.listen_agents.to_string(), "127.0.0.1:7443");
        assert_eq!(config.listen_http.to_string(), "127.0.0.1:7480");
        assert_eq!(config.state_dir, Path::new("/etc/holdfast/state"));
        assert_eq!(config.policy_file, Path::new("/etc/holdfast/policy.toml"));
        assert_eq!(config.tls.client_ca, Path::new("/etc/holdfast/ca.crt"));
        assert_eq!(config.repository.replicas.len(), 2);
        assert_eq!(config.log_key, None);
        assert_eq!(config.runbooks, None);
        let linked = GOOD.replace(
            "state_dir",
            "runbooks = \"https://w.example/findings.md\"\nstate_dir",
        );
        let runbooks = parse(&linked).unwrap().runbooks.unwrap();
        assert_eq!(runbooks.to_string(), "https://w.example/findings.md");
    }

    #[test]
    fn what_is_issued_and_what_has_ended() {
        assert_eq!(parse(GOOD).unwrap().enrolment, None);
        let more = format!(
            "{GOOD}[enrolment]\ncert = \"i.crt\"\nkey = \"i.key\"\n[[tls.ended]]\nagent = \"agent-3\"\n\
             before = \"2026-11-28T12:00:00Z\"\n"
        );
        let config = parse(&more).unwrap();
        let enrolment = config.enrolment.unwrap();
        assert_eq!(enrolment.key, Path::new("/etc/holdfast/i.key"));
        assert_eq!(enrolment.lifetime.to_string(), "90d");
        assert_eq!(config.tls.ended[0].agent.as_str(), "agent-3");
        let found = parse(&format!(
            "{GOOD}[enrolment]\ncert = \"i.crt\"\nlifetime = \"1s\"\n[[tls.ended]]\nagent = \"agent-3\"\n"
        ))
        .unwrap_err();
        for expect in [
            "enrolment.key: is missing",
            "enrolment.lifetime: must be between",
            "tls.ended[0].before: is missing",
        ] {
            assert!(found.iter().any(|f| f.contains(expect)), "{expect}: {found:#?}");
        }
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        let found = parse(
            "listen_agents = \"everywhere\"\nlisten_http = \"0.0.0.0:80\"\nidentity = \"x\"\nrunbooks = \"docs/x.md\"\n[tls]\ncert = \"\"\n\
             [repository]\nreplicas = [{ region = \"a\", url = \"nowhere\" }]\n",
        )
        .unwrap_err();
        for expect in [
            "c.toml:1:1: name: is missing",
            "c.toml:1:1: state_dir: is missing",
            "c.toml:1:17: listen_agents: \"everywhere\" is not an address",
            "c.toml:2:15: listen_http: would show page and metrics to the network without login",
            "c.toml:2:15: listen_http: would send page, metrics and tokens over the network without encryption",
            "c.toml:3:1: identity: is not a known key",
            "c.toml:4:12: runbooks: \"docs/x.md\" is not the address of a page",
            "c.toml:5:1: tls.key: is missing",
            "c.toml:6:8: tls.cert: must name a file",
            "replica a: \"nowhere\" is not a location",
            "repository.trust_root is missing",
        ] {
            assert!(
                found.iter().any(|f| f.contains(expect)),
                "{expect}\n  is not in {found:#?}"
            );
        }
        assert!(parse("").unwrap_err().iter().any(|f| f.contains("[tls]")));
        let opened = GOOD.replace(
            "state_dir",
            "listen_http = \"0.0.0.0:80\"\naccept_plain_http_beyond_loopback = true\nstate_dir",
        );
        let found = parse(&opened).unwrap_err();
        assert!(
            found.len() == 1 && found[0].contains("without login"),
            "{found:#?}"
        );
        let hash = crate::access::TokenHash::of("x");
        let opened = format!("{opened}[[access.token]]\nname = \"x\"\nhash = \"{hash}\"\n");
        assert!(parse(&opened).is_ok());
        // Or with TLS of its own, and then nothing is plain.
        let tls = "[http_tls]\ncert = \"h.crt\"\nkey = \"h.key\"\n";
        let served = opened.replace("accept_plain_http_beyond_loopback = true\n", "");
        assert!(parse(&served).is_err());
        let served = parse(&format!("{served}{tls}")).unwrap();
        assert_eq!(served.http_tls.unwrap().key, Path::new("/etc/holdfast/h.key"));
        let found = parse(&format!("{opened}{tls}")).unwrap_err();
        assert!(found.len() == 1 && found[0].contains("keep one"), "{found:#?}");
        let plain = format!(
            "{GOOD}{tls}[access]\npublic_url = \"http://localhost:7480\"\n[[access.token]]\nname = \"x\"\nhash = \"{hash}\"\n"
        );
        let found = parse(&plain).unwrap_err();
        assert!(
            found.len() == 1 && found[0].contains("serves https"),
            "{found:#?}"
        );
    }
}
