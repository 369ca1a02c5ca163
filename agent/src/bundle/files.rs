//! Collects configuration files and tells secrets from settings.
//!
//! A file is a secret when the configuration says so, when its name is one that
//! keys and passwords have, or when its content shows a private key or a line that
//! sets a password. When in doubt it is a secret: a restore by the operator opens
//! both bundles, a drill only one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use globset::Glob;
use holdfast_proto::finding::Severity;

use crate::config::ConfigurationConfig;
use crate::findings::Findings;

/// The most bytes that a configuration file may have.
const MAX_FILE: u64 = 8 << 20;

/// A file as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// Where it lies.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Modification time in seconds since 1970.
    pub mtime: u64,
    /// Its bytes.
    pub content: Vec<u8>,
}

/// What was collected, each by path.
#[derive(Debug, Default)]
pub struct Files {
    /// What a drill may open.
    pub open: Vec<Captured>,
    /// What only recovery and escrow may open.
    pub secret: Vec<Captured>,
}

/// A configuration file that the server itself names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerFile {
    /// Where the agent finds it.
    pub path: PathBuf,
    /// Whether it is secret whatever it holds.
    pub secret: bool,
    /// Whether the server does without it.
    pub optional: bool,
}

/// Reads the server's files and those that the configuration names.
pub fn collect(server: &[ServerFile], configuration: &ConfigurationConfig, findings: &Findings) -> Files {
    let mut wanted: BTreeMap<PathBuf, (bool, bool)> = BTreeMap::new();
    for file in server {
        let entry = wanted.entry(file.path.clone()).or_default();
        *entry = (entry.0 | file.secret, entry.1 | file.optional);
    }
    for (globs, secret) in [(&configuration.files, false), (&configuration.secret_files, true)] {
        for glob in globs {
            for path in matching(glob, findings) {
                wanted.entry(path).or_default().0 |= secret;
            }
        }
    }
    let mut files = Files::default();
    for (path, (secret, optional)) in wanted {
        let subject = path.display().to_string();
        match read(&path) {
            Ok(file) => {
                findings.clear("configuration-unreadable", &subject);
                if secret || is_secret(&file) {
                    files.secret.push(file);
                } else {
                    files.open.push(file);
                }
            }
            Err(error) if optional && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => findings.raise(
                Severity::Warning,
                "configuration-unreadable",
                subject,
                format!("it is not in the configuration bundle ({error}): let the agent's user read it, or name it no more"),
            ),
        }
    }
    files
}

fn read(path: &Path) -> io::Result<Captured> {
    let mut content = Vec::new();
    let file = File::open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    file.take(MAX_FILE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_FILE {
        return Err(io::Error::other("it has more than 8 MiB"));
    }
    Ok(Captured {
        path: path.to_owned(),
        mode: meta.mode() & 0o7777,
        mtime: u64::try_from(meta.mtime()).unwrap_or(0),
        content,
    })
}

/// The files that a pattern names. A pattern without wildcards names its file,
/// whether it is there or not.
fn matching(glob: &Glob, findings: &Findings) -> Vec<PathBuf> {
    let pattern = glob.glob();
    if !pattern.contains(['*', '?', '[', '{', '\\']) {
        return vec![pattern.into()];
    }
    let fixed: PathBuf = Path::new(pattern)
        .components()
        .take_while(|c| {
            !c.as_os_str()
                .to_string_lossy()
                .contains(['*', '?', '[', '{', '\\'])
        })
        .collect();
    let matcher = glob.compile_matcher();
    // A single `*` stays within one name, so how deep to look is known.
    let depth = if pattern.contains("**") {
        usize::MAX
    } else {
        Path::new(pattern).components().count() - fixed.components().count()
    };
    let mut found = Vec::new();
    let mut open = vec![(fixed, depth)];
    while let Some((directory, depth)) = open.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) => {
                findings.raise(
                    Severity::Warning,
                    "configuration-unreadable",
                    directory.display().to_string(),
                    format!("the pattern {pattern:?} cannot be followed into it ({error}): let the agent's user list it"),
                );
                continue;
            }
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let Ok(meta) = fs::symlink_metadata(&path) else {
                continue;
            };
            if meta.is_dir() && depth > 1 {
                open.push((path, depth - 1));
            } else if !meta.is_dir() && matcher.is_match(&path) {
                found.push(path);
            }
        }
    }
    if found.is_empty() {
        findings.raise(
            Severity::Info,
            "configuration-pattern-empty",
            pattern,
            "no file has a name of this pattern: correct it, or remove it",
        );
    } else {
        findings.clear("configuration-pattern-empty", pattern);
    }
    found
}

fn is_secret(file: &Captured) -> bool {
    let name = file
        .path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    let by_name = [".key", ".p12", ".pfx", ".jks", ".keytab", ".kdbx"]
        .iter()
        .any(|end| name.ends_with(end))
        || [
            "passw",
            "secret",
            "pgpass",
            "credential",
            "id_rsa",
            "id_ed25519",
            "id_ecdsa",
        ]
        .iter()
        .any(|part| name.contains(part));
    by_name || {
        let text = String::from_utf8_lossy(&file.content);
        text.contains("PRIVATE KEY-----")
            || text.contains("AGE-SECRET-KEY-")
            || text.lines().any(sets_a_password)
    }
}

/// Whether a line that is no comment gives something named like a password a value.
fn sets_a_password(line: &str) -> bool {
    let line = line.trim_start().to_lowercase();
    if line.starts_with(['#', ';']) {
        return false;
    }
    [
        "password",
        "passwd",
        "secret",
        "token",
        "secret_key",
        "access_key",
        "api_key",
    ]
    .iter()
    .any(|word| {
        line.match_indices(word).any(|(at, _)| {
            let rest = line[at + word.len()..]
                .trim_start_matches(['"', '\''])
                .trim_start();
            let value = rest
                .strip_prefix(['=', ':'])
                .map(|v| v.trim().trim_matches(['"', '\'', ',']));
            // Odoo writes False for a password that is not set.
            value.is_some_and(|v| !matches!(v, "" | "false" | "none" | "null"))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glob(pattern: &str) -> Glob {
        globset::GlobBuilder::new(pattern)
            .literal_separator(true)
            .build()
            .unwrap()
    }

    #[test]
    fn a_line_that_sets_a_password_is_seen() {
        for secret in [
            "db_password = hunter2",
            "  admin_passwd=x",
            "primary_conninfo = 'host=a user=b password=c'",
            "\"api_key\": \"abc\",",
            "SECRET_KEY: xyz",
        ] {
            assert!(sets_a_password(secret), "{secret}");
        }
        for open in [
            "password_encryption = scram-sha-256",
            "# password = example",
            "db_password = False",
            "local all all password",
            "ssl_passphrase_command_supports_reload = off",
            "admin_passwd =",
        ] {
            assert!(!sets_a_password(open), "{open}");
        }
    }

    #[test]
    fn collects_by_name_and_pattern_and_keeps_secrets_apart() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("conf.d/deep")).unwrap();
        for (name, content) in [
            ("odoo.conf", "admin_passwd = x\n"),
            ("conf.d/a.conf", "workers = 4\n"),
            ("conf.d/b.txt", "not asked for\n"),
            ("conf.d/deep/c.conf", "too deep\n"),
            ("tls.key", "-----BEGIN PRIVATE KEY-----\n"),
            ("license", "plain but marked\n"),
        ] {
            fs::write(at(name), content).unwrap();
        }
        let pattern = |name: &str| glob(&at(name).display().to_string());
        let configuration = ConfigurationConfig {
            files: vec![
                pattern("odoo.conf"),
                pattern("conf.d/*.conf"),
                pattern("tls.*"),
                pattern("missing.conf"),
                pattern("none/*.x"),
            ],
            secret_files: vec![pattern("license")],
        };
        let findings = Findings::default();
        let files = collect(&[], &configuration, &findings);
        let names = |files: &[Captured]| -> Vec<String> {
            (files.iter())
                .map(|f| f.path.strip_prefix(dir.path()).unwrap().display().to_string())
                .collect()
        };
        assert_eq!(names(&files.open), ["conf.d/a.conf"]);
        assert_eq!(names(&files.secret), ["license", "odoo.conf", "tls.key"]);
        assert!(findings.holds(
            "configuration-unreadable",
            &at("missing.conf").display().to_string()
        ));
        assert!(findings.holds("configuration-unreadable", &at("none").display().to_string()));
    }
}
