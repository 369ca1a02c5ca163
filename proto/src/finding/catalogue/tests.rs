//! What the sources raise, what the table lists and what the page explains are the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::*;

/// Crates whose sources raise findings, or may.
const CRATES: [&str; 7] = [
    "agent",
    "cli",
    "coordinator",
    "drills",
    "kubernetes",
    "plan",
    "repository",
];

/// Where words of other vocabularies stand that are written as findings' names are: checks
/// and lint codes of evidence, what HTTP and pages say, the story of the demo. No finding
/// is raised there.
const ELSEWHERE: [&str; 9] = [
    "cli/src/demo/",
    "coordinator/src/access/",
    "coordinator/src/server/",
    "drills/src/checks/",
    "drills/src/evidence/",
    "drills/src/runner/copy.rs",
    "drills/src/runner/sight.rs",
    "kubernetes/src/objects.rs",
    "kubernetes/src/parcel.rs",
];

/// Words that are written as findings' names are, and are none. A word that a new finding
/// has does not belong here.
const NO_FINDINGS: [&str; 31] = [
    // Memory and headers of the coordinator.
    "base-backup",
    "content-type",
    "filestore-checkpoint",
    "idempotency-key",
    // What the store is asked for.
    "holdfast-index-key",
    "key-marker",
    "object-lock",
    "only-region",
    "repo-init",
    "version-id-marker",
    // Scenarios, checks and samples of drills.
    "accidental-deletion",
    "attack-put-right",
    "books-agree",
    "drill-in-time",
    "egress-closed",
    "failed-upgrade",
    "holdfast-runner",
    "key-loss",
    "pod-closed",
    "region-loss",
    "scratch-destroyed",
    "scratch-space",
    "storage-corruption",
    // Arguments, names and modes.
    "accept-unreachable",
    "holdfast-drill",
    "to-lsn",
    "to-name",
    "to-time",
    "verify-ca",
    "verify-full",
    "wal-relay",
];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Sign(char),
}

impl Token {
    fn is(&self, what: &str) -> bool {
        match self {
            Token::Word(word) => word == what,
            Token::Sign(sign) => what.chars().eq([*sign]),
            Token::Text(_) => false,
        }
    }
}

/// What a Rust source says, without its comments.
fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    let find = |from: usize, end: &str| {
        let end: Vec<char> = end.chars().collect();
        (from..chars.len()).find(|at| chars[*at..].starts_with(&end))
    };
    while let Some(&char) = chars.get(at) {
        let next = chars.get(at + 1).copied();
        if char == '/' && next == Some('/') {
            at = find(at, "\n").unwrap_or(chars.len());
        } else if char == '/' && next == Some('*') {
            at = find(at, "*/").map_or(chars.len(), |end| end + 2);
        } else if char == '"' {
            let mut text = String::new();
            at += 1;
            while let Some(&char) = chars.get(at).filter(|char| **char != '"') {
                // What an escape stands for does not matter: no name has one.
                at += if char == '\\' { 2 } else { 1 };
                text.push(char);
            }
            tokens.push(Token::Text(text));
            at += 1;
        } else if char == 'r' && (next == Some('"') || next == Some('#')) {
            let hashes = chars[at + 1..].iter().take_while(|char| **char == '#').count();
            if chars.get(at + 1 + hashes) == Some(&'"') {
                let begin = at + 2 + hashes;
                let end = find(begin, &format!("\"{}", "#".repeat(hashes))).unwrap_or(chars.len());
                tokens.push(Token::Text(chars[begin..end].iter().collect()));
                at = end + 1 + hashes;
            } else {
                at += 1;
            }
        } else if char == '\'' && (next == Some('\\') || chars.get(at + 2) == Some(&'\'')) {
            // A character; anything else behind this sign is a lifetime.
            let from = if next == Some('\\') { at + 3 } else { at + 2 };
            at = find(from, "'").map_or(chars.len(), |end| end + 1);
        } else if char.is_alphanumeric() || char == '_' {
            let word: String = chars[at..]
                .iter()
                .take_while(|char| char.is_alphanumeric() || **char == '_')
                .collect();
            at += word.chars().count();
            tokens.push(Token::Word(word));
        } else {
            if !char.is_whitespace() {
                tokens.push(Token::Sign(char));
            }
            at += 1;
        }
    }
    tokens
}

fn begins(tokens: &[Token], with: &[&str]) -> bool {
    with.len() <= tokens.len() && tokens.iter().zip(with).all(|(token, word)| token.is(word))
}

/// Where the bracket that begins at `from` ends: behind its partner.
fn behind(tokens: &[Token], from: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(from) {
        if let Token::Sign(sign) = token {
            match sign {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth = depth.saturating_sub(1),
                _ => continue,
            }
            if depth == 0 {
                return at + 1;
            }
        }
    }
    tokens.len()
}

/// A source without attributes and without what is there for tests alone, and the
/// modules that are.
fn shipped(tokens: &[Token]) -> (Vec<Token>, Vec<String>) {
    let (mut kept, mut modules) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        let rest = &tokens[at..];
        if begins(rest, &["#", "["]) || begins(rest, &["#", "!", "["]) {
            let for_tests = begins(rest, &["#", "[", "cfg", "(", "test", ")", "]"]);
            let open = at + rest.iter().take_while(|token| !token.is("[")).count();
            at = behind(tokens, open);
            if !for_tests {
                continue;
            }
            // The item ends with a semicolon, or with its body.
            let mut end = at;
            while end < tokens.len() && !tokens[end].is(";") && !tokens[end].is("{") {
                let opens = tokens[end].is("(") || tokens[end].is("[");
                end = if opens { behind(tokens, end) } else { end + 1 };
            }
            let module = tokens[at..end].iter().position(|token| token.is("mod"));
            if let (Some(place), Some(true)) = (module, tokens.get(end).map(|token| token.is(";")))
                && let Some(Token::Word(name)) = tokens.get(at + place + 1)
            {
                modules.push(name.clone());
            }
            at = match tokens.get(end) {
                Some(token) if token.is("{") => behind(tokens, end),
                _ => end + 1,
            };
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    (kept, modules)
}

fn files_below(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, into);
        } else if path.extension().is_some_and(|end| end == "rs") {
            into.push(path);
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The sources of all crates as they are shipped, by their paths.
fn sources() -> BTreeMap<String, Vec<Token>> {
    let mut files = Vec::new();
    for name in CRATES {
        files_below(&root().join(name).join("src"), &mut files);
    }
    let mut kept = BTreeMap::new();
    let mut for_tests = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let (tokens, modules) = shipped(&tokens(&text));
        // `mod.rs` and `lib.rs` have their modules beside them, any other file below it.
        let stem = file.file_stem().unwrap().to_str().unwrap();
        let directory = match stem {
            "mod" | "lib" | "main" => file.parent().unwrap().to_owned(),
            _ => file.with_extension(""),
        };
        for module in modules {
            for_tests.extend([directory.join(format!("{module}.rs")), directory.join(&module)]);
        }
        kept.insert(file, tokens);
    }
    let root = root();
    kept.into_iter()
        .filter(|(file, _)| !file.ancestors().any(|path| for_tests.contains(path)))
        .map(|(file, tokens)| {
            let path = file.strip_prefix(&root).unwrap().display().to_string();
            (path, tokens)
        })
        .collect()
}

/// Whether a text is written as names of findings are.
fn looks_like_a_name(text: &str) -> bool {
    // `eu-1` is a region, `agent-1` an actor.
    let word = |word: &str| {
        let mut chars = word.chars();
        chars.next().is_some_and(|char| char.is_ascii_lowercase())
            && chars.all(|char| char.is_ascii_lowercase() || char.is_ascii_digit())
    };
    text.contains('-') && text.split('-').all(word)
}

/// Whether the text at `at` is looked for, and not raised.
fn only_asked(tokens: &[Token], at: usize) -> bool {
    let before = &tokens[at.saturating_sub(2)..at];
    ["clear", "clear_everywhere", "holds"]
        .iter()
        .any(|word| begins(before, &[word, "("]))
        || begins(before, &["=", "="])
        || begins(before, &["!", "="])
}

/// The text that stands as the name where a finding is raised, if one stands there.
fn raised_at(tokens: &[Token]) -> Option<&str> {
    let made = ["Finding", "{", "name", ":"];
    let at = if begins(tokens, &made) {
        made.len()
    } else if begins(tokens, &["raise", "("]) || begins(tokens, &["raise_everywhere", "("]) {
        // Behind the severity, which is a path.
        2 + tokens.iter().skip(2).take_while(|token| !token.is(",")).count() + 1
    } else if begins(tokens, &["sheet", ".", "add", "("]) {
        tokens.iter().take_while(|token| !token.is("(")).count() + 1
    } else {
        return None;
    };
    match tokens.get(at) {
        Some(Token::Text(name)) => Some(name),
        // A name that is put together cannot be looked up.
        Some(token) if token.is("format") => Some("format!"),
        _ => None,
    }
}

#[test]
fn what_is_raised_is_listed_and_what_is_listed_is_raised() {
    let mut wrong = Vec::new();
    let mut raised = BTreeSet::new();
    let mut others = BTreeSet::new();
    for (path, tokens) in sources() {
        let elsewhere = ELSEWHERE.iter().any(|place| path.starts_with(place));
        for (at, token) in tokens.iter().enumerate() {
            let rest = &tokens[at..];
            if elsewhere && (begins(rest, &["Finding", "{"]) || begins(rest, &[".", "raise", "("])) {
                // A type that holds findings, and a function that returns one, look alike.
                let declared = at > 0 && (tokens[at - 1].is(">") || tokens[at - 1].is("struct"));
                if !declared {
                    wrong.push(format!("{path} raises a finding: take it off ELSEWHERE"));
                }
            }
            if let Some(name) = raised_at(rest).filter(|name| known(name).is_none()) {
                wrong.push(format!("{path} raises {name:?}, of which KNOWN has nothing"));
            }
            let Token::Text(text) = token else { continue };
            if known(text).is_some() {
                if !elsewhere && !only_asked(&tokens, at) {
                    raised.insert(text.clone());
                }
            } else if NO_FINDINGS.contains(&text.as_str()) {
                others.insert(text.clone());
            } else if !elsewhere && looks_like_a_name(text) {
                wrong.push(format!(
                    "{path} has {text:?}: a finding's name belongs into KNOWN with what ends it and onto {PAGE}; \
                     another word belongs into NO_FINDINGS"
                ));
            }
        }
    }
    for known in KNOWN.iter().filter(|known| !raised.contains(known.name)) {
        wrong.push(format!("KNOWN has {:?}, which nothing raises", known.name));
    }
    for word in NO_FINDINGS.iter().filter(|word| !others.contains(**word)) {
        wrong.push(format!("NO_FINDINGS has {word:?}, which stands nowhere"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_page_has_a_section_for_each_name_and_no_other() {
    let page = std::fs::read_to_string(root().join(PAGE)).unwrap();
    let mut sections: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut current = None;
    for line in page.lines() {
        if let Some(name) = line.strip_prefix("### ") {
            assert!(
                sections.insert(name, Vec::new()).is_none(),
                "{PAGE} has {name} twice"
            );
            current = Some(name);
        } else if line.starts_with('#') {
            current = None;
        } else if let Some(section) = current.and_then(|name| sections.get_mut(name)) {
            section.push(line);
        }
    }
    let listed: BTreeSet<&str> = KNOWN.iter().map(|known| known.name).collect();
    let explained: BTreeSet<&str> = sections.keys().copied().collect();
    assert_eq!(explained, listed, "sections of {PAGE}, and KNOWN");
    for known in KNOWN {
        let section = sections[known.name].join(" ");
        let section = section.trim();
        assert!(
            !section.starts_with("**"),
            "{PAGE}: {} does not say what it means",
            known.name
        );
        let ends = format!("**What clears it**: {}", known.clears);
        for part in ["**What to do**: ", &ends] {
            assert!(section.contains(part), "{PAGE}: {} lacks: {part}", known.name);
        }
    }
}

#[test]
fn the_table_is_in_order_and_every_sentence_is_one() {
    assert!(KNOWN.is_sorted_by(|one, next| one.name < next.name));
    for known in KNOWN {
        assert_eq!(super::known(known.name), Some(known));
        assert!(
            known.clears.ends_with('.') && known.clears.starts_with(|c: char| c.is_ascii_uppercase()),
            "{}: {}",
            known.name,
            known.clears
        );
    }
    assert_eq!(clears("x"), None);
    assert_eq!(
        runbook("wal-gap").as_deref(),
        Some("docs/operations/findings.md#wal-gap")
    );
    assert_eq!(runbook("x"), None);
}

#[test]
fn sources_are_read_as_the_compiler_reads_them() {
    let source = r##"
        // "in-a-comment"
        /* "in-a-comment" */
        #[serde(rename_all = "in-an-attribute")]
        fn f<'a>(c: char) -> &'a str {
            if c == '"' || c == '\'' { return r#"raw "text"-name"#; }
            findings.raise(Severity::Warning, "a-name", "subject", "detail \" more");
            findings.clear("another-name", "x");
            Finding { name: format!("{a}-b") }
        }
        #[cfg(test)]
        mod simulation;
        #[cfg(test)]
        #[expect(dead_code, reason = "x;{")]
        mod tests { fn g() { "in-a-test"; } }
        const AFTER: &str = "after-tests";
    "##;
    let (tokens, modules) = shipped(&tokens(source));
    let texts: Vec<&str> = tokens
        .iter()
        .filter_map(|token| match token {
            Token::Text(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert!(
        texts.contains(&"a-name") && texts.contains(&"after-tests"),
        "{texts:?}"
    );
    assert!(texts.contains(&"raw \"text\"-name"), "{texts:?}");
    assert!(!texts.iter().any(|text| text.starts_with("in-a")), "{texts:?}");
    assert_eq!(modules, ["simulation"]);
    let raised: Vec<&str> = (0..tokens.len())
        .filter_map(|at| raised_at(&tokens[at..]))
        .collect();
    assert_eq!(raised, ["a-name", "format!"]);
    let asked = tokens
        .iter()
        .position(|token| *token == Token::Text("another-name".to_owned()));
    assert!(only_asked(&tokens, asked.unwrap()));
}
