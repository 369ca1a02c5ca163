//! holdfast
pub mod seal;
pub mod secret_file;
pub mod signing;
pub mod layout;
pub mod signed;
pub mod trust;
pub mod keyring;
pub mod pack;
