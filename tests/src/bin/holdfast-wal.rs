//! The two commands that recovery calls, for tests of the restore alone.

use std::path::Path;
use std::process::ExitCode;

use holdfast_agent::restore::{fetch, prefetch};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["wal", "fetch", name, path, "--pin", pin] => {
            ExitCode::from(fetch::run(name, Path::new(path), Path::new(pin)))
        }
        ["wal", "prefetch", "--pin", pin] => {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
            match runtime.block_on(prefetch::run(Path::new(pin))) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        _ => ExitCode::from(fetch::FAILED),
    }
}
