//! An object store that fails as told.
//!
//! [`FaultyStore`] stands before a real store and follows a [`FaultPlan`]: which
//! call fails, and how. What a fault does to the caller (an error, silence, wrong
//! bytes) and what it does to the store (nothing, or the write happened) are two
//! things; every combination that networks and disks produce has a [`Fault`].
//!
//! Calls are counted from 1, so that a suite can run a piece of work once to
//! learn how many calls it makes and then again with the fault at every n. What
//! is random comes from a seed: the same plan on the same calls does the same.
//!
//! A process that is killed in the middle of a call is [`Fault::HaltBefore`] or
//! [`Fault::HaltAfter`]: the call never returns, and the test drops the work
//! once [`FaultPlan::halted`] says so.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;

/// What a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// Storing an object.
    Put,
    /// Reading an object or a range of it.
    Get,
    /// Asking for an object's size.
    Head,
    /// Listing.
    List,
    /// Deleting.
    Delete,
    /// Copying or renaming, and multipart uploads: nothing here uses them.
    Other,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An error; nothing happened.
    Error,
    /// An error; it happened all the same.
    LostAck,
    /// Refused: the credentials do not suffice.
    Denied,
    /// No answer, ever; nothing happened.
    HaltBefore,
    /// No answer, ever; it happened.
    HaltAfter,
    /// The answer comes late.
    Slow(Duration),
    /// Half of the body comes, then the connection ends without an error.
    Truncate,
    /// One bit of the body is wrong.
    FlipBit,
    /// For puts: half of the body is stored, and success reported.
    TornPut,
}

/// Which calls a rule is about.
#[derive(Debug, Clone)]
enum When {
    /// The n-th of all calls.
    Nth(u64),
    /// The n-th call of a kind.
    NthOf(Call, u64),
    /// This and all later calls.
    From(u64),
    /// Every call of a kind on keys that contain a text.
    Matching(Option<Call>, String),
    /// Any call, with so many in a thousand.
    PerMille(u32),
}

#[derive(Debug, Clone)]
struct Rule {
    when: When,
    fault: Fault,
}

/// One call as the store saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its number, from 1.
    pub n: u64,
    /// What it was.
    pub call: Call,
    /// Key or prefix.
    pub path: String,
    /// How it failed, if it did.
    pub fault: Option<Fault>,
}

/// What is to fail. Shared by all clones: rules can be added and taken away
/// while the store is in use.
#[derive(Debug, Clone)]
pub struct FaultPlan(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<Seen>>,
    partitioned: AtomicBool,
    calls: AtomicU64,
    swaps: Mutex<Vec<(String, String)>>,
    random: Mutex<StdRng>,
    halted: watch::Sender<bool>,
}

impl Default for FaultPlan {
    fn default() -> Self {
        Self::seeded(0)
    }
}

impl FaultPlan {
    /// A plan without faults, with a seed for what is random.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Shared {
            rules: Mutex::default(),
            seen: Mutex::default(),
            partitioned: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            swaps: Mutex::default(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            halted: watch::Sender::new(false),
        }))
    }

    fn rule(self, when: When, fault: Fault) -> Self {
        self.add(when, fault);
        self
    }

    fn add(&self, when: When, fault: Fault) {
        self.0
            .rules
            .lock()
            .expect("no holder panics")
            .push(Rule { when, fault });
    }

    /// The n-th call fails, counted from 1 over all calls.
    pub fn nth(self, n: u64, fault: Fault) -> Self {
        self.rule(When::Nth(n), fault)
    }

    /// The n-th call of a kind fails.
    pub fn nth_of(self, call: Call, n: u64, fault: Fault) -> Self {
        self.rule(When::NthOf(call, n), fault)
    }

    /// The n-th call and all after it fail.
    pub fn from_nth(self, n: u64, fault: Fault) -> Self {
        self.rule(When::From(n), fault)
    }

    /// Every call on a key that contains `text` fails; of one kind, or of all.
    pub fn matching(self, call: Option<Call>, text: &str, fault: Fault) -> Self {
        self.rule(When::Matching(call, text.to_owned()), fault)
    }

    /// So many calls in a thousand fail, by the plan's seed.
    pub fn per_mille(self, per_mille: u32, fault: Fault) -> Self {
        self.rule(When::PerMille(per_mille), fault)
    }

    /// From now on every call on a key that contains `text` fails.
    pub fn fail_matching(&self, call: Option<Call>, text: &str, fault: Fault) {
        self.add(When::Matching(call, text.to_owned()), fault);
    }

    /// From now on the store cannot be reached, or can again.
    pub fn partition(&self, partitioned: bool) {
        self.0.partitioned.store(partitioned, Ordering::SeqCst);
    }

    /// Reads of `name` are answered with what lies at `other`.
    pub fn serve_as(&self, name: &str, other: &str) {
        let mut swaps = self.0.swaps.lock().expect("no holder panics");
        swaps.push((name.to_owned(), other.to_owned()));
    }

    /// No fault from now on.
    pub fn mend(&self) {
        self.0.rules.lock().expect("no holder panics").clear();
        self.0.swaps.lock().expect("no holder panics").clear();
        self.partition(false);
    }

    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        self.0.calls.load(Ordering::SeqCst)
    }

    /// All calls so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.0.seen.lock().expect("no holder panics").clone()
    }

    /// How many calls of a kind there were.
    pub fn count(&self, call: Call) -> usize {
        self.seen().iter().filter(|seen| seen.call == call).count()
    }

    /// Whether any fault was injected.
    pub fn struck(&self) -> bool {
        self.seen().iter().any(|seen| seen.fault.is_some())
    }

    /// Returns once a call was halted.
    pub async fn halted(&self) {
        let mut halted = self.0.halted.subscribe();
        halted
            .wait_for(|halted| *halted)
            .await
            .expect("the sender lives as long as the plan");
    }

    /// Counts a call and says how it fails.
    fn strike(&self, call: Call, path: &str) -> Option<Fault> {
        let mut seen = self.0.seen.lock().expect("no holder panics");
        let n = self.0.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let of_kind = 1 + seen.iter().filter(|s| s.call == call).count() as u64;
        let fault = if self.0.partitioned.load(Ordering::SeqCst) {
            Some(Fault::Error)
        } else {
            let rules = self.0.rules.lock().expect("no holder panics");
            rules
                .iter()
                .find(|rule| match &rule.when {
                    When::Nth(at) => *at == n,
                    When::NthOf(kind, at) => *kind == call && *at == of_kind,
                    When::From(at) => n >= *at,
                    When::Matching(kind, text) => kind.is_none_or(|k| k == call) && path.contains(text),
                    When::PerMille(share) => {
                        let mut random = self.0.random.lock().expect("no holder panics");
                        random.random_range(0..1000) < *share
                    }
                })
                .map(|rule| rule.fault)
        };
        seen.push(Seen {
            n,
            call,
            path: path.to_owned(),
            fault,
        });
        fault
    }

    fn served(&self, location: &Path) -> Path {
        let swaps = self.0.swaps.lock().expect("no holder panics");
        swaps
            .iter()
            .find(|(name, _)| name == location.as_ref())
            .map_or_else(|| location.clone(), |(_, other)| Path::from(other.as_str()))
    }

    fn below(&self, bound: u64) -> u64 {
        let mut random = self.0.random.lock().expect("no holder panics");
        random.random_range(0..bound.max(1))
    }

    async fn halt<T>(&self) -> T {
        self.0.halted.send_replace(true);
        std::future::pending().await
    }
}

/// A store before which a plan stands.
#[derive(Debug, Clone)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    plan: FaultPlan,
}

impl FaultyStore {
    /// `inner`, failing by `plan`.
    pub fn new(inner: Arc<dyn ObjectStore>, plan: FaultPlan) -> Self {
        Self { inner, plan }
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({})", self.inner)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("injected: the store answered 503")]
struct Injected;

fn error() -> Error {
    Error::Generic {
        store: "Faulty",
        source: Box::new(Injected),
    }
}

fn denied(path: &Path) -> Error {
    Error::PermissionDenied {
        path: path.to_string(),
        source: Box::new(Injected),
    }
}

/// The same answer with another body; what it announces stays.
fn with_body(answer: GetResult, body: Bytes) -> GetResult {
    GetResult {
        payload: GetResultPayload::Stream(futures::stream::once(async { Ok(body) }).boxed()),
        ..answer
    }
}

async fn body(answer: GetResult) -> Result<(GetResult, Bytes)> {
    let (meta, range, attributes, extensions) = (
        answer.meta.clone(),
        answer.range.clone(),
        answer.attributes.clone(),
        answer.extensions.clone(),
    );
    let bytes = answer.bytes().await?;
    let empty = GetResult {
        payload: GetResultPayload::Stream(futures::stream::empty().boxed()),
        meta,
        range,
        attributes,
        extensions,
    };
    Ok((empty, bytes))
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match self.plan.strike(Call::Put, location.as_ref()) {
            None | Some(Fault::Truncate | Fault::FlipBit) => {}
            Some(Fault::Error) => return Err(error()),
            Some(Fault::Denied) => return Err(denied(location)),
            Some(Fault::HaltBefore) => return self.plan.halt().await,
            Some(Fault::LostAck) => {
                self.inner.put_opts(location, payload, options).await?;
                return Err(error());
            }
            Some(Fault::HaltAfter) => {
                self.inner.put_opts(location, payload, options).await?;
                return self.plan.halt().await;
            }
            Some(Fault::Slow(late)) => tokio::time::sleep(late).await,
            Some(Fault::TornPut) => {
                let bytes = Bytes::from(payload);
                let half = bytes.slice(..bytes.len() / 2);
                return self.inner.put_opts(location, half.into(), options).await;
            }
        }
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        match self.plan.strike(Call::Other, location.as_ref()) {
            None => self.inner.put_multipart_opts(location, options).await,
            Some(_) => Err(error()),
        }
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let call = if options.head { Call::Head } else { Call::Get };
        let fault = self.plan.strike(call, location.as_ref());
        let served = self.plan.served(location);
        match fault {
            None => {}
            Some(Fault::Error | Fault::LostAck | Fault::TornPut) => return Err(error()),
            Some(Fault::Denied) => return Err(denied(location)),
            Some(Fault::HaltBefore | Fault::HaltAfter) => return self.plan.halt().await,
            Some(Fault::Slow(late)) => tokio::time::sleep(late).await,
            Some(Fault::Truncate) => {
                let (answer, bytes) = body(self.inner.get_opts(&served, options).await?).await?;
                return Ok(with_body(answer, bytes.slice(..bytes.len() / 2)));
            }
            Some(Fault::FlipBit) => {
                let (answer, bytes) = body(self.inner.get_opts(&served, options).await?).await?;
                let mut bytes = bytes.to_vec();
                let at = self.plan.below(bytes.len() as u64 * 8);
                if let Some(byte) = bytes.get_mut((at / 8) as usize) {
                    *byte ^= 1 << (at % 8);
                }
                return Ok(with_body(answer, bytes.into()));
            }
        }
        self.inner.get_opts(&served, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        match self.plan.strike(Call::Get, location.as_ref()) {
            None => self.inner.get_ranges(&self.plan.served(location), ranges).await,
            Some(_) => Err(error()),
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (plan, inner) = (self.plan.clone(), Arc::clone(&self.inner));
        locations
            .and_then(move |location| {
                let fault = plan.strike(Call::Delete, location.as_ref());
                let inner = Arc::clone(&inner);
                async move {
                    if fault.is_some_and(|f| f != Fault::LostAck) {
                        return Err(error());
                    }
                    let this = location.clone();
                    let one = futures::stream::once(async move { Ok(this) }).boxed();
                    inner.delete_stream(one).try_collect::<Vec<_>>().await?;
                    match fault {
                        None => Ok(location),
                        Some(_) => Err(error()),
                    }
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let inner = self.inner.list(prefix);
        self.listing(prefix, inner)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let inner = self.inner.list_with_offset(prefix, offset);
        self.listing(prefix, inner)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        match self.plan.strike(Call::List, prefix.map_or("", AsRef::as_ref)) {
            None => self.inner.list_with_delimiter(prefix).await,
            Some(Fault::HaltBefore | Fault::HaltAfter) => self.plan.halt().await,
            Some(_) => Err(error()),
        }
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        match self.plan.strike(Call::Other, from.as_ref()) {
            None => self.inner.copy_opts(from, to, options).await,
            Some(_) => Err(error()),
        }
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        match self.plan.strike(Call::Other, from.as_ref()) {
            None => self.inner.rename_opts(from, to, options).await,
            Some(_) => Err(error()),
        }
    }
}

impl FaultyStore {
    /// A listing fails at its first step, or after half of it.
    fn listing(
        &self,
        prefix: Option<&Path>,
        inner: BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let plan = self.plan.clone();
        match self.plan.strike(Call::List, prefix.map_or("", AsRef::as_ref)) {
            None => inner,
            Some(Fault::Truncate) => async move {
                let mut all: Vec<Result<ObjectMeta>> = inner.collect().await;
                all.truncate(all.len() / 2);
                all.push(Err(error()));
                futures::stream::iter(all)
            }
            .flatten_stream()
            .boxed(),
            Some(Fault::Slow(late)) => async move {
                tokio::time::sleep(late).await;
                inner
            }
            .flatten_stream()
            .boxed(),
            Some(Fault::HaltBefore | Fault::HaltAfter) => {
                async move { plan.halt().await }.into_stream().boxed()
            }
            Some(_) => futures::stream::once(async { Err(error()) }).boxed(),
        }
    }
}
