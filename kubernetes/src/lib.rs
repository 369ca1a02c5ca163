//! Drills on a Kubernetes cluster: a namespace made for one drill, a Job whose pod
//! runs the same runner from an image, and nothing of either afterwards.
//!
//! The dispatcher decides nothing about a drill and believes nothing that a pod
//! says: what the drill came to is what its runner signed and logged. When the pod
//! is taken away before that, by whatever, the dispatcher deletes the namespace,
//! waits until it is gone, and only then answers the intent as abandoned: whoever
//! is gone cannot log a result any more.
//!
//! If the dispatcher dies, its lease on the namespace ends, and the next drill or
//! `holdfast drill sweep` deletes what it left and answers for it ([`sweep`]). Where
//! nobody does, the Job's own deadline ends the pod, and the coordinator answers the
//! intent when its deadline is past.
//!
//! Where to read next: [`objects`] for what a place is made of, [`fate`] for how a
//! pod can end, [`dispatch`] for the order of things.

pub mod cluster;
pub mod dispatch;
pub mod fate;
pub mod objects;
pub mod parcel;
pub mod settings;
pub mod sweep;
