//! Where a drill runs when somebody else made the place: a namespace of a
//! Kubernetes cluster, told to the runner in its pod by whoever dispatched it.
//!
//! The pod is the outer wall; the copy has a wall of its own inside it, as on any
//! machine ([`crate::scratch`]). What the outer wall is worth is probed from the
//! pod itself ([`Place::probe`]): an object that demands it proves nothing about
//! the cluster's network.

use std::time::Duration;

use holdfast_proto::names::DrillId;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::checks::Check;
use crate::evidence::statement::results::{CheckClass, CheckResult};

/// How long a connection may take to be answered.
const ANSWER: Duration = Duration::from_secs(3);
/// How long the network may take to close around a new pod.
const CLOSING: Duration = Duration::from_secs(15);

/// A place that was made for one drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The drill that it was made for.
    pub drill: DrillId,
    /// The namespace's UID, which no other ever has.
    pub namespace: String,
    /// The node, as far as it is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<String>,
    /// Digest of the image, `sha256:…`, where the image was named by it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub image_digest: Option<String>,
    /// Addresses, `host:port`, that must not be reachable from here.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub closed: Vec<String>,
}

/// What an attempt to reach an address came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Somebody answered, if only to refuse.
    Answered,
    /// Nobody did.
    Silent,
}

impl Place {
    /// Tries every address that must be closed. A network policy may come into
    /// force a moment after the pod began: what answers is tried again for a while.
    /// Without such addresses there is nothing to say.
    pub async fn probe(&self) -> Option<CheckResult> {
        if self.closed.is_empty() {
            return None;
        }
        let check = Check::mandatory("pod-closed", CheckClass::Isolation);
        let deadline = Instant::now() + CLOSING;
        loop {
            let mut answered = 0;
            for address in &self.closed {
                match reach(address).await {
                    Ok(Reach::Answered) => answered += 1,
                    Ok(Reach::Silent) => {}
                    Err(e) => return Some(check.could_not_run(&format!("{address}: {e}"))),
                }
            }
            if answered == 0 || Instant::now() > deadline {
                let of = self.closed.len();
                let said = |n: usize| format!("{n} of {of} addresses answer");
                return Some(check.compared(answered == 0, said(0), said(answered)));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

async fn reach(address: &str) -> std::io::Result<Reach> {
    use std::io::ErrorKind::*;
    match tokio::time::timeout(ANSWER, TcpStream::connect(address)).await {
        Err(_) => Ok(Reach::Silent),
        Ok(Ok(_)) => Ok(Reach::Answered),
        Ok(Err(e)) => match e.kind() {
            // Refused or cut off: packets went there and came back.
            ConnectionRefused | ConnectionReset => Ok(Reach::Answered),
            TimedOut | HostUnreachable | NetworkUnreachable | PermissionDenied => Ok(Reach::Silent),
            _ => Err(e),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::statement::results::CheckOutcome;
    use holdfast_proto::Timestamp;

    fn place(closed: &[String]) -> Place {
        Place {
            drill: DrillId::from_parts(Timestamp::from_unix_micros(1_790_000_000_000_000), 1),
            namespace: "8d5b".into(),
            node: None,
            image_digest: None,
            closed: closed.to_vec(),
        }
    }

    #[tokio::test]
    async fn who_answers_or_refuses_is_reachable() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert_eq!(reach(&address).await.unwrap(), Reach::Answered);
        drop(listener);
        assert_eq!(reach(&address).await.unwrap(), Reach::Answered);
        reach("not an address").await.unwrap_err();
    }

    #[tokio::test]
    async fn nothing_to_try_says_nothing_and_what_cannot_be_tried_is_no_pass() {
        assert!(place(&[]).probe().await.is_none());
        let found = place(&["not an address".into()]).probe().await.unwrap();
        assert_eq!((found.result, found.mandatory), (CheckOutcome::CouldNotRun, true));
    }

    #[test]
    fn round_trips() {
        let place = place(&["10.0.0.5:5432".into()]);
        let text = serde_json::to_string(&place).unwrap();
        assert_eq!(serde_json::from_str::<Place>(&text).unwrap(), place);
    }
}
