//! `holdfast demo`: the whole story on this machine. A cluster and its filestore
//! are protected, a mistake and then a disaster happen, what is left restores
//! them, and a drill proves it with evidence that verifies without Holdfast.
//!
//! The demo uses the other commands of this binary as an operator would; it
//! reaches into no library to make something come true. What it compares with
//! is what the writer knows to be committed ([`writer::Journal`]).

mod books;
mod comparison;
mod stage;
mod story;
mod summary;
mod writer;

use std::path::PathBuf;

use clap::Args;

use crate::exit::Exit;

/// The whole story on this machine; ends with a verdict and where to look.
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// Where everything goes. What an earlier demo left there is removed.
    #[arg(long, value_name = "DIR", default_value = "target/demo")]
    directory: PathBuf,
    /// Leave the coordinator and its page running at the end, until Ctrl-C.
    #[arg(long)]
    serve: bool,
}

impl DemoArguments {
    /// Runs the demo.
    pub async fn run(self) -> anyhow::Result<Exit> {
        let stage = stage::Stage::clear(&self.directory)?;
        tokio::select! {
            result = story::tell(&stage, self.serve) => result,
            _ = tokio::signal::ctrl_c() => Err(crate::exit::Failure::no("the demo was interrupted; its processes are stopped")),
        }
    }
}
