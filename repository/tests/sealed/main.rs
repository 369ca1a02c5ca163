//! What is sealed, signed and published in a repository of directories.

mod golden;
mod keys;
mod publishing;
mod replicating;
mod scene;
mod trusting;
