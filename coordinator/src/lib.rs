//! holdfast
pub mod config;
pub mod pki;
