//! What each subcommand does. Everything here runs in a single-threaded program, which a user namespace needs.

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::{Command, ExitCode};

use rightedge_tapctl::link::Netlink;
use rightedge_tapctl::netns::{self, NetnsError, PrivateNet, Privilege};
use rightedge_tapctl::observe::{self, NetCounters};
use rightedge_tapctl::process;
use rightedge_tapctl::rights::Rights;
use rightedge_tapctl::sysctl;
use rightedge_tapctl::tap::{IoMode, Layer, OffloadOptions, OffloadTap, Offloads};
use rightedge_tapctl::vnet::VnetHdrSize;

use crate::cli::{Action, DeviceArgs, DownArgs, InitArgs, UpArgs};

/// Errors on their way to the one line `main` prints.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// Exit code for missing rights.
pub(crate) const RIGHTS_MISSING: u8 = 3;
/// Exit code for everything else that prevents running.
pub(crate) const COULD_NOT_RUN: u8 = 2;

/// Name of the device, for the command.
const IFACE_VAR: &str = "TAPCTL_IFACE";
/// Number of the open descriptor, for the command.
const FD_VAR: &str = "TAPCTL_FD";

pub(crate) fn act(action: Action) -> Result<ExitCode, Failure> {
    match action {
        Action::Run(args) => run_private(&args.name, &args.device, args.pass.pass_fd, &args.command),
        Action::Up(args) if args.private => {
            run_private(&args.name, &args.device, args.pass.pass_fd, &args.command)
        }
        Action::Up(args) => up_named(&args),
        Action::Down(args) => down(&args),
        Action::Show(args) => show(args.ns.as_deref()),
        Action::Sockets(args) => sockets(args.ns.as_deref()),
        Action::Doctor => doctor(),
        Action::Init(args) => init(&args),
    }
}

/// The whole life of a private device. This process waits outside; inside, an init of a PID namespace starts
/// the command. If this process ends for any reason the init is killed, with it everything inside, and with
/// the last of them the network namespace and the device.
fn run_private(
    name: &str,
    device: &DeviceArgs,
    pass_fd: bool,
    command: &[OsString],
) -> Result<ExitCode, Failure> {
    netns::prepare_process()?;
    netns::enter_new_netns()?;
    let tap = create(name, device)?;
    let mut init = Command::new(std::env::current_exe()?);
    init.arg("__init").arg("--").args(command).env(IFACE_VAR, tap.name());
    if pass_fd {
        rustix::io::fcntl_setfd(tap.as_fd(), rustix::io::FdFlags::empty())?;
        init.env(FD_VAR, tap.as_fd().as_raw_fd().to_string());
    } else {
        tap.set_persist(true)?;
        init.env_remove(FD_VAR);
    }
    process::next_child_is_init()?;
    let mut child = process::die_with_parent(&mut init).spawn()?;
    drop(tap);
    process::ignore_interrupts();
    Ok(ExitCode::from(process::shell_code(child.wait()?)))
}

/// First process of the PID namespace: starts the command, waits for it, and takes all others along.
fn init(args: &InitArgs) -> Result<ExitCode, Failure> {
    let Some((program, rest)) = args.command.split_first() else {
        return Err("no command; write it after --".into());
    };
    let mut child = Command::new(program)
        .args(rest)
        .spawn()
        .map_err(|source| NetnsError::Command { command: program.clone(), source })?;
    Ok(ExitCode::from(process::shell_code(child.wait()?)))
}

fn up_named(args: &UpArgs) -> Result<ExitCode, Failure> {
    let Some(ns) = args.ns.as_deref() else {
        return Err("no namespace; use --ns NAME, or --private -- COMMAND".into());
    };
    let (net, is_new) = match netns::create_named(ns) {
        Ok(net) => (net, true),
        Err(NetnsError::Exists { .. }) => (PrivateNet::named(ns)?, false),
        Err(error) => return Err(error.into()),
    };
    let made = net.run(|| -> Result<(), Failure> {
        let tap = create(&args.name, &args.device)?;
        tap.set_persist(true)?;
        Ok(())
    });
    if let Err(error) = made.map_err(Failure::from).and_then(|inner| inner) {
        // The device died with its descriptor; a namespace made for it should not stay behind either.
        if is_new {
            netns::remove_named(ns)?;
        }
        return Err(error);
    }
    if args.command.is_empty() {
        say(&format!(
            "{} is up in namespace {ns}; `tapctl down {} --ns {ns}` removes it\n",
            args.name, args.name
        ));
        return Ok(ExitCode::SUCCESS);
    }
    net.enter_thread()?;
    run_inside(&args.name, &args.command)
}

fn run_inside(device: &str, command: &[OsString]) -> Result<ExitCode, Failure> {
    let Some((program, rest)) = command.split_first() else {
        return Ok(ExitCode::SUCCESS);
    };
    let mut child = Command::new(program)
        .args(rest)
        .env(IFACE_VAR, device)
        .spawn()
        .map_err(|source| NetnsError::Command { command: program.clone(), source })?;
    process::ignore_interrupts();
    Ok(ExitCode::from(process::shell_code(child.wait()?)))
}

/// Creates and configures the device in the calling thread's namespace.
fn create(name: &str, args: &DeviceArgs) -> Result<OffloadTap, Failure> {
    let options = OffloadOptions {
        layer: if args.tun { Layer::Ip } else { Layer::Ethernet },
        io: IoMode::Blocking,
        vnet_hdr: args.offload.map(|_| VnetHdrSize::Ten),
        offloads: args.offload.unwrap_or(Offloads::NONE),
        ..OffloadOptions::default()
    };
    let tap = OffloadTap::open(name, options)?;
    let name = tap.name();
    // Sysctls of the device exist from now on; those about IPv6 must be set before it is up.
    if args.no_ipv6 {
        sysctl::disable_ipv6(name)?;
    }
    for (key, value) in &args.sysctl {
        sysctl::write(key.as_str(), value)?;
    }
    let mut links = Netlink::open()?;
    if let Some(mac) = args.mac {
        links.set_mac(name, mac)?;
    }
    if let Some(mtu) = args.mtu {
        links.set_mtu(name, mtu)?;
    }
    for cidr in &args.addr {
        links.add_address(name, *cidr)?;
    }
    links.set_up(name)?;
    for (address, mac) in &args.neigh {
        links.add_neighbour(name, *address, *mac)?;
    }
    for route in &args.route {
        let mut route = route.clone();
        if route.gateway.is_none() && route.device.is_none() {
            route.device = Some(name.to_owned());
        }
        links.replace_route(&route)?;
    }
    Ok(tap)
}

fn down(args: &DownArgs) -> Result<ExitCode, Failure> {
    let net = PrivateNet::named(&args.ns)?;
    let is_empty = net.run(|| -> Result<bool, Failure> {
        let mut links = Netlink::open()?;
        let kind = links.link(&args.name)?.kind;
        // A guard against removing what somebody else made.
        if kind != "tun" {
            return Err(format!(
                "device {:?}: is no TUN/TAP device but {kind:?}; use `ip link delete`",
                args.name
            )
            .into());
        }
        links.delete_link(&args.name)?;
        Ok(links.links()?.iter().all(|link| link.name == "lo"))
    })??;
    drop(net);
    if is_empty && !args.keep_ns {
        netns::remove_named(&args.ns)?;
        say(&format!("{} and namespace {} are removed\n", args.name, args.ns));
    } else {
        say(&format!("{} is removed; namespace {} stays\n", args.name, args.ns));
    }
    Ok(ExitCode::SUCCESS)
}

fn show(ns: Option<&str>) -> Result<ExitCode, Failure> {
    let text = inside(ns, || -> Result<String, Failure> {
        let mut links = Netlink::open()?;
        let all = links.links()?;
        let addresses = links.addresses()?;
        let mut text = String::new();
        for link in &all {
            let state = match (link.up, link.carrier) {
                (false, _) => "down",
                (true, true) => "up",
                (true, false) => "up, no carrier",
            };
            let kind = if link.kind.is_empty() { String::new() } else { format!(" {}", link.kind) };
            let mac = link.mac.map(|mac| format!(" {mac}")).unwrap_or_default();
            text.push_str(&format!("{}{kind}: {state}, mtu {}{mac}\n", link.name, link.mtu));
            for address in addresses.iter().filter(|address| address.index == link.index) {
                text.push_str(&format!("    {}\n", address.cidr));
            }
        }
        for route in links.routes()? {
            text.push_str(&format!("route {route}\n"));
        }
        Ok(text)
    })?;
    say(&text);
    if ns.is_none() {
        for name in netns::list_named() {
            say(&format!("namespace {name}\n"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn sockets(ns: Option<&str>) -> Result<ExitCode, Failure> {
    let text = inside(ns, || -> Result<String, Failure> {
        let mut text = String::new();
        for socket in observe::sockets()? {
            text.push_str(&format!(
                "{:<12} {:>26} {:>26}  rx {} tx {}\n",
                socket.state,
                socket.local.to_string(),
                socket.remote.to_string(),
                socket.rx_queue,
                socket.tx_queue
            ));
        }
        for (name, value) in NetCounters::read()?.iter().filter(|(_, value)| *value != 0) {
            text.push_str(&format!("{name:<40} {value}\n"));
        }
        Ok(text)
    })?;
    say(&text);
    Ok(ExitCode::SUCCESS)
}

fn doctor() -> Result<ExitCode, Failure> {
    let how = match netns::prepare_process() {
        Ok(Privilege::UserNamespace) => {
            "tried inside a private user namespace, as `tapctl run` would be\n".to_owned()
        }
        Ok(_) => String::new(),
        Err(error) => format!("{error}\n"),
    };
    let rights = Rights::probe();
    say(&format!("{how}{rights}"));
    Ok(if rights.is_sufficient() { ExitCode::SUCCESS } else { ExitCode::from(RIGHTS_MISSING) })
}

fn inside<T: Send>(ns: Option<&str>, work: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    match ns {
        Some(name) => PrivateNet::named(name)?.run(work)?,
        None => work(),
    }
}

/// Standard output, where a closed pipe is no error.
fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}
