//! What listens: agents over mutual TLS, people and programs over HTTP.
//!
//! What people may ask for is a table ([`routes`]); before each stands the
//! [`guard`].

pub mod accept;
pub mod agents;
mod approvals;
mod calendar;
pub(crate) mod cluster_page;
mod cookies;
mod cost;
mod enrolment;
pub mod evidence;
mod forms;
pub mod guard;
pub mod ledger;
mod login;
mod me;
mod oidc;
pub(crate) mod openapi;
pub mod pages;
mod problem;
pub mod routes;
pub mod served;
mod sight;
pub mod tls;
