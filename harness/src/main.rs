//! `rightedge`: parse, act, report.

use std::process::ExitCode;

use clap::Parser as _;
use rightedge::{cli::Cli, commands};

fn main() -> ExitCode {
    // As init of a kernel we booted ourselves, nothing below is there yet.
    rightedge::guest::enter_if_init(&[rightedge::oracle::guest::TASK, rightedge::interop::peer::guest::TASK]);
    // Before any thread exists: without root, a user namespace of our own can only be entered now.
    let privilege = rightedge_tapctl::netns::prepare_process();
    let filter =
        tracing_subscriber::EnvFilter::try_from_env("RIGHTEDGE_LOG").unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    if let Err(e) = privilege {
        tracing::info!("no user namespace: {e}");
    }
    commands::main(Cli::parse())
}
