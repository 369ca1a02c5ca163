//! A restore into production takes more than one person, through the program: who
//! asks, who approves, what is carried out. And whoever holds the coordinator's key
//! and can write everywhere cannot do it alone.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use holdfast_agent::restore::{self, Purpose};
use holdfast_proto::approval::{ApprovalBody, Decision, Guarded, Quorum, RequestBody};
use holdfast_proto::envelope::Record;
use holdfast_proto::hold::ReleaseBody;
use holdfast_proto::names::{ObjectKey, RequestId};
use holdfast_proto::record::{TrustAct, TrustBody};
use holdfast_repository::approval;
use holdfast_repository::clock::now;
use holdfast_repository::layout;
use holdfast_repository::signed::Draft;
use holdfast_repository::signing::SigningKey;
use holdfast_tests::postgres::{Options, TestPostgres};
use holdfast_tests::scene::{Scene, promoted};

const HOLDFAST: &str = env!("CARGO_BIN_EXE_holdfast");

struct Stage {
    scene: Scene,
    config: PathBuf,
}

impl Stage {
    async fn new() -> Result<Self> {
        let mut scene = Scene::start(HOLDFAST, Options::default()).await?;
        scene.sql("create table t as select generate_series(1, 100) n")?;
        scene.base().await?;
        scene.sql("insert into t values (101)")?;
        scene.safe_everywhere().await?;
        scene.lose_source().await?;
        let options = scene.options().await?;
        let config = scene.vault.dir().join("holdfast.toml");
        let places = (0..2).map(|n| {
            let place = scene.vault.place(n).display();
            format!("{{ url = \"file://{place}\", region = \"region{n}\" }}")
        });
        let identity = options.fetch.identities[0].display();
        let text = format!(
            "identity = \"{identity}\"\n[repository]\ntrust_root = \"{}\"\nreplicas = [{}]\n",
            options.fetch.trust_root,
            places.collect::<Vec<_>>().join(", ")
        );
        std::fs::write(&config, text)?;
        scene.vault.root_key().save(&scene.vault.dir().join("root.key"))?;
        Ok(Self { scene, config })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scene.vault.dir().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Result<Output> {
        let output = Command::new(HOLDFAST)
            .args(arguments)
            .env("HOLDFAST_CONFIG", &self.config)
            .output()?;
        Ok(output)
    }

    /// Runs it, and it ends with this code; what it said.
    fn ends(&self, code: i32, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments)?;
        ensure!(
            output.status.code() == Some(code),
            "{arguments:?}, expected {code}: {output:?}"
        );
        let said = [output.stdout, output.stderr].concat();
        Ok(String::from_utf8(said)?)
    }

    /// Makes a person and has the root believe them.
    fn person(&self, name: &str, role: &str, group: Option<&str>) -> Result<SigningKey> {
        let key = SigningKey::generate_ed25519()?;
        key.save(&self.path(&format!("{name}.key")))?;
        let public = self.path(&format!("{name}.pub"));
        std::fs::write(&public, key.verifying().to_pem())?;
        let (root, public) = (self.text("root.key"), public.display().to_string());
        let mut arguments = vec![
            "trust",
            "enrol",
            "--root-key",
            &root,
            "--name",
            name,
            "--role",
            role,
            "--public",
            &public,
        ];
        arguments.extend(group.iter().flat_map(|group| ["--group", group]));
        self.ends(0, &arguments)?;
        Ok(key)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// The root asks for approvals.
    fn rule(&self, approvals: &str, groups: &str, valid: &str, code: i32) -> Result<String> {
        self.rule_for("production-restore", approvals, groups, valid, code)
    }

    fn rule_for(
        &self,
        action: &str,
        approvals: &str,
        groups: &str,
        valid: &str,
        code: i32,
    ) -> Result<String> {
        let root = self.text("root.key");
        self.ends(
            code,
            &[
                "trust",
                "require",
                "--root-key",
                &root,
                "--action",
                action,
                "--approvals",
                approvals,
                "--groups",
                groups,
                "--valid",
                valid,
            ],
        )
    }

    /// Olga asks for a restore of the latest moment.
    fn ask(&self, target: &str) -> Result<RequestId> {
        let (target, key) = (self.text(target), self.text("olga.key"));
        let asked = self.run(&[
            "restore",
            "request",
            "--cluster",
            "acme/erp",
            "--latest",
            "--target",
            &target,
            "--key",
            &key,
            "--reason",
            "the server burnt",
            "--json",
        ])?;
        ensure!(asked.status.success(), "{asked:?}");
        let said: serde_json::Value = serde_json::from_slice(&asked.stdout)?;
        Ok(said["request"].as_str().context("a request")?.parse()?)
    }

    fn answer(&self, verb: &str, id: RequestId, who: &str, code: i32) -> Result<String> {
        let key = self.text(&format!("{who}.key"));
        self.ends(code, &["approve", verb, &id.to_string(), "--key", &key])
    }

    /// Tries to carry the request out, which is refused and writes nothing.
    fn refused(&self, id: RequestId, target: &str, says: &str) -> Result<()> {
        let said = self.ends(1, &["restore", "approved", &id.to_string()])?;
        ensure!(said.contains(says), "{says:?} is not in {said}");
        ensure!(
            !self.path(target).exists(),
            "a refused restore writes nothing: {said}"
        );
        Ok(())
    }

    /// Puts bytes on every replica, as somebody does who may overwrite everything.
    fn plant(&self, key: &ObjectKey, bytes: &[u8]) -> Result<Vec<(PathBuf, Option<Vec<u8>>)>> {
        let mut before = Vec::new();
        for n in 0..2 {
            let path = self.scene.vault.place(n).join(key.as_str());
            before.push((path.clone(), std::fs::read(&path).ok()));
            std::fs::create_dir_all(path.parent().context("a directory")?)?;
            std::fs::write(&path, bytes)?;
        }
        Ok(before)
    }
}

fn undo(planted: Vec<(PathBuf, Option<Vec<u8>>)>) -> Result<()> {
    for (path, before) in planted {
        match before {
            Some(bytes) => std::fs::write(&path, bytes)?,
            None => std::fs::remove_file(&path)?,
        }
    }
    Ok(())
}

/// An object signed by `signer`, whoever that is.
async fn forged<B: Record + Clone>(
    stage: &Stage,
    key: &ObjectKey,
    payload: &[u8],
    body: &B,
    signer: &SigningKey,
) -> Result<Bytes> {
    let trust = stage.scene.vault.trust().await?;
    let draft = Draft {
        repository: trust.repository(),
        key: key.clone(),
        payload: payload.into(),
        sealed_to: None,
        lease: None,
        previous: match layout::parse(key.as_str()) {
            Some(layout::Located::Trust { .. }) => trust.head().cloned(),
            _ => None,
        },
        body,
    };
    Ok(draft.sign(signer).bytes)
}

fn rows(data: &Path) -> Result<String> {
    let restored = TestPostgres::open(data, false)?;
    promoted(&restored)?;
    restored.psql("select count(*) from t")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_into_production_takes_two_people() -> Result<()> {
    let stage = Stage::new().await?;
    stage.person("olga", "operator", None)?;
    stage.person("anna", "approver", Some("finance"))?;
    let said = stage.rule("2", "2", "24h", 64)?;
    assert!(said.contains("enrol approvers first"), "{said}");
    stage.person("cem", "approver", Some("platform"))?;
    stage.rule("2", "2", "24h", 0)?;
    let shown = stage.ends(0, &["trust", "show"])?;
    assert!(
        shown.contains("production-restore of all needs 2 people of 2 groups"),
        "{shown}"
    );

    // Nobody restores into production alone, but anybody may look at a copy.
    let alone = stage.text("alone");
    let run = [
        "restore",
        "run",
        "--cluster",
        "acme/erp",
        "--latest",
        "--target",
        &alone,
    ];
    let said = stage.ends(1, &run)?;
    assert!(
        said.contains("needs the approval of 2 people of 2 groups") && said.contains("restore request"),
        "{said}"
    );
    assert!(!stage.path("alone").exists());
    let said = stage.ends(0, &[&run[..], &["--copy"]].concat())?;
    assert!(said.contains("its own machine only"), "{said}");
    let settings = std::fs::read_to_string(stage.path("alone/postgresql.auto.conf"))?;
    assert!(settings.contains("listen_addresses = ''"), "{settings}");

    let id = stage.ask("new")?;
    stage.refused(id, "new", "is open: it needs 2 more")?;
    let said = stage.answer("grant", id, "olga", 1)?;
    assert!(said.contains("may not answer this request"), "{said}");
    let said = stage.answer("grant", id, "anna", 0)?;
    for part in ["the server burnt", "/new", "granted   anna (finance)", "1 more"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = stage.answer("grant", id, "anna", 1)?;
    assert!(said.contains("answered this request already"), "{said}");
    stage.refused(id, "new", "it needs 1 more")?;
    let key = stage.text("cem.key");
    let grant = ["approve", "grant", &id.to_string(), "--key", &key];
    let said = stage.ends(1, &[&grant[..], &["--plan", &"0".repeat(64)]].concat())?;
    assert!(said.contains("not the one that you were told"), "{said}");
    let said = stage.answer("grant", id, "cem", 0)?;
    assert!(said.contains("granted by anna, cem"), "{said}");
    let said = stage.ends(0, &["approve", "list"])?;
    assert!(said.contains("granted by anna, cem"), "{said}");

    // What they signed is carried out, and nothing else.
    let request = approval::load(
        &stage.scene.vault.repository,
        &stage.scene.vault.trust().await?,
        id,
    )
    .await?;
    let order = restore::Order::from_bytes(&request.plan)?;
    let mut options = stage.scene.options().await?;
    options.purpose = Purpose::Production { approved: Some(id) };
    let mut elsewhere = order.target.clone();
    elsewhere.data = stage.path("elsewhere");
    let access = stage.scene.access().await?;
    let error = restore::execute(&order.plan, &access, &elsewhere, &options)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("is not the one of request"), "{error}");
    let mut later = order.plan.clone();
    later.made = now();
    let error = restore::execute(&later, &access, &order.target, &options)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("is not the one of request"), "{error}");

    let said = stage.ends(0, &["restore", "approved", &id.to_string()])?;
    assert!(said.contains("of olga was granted by anna, cem"), "{said}");
    assert_eq!(rows(&stage.path("new"))?, "101");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_no_ends_a_request_and_so_does_time() -> Result<()> {
    let stage = Stage::new().await?;
    stage.person("olga", "operator", None)?;
    stage.person("anna", "approver", Some("finance"))?;
    stage.person("cem", "approver", Some("platform"))?;
    stage.rule("1", "1", "24h", 0)?;
    let id = stage.ask("new")?;
    stage.answer("reject", id, "anna", 0)?;
    let said = stage.answer("grant", id, "cem", 1)?;
    assert!(said.contains("rejected by anna"), "{said}");
    stage.refused(id, "new", "rejected by anna")?;
    let said = stage.ends(0, &["approve", "list"])?;
    assert!(said.contains("Nothing waits"), "{said}");

    stage.rule("1", "1", "1s", 0)?;
    let id = stage.ask("new")?;
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let said = stage.answer("grant", id, "cem", 1)?;
    assert!(said.contains("ask again"), "{said}");
    stage.refused(id, "new", "expired")?;

    // The root ends the rule, and the restore needs nobody.
    stage.rule("0", "0", "1s", 0)?;
    let new = stage.text("new");
    let run = [
        "restore",
        "run",
        "--cluster",
        "acme/erp",
        "--latest",
        "--target",
        &new,
    ];
    stage.ends(0, &run)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_the_coordinator_cannot_restore_alone() -> Result<()> {
    let stage = Stage::new().await?;
    stage.person("olga", "operator", None)?;
    stage.person("anna", "approver", Some("finance"))?;
    let cem = stage.person("cem", "approver", Some("platform"))?;
    let coordinator = stage.person("coordinator-1", "coordinator", None)?;
    stage.rule("2", "2", "24h", 0)?;
    let id = stage.ask("new")?;
    stage.answer("grant", id, "anna", 0)?;
    let trust = stage.scene.vault.trust().await?;
    let request = approval::load(&stage.scene.vault.repository, &trust, id).await?;
    let grant = ApprovalBody {
        request: request.link.clone(),
        plan: request.digest,
        decision: Decision::Grant,
        reason: None,
        at: now(),
    };
    let place_of = |by: &SigningKey| layout::approval(id, &by.fingerprint());

    // It approves by itself, under its own name and under another's.
    for place in [place_of(&coordinator), place_of(&cem)] {
        let bytes = forged(&stage, &place, b"", &grant, &coordinator).await?;
        let planted = stage.plant(&place, &bytes)?;
        stage.refused(id, "new", "it needs 1 more")?;
        undo(planted)?;
    }
    // It shows Anna's approval a second time, as Cem's.
    let anna = SigningKey::load(&stage.path("anna.key"))?;
    let hers = std::fs::read(stage.scene.vault.place(0).join(place_of(&anna).as_str()))?;
    let planted = stage.plant(&place_of(&cem), &hers)?;
    stage.refused(id, "new", "it needs 1 more")?;
    undo(planted)?;

    // It asks for another restore under the number that Anna has approved.
    let body = RequestBody {
        reason: "as before".to_owned(),
        ..request.body.clone()
    };
    let bytes = forged(&stage, &request.link.key, &request.plan, &body, &coordinator).await?;
    let planted = stage.plant(&request.link.key, &bytes)?;
    stage.refused(id, "new", "it needs 2 more")?;
    undo(planted)?;

    // It takes Anna's approval of one request for another that it makes itself.
    let own = RequestId::from_parts(now(), 7);
    let key = layout::request(own);
    let body = RequestBody {
        id: own,
        ..request.body.clone()
    };
    let bytes = forged(&stage, &key, &request.plan, &body, &coordinator).await?;
    let planted = stage.plant(&key, &bytes)?;
    let copied = stage.plant(&layout::approval(own, &anna.fingerprint()), &hers)?;
    stage.refused(own, "new", "it needs 2 more")?;
    undo(copied)?;
    undo(planted)?;

    // It ends the rule: the chain is then not believed at all.
    let n = trust.length();
    let acts = vec![TrustAct::Require {
        action: Guarded::ProductionRestore,
        clusters: Vec::new(),
        quorum: Quorum {
            approvals: 0,
            groups: 0,
            valid_ms: 0,
        },
    }];
    let body = TrustBody { n, at: now(), acts };
    let bytes = forged(&stage, &layout::trust(n), b"", &body, &coordinator).await?;
    let planted = stage.plant(&layout::trust(n), &bytes)?;
    stage.refused(id, "new", "trust record")?;
    undo(planted)?;

    // It hides the rule by hiding the newest record of the chain on one replica.
    let newest = stage.scene.vault.place(0).join(layout::trust(n - 1).as_str());
    let hidden = std::fs::read(&newest)?;
    std::fs::remove_file(&newest)?;
    stage.refused(id, "new", "it needs 1 more")?;
    std::fs::write(&newest, hidden)?;

    // The two people together can.
    stage.answer("grant", id, "cem", 0)?;
    stage.ends(0, &["restore", "approved", &id.to_string()])?;
    Ok(())
}

/// What one person holds, two must want to let go; and `points` shows it until then.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_stands_until_two_people_let_it_go() -> Result<()> {
    let stage = Stage::new().await?;
    stage.person("olga", "operator", None)?;
    stage.person("anna", "approver", Some("finance"))?;
    stage.person("bert", "approver", Some("operations"))?;
    stage.rule_for("hold-release", "2", "2", "1h", 0)?;
    let (olga, anna, bert) = (
        stage.text("olga.key"),
        stage.text("anna.key"),
        stage.text("bert.key"),
    );
    let cluster = ["--cluster", "acme/erp"];
    let place = |to: &str, code: i32| {
        let span = [
            "--from",
            "2026-03-31T22:00:00Z",
            "--to",
            to,
            "--reason",
            "audit of 2025",
            "--key",
            &olga,
        ];
        stage.ends(code, &[&["hold", "place"], &cluster[..], &span].concat())
    };
    assert!(place("2026-03-31T21:00:00Z", 1)?.contains("holds nothing"));
    let said = place("2026-04-01T00:00:00Z", 0)?;
    let id = said.split([' ', ':']).nth(1).context("a number")?.to_owned();
    let shown = || stage.ends(0, &[&["points"], &cluster[..]].concat());
    let line = |said: &str| said.lines().find(|l| l.contains("HOLD")).map(str::to_owned);
    let held = line(&shown()?).context("points shows it")?;
    assert!(
        held.contains("audit of 2025") && held.contains("olga") && held.contains(&id),
        "{held}"
    );
    let json: serde_json::Value =
        serde_json::from_str(&stage.ends(0, &[&["points", "--json"], &cluster[..]].concat())?)?;
    assert_eq!(json["holds"][0]["id"], serde_json::Value::from(id.clone()));

    let why = ["--reason", "the audit is over", "--key"];
    let alone = stage.ends(1, &[&["hold", "release", &id], &why[..], &[&olga]].concat())?;
    assert!(alone.contains("2 people"), "{alone}");
    let asked = stage.ends(0, &[&["hold", "request", &id], &why[..], &[&olga]].concat())?;
    let request = asked.split_whitespace().nth(1).context("a number")?.to_owned();
    let release = |code: i32| {
        stage.ends(
            code,
            &[
                &["hold", "release", &id],
                &why[..],
                &[&olga, "--request", &request],
            ]
            .concat(),
        )
    };
    stage.ends(0, &["approve", "grant", &request, "--key", &anna])?;
    assert!(release(1)?.contains("open"), "one of two");
    assert!(line(&shown()?).is_some());
    stage.ends(0, &["approve", "grant", &request, "--key", &bert])?;
    assert!(release(0)?.contains("released"));
    assert_eq!(line(&shown()?), None);
    assert!(release(1)?.contains("already"));
    assert!(stage.ends(0, &["hold", "list"])?.contains("Nothing is held"));
    assert!(
        stage
            .ends(0, &["hold", "list", "--all"])?
            .contains("released by olga")
    );

    // A replica that is away may hold something that the others know nothing of.
    let (first, away) = (stage.scene.vault.place(0), stage.path("away"));
    std::fs::rename(first, &away)?;
    for words in [&["hold", "list"][..], &["approve", "list"]] {
        let said = stage.ends(0, words)?;
        assert!(said.contains("replica-unreachable"), "{said}");
    }
    assert!(stage.ends(0, &["hold", "list"])?.contains("within reach"));
    let unknown = ["hold", "release", "00000000000000000000000000"];
    let said = stage.ends(1, &[&unknown[..], &why[..], &[&olga]].concat())?;
    assert!(said.contains("not listed was"), "{said}");
    std::fs::rename(&away, first)?;

    // A release that nobody granted, made by hand with a key that may, counts for nothing.
    let said = place("2026-04-01T00:00:00Z", 0)?;
    let id = said.split([' ', ':']).nth(1).context("a number")?.parse()?;
    let (repository, trust) = (&stage.scene.vault.repository, stage.scene.vault.trust().await?);
    let hold = holdfast_repository::hold::find(repository, &trust, id).await?;
    let signer = SigningKey::load(&stage.path("olga.key"))?;
    let body = ReleaseBody {
        hold: hold.link.clone(),
        reason: "I say so".to_owned(),
        request: None,
        at: now(),
    };
    let key = layout::release(id, &signer.fingerprint());
    let draft = Draft {
        repository: trust.repository(),
        key: key.clone(),
        payload: Default::default(),
        sealed_to: None,
        lease: None,
        previous: None,
        body: &body,
    };
    let forged = draft.sign(&signer).bytes;
    for replica in repository.replicas() {
        replica.create(&key, forged.clone()).await?;
    }
    let shown = shown()?;
    assert!(
        line(&shown).is_some() && shown.contains("hold-not-believed"),
        "{shown}"
    );
    Ok(())
}
