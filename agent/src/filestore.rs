//! A filestore's capture.

mod adapter;
pub mod cache;
pub mod listing;
mod packing;
mod reading;
pub mod record;
mod storing;
