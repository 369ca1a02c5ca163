//! What listens: agents over mutual TLS, people over HTTP on this machine.

pub mod accept;
pub mod agents;
pub mod evidence;
pub mod pages;
pub mod tls;
