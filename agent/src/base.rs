//! Base backups.

pub mod rules;
pub mod walk;
