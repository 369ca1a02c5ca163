//! The main job, end to end, by the program as an operator runs it: keys, a
//! repository, trust, a coordinator and an agent as processes of their own, a
//! PostgreSQL and a filestore that are written while they are protected, a
//! mistake, the loss of both and of a region, restores to two moments, a drill
//! and its evidence.
//!
//! The story and everything it asserts are one function ([`story::tell`]) over a
//! [`place::Place`]: directories, and a real S3 service with users and policies
//! as the manual has them. What only S3 has (stolen credentials, stores that
//! stall, stores that do not enforce a conditional create) is in [`attack`] and
//! [`buckets`]; drills in the pods of a real cluster are in [`kubernetes`].

mod attack;
mod books;
mod buckets;
mod kubernetes;
mod place;
mod scenarios;
mod stage;
mod story;

use anyhow::Result;

#[test]
fn a_repository_in_directories_brings_everything_back() -> Result<()> {
    story::tell(place::Place::directories())
}

#[test]
fn a_repository_on_s3_brings_everything_back() -> Result<()> {
    match place::Place::s3()? {
        Some(place) => story::tell(place),
        None => Ok(()),
    }
}
