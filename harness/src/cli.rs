//! The command line: types only; their doc comments are the manual.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::bench::command::BenchArgs;
use crate::interop::command::InteropArgs;
use crate::oracle::command::{OracleCommand, ReplayArgs};
use crate::run::SenderKind;

/// Watch Linux decide the TCP receive window, packet by packet, and change the rules.
///
/// Rightedge runs a receive stack that decides what Linux decides about receive memory and the receive window, in user
/// space, against a real kernel sender (or a model of one), and records what every arriving segment did to the window
/// and why.
#[derive(Debug, Parser)]
#[command(name = "rightedge", version, after_long_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Exit codes, for --help and the man page.
const EXIT_CODES: &str = "\
Exit codes:
  0  done, and everything checked holds
  1  done, but a check failed: a rule of the scenario, the observer, or the bytes themselves
  2  could not run: a wrong argument, file or value; the message names it and the fix
  3  rights missing: the message says which and how to get them (see `rightedge doctor`)
  130  interrupted; what was recorded until then is readable

Runs happen in a network namespace of their own, and in a user namespace when not root; nothing is left behind.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a scenario and record what every segment did to the window
    Run(RunArgs),
    /// List the scenarios, a line each
    List {
        /// With the whole explanation of each
        #[arg(long)]
        long: bool,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Say in words why a packet of a recorded run carried the window it carries
    Explain {
        /// The run directory
        dir: PathBuf,
        /// Number of the packet in wire.pcapng, as Wireshark numbers it
        #[arg(long, short = 'n', value_name = "N")]
        packet: u64,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Show a recorded run: its summary, sockets as `ss -tmi` would, counters as `nstat` would
    Show {
        /// The run directory
        dir: PathBuf,
        /// Sockets at the end, like `ss -tmi`
        #[arg(long)]
        ss: bool,
        /// Counters at the end, like `nstat`
        #[arg(long)]
        nstat: bool,
        /// The summary for programs
        #[arg(long, conflicts_with_all = ["ss", "nstat"])]
        json: bool,
    },
    /// Play a recording of a live kernel to the stack, in virtual time, and print the stack's own trace
    Replay(ReplayArgs),
    /// Let a live kernel be the judge: record it, compare the stack with it, look for differences
    #[command(subcommand)]
    Oracle(OracleCommand),
    /// Do real stacks survive a window that shrinks? Run them in every situation, and judge them clause by clause
    Interop(Box<InteropArgs>),
    /// Measure: a segment, a collapse, a policy, many connections, beside rivals that do the same in the same run
    Bench(Box<BenchArgs>),
    /// List the peers of `rightedge interop`: which are installed, and how to get the rest
    Peers {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// List kernel profiles and the switches that policies are made of
    Policies {
        /// Show the switches of this policy, as in linux-6.1,shrink=merged
        policy: Option<String>,
    },
    /// List driver models: how an arriving frame becomes memory
    Drivers,
    /// Say what this machine can do, and how to get the rest
    Doctor {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Print the man page, of rightedge itself or of one command, as in `rightedge man run | man -l -`
    Man {
        /// The command
        command: Option<String>,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Arguments of `rightedge run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Name of a scenario (see `rightedge list`), or path of a scenario file ending in .toml
    pub scenario: String,
    /// Policy of the receiver: a kernel profile with switches, NAME[,switch=value]…; several give a comparison
    #[arg(long, short = 'p', value_name = "NAME[,SWITCH=VALUE]…")]
    pub policy: Vec<String>,
    /// Set a sysctl of the receiver, as in -w net.ipv4.tcp_rmem="4096 131072 6291456"
    #[arg(short = 'w', long = "sysctl", value_name = "NAME=VALUE")]
    pub sysctl: Vec<String>,
    /// Directory for what is recorded; the first free runs/SCENARIO-N unless said
    #[arg(long, short = 'o', value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Overwrite an earlier run in that directory
    #[arg(long)]
    pub force: bool,
    /// Who sends: this machine's kernel, or the embedded model; the kernel if the machine lets us, else the model
    #[arg(long, value_enum)]
    pub sender: Option<SenderKind>,
    /// Which clock: real time, or virtual time, which jumps from event to event (model sender only)
    #[arg(long, value_enum)]
    pub clock: Option<ClockArg>,
    /// End the run after this time, as in 30s or 15m, instead of the scenario's limit
    #[arg(long, value_name = "DURATION")]
    pub time: Option<String>,
    /// Put a link between sender and stack, as in "down:delay=50ms,rate=100mbit,queue=256KiB;up:delay=50ms;seed=7"
    #[arg(long, value_name = "SPEC")]
    pub link: Option<String>,
    /// Driver model of the receiver instead of the scenario's (see `rightedge drivers`)
    #[arg(long, value_name = "NAME")]
    pub driver: Option<String>,
    /// Use a TAP device with virtio headers and segmentation offload: the sender hands over super-segments
    #[arg(long)]
    pub offload: bool,
    /// Keep at most so many bytes of each frame in wire.pcapng, as tcpdump's -s does; whole frames unless given, or 0
    #[arg(long, value_name = "BYTES")]
    pub snaplen: Option<u32>,
    /// Seed of the stack's initial sequence numbers, and of the link unless its specification has one
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print sockets at the end, like `ss -tmi`
    #[arg(long)]
    pub ss: bool,
    /// Print counters at the end, like `nstat`
    #[arg(long)]
    pub nstat: bool,
    /// Print the result for programs, and nothing else on standard output
    #[arg(long)]
    pub json: bool,
}

/// Which clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClockArg {
    /// The machine's.
    Real,
    /// From event to event.
    Virtual,
}
