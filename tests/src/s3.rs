//! A real S3 service for tests: buckets, users, calls beside the product's own,
//! and a line to the service that can be held up or cut.
//!
//! The service is named by `HOLDFAST_TEST_S3` (an endpoint's URL); the owner's
//! credentials are in `HOLDFAST_TEST_S3_KEY` and `HOLDFAST_TEST_S3_SECRET`. `make
//! test` starts one by `scripts/s3-up`, which also makes the users that
//! [`Service::user`] names.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use holdfast_proto::Sha256Digest;

/// Where a page of the manual has the policy of a bucket.
const MANUAL: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../docs/operations/object-storage.md"
);

/// An S3 service, with the owner of its buckets.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its URL.
    pub endpoint: String,
    key: String,
    secret: String,
}

/// Somebody with credentials.
#[derive(Debug, Clone)]
pub struct User {
    endpoint: String,
    /// The access key.
    pub key: String,
    /// The secret key.
    pub secret: String,
}

/// What the service answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// Whether it is a success.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The contents of every element called `name`, in order.
    pub fn elements(&self, name: &str) -> Vec<String> {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let text = self.text();
        text.split(&open)
            .skip(1)
            .filter_map(|rest| rest.split_once(&close))
            .map(|(inner, _)| inner.replace("&quot;", "\""))
            .collect()
    }
}

impl Service {
    /// The service that the environment names. Says so when it names none.
    pub fn from_env() -> Option<Self> {
        let Ok(endpoint) = std::env::var("HOLDFAST_TEST_S3") else {
            eprintln!("HOLDFAST_TEST_S3 is not set: there is no S3 service to run against");
            return None;
        };
        let var = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
        Some(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            key: var("HOLDFAST_TEST_S3_KEY", "AKIAX"),
            secret: var("HOLDFAST_TEST_S3_SECRET", "secretsecret"),
        })
    }

    /// The owner of buckets.
    pub fn owner(&self) -> User {
        User {
            endpoint: self.endpoint.clone(),
            key: self.key.clone(),
            secret: self.secret.clone(),
        }
    }

    /// One of the users that may do what policies say: agent, coordinator,
    /// operator, restorer.
    pub fn user(&self, name: &str) -> User {
        User {
            key: format!("AKIA{}", name.to_uppercase()),
            ..self.owner()
        }
    }

    /// A new bucket: with object lock (and so with versions), or plain.
    pub fn bucket(&self, locked: bool) -> Result<String> {
        let name = format!("holdfast-{:016x}", rand::random::<u64>());
        let lock: &[&str] = if locked {
            &["x-amz-bucket-object-lock-enabled: true"]
        } else {
            &[]
        };
        self.owner().must("PUT", &name, "", lock, b"")?;
        Ok(name)
    }

    /// A new bucket as the manual wants it: object lock with a default retention,
    /// and the manual's own policy.
    pub fn documented_bucket(&self) -> Result<String> {
        let name = self.bucket(true)?;
        let retention = b"<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule>\
            <DefaultRetention><Mode>COMPLIANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
        let owner = self.owner();
        owner.must("PUT", &name, "object-lock=", &[], retention)?;
        owner.must("PUT", &name, "policy=", &[], documented_policy(&name)?.as_bytes())?;
        Ok(name)
    }

    /// A new bucket that refuses nothing: whoever has credentials overwrites and
    /// deletes in it, and no version lies under what is gone.
    pub fn careless_bucket(&self) -> Result<String> {
        let name = self.bucket(false)?;
        let policy = format!(
            r#"{{"Version": "2012-10-17", "Statement": [{{"Effect": "Allow", "Principal": "*", "Action": "s3:*",
            "Resource": ["arn:aws:s3:::{name}", "arn:aws:s3:::{name}/*"]}}]}}"#
        );
        self.owner()
            .must("PUT", &name, "policy=", &[], policy.as_bytes())?;
        Ok(name)
    }

    /// Puts a careless bucket right: from now on it keeps versions, and the
    /// manual's policy is in force.
    pub fn guard(&self, bucket: &str) -> Result<()> {
        let versioning = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
        let owner = self.owner();
        owner.must("PUT", bucket, "versioning=", &[], versioning)?;
        owner.must(
            "PUT",
            bucket,
            "policy=",
            &[],
            documented_policy(bucket)?.as_bytes(),
        )?;
        Ok(())
    }
}

/// The policy in the manual, for `bucket` on a service whose users have no
/// account.
fn documented_policy(bucket: &str) -> Result<String> {
    let manual = std::fs::read_to_string(MANUAL)?;
    let policy = manual
        .split("```json\n")
        .skip(1)
        .filter_map(|rest| rest.split_once("```"))
        .map(|(block, _)| block)
        .find(|block| block.contains("\"Statement\""))
        .context("the manual has no policy")?;
    Ok(policy.replace("BUCKET", bucket).replace("ACCOUNT", ""))
}

impl User {
    /// One signed call on `path` (a bucket, or a bucket and a key). `query` is
    /// sorted and encoded, and every name has a `=`.
    pub fn call(
        &self,
        method: &str,
        path: &str,
        query: &str,
        headers: &[&str],
        body: &[u8],
    ) -> Result<Answer> {
        let mut url = format!("{}/{path}", self.endpoint);
        if !query.is_empty() {
            url = format!("{url}?{query}");
        }
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-X", method, "-w", "\n%{http_code}"])
            .args(["--aws-sigv4", "aws:amz:us-east-1:s3"])
            .args(["-u", &format!("{}:{}", self.key, self.secret)])
            .args(["-H", &format!("x-amz-content-sha256: {}", Sha256Digest::of(body))]);
        for header in headers {
            curl.args(["-H", header]);
        }
        if !body.is_empty() {
            curl.args([
                "-H",
                "Content-Type: application/octet-stream",
                "--data-binary",
                "@-",
            ]);
        }
        let mut child = curl
            .arg(url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start curl")?;
        // curl reads all of it before it sends anything.
        child.stdin.take().context("curl has no stdin")?.write_all(body)?;
        let output = child.wait_with_output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "curl {method} {path}: {stderr}");
        let at = output
            .stdout
            .iter()
            .rposition(|b| *b == b'\n')
            .context("no status")?;
        let status = std::str::from_utf8(&output.stdout[at + 1..])?.parse()?;
        Ok(Answer {
            status,
            body: output.stdout[..at].to_vec(),
        })
    }

    /// As [`User::call`], and it must succeed.
    pub fn must(
        &self,
        method: &str,
        path: &str,
        query: &str,
        headers: &[&str],
        body: &[u8],
    ) -> Result<Answer> {
        let answer = self.call(method, path, query, headers, body)?;
        let status = answer.status;
        ensure!(
            answer.is_success(),
            "{method} {path}?{query}: {status} {}",
            answer.text()
        );
        Ok(answer)
    }

    /// The keys below `prefix`, as a plain listing shows them.
    pub fn keys(&self, bucket: &str, prefix: &str) -> Result<Vec<String>> {
        let mut keys: Vec<String> = Vec::new();
        loop {
            let after = keys
                .last()
                .map_or(String::new(), |last| format!("&start-after={}", encoded(last)));
            let query = format!("list-type=2&prefix={}{after}", encoded(prefix));
            let page = self.must("GET", bucket, &query, &[], b"")?;
            let found = page.elements("Key");
            let more = page.elements("IsTruncated").iter().any(|word| word == "true");
            ensure!(!more || !found.is_empty(), "a truncated page without keys");
            keys.extend(found);
            if !more {
                return Ok(keys);
            }
        }
    }

    /// The versions of one object, the newest first.
    pub fn versions(&self, bucket: &str, key: &str) -> Result<Vec<String>> {
        let query = format!("prefix={}&versions=", encoded(key));
        Ok(self.must("GET", bucket, &query, &[], b"")?.elements("VersionId"))
    }
}

fn encoded(text: &str) -> String {
    text.replace('/', "%2F")
}

/// What the line does with what it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Held,
    Cut,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    ends: Mutex<Vec<TcpStream>>,
}

/// A line to a service: an address of its own, behind which is the service.
/// While it is held, nothing passes and nothing is refused, as on a store that
/// has stalled. Once it is cut, nobody answers at its address.
#[derive(Debug)]
pub struct Line {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

impl Line {
    /// A line to `service`.
    pub fn to(service: &Service) -> Result<Self> {
        Self::at((Ipv4Addr::LOCALHOST, 0).into(), service)
    }

    /// A line to `service` whose near end is at `address`.
    pub fn at(address: SocketAddr, service: &Service) -> Result<Self> {
        let remote: SocketAddr = service
            .endpoint
            .strip_prefix("http://")
            .context("a line leads to an endpoint in plain HTTP")?
            .parse()?;
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State::Open),
            changed: Condvar::new(),
            ends: Mutex::new(Vec::new()),
        });
        let accepting = Arc::clone(&shared);
        let listener = std::thread::spawn(move || {
            for near in listener.incoming() {
                if accepting.state() == State::Cut {
                    return;
                }
                let (Ok(near), Ok(far)) = (near, TcpStream::connect(remote)) else {
                    continue;
                };
                accepting.carry(&near, &far);
                accepting.carry(&far, &near);
            }
        });
        Ok(Self {
            address,
            shared,
            listener: Some(listener),
        })
    }

    /// Its URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Nothing passes from now on.
    pub fn hold(&self) {
        self.shared.set(State::Held);
    }

    /// Everything that was held passes, and what comes.
    pub fn release(&self) {
        self.shared.set(State::Open);
    }

    /// Ends every connection; from now on none is accepted.
    pub fn cut(&mut self) {
        self.shared.set(State::Cut);
        for end in self.shared.ends.lock().expect("no holder panics").drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
        // The listener looks at the state when somebody calls.
        let _ = TcpStream::connect(self.address);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Shared {
    fn state(&self) -> State {
        *self.state.lock().expect("no holder panics")
    }

    fn set(&self, state: State) {
        *self.state.lock().expect("no holder panics") = state;
        self.changed.notify_all();
    }

    /// Waits until the line is not held; whether it is open then.
    fn passes(&self) -> bool {
        let mut state = self.state.lock().expect("no holder panics");
        while *state == State::Held {
            state = self.changed.wait(state).expect("no holder panics");
        }
        *state == State::Open
    }

    /// Carries what `from` says to `to` until one of them ends.
    fn carry(self: &Arc<Self>, from: &TcpStream, to: &TcpStream) {
        let (Ok(mut from), Ok(mut to), Ok(end)) = (from.try_clone(), to.try_clone(), from.try_clone()) else {
            return;
        };
        self.ends.lock().expect("no holder panics").push(end);
        let shared = Arc::clone(self);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                if !shared.passes() || to.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Write);
            let _ = from.shutdown(Shutdown::Read);
        });
    }
}
