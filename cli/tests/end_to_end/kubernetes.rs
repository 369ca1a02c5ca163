//! Drills in the pods of a real cluster (`scripts/test-kubernetes`): a whole one, and
//! everything that can take one away in the middle. Each leaves no namespace, and
//! each ends on record.
//!
//! The dispatcher has the account, the roles and the configuration that the manual
//! and `config/kubernetes` give it, and no others. The office is protected once.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::books::{DATABASE, MISTAKEN};
use super::place::Place;
use super::scenarios::{Closed, check, closed_office, drawn_again, fingerprints, own};
use super::stage::{CLUSTER, Stage, each, subjects};

/// This machine as pods see it, and the ports that the firewall lets them reach.
const GATEWAY: [u8; 4] = [10, 99, 66, 1];
const STORES: [u16; 2] = [17591, 17592];
/// Where the source would answer, if pods reached it.
const SOURCE: u16 = 5432;
/// The manifests that an operator begins with.
const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/kubernetes");

/// What a runner says when the copy is up.
const WORKS: &str = "using the copy as the application does";

/// What a dispatcher says when the pod's log breaks off.
const BROKEN: &str = "the pod's log is out of reach";

/// The test's cluster, and an office whose drills run on it.
struct Run {
    closed: Closed,
    admin: String,
}

impl Run {
    fn stage(&self) -> &Stage {
        &self.closed.stage
    }

    /// `kubectl` as the cluster's administrator.
    fn kubectl(&self, line: &[&str]) -> Result<String> {
        let output = Command::new("kubectl")
            .args(["--kubeconfig", &self.admin])
            .args(line)
            .stdin(Stdio::null())
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {line:?}: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Posts `object` to a path of the API, as the cluster's administrator.
    fn post(&self, path: &str, object: &Value) -> Result<Value> {
        let file = self.stage().path("posted.json");
        fs::write(&file, object.to_string())?;
        let answer = self.kubectl(&["create", "--raw", path, "-f", &file.display().to_string()])?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// The scratch namespaces that there are.
    fn namespaces(&self) -> Result<Vec<String>> {
        let line = [
            "get",
            "namespaces",
            "-o",
            "name",
            "-l",
            "app.kubernetes.io/managed-by=holdfast",
        ];
        Ok(self.kubectl(&line)?.lines().map(str::to_owned).collect())
    }

    /// Writes `on-kubernetes.toml`: the restorer's configuration with this section.
    fn configure(&self, changes: &[(&str, &str)]) -> Result<()> {
        let image = std::env::var("HOLDFAST_TEST_IMAGE").context("HOLDFAST_TEST_IMAGE names no image")?;
        let reach: Vec<String> = STORES.map(|port| format!("\"{}/32:{port}\"", gateway())).into();
        let mut settings = vec![
            ("kubeconfig", "\"dispatcher.kubeconfig\"".to_owned()),
            ("image", format!("\"{image}\"")),
            ("pull", "\"Never\"".to_owned()),
            ("memory", "\"1Gi\"".to_owned()),
            ("cpu", "\"1\"".to_owned()),
            ("scratch", "\"4Gi\"".to_owned()),
            ("reach", format!("[{}]", reach.join(", "))),
            ("closed", format!("[\"{}:{SOURCE}\"]", gateway())),
            ("grace", "\"3min\"".to_owned()),
        ];
        for (name, value) in changes {
            settings.retain(|(n, _)| n != name);
            settings.push((name, (*value).to_owned()));
        }
        let section: String = settings.iter().map(|(n, v)| format!("{n} = {v}\n")).collect();
        let own = fs::read_to_string(self.stage().path("restorer.toml"))?;
        let text = format!("{own}[runner.kubernetes]\n{section}");
        Ok(fs::write(self.stage().path("on-kubernetes.toml"), text)?)
    }

    /// The arguments of a drill on the cluster, with the drill identity or another.
    fn line(&self, scenario: &str, more: &[&str]) -> Vec<String> {
        let key = self.stage().text("keys/drill.agekey");
        let key = ["--identity", &key];
        let key = if more.contains(&key[0]) { &[][..] } else { &key };
        let line = [
            "drill",
            "run",
            "--kubernetes",
            "--json",
            "--cluster",
            CLUSTER,
            "--scenario",
            scenario,
        ];
        [&line[..], key, more]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    /// The drill that finds the deleted invoices again.
    fn undeleted(&self) -> Vec<String> {
        let (query, minimum) = (
            format!("query=SELECT count(*) FROM account_move WHERE id <= {MISTAKEN}"),
            format!("minimum={MISTAKEN}"),
        );
        let database = format!("database={DATABASE}");
        let before = ["--to-time", &self.closed.before];
        let set = ["--set", &database, "--set", &query, "--set", &minimum];
        self.line("accidental-deletion", &[&before[..], &set].concat())
    }

    /// A drill that stays at its last check for long.
    fn slow(&self, more: &[&str]) -> Result<Vec<String>> {
        let text = "name = \"slow\"\ntitle = \"The application takes its time\"\nlevel = \"L2\"\n\
                    [[check]]\nid = \"waits\"\nprogram = [\"sleep\", \"1500\"]\ntimeout = \"30min\"\n";
        let path = own(self.stage(), "slow", text)?;
        Ok(self.line(&path, more))
    }

    /// Runs a drill to its end.
    fn drill(&self, line: &[String]) -> Result<Ended> {
        Dispatcher::start(self.stage(), line)?.end()
    }

    /// A drill that works in its pod: its intent is logged, and its copy is up.
    fn working(&self, line: &[String]) -> Result<(Dispatcher, String)> {
        let mut dispatcher = Dispatcher::start(self.stage(), line)?;
        let mut pod = String::new();
        let mut waited = |run: &Self| -> Result<bool> {
            ensure!(
                dispatcher.child()?.try_wait()?.is_none(),
                "the dispatcher ended too early"
            );
            let columns = "jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name}{end}";
            let selector = "app.kubernetes.io/managed-by=holdfast";
            pod = run.kubectl(&["get", "pods", "-A", "-l", selector, "-o", columns])?;
            let Some((namespace, name)) = pod.split_once(' ') else {
                return Ok(false);
            };
            let log = run.kubectl(&["logs", "-n", namespace, name]).unwrap_or_default();
            Ok(log.contains(WORKS))
        };
        wait_longer("a drill works in its pod", || waited(self))?;
        Ok((dispatcher, pod))
    }

    /// Nothing is left, and the log answers every intent.
    fn clean(&self, what: &str) -> Result<()> {
        let left = self.namespaces()?;
        ensure!(left.is_empty(), "{what} left {left:?}");
        let listed = self.stage().json("restorer", &["evidence", "list"])?;
        let answers = ["PASS", "FAIL", "COULD_NOT_VERIFY", "ABANDONED"];
        let drills = |wanted: &dyn Fn(&str) -> bool| -> BTreeSet<&str> {
            let entries = each(&listed).iter();
            let entries = entries.filter(|e| e["what"].as_str().is_some_and(wanted));
            entries.filter_map(|e| e["drill"].as_str()).collect()
        };
        let announced = drills(&|said| said.starts_with("intent"));
        let answered = drills(&|said| answers.contains(&said));
        ensure!(
            !announced.is_empty() && announced == answered,
            "{what} left an intent without an answer: {listed:#}"
        );
        Ok(())
    }

    /// The drill was answered as abandoned, for this.
    fn abandoned(&self, ended: &Ended, finding: &str) -> Result<()> {
        let said = &ended.said;
        ensure!(
            ended.code == Some(1) && said["verdict"] == "ABANDONED",
            "{finding}: {said:#}"
        );
        ensure!(
            !subjects(&said["findings"], finding).is_empty(),
            "no {finding} in {said:#}"
        );
        let entry = said["entry"].as_u64().context("it stands nowhere in the log")?;
        ensure!(entry > 0, "{said:#}");
        self.clean(finding)
    }
}

/// A process that dispatches a drill; killed when dropped.
struct Dispatcher {
    child: Option<Child>,
}

/// How it ended, and what it printed.
struct Ended {
    code: Option<i32>,
    said: Value,
}

impl Dispatcher {
    fn start(stage: &Stage, line: &[String]) -> Result<Self> {
        let child = Command::new(env!("CARGO_BIN_EXE_holdfast"))
            .args(line)
            .env("HOLDFAST_CONFIG", stage.path("on-kubernetes.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Self { child: Some(child) })
    }

    fn child(&mut self) -> Result<&mut Child> {
        self.child.as_mut().context("the dispatcher was waited for")
    }

    fn end(mut self) -> Result<Ended> {
        let child = self.child.take().context("the dispatcher was waited for")?;
        let output = child.wait_with_output()?;
        let (printed, warned) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        let said: Value = serde_json::from_str(&printed)
            .with_context(|| format!("{:?}: {printed}{warned}", output.status))?;
        eprintln!(
            "{}: {} {}\n{warned}",
            said["id"], said["verdict"], said["reasons"]
        );
        let code = output.status.code();
        Ok(Ended { code, said })
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn gateway() -> String {
    GATEWAY.map(|n| n.to_string()).join(".")
}

/// Asks until the answer is yes; for what takes a lease's time or a new pod's.
fn wait_longer(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(300);
    while !condition()? {
        ensure!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// The dispatcher's kubeconfig: the account of the manifests, by its token.
fn dispatcher_kubeconfig(run: &Run) -> Result<()> {
    run.kubectl(&[
        "apply",
        "--validate=false",
        "-f",
        &format!("{MANIFESTS}/runner.yaml"),
    ])?;
    let asked = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": { "expirationSeconds": 4 * 3600 }
    });
    let given = run.post(
        "/api/v1/namespaces/holdfast/serviceaccounts/holdfast-runner/token",
        &asked,
    )?;
    let token = given["status"]["token"]
        .as_str()
        .context("the account gets no token")?;
    let admin = fs::read_to_string(&run.admin)?;
    let user = admin
        .lines()
        .find(|line| line.starts_with("users:"))
        .context("the administrator's kubeconfig names no user")?;
    let text = admin.replace(
        user,
        &format!("users: [{{name: admin, user: {{token: \"{token}\"}}}}]"),
    );
    Ok(fs::write(run.stage().path("dispatcher.kubeconfig"), text)?)
}

#[test]
fn kubernetes_drills_leave_evidence_and_nothing_else() -> Result<()> {
    let Ok(admin) = std::env::var("HOLDFAST_TEST_KUBERNETES") else {
        eprintln!("HOLDFAST_TEST_KUBERNETES is not set: there is no cluster to run drills on");
        return Ok(());
    };
    let near = STORES.map(|port| SocketAddr::from((GATEWAY, port)));
    let place = Place::s3_for_pods(near)?.context("the cluster's drills need an S3 service")?;
    let run = Run {
        closed: closed_office(place)?,
        admin,
    };
    dispatcher_kubeconfig(&run)?;
    // Somebody answers there, so that silence is the network's doing.
    let source = TcpListener::bind(SocketAddr::from((GATEWAY, SOURCE)))?;
    manifests(&run)?;
    whole(&run)?;
    first_of_the_plan(&run)?;
    open_network(&run)?;
    log_out_of_reach(&run)?;
    killed(&run)?;
    deleted(&run)?;
    out_of_memory(&run)?;
    out_of_room(&run)?;
    out_of_time(&run)?;
    not_started(&run)?;
    refused(&run)?;
    stopped(&run)?;
    dispatcher_killed(&run)?;
    drop(source);
    run.clean("the whole")?;
    let (closed, stage) = (&run.closed, run.stage());
    ensure!(
        fingerprints(stage)? == closed.source,
        "a drill changed the source"
    );
    let listed = stage.run("restorer", &["evidence", "list"])?;
    eprintln!("{listed}");
    run.closed.coordinator.stop()
}

/// What an operator begins with is what an API server takes. One of 1.20 knows
/// CronJob by an earlier name.
fn manifests(run: &Run) -> Result<()> {
    for entry in fs::read_dir(MANIFESTS)? {
        let path = entry?.path();
        let old =
            fs::read_to_string(&path)?.replace("batch/v1\nkind: CronJob", "batch/v1beta1\nkind: CronJob");
        let file = run.stage().path("manifest.yaml");
        fs::write(&file, old)?;
        let file = file.display().to_string();
        let taken = run.kubectl(&["apply", "--dry-run=server", "--validate=false", "-f", &file]);
        taken.with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn whole(run: &Run) -> Result<()> {
    run.configure(&[])?;
    let ended = run.drill(&run.undeleted())?;
    let said = &ended.said;
    ensure!(ended.code == Some(0) && said["verdict"] == "PASS", "{said:#}");
    let target = &said["target"];
    ensure!(
        target["kind"] == "kubernetes" && target["node"] == "node-1",
        "{target:#}"
    );
    ensure!(
        target["namespace"].as_str().is_some_and(|uid| uid.len() == 36),
        "{target:#}"
    );
    ensure!(
        target["egress_probe"] == "BLOCKED" && target["isolation"] != "private-directory",
        "{target:#}"
    );
    for id in ["egress-closed", "pod-closed"] {
        ensure!(check(said, id)?.0 == "PASS", "{said:#}");
    }
    drawn_again(run.stage(), said)?;
    let id = said["id"].as_str().context("the drill has no id")?;
    ensure!(!logged(said)?.contains(BROKEN), "{said:#}");
    let envelope = run.stage().run("restorer", &["evidence", "show", id])?;
    eprintln!("{envelope}");
    run.clean("a whole drill")
}

/// The drill that is due first, as a timer runs it: from what the plan wants it restored,
/// and why, goes into the pod and into the evidence.
fn first_of_the_plan(run: &Run) -> Result<()> {
    let file = run.stage().path("on-kubernetes.toml");
    let text = fs::read_to_string(&file)?;
    fs::write(&file, format!("policy = \"policy.toml\"\n{text}"))?;
    let plan = ["drill", "plan", "--json", "--cluster", CLUSTER];
    let plan: Value = serde_json::from_str(&run.stage().run("on-kubernetes", &plan)?)?;
    let first = plan.get(0).context("nothing is due")?;
    let mut line = run.undeleted();
    line[1] = "next".to_owned();
    let moment = line
        .iter()
        .position(|word| word == "--to-time")
        .context("a moment")?;
    line.drain(moment..moment + 2);
    // Whatever moment is drawn: most of them are before the mistake.
    let minimum = line.iter_mut().find(|word| word.starts_with("minimum="));
    *minimum.context("a minimum")? = "minimum=0".to_owned();
    let ended = run.drill(&line)?;
    let said = &ended.said;
    ensure!(ended.code == Some(0) && said["verdict"] == "PASS", "{said:#}");
    let id = said["id"].as_str().context("the drill has no id")?;
    let shown = run.stage().run("restorer", &["evidence", "show", id])?;
    for reason in each(&first["because"]) {
        let reason = reason.as_str().context("a reason")?;
        ensure!(shown.contains(reason), "{reason:?} is not in {shown}");
    }
    fs::write(file, text)?;
    run.clean("a drill of the plan")
}

/// What the runner of a drill that passed said: all of it, once, to its last line.
fn logged(said: &Value) -> Result<String> {
    let log = each(&said["kubernetes"]["log"]);
    let lines: Vec<&str> = log.iter().filter_map(Value::as_str).map(str::trim).collect();
    let ends = format!("PASS  drill {} ", said["id"].as_str().unwrap_or_default());
    ensure!(
        lines.iter().filter(|line| **line == "restoring").count() == 1
            && lines.last().is_some_and(|line| line.starts_with(&ends)),
        "{said:#}"
    );
    Ok(lines.join("\n"))
}

/// A rule of this machine's firewall; gone when dropped.
struct Rule(Vec<&'static str>);

impl Rule {
    fn set(rule: &[&'static str]) -> Result<Self> {
        iptables("-I", rule)?;
        Ok(Self(rule.to_vec()))
    }

    /// Whether a packet met it.
    fn was_met(&self) -> Result<bool> {
        let listed = Command::new("iptables")
            .args(["-nvxL", self.0[0]])
            .stdin(Stdio::null())
            .output()?;
        let listed = String::from_utf8(listed.stdout)?;
        // The newest rule stands first, below two lines of heading.
        let packets = listed
            .lines()
            .nth(2)
            .and_then(|rule| rule.split_whitespace().next());
        Ok(packets.context("iptables lists no rule")?.parse::<u64>()? > 0)
    }
}

impl Drop for Rule {
    fn drop(&mut self) {
        if let Err(e) = iptables("-D", &self.0) {
            eprintln!("a rule of the firewall stays: {e:#}");
        }
    }
}

fn iptables(what: &str, rule: &[&str]) -> Result<()> {
    let done = Command::new("iptables").arg(what).args(rule).status()?;
    ensure!(done.success(), "iptables {what} {rule:?}");
    Ok(())
}

/// Where nothing enforces the policy, the drill says so and fails.
fn open_network(run: &Run) -> Result<()> {
    let open = Rule::set(&["HOLDFAST-PODS", "-j", "ACCEPT"])?;
    let ended = run.drill(&run.undeleted());
    drop(open);
    let Ended { code, said } = ended?;
    ensure!(code == Some(1) && said["verdict"] == "FAIL", "{said:#}");
    ensure!(
        check(&said, "pod-closed")? == ("FAIL", "1 of 1 addresses answer"),
        "{said:#}"
    );
    ensure!(check(&said, "egress-closed")?.0 == "PASS", "{said:#}");
    run.clean("a drill on an open network")
}

/// The API server does not reach the node when the pod begins, and loses it again
/// while the log is read. The drill and its log are whole.
fn log_out_of_reach(run: &Run) -> Result<()> {
    let refuse = "INPUT -p tcp --dport 10250 -j REJECT --reject-with tcp-reset";
    let refuse: Vec<&'static str> = refuse.split(' ').collect();
    let cut = Rule::set(&refuse)?;
    let mut dispatcher = Dispatcher::start(run.stage(), &run.undeleted())?;
    let mut met = |cut: &Rule| {
        wait_longer("the pod's log is asked for", || {
            let lives = dispatcher.child()?.try_wait()?.is_none();
            ensure!(lives, "the drill ended before its log was asked for");
            cut.was_met()
        })
    };
    met(&cut)?;
    drop(cut);
    wait_longer("the pod's log is read", || {
        let established = ["-Htn", "state", "established", "dport = :10250"];
        let established = Command::new("ss").args(established).output()?;
        Ok(established.status.success() && !established.stdout.is_empty())
    })?;
    let cut = Rule::set(&refuse)?;
    met(&cut)?;
    drop(cut);
    let Ended { code, said } = dispatcher.end()?;
    ensure!(code == Some(0) && said["verdict"] == "PASS", "{said:#}");
    ensure!(logged(&said)?.contains(BROKEN), "{said:#}");
    run.clean("a drill whose log was out of reach")
}

/// What bounds a drill holds while it works: the quota lets no second pod in and no
/// service, the runner has no right that could be taken from it.
fn bounded(run: &Run, namespace: &str, runner: Pid) -> Result<()> {
    let quota = ["get", "resourcequota", "drill", "-n", namespace, "-o", "json"];
    let quota: Value = serde_json::from_str(&run.kubectl(&quota)?)?;
    let status = &quota["status"];
    ensure!(
        status["used"]["pods"] == "1" && status["used"]["limits.memory"] == "1Gi",
        "{status:#}"
    );
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "second" }, "spec": {
        "containers": [{ "name": "second", "image": "localhost/pause:1" }] } });
    let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "way-in" }, "spec": {
        "selector": { "app.kubernetes.io/managed-by": "holdfast" }, "ports": [{ "port": 5432 }] } });
    for (kind, object) in [("pods", pod), ("services", service)] {
        let made = run.post(&format!("/api/v1/namespaces/{namespace}/{kind}"), &object);
        let refused = made.err().map(|e| e.to_string()).unwrap_or_default();
        ensure!(refused.contains("exceeded quota: drill"), "{kind}: {refused}");
    }
    let policy = ["get", "networkpolicy", "drill", "-n", namespace, "-o", "json"];
    let policy: Value = serde_json::from_str(&run.kubectl(&policy)?)?;
    let spec = &policy["spec"];
    ensure!(
        spec["podSelector"] == json!({})
            && spec["policyTypes"] == json!(["Ingress", "Egress"])
            && spec["ingress"].is_null()
            && each(&spec["egress"]).len() == STORES.len(),
        "{policy:#}"
    );
    let status = fs::read_to_string(format!("/proc/{}/status", runner.as_raw_nonzero()))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|rest| rest.split_whitespace().collect::<Vec<_>>().join(" "))
            .unwrap_or_default()
    };
    for (name, value) in [
        ("Uid:", "65532 65532 65532 65532"),
        ("CapBnd:", "0000000000000000"),
        ("CapEff:", "0000000000000000"),
        ("NoNewPrivs:", "1"),
        ("Seccomp:", "2"),
    ] {
        ensure!(field(name) == value, "{name} {}", field(name));
    }
    Ok(())
}

/// The runner in its pod is killed.
fn killed(run: &Run) -> Result<()> {
    let (dispatcher, pod) = run.working(&run.slow(&[])?)?;
    let runner = fs::read_dir("/proc")?.flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.starts_with("/usr/local/bin/holdfast drill run --placed")
            .then_some(pid)
    });
    let runner = runner
        .and_then(Pid::from_raw)
        .context("the runner is not among the processes")?;
    let (namespace, _) = pod.split_once(' ').context("no pod")?;
    bounded(run, namespace, runner)?;
    kill_process(runner, Signal::KILL)?;
    run.abandoned(&dispatcher.end()?, "drill-killed")
}

/// Its pod is deleted, by somebody and by the API's eviction, as a node that is drained
/// asks for it.
fn deleted(run: &Run) -> Result<()> {
    let (dispatcher, pod) = run.working(&run.slow(&[])?)?;
    let (namespace, name) = pod.split_once(' ').context("no pod")?;
    run.kubectl(&["delete", "pod", "--wait=false", "-n", namespace, name])?;
    run.abandoned(&dispatcher.end()?, "drill-pod-deleted")?;
    let (dispatcher, pod) = run.working(&run.slow(&[])?)?;
    let (namespace, name) = pod.split_once(' ').context("no pod")?;
    let eviction = json!({
        "apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": { "name": name, "namespace": namespace }
    });
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction");
    run.post(&path, &eviction)?;
    run.abandoned(&dispatcher.end()?, "drill-pod-deleted")
}

/// The copy needs more memory than there is. Which process the kernel kills is its
/// choice: the runner, or PostgreSQL, whose end the runner still reports.
fn out_of_memory(run: &Run) -> Result<()> {
    run.configure(&[("memory", "\"48Mi\"")])?;
    let ended = run.drill(&run.undeleted())?;
    run.configure(&[])?;
    let said = &ended.said;
    ensure!(ended.code == Some(1), "{said:#}");
    ensure!(
        ["ABANDONED", "FAIL"].map(Value::from).contains(&said["verdict"]),
        "{said:#}"
    );
    ensure!(
        !subjects(&said["findings"], "drill-out-of-memory").is_empty(),
        "{said:#}"
    );
    run.clean("a drill out of memory")?;
    // Here it is neither of them, and the drill is on record with what it found.
    let text = "name = \"greedy\"\ntitle = \"The application is greedy\"\nlevel = \"L2\"\n\
                [[check]]\nid = \"greedy\"\nprogram = [\"bash\", \"-c\", \"x=$(tr '\\\\0' x < /dev/zero)\"]\n";
    let greedy = own(run.stage(), "greedy", text)?;
    let Ended { code, said } = run.drill(&run.line(&greedy, &[]))?;
    ensure!(code == Some(1) && said["verdict"] == "FAIL", "{said:#}");
    ensure!(check(&said, "greedy")?.0 == "FAIL", "{said:#}");
    ensure!(
        !subjects(&said["findings"], "drill-out-of-memory").is_empty(),
        "{said:#}"
    );
    run.clean("a greedy program")
}

/// The copy outgrows its room, and the node throws the pod out.
fn out_of_room(run: &Run) -> Result<()> {
    run.configure(&[("scratch", "\"8Mi\"")])?;
    let ended = run.drill(&run.slow(&[])?);
    run.configure(&[])?;
    run.abandoned(&ended?, "drill-evicted")
}

fn out_of_time(run: &Run) -> Result<()> {
    run.configure(&[("grace", "\"1s\"")])?;
    let ended = run.drill(&run.slow(&["--limit", "1"])?);
    run.configure(&[])?;
    run.abandoned(&ended?, "drill-deadline-exceeded")
}

/// A pod that never runs: nothing was announced, and it is a failure all the same.
fn not_started(run: &Run) -> Result<()> {
    run.configure(&[("image", "\"localhost/there-is-none:1\""), ("start", "\"15s\"")])?;
    let ended = run.drill(&run.undeleted());
    run.configure(&[])?;
    let Ended { code, said } = ended?;
    ensure!(
        code == Some(1) && said["verdict"] == "FAIL" && said["entry"].is_null(),
        "{said:#}"
    );
    let named = subjects(&said["findings"], "drill-not-started");
    ensure!(
        !named.is_empty()
            && said["reasons"][0]
                .as_str()
                .is_some_and(|r| r.contains("ErrImageNeverPull")),
        "{said:#}"
    );
    run.clean("a pod that never ran")
}

/// What is wrong with the request is said as it is without a cluster.
fn refused(run: &Run) -> Result<()> {
    let escrow = run.stage().text("keys/escrow.agekey");
    for (line, words) in [
        (
            run.line("accidental-deletion", &["--set", "nonsense=1"]),
            "the runner in the pod: ",
        ),
        (
            run.line("key-loss", &["--identity", &escrow]),
            "run it on a machine",
        ),
    ] {
        let words_of_line: Vec<&str> = line.iter().map(String::as_str).collect();
        let output = run.stage().attempt("on-kubernetes", &words_of_line)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(64) && said.contains(words),
            "{line:?}: {said}"
        );
    }
    run.clean("a refused drill")
}

/// The dispatcher is asked to stop, and answers before it does.
fn stopped(run: &Run) -> Result<()> {
    let (mut dispatcher, _) = run.working(&run.slow(&[])?)?;
    kill_process(Pid::from_child(dispatcher.child()?), Signal::TERM)?;
    run.abandoned(&dispatcher.end()?, "drill-stopped")
}

/// The dispatcher is killed. While its lease lasts, nobody touches its namespace; the
/// sweep of the next one deletes it and answers for it.
fn dispatcher_killed(run: &Run) -> Result<()> {
    let (mut dispatcher, _) = run.working(&run.slow(&[])?)?;
    let left = run.namespaces()?;
    ensure!(left.len() == 1, "{left:?}");
    let sweep = || -> Result<String> {
        let output = run.stage().attempt("on-kubernetes", &["drill", "sweep"])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let swept = sweep()?;
    ensure!(
        swept.is_empty() && run.namespaces()? == left,
        "a living drill was swept: {swept}"
    );
    dispatcher.child()?.kill()?;
    dispatcher.child()?.wait()?;
    let mut swept = String::new();
    wait_longer("what a dispatcher left is swept", || {
        swept = sweep()?;
        Ok(!swept.is_empty())
    })?;
    let name = left[0].trim_start_matches("namespace/");
    ensure!(
        swept.contains(name) && swept.contains("ABANDONED, log entry"),
        "{swept}"
    );
    let id = name
        .rsplit('-')
        .next()
        .context("no drill in the name")?
        .to_uppercase();
    let listed = run.stage().run("restorer", &["evidence", "list"])?;
    ensure!(listed.contains(&id), "{id} is not in\n{listed}");
    run.clean("a dispatcher that was killed")
}
