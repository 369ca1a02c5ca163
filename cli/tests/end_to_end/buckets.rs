//! Buckets and users: what the manual's policy refuses, and which buckets
//! Holdfast refuses to write to.

use std::fs;
use std::process::Output;

use anyhow::{Result, ensure};
use holdfast_tests::s3::{Line, Service, User};

use super::place::{Buckets, Place, REGIONS};
use super::stage::{CLUSTER, Stage, each, subjects};

#[test]
fn no_user_deletes_or_unlocks_anything() -> Result<()> {
    let Some(service) = Service::from_env() else {
        return Ok(());
    };
    let bucket = service.documented_bucket()?;
    let agent = service.user("agent");
    let key = "tenants/acme/clusters/erp/leases/0000000000000001";
    let path = format!("{bucket}/{key}");
    agent.must("PUT", &path, "", &[], b"original")?;
    agent.must("PUT", &path, "", &[], b"forged")?;
    let versions = agent.versions(&bucket, key)?;
    let original = versions.last().expect("two puts made versions").clone();
    for who in ["agent", "coordinator", "operator", "restorer"] {
        refuses_to_remove(&service.user(who), &bucket, key, &original)?;
    }
    // Nor does the owner, while the lock holds.
    let by_owner = service
        .owner()
        .call("DELETE", &path, &format!("versionId={original}"), &[], b"")?;
    ensure!(
        by_owner.status == 403 && by_owner.text().contains("object lock"),
        "{}",
        by_owner.text()
    );

    ensure!(agent.versions(&bucket, key)? == versions, "a version is gone");
    let still = agent.must("GET", &path, &format!("versionId={original}"), &[], b"")?;
    ensure!(still.body == b"original", "{}", still.text());
    keeps_to_its_prefix(&service, &bucket)
}

/// A way to remove something: what it is, the method, the path, the query, headers
/// and the body.
type Removal<'a> = (&'a str, &'a str, &'a str, String, &'a [&'a str], &'a str);

/// Everything by which `user` could remove `version` of `key`, or shorten what
/// keeps it, is refused.
fn refuses_to_remove(user: &User, bucket: &str, key: &str, version: &str) -> Result<()> {
    let path = format!("{bucket}/{key}");
    let of = |call: &str| format!("{call}versionId={version}");
    let retention = |mode: &str, until: &str| {
        format!("<Retention><Mode>{mode}</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>")
    };
    // Earlier than the lock of a day that the bucket gave it.
    let soon = (chrono::Utc::now() + chrono::TimeDelta::hours(1))
        .format("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let shorter = retention("COMPLIANCE", &soon);
    let weaker = retention("GOVERNANCE", "2099-01-01T00:00:00Z");
    let longer = retention("COMPLIANCE", "2099-01-01T00:00:00Z");
    let many = format!("<Delete><Object><Key>{key}</Key><VersionId>{version}</VersionId></Object></Delete>");
    let bypass = "x-amz-bypass-governance-retention: true";
    let unlocked =
        "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>";
    let suspended = "<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>";
    let expiring = "<LifecycleConfiguration><Rule><ID>x</ID><Prefix></Prefix><Status>Enabled</Status>\
        <NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration></Rule>\
        </LifecycleConfiguration>";
    let calls: [Removal<'_>; 11] = [
        ("delete", "DELETE", &path, String::new(), &[], ""),
        ("delete a version", "DELETE", &path, of(""), &[], ""),
        ("delete past governance", "DELETE", &path, of(""), &[bypass], ""),
        (
            "shorten the lock",
            "PUT",
            &path,
            of("retention=&"),
            &[bypass],
            &shorter,
        ),
        (
            "weaken the lock",
            "PUT",
            &path,
            of("retention=&"),
            &[bypass],
            &weaker,
        ),
        ("lengthen the lock", "PUT", &path, of("retention=&"), &[], &longer),
        (
            "drop the default lock",
            "PUT",
            bucket,
            "object-lock=".into(),
            &[],
            unlocked,
        ),
        (
            "suspend versioning",
            "PUT",
            bucket,
            "versioning=".into(),
            &[],
            suspended,
        ),
        (
            "let versions expire",
            "PUT",
            bucket,
            "lifecycle=".into(),
            &[],
            expiring,
        ),
        ("drop the policy", "DELETE", bucket, "policy=".into(), &[], ""),
        ("delete the bucket", "DELETE", bucket, String::new(), &[], ""),
    ];
    for (what, method, path, query, headers, body) in calls {
        let answer = user.call(method, path, &query, headers, body.as_bytes())?;
        ensure!(
            answer.status == 403,
            "{what}: {} {}",
            answer.status,
            answer.text()
        );
    }
    // A multiple deletion answers for each object.
    let answer = user.call("POST", bucket, "delete=", &[], many.as_bytes())?;
    ensure!(
        !answer.text().contains("<Deleted>"),
        "delete many: {} {}",
        answer.status,
        answer.text()
    );
    Ok(())
}

/// The agent's credentials open its own cluster, and nothing else.
fn keeps_to_its_prefix(service: &Service, bucket: &str) -> Result<()> {
    let (agent, coordinator) = (service.user("agent"), service.user("coordinator"));
    let other = "tenants/acme/clusters/payroll/leases/0000000000000001";
    coordinator.must("PUT", &format!("{bucket}/{other}"), "", &[], b"somebody else's")?;
    for path in [
        other,
        "trust/0000000000000000",
        "authority/0000000000000000",
        "repository.json",
        "control/probe/agent-2",
    ] {
        let answer = agent.call("PUT", &format!("{bucket}/{path}"), "", &[], b"forged")?;
        ensure!(
            answer.status == 403,
            "{path}: {} {}",
            answer.status,
            answer.text()
        );
    }
    let read = agent.call("GET", &format!("{bucket}/{other}"), "", &[], b"")?;
    ensure!(read.status == 403, "{} {}", read.status, read.text());
    for query in [
        "list-type=2",
        "list-type=2&prefix=tenants%2F",
        "prefix=tenants%2Facme%2F&versions=",
    ] {
        let listed = agent.call("GET", bucket, query, &[], b"")?;
        ensure!(
            listed.status == 403,
            "{query}: {} {}",
            listed.status,
            listed.text()
        );
    }
    // The others create where the manual says, and nowhere else.
    for (who, path) in [
        ("operator", other),
        ("restorer", other),
        ("restorer", "trust/0000000000000000"),
    ] {
        let answer = service
            .user(who)
            .call("PUT", &format!("{bucket}/{path}"), "", &[], b"forged")?;
        ensure!(
            answer.status == 403,
            "{who} {path}: {} {}",
            answer.status,
            answer.text()
        );
    }
    Ok(())
}

fn refusal(output: &Output) -> Result<String> {
    ensure!(!output.status.success(), "it was not refused: {output:?}");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The configuration without the acceptance.
fn take_back_acceptance(stage: &Stage) -> Result<()> {
    for file in ["operator.toml", "agent.toml", "coordinator.toml"] {
        let text = fs::read_to_string(stage.path(file))?;
        ensure!(text.contains(ACCEPTANCE), "{file} accepts nothing");
        fs::write(stage.path(file), text.replace(ACCEPTANCE, ""))?;
    }
    Ok(())
}

const ACCEPTANCE: &str = "accept_without_conditional_create = true, ";

#[test]
fn a_store_that_lets_objects_be_replaced_is_refused_until_it_is_accepted() -> Result<()> {
    let Some(place) = Place::s3()? else {
        return Ok(());
    };
    let stage = Stage::set(place)?;
    let root_key = stage.text("keys/root.key");
    let accepting = fs::read_to_string(stage.path("operator.toml"))?;
    let agent = fs::read_to_string(stage.path("agent.toml"))?;
    take_back_acceptance(&stage)?;
    let init = ["repo", "init", "--root-key", &root_key];
    names_the_replica_and_the_way_out(&refusal(&stage.attempt("operator", &init)?)?)?;

    fs::write(stage.path("operator.toml"), accepting)?;
    let printed = stage.run("operator", &init)?;
    for region in REGIONS {
        ensure!(printed.contains(region), "{printed}");
    }
    ensure!(
        printed.matches("create-not-enforced").count() == REGIONS.len(),
        "{printed}"
    );
    stage.found()?;
    let config = stage.text("agent.toml");
    for command in [&["agent", "run"][..], &["agent", "backup", "base"]] {
        let line = [command, &["--config", &config]].concat();
        names_the_replica_and_the_way_out(&refusal(&stage.attempt("operator", &line)?)?)?;
    }
    let config = stage.text("coordinator.toml");
    let refused = stage.attempt("operator", &["coordinator", "run", "--config", &config])?;
    names_the_replica_and_the_way_out(&refusal(&refused)?)?;

    fs::write(stage.path("agent.toml"), agent)?;
    let mut office = stage.open_office()?;
    let done = stage.attempt(
        "operator",
        &["agent", "backup", "base", "--config", &stage.text("agent.toml")],
    )?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(
        done.status.success() && said.contains("create-not-enforced"),
        "{said}"
    );
    let points = stage.points()?;
    ensure!(
        subjects(&points["findings"], "object-overwritten").is_empty(),
        "{points:#}"
    );
    office.server.kill9()
}

/// What an operator needs to go on.
fn names_the_replica_and_the_way_out(error: &str) -> Result<()> {
    ensure!(
        REGIONS
            .iter()
            .any(|region| error.contains(&format!("replica {region}"))),
        "{error}"
    );
    for words in [
        "s3://holdfast-",
        "create-if-absent is not enforced",
        "overwrite backups",
        ACCEPTANCE.trim_end_matches(", "),
    ] {
        ensure!(error.contains(words), "{words:?} is not in {error}");
    }
    Ok(())
}

#[test]
fn a_plain_bucket_enforces_it_and_nothing_is_to_be_accepted() -> Result<()> {
    let Some(service) = Service::from_env() else {
        return Ok(());
    };
    let names = [service.bucket(false)?, service.bucket(false)?];
    let owner = service.owner();
    let lines = [Line::to(&service)?, Line::to(&service)?];
    let stage = Stage::set(Place::S3(Box::new(Buckets {
        service,
        names,
        lines,
    })))?;
    take_back_acceptance(&stage)?;
    // These buckets have no policy: their owner works in them.
    for who in ["operator", "agent", "restorer"] {
        let file = stage.path(&format!("{who}.toml"));
        let text = fs::read_to_string(&file)?;
        fs::write(
            file,
            text.replace(&format!("AKIA{}", who.to_uppercase()), &owner.key),
        )?;
    }
    let root_key = stage.text("keys/root.key");
    let printed = stage.run("operator", &["repo", "init", "--root-key", &root_key])?;
    ensure!(!printed.contains("create-not-enforced"), "{printed}");
    ensure!(
        printed.matches("versioning-off").count() == REGIONS.len(),
        "{printed}"
    );
    stage.found()?;
    let mut office = stage.open_office()?;
    let config = stage.text("agent.toml");
    let done = stage.attempt("operator", &["agent", "backup", "base", "--config", &config])?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(
        done.status.success() && !said.contains("create-not-enforced"),
        "{said}"
    );
    office.server.kill9()?;
    let verified = stage.json("restorer", &["verify", "--cluster", CLUSTER])?;
    ensure!(each(&verified["findings"]).is_empty(), "{verified:#}");
    Ok(())
}
