//! Access as people and programs meet it: by the table of routes, by role and
//! scope, and through every door there is.

mod api;
mod browser;
mod oidc;
pub mod table;
