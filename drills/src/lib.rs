//! holdfast
pub mod evidence;
pub mod scratch;
pub mod checks;
pub mod scenario;
pub mod keeper;
pub mod log;
pub mod runner;
pub mod publish;
