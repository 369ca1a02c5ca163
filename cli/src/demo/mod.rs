//! `holdfast demo`: the whole story on this machine. A cluster and its filestore
//! are protected, a mistake and then a disaster happen, what is left restores
//! them, and a drill proves it with evidence that verifies without Holdfast.
//!
//! The demo uses the other commands of this binary as an operator would; it
//! reaches into no library to make something come true. What it compares with
//! is what the writer knows to be committed ([`writer::Journal`]); what counts
//! as held is decided in [`summary`], from what was measured alone.
//!
//! Every process that it starts is tethered to it: it ends with the demo,
//! however the demo ends.

mod books;
mod comparison;
mod loss;
mod stage;
mod story;
mod summary;
mod writer;

use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::{Exit, Failure, OrExit};
use stage::{Daemon, Stage};

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
        let mut signals = Signals::listen()?;
        let stage = Stage::clear(&self.directory).or_usage()?;
        // Whatever the story has started is killed when it is dropped here.
        let (summary, mut coordinator) = tokio::select! {
            told = story::tell(&stage) => told.or_no()?,
            name = signals.next() => {
                return Err(Failure::no(format!("the demo was ended by {name}, and its processes with it")));
            }
        };
        println!("\n{}", summary.table());
        if self.serve {
            serve(&stage, &mut coordinator, &mut signals).await.or_no()?;
        }
        coordinator.stop().await.or_no()?;
        Ok(if summary.holds() { Exit::Done } else { Exit::No })
    }
}

async fn serve(stage: &Stage, coordinator: &mut Daemon, signals: &mut Signals) -> anyhow::Result<()> {
    stage.say(format!("The coordinator's page is {} until Ctrl-C", stage.page()));
    tokio::select! {
        lost = coordinator.lost() => Err(lost),
        _ = signals.next() => Ok(()),
    }
}

/// The signals that end a demo.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}
