//! `holdfast`: the one binary. A file per command under `commands/`; each is
//! thin, the work is done in the library crates.
//!
//! Exit codes: 0 done; 1 done and the answer is "no"; 64 usage or
//! configuration; 69 a service it needs is unreachable; 70 a bug; 75 try again;
//! 141 when nobody reads its output any more.
//! `wal fetch` has a rule of its own, because PostgreSQL believes what a
//! restore command says: 1 only for a proven absence, at least 126 for
//! everything else.

mod asking;
mod commands;
mod demo;
mod exit;
mod operator;
mod residency;
mod screen;

use std::panic::AssertUnwindSafe;

use clap::Parser;

use commands::Command;
use exit::Exit;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Keeps PostgreSQL and the files beside it recoverable, and proves it.
#[derive(Debug, Parser)]
#[command(
    name = "holdfast",
    version,
    about,
    propagate_version = true,
    disable_help_subcommand = true
)]
struct Arguments {
    /// How much to log to standard error: error, warn, info, debug, trace, or
    /// a tracing filter.
    #[arg(
        long,
        global = true,
        env = "HOLDFAST_LOG",
        default_value = "warn",
        value_name = "FILTER"
    )]
    log: String,
    /// Log lines as JSON.
    #[arg(long, global = true)]
    log_json: bool,
    #[command(subcommand)]
    command: Command,
}

fn main() -> std::process::ExitCode {
    // PostgreSQL's restore command must not end in 1 by accident: neither by a
    // usage error nor by a panic.
    let fetching = commands::wal::is_fetch(std::env::args_os());
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(e) => {
            let _ = e.print();
            let asked_for = matches!(
                e.kind(),
                clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion
            );
            return if asked_for {
                Exit::Done.code()
            } else if fetching {
                commands::wal::FETCH_FAILED.into()
            } else {
                Exit::Usage.code()
            };
        }
    };
    screen::start_logging(&arguments.log, arguments.log_json);
    if fetching {
        return commands::wal::fetch_guarded(arguments.command);
    }
    exit::be_quiet_about_closed_pipes();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("error: the runtime cannot start: {e}");
            return Exit::TryAgain.code();
        }
    };
    // Unwinding takes down what the command has started.
    let ended = std::panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(arguments.command.run())));
    match ended {
        Ok(Ok(exit)) => exit.code(),
        Ok(Err(e)) => exit::report(&e),
        Err(panic) => exit::of_panic(panic.as_ref()),
    }
}
