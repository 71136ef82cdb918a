//! What can be typed; the doc comments are the manual.

use std::ffi::OsString;
use std::net::IpAddr;

use clap::{Args, Parser, Subcommand};
use rightedge_tapctl::link::{Cidr, LinkError, Mac, Route};
use rightedge_tapctl::sysctl::{self, SysctlError, SysctlName};
use rightedge_tapctl::tap::Offloads;

/// TAP devices in network namespaces of their own.
///
/// `tapctl run` needs no clean-up whatever happens: device, addresses, routes and sysctls live in an unnamed
/// namespace that ends with the command. `tapctl up --ns` is the one thing that stays, on request, until
/// `tapctl down`.
#[derive(Debug, Parser)]
#[command(name = "tapctl", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) action: Action,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 2 bad usage or could not run; 3 rights missing (see `tapctl doctor`).\n\
                          `run` and `up --private` return the exit code of their command, 128+N for signal N.";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Run a command beside a TAP device in a private namespace and remove everything afterwards.
    ///
    /// Without root, a private user namespace gives the rights; only /dev/net/tun must be accessible. The
    /// command finds the device's name in TAPCTL_IFACE. If tapctl is killed, so is everything it started.
    Run(RunArgs),
    /// Create a TAP device in a named namespace that stays, or in a private one around a command.
    Up(UpArgs),
    /// Remove a TAP device from a named namespace, and the namespace if nothing else is left in it.
    Down(DownArgs),
    /// Show interfaces, addresses and routes of a namespace, and the names of those that stay.
    Show(PlaceArgs),
    /// Show TCP sockets and the counters that are not zero, whoever owns them.
    Sockets(PlaceArgs),
    /// Say what this machine allows, and how to get what it does not.
    Doctor,
    /// The first process of a private namespace; used by `run`.
    #[command(hide = true, name = "__init")]
    Init(InitArgs),
}

/// How the device should be.
#[derive(Debug, Args)]
pub(crate) struct DeviceArgs {
    /// Address with prefix length; repeatable.
    #[arg(long, value_name = "CIDR")]
    pub(crate) addr: Vec<Cidr>,
    /// Route in the words of `ip route`, metrics included; repeatable.
    ///
    /// For example "10.1.0.0/16 via 10.0.0.2 initcwnd 20 initrwnd 40 mtu lock 1400".
    #[arg(long, value_name = "ROUTE")]
    pub(crate) route: Vec<Route>,
    /// Static neighbour, so that no ARP is sent; repeatable.
    #[arg(long, value_name = "IP=MAC", value_parser = neighbour)]
    pub(crate) neigh: Vec<(IpAddr, Mac)>,
    /// Device MTU.
    #[arg(long)]
    pub(crate) mtu: Option<u32>,
    /// Device MAC address.
    #[arg(long)]
    pub(crate) mac: Option<Mac>,
    /// Open with a virtio header: none, tso, or a list of csum,tso4,tso6,ecn,uso.
    ///
    /// Without this option frames are bare and complete.
    #[arg(long, value_name = "LIST")]
    pub(crate) offload: Option<Offloads>,
    /// A TUN device (bare IP packets) instead of a TAP.
    #[arg(long)]
    pub(crate) tun: bool,
    /// Sysctl of the namespace, as tcp_rmem="4096 131072 6291456"; repeatable. Bare names mean net.ipv4.
    #[arg(long, value_name = "K=V", value_parser = setting)]
    pub(crate) sysctl: Vec<(SysctlName, String)>,
    /// Switch IPv6 off on the device.
    #[arg(long)]
    pub(crate) no_ipv6: bool,
}

/// `tapctl run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Name of the device.
    #[arg(long, default_value = "tap0", value_name = "NAME")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    #[command(flatten)]
    pub(crate) pass: PassArgs,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// Who holds the device while the command runs.
#[derive(Debug, Args)]
pub(crate) struct PassArgs {
    /// Give the command the open device as the descriptor named in TAPCTL_FD.
    ///
    /// Without it the device waits unattached, and the command opens it by name.
    #[arg(long)]
    pub(crate) pass_fd: bool,
}

/// `tapctl up`.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Name of the device.
    pub(crate) name: String,
    /// Put it into this named namespace, created if needed. It stays until `tapctl down`; needs root.
    #[arg(long, value_name = "NAME", required_unless_present = "private", conflicts_with = "private")]
    pub(crate) ns: Option<String>,
    /// Put it into a private namespace around COMMAND, as `run` does.
    #[arg(long, requires = "command")]
    pub(crate) private: bool,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    #[command(flatten)]
    pub(crate) pass: PassArgs,
    /// A command to run inside.
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// `tapctl down`.
#[derive(Debug, Args)]
pub(crate) struct DownArgs {
    /// Name of the device.
    pub(crate) name: String,
    /// The named namespace it is in.
    #[arg(long, value_name = "NAME")]
    pub(crate) ns: String,
    /// Leave the namespace even if it is empty.
    #[arg(long)]
    pub(crate) keep_ns: bool,
}

/// Where to look.
#[derive(Debug, Args)]
pub(crate) struct PlaceArgs {
    /// A named namespace; the present one otherwise.
    #[arg(long, value_name = "NAME")]
    pub(crate) ns: Option<String>,
}

/// `tapctl __init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

fn setting(text: &str) -> Result<(SysctlName, String), SysctlError> {
    sysctl::parse_setting(text)
}

fn neighbour(text: &str) -> Result<(IpAddr, Mac), LinkError> {
    let bad = || LinkError::Mac { text: text.to_owned() };
    let (address, mac) = text.split_once('=').ok_or_else(bad)?;
    Ok((address.parse().map_err(|_| LinkError::Cidr { text: address.to_owned() })?, mac.parse()?))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_place_must_be_named() {
        assert!(Cli::try_parse_from(["tapctl", "up", "re0"]).is_err());
        assert!(Cli::try_parse_from(["tapctl", "up", "re0", "--private"]).is_err());
        assert!(Cli::try_parse_from(["tapctl", "up", "re0", "--private", "--", "true"]).is_ok());
        assert!(
            Cli::try_parse_from(["tapctl", "up", "re0", "--ns", "a", "--private", "--", "true"]).is_err()
        );
        assert!(Cli::try_parse_from(["tapctl", "up", "re0", "--ns", "a"]).is_ok());
    }

    #[test]
    fn neighbours() {
        assert!(neighbour("10.0.0.2=02:00:00:00:00:02").is_ok());
        for bad in ["10.0.0.2", "x=02:00:00:00:00:02", "10.0.0.2=02"] {
            assert!(neighbour(bad).is_err(), "{bad}");
        }
    }
}
