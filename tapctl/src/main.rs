//! `tapctl`: TAP devices in network namespaces of their own.
#![forbid(unsafe_code)]

mod actions;
mod cli;

use std::process::ExitCode;

use clap::Parser as _;
use rightedge_tapctl::rights;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match actions::act(cli.action) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tapctl: {error}");
            let missing = rights::is_missing_right(error.as_ref());
            ExitCode::from(if missing { actions::RIGHTS_MISSING } else { actions::COULD_NOT_RUN })
        }
    }
}
