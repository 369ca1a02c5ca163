//! What the suites across crates share: real components, started by the test
//! that needs them.

pub mod agent;
pub mod browser;
pub mod evidence;
pub mod faulty;
pub mod fleet;
pub mod line;
pub mod postgres;
pub mod s3;
pub mod scene;
pub mod store_contract;
pub mod vault;
pub mod versioned;
