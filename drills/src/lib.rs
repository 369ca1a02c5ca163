//! holdfast
pub mod attack;
pub mod checks;
pub mod evidence;
pub mod keeper;
pub mod log;
pub mod publish;
pub mod runner;
pub mod scenario;
pub mod scratch;
pub mod view;
