//! What the suites across crates share: real components, started by the test
//! that needs them.

pub mod postgres;
