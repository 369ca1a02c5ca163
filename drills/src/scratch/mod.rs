//! Scratch namespaces: a place for a restored copy that nothing leads out of.
//!
//! [`Isolation`] says what the machine allows and starts programs inside it;
//! [`Cage`] bounds what they use;
//! [`PrivateServer`] runs a PostgreSQL on a private socket as a user that is not
//! root; [`ScratchSpace`] is the directory that a drill works in and that is
//! gone afterwards.
//!
//! What holds: a server started here listens on no network address; with
//! [`IsolationKind::Namespaces`] its processes see no network device at all, with
//! [`IsolationKind::SocketFilter`] they can make no socket for one. If
//! this process dies, the kernel kills what it started ([`tethered`]), and what
//! stays on disk is a directory under the scratch root that the next
//! [`ScratchSpace::sweep`] removes.

pub mod confine;
mod isolation;
mod limits;
mod server;
mod space;

pub use isolation::{EgressProbe, Isolation, IsolationKind, tethered};
pub use limits::{Cage, CageError, Cpu, Limits, Size};
pub use server::{PrivateServer, ServerError, ServerOptions, newest_programs, programs};
pub use space::{ScratchError, ScratchSpace};
