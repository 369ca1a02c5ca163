//! People and programs for whom an OpenID provider speaks.
//!
//! People come by the authorization code flow with PKCE, state and nonce; programs
//! with access tokens that are signed (RFC 9068). The provider is asked when it is
//! needed and not before: the coordinator starts, and static tokens work, while it is
//! down. What it said of its addresses and keys is kept for a while; a key that is
//! not known yet is asked for, but not more often than once in a while, whatever
//! tokens are shown.
//!
//! [`settings`]: who it is. [`claims`]: what a token must say. [`journey`]: logins
//! under way. [`provider`]: asking it. [`program`]: the command
//! line, which logs in for itself.

pub mod claims;
pub mod journey;
pub mod program;
pub mod provider;
pub mod settings;

pub use provider::{OidcError, Provider};
pub use settings::OidcSettings;
