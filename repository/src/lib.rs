//! How bytes become durable, sealed, findable and verified in object storage.
//!
//! A *repository* is one logical store on several *replicas*: prefixes in object
//! stores that fail independently. Objects are immutable: each is created once,
//! only if absent, and never changed. What commits a piece of work is one small
//! signed object, written on a replica only when everything it needs is on that
//! replica. So there is no lock, no journal and nothing to recover: a process may
//! die at any call, and what is there is either committed or not.
//!
//! ```text
//! layout        the only place that knows keys
//! config, store, replica, probe       one replica: how it is reached, what it enforces
//! opened, listing, fetch              all replicas: opening, listing, verified reading
//! signing, trust, signed, authority   who signed, who is believed, who decides
//! approval                            what more than one person must want
//! hold                                what must be kept whatever retention says
//! invitation                          tokens with which agents come to certificates, once
//! seal, keyring, secret_file          what is sealed to whom
//! pack, packer, manifest              many small pieces in few objects
//! publisher, publication              many packs and one commit point, replica by replica
//! replicate, scrub                    bringing copies up to date, looking at all of them
//! evidence                            where the log of proofs lies
//! clock                               the one place that reads the time
//! ```
//!
//! # Two operations at once
//!
//! Any two of these may run at the same time, in one process or in many, on any
//! machines. Each cell says why that is safe. *Content* is what is named by its
//! own digest: packs and indexes. A *numbered* object is one of a sequence that
//! has one winner for each number: leases, journal entries, trust and authority
//! records, the evidence log; and so has the use of an invitation.
//!
//! | | create content | create numbered | commit a publication | ship WAL | read, verify | list | replicate | heal |
//! |---|---|---|---|---|---|---|---|---|
//! | **create content** | same name means same bytes: the second finds them there | different keys | the commit waits for its own content only | different keys | not referenced before its commit | may or may not be listed | replication finds it there, or copies the same bytes | the same bytes |
//! | **create numbered** | | the store lets one win; the other sees a conflict and takes the next number | journal entries of one filestore have one writer, the holder of the lease; another gets a conflict | different keys | whole or absent | a number that is not listed may be taken all the same: creating decides, not listing | copied only after it was verified; the authority's number wins | never created by healing |
//! | **commit a publication** | | | keys carry a unique id | neither needs the other; a point is signed after its WAL is acknowledged | a replica that shows the commit point holds all it needs | may be listed on some replicas only: where it is not, it is not committed there | replication completes the others by the same order | a commit point is replaced by its own verified bytes only |
//! | **ship WAL** | | | | one writer for each lineage by lease; a second one's bytes under the same name are a conflict, under another name an overlap that readers check | an object is one whole run of WAL | names carry both ends: a hole in a listing is a hole | copied in order, so a replica's contiguous end never passes a hole | the same bytes |
//! | **read, verify** | | | | | no effect | no effect | sees a copy or none | a bad copy is judged bad, before or after |
//! | **list** | | | | | | no effect | shows more or less of it | no effect |
//! | **replicate** | | | | | | | both create the same bytes: the second finds them there | the same verified bytes |
//! | **heal** | | | | | | | | both write the same verified bytes |
//!
//! Opening writes nothing. Initialising twice at once: `repository.json` is
//! created if absent, the second run finds other bytes and says so; run again, it
//! takes what is there. Probing uses one key for each writer's name. Sweeping
//! staged files takes only those that nobody has written to for a day.
//!
//! # What each operation may do with its credentials
//!
//! | operation | needs | must not have |
//! |---|---|---|
//! | agent: capture, ship, commit | create, get, list on its cluster's prefix, `control/probe/`, `trust/`, `authority/` | delete, delete versions, change of locks |
//! | coordinator: replicate, scrub, evidence | create, get, list on the whole prefix | delete, delete versions |
//! | drill, restore, fetch, verify | get, list; list versions where they are kept | create, delete |
//! | restore with healing | create as well; on stores that tell them apart, overwrite | delete |
//! | requests and approvals | create, get, list on `control/requests/` and `control/approvals/` | delete |
//! | `repo init` | create, get, list; reading the bucket's versioning and lock settings | delete |
//!
//! No operation of this crate deletes an object.
//!
//! What signs and what seals is not the store's business: whoever has only store
//! credentials can hide and, without versions, destroy copies, but can neither
//! read what is sealed nor make anything that a reader believes.

pub mod approval;
pub mod authority;
pub mod clock;
pub mod config;
mod control;
pub mod evidence;
pub mod fetch;
pub mod hold;
pub mod invitation;
pub mod keyring;
pub mod layout;
pub mod lead;
pub mod listing;
pub mod manifest;
mod needs;
pub mod opened;
pub mod pack;
pub mod packer;
pub mod probe;
pub mod publication;
pub mod publisher;
pub mod replica;
pub mod replicate;
pub mod scrub;
pub mod seal;
pub mod secret_file;
pub mod signed;
pub mod signing;
pub mod store;
pub mod tally;
pub mod trust;

pub use config::{ReplicaConfig, RepositoryConfig};
pub use fetch::{FetchError, Fetched, Found};
pub use listing::{Presence, UnionListing};
pub use opened::{OpenError, Repository};
pub use replica::{Class, Created, Deadlines, Listed, Replica, StoreError};
