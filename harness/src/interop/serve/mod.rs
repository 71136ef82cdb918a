//! `rightedge interop serve`: any device or machine that connects and sends is the peer.
//!
//! | module | one line |
//! |---|---|
//! | `outside` | the wire to it |
//! | `split` | merged segments are taken apart again |

mod outside;
mod split;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration as StdDuration, Instant as Clock};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use rightedge_stack::iface::{IfaceConfig, Learning, Prefix};
use rightedge_stack::profile::Profile;
use rightedge_stack::wire::MacAddr;
use rightedge_stack::{Stack, StackConfig};
use rightedge_tapctl::link::{Cidr, Mac, Netlink};

use self::outside::{Outside, Place};
use super::cell::{self, Plan};
use super::command::{FailOn, broken, conclude_run, directory, situations_named};
use super::matrix::{self, CellReport};
use super::results::{Results, glyph, write_cell};
use super::situation::Situation;
use super::text;
use super::trace::Content;
use crate::commands::{INTERRUPTED, stop_flag};
use crate::observer::segment::{self, ACK, SYN, Segment};
use crate::run::wire::Wire as _;
use crate::scenario::{self, units::Span};

/// Arguments of `rightedge interop serve`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("place").required(true)))]
pub struct ServeArgs {
    /// The Ethernet interface that the device is reached by; its owner goes on using it
    #[arg(long, short = 'i', value_name = "NAME", group = "place")]
    pub interface: Option<String>,
    /// The bridge that the device, the container or the virtual machine is on; we get a port on it
    #[arg(long, short = 'b', value_name = "NAME", group = "place")]
    pub bridge: Option<String>,
    /// An IPv4 address that nobody else has there, with the length of its prefix, as in 192.0.2.9/24
    #[arg(long, short = 'a', value_name = "ADDRESS/LENGTH")]
    pub address: Cidr,
    /// A connection to this port gets the next situation; one to a port behind it gets that very situation: the first at
    /// the port plus 1, and so on
    #[arg(long, default_value_t = 5001, value_parser = clap::value_parser!(u16).range(1..=65_000))]
    pub port: u16,
    /// A situation by name, or the path of a file ending in .toml; all built-in ones unless said
    #[arg(long, short = 's', value_name = "NAME|FILE")]
    pub situation: Vec<String>,
    /// Only the situations that tell most
    #[arg(long, conflicts_with = "situation")]
    pub short: bool,
    /// Our hardware address; made of the address unless said
    #[arg(long, value_name = "MAC")]
    pub mac: Option<Mac>,
    /// What the device is called in the reports
    #[arg(long, default_value = "device")]
    pub name: String,
    /// How many bytes the device sends before it closes, if that is known: fewer are then an error of its
    #[arg(long, value_name = "N")]
    pub bytes: Option<u64>,
    /// The device sends the pattern of our own peers, so that every byte can be checked
    #[arg(long)]
    pub pattern: bool,
    /// Give up when nobody has connected for so long, as in 10m
    #[arg(long, value_name = "DURATION")]
    pub wait: Option<Span>,
    /// Directory for the results; the first free runs/interop-N unless said
    #[arg(long, short = 'o', value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Overwrite earlier results in that directory
    #[arg(long)]
    pub force: bool,
    /// Seed of the receiver's numbers and of the loss in the situations
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Fail if a clause of this level, or a higher one, is broken
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub fail_on: Option<FailOn>,
    /// Print the results for programs, and nothing else on standard output
    #[arg(long)]
    pub json: bool,
}

/// What we are for the device.
struct Service {
    iface: IfaceConfig,
    address: std::net::Ipv4Addr,
    port: u16,
    situations: Vec<Situation>,
}

impl Service {
    fn of(args: &ServeArgs) -> Result<Self> {
        let IpAddr::V4(address) = args.address.address() else {
            bail!("--address {}: only IPv4 is served; give an address such as 192.0.2.9/24", args.address);
        };
        let [a, b, c, d] = address.octets();
        // Locally administered, and another one for every address.
        let mac = args.mac.map_or(MacAddr([2, 0x52, a, b, c, d]), |m| MacAddr(m.0));
        if !mac.is_unicast() {
            bail!("--mac {}: it must name one station; try 02:52:00:00:00:01", Mac(mac.0));
        }
        let prefix = Prefix::new(address.into(), args.address.prefix_len());
        // Replies go where the device's segments come from: no gateway has to be known.
        let iface = IfaceConfig::ethernet(mac, [prefix]).learning(Learning::Reflexive);
        let situations = situations_named(&args.situation, args.short)?;
        if usize::from(args.port) + situations.len() > 65_535 {
            bail!("--port {}: no room for a port for each of the {} situations", args.port, situations.len());
        }
        Ok(Service { iface, address, port: args.port, situations })
    }

    /// The situation that a connection to `port` is for; `next` is the one whose turn it is.
    fn situation(&self, port: u16, next: Option<usize>) -> Option<usize> {
        match port.checked_sub(self.port)? {
            0 => next,
            n => Some(usize::from(n) - 1).filter(|i| *i < self.situations.len()),
        }
    }

    /// Does a frame ask for a connection to one of our ports?
    fn asked(&self, frame: &[u8], next: Option<usize>) -> Option<(Segment, usize)> {
        let s = segment::parse(frame).ok()?;
        let ours = s.destination.ip() == IpAddr::V4(self.address) && s.has(SYN) && !s.has(ACK);
        let situation = self.situation(s.destination.port(), next).filter(|_| ours)?;
        Some((s, situation))
    }

    /// Answers for the address between connections.
    fn idle(&self) -> Result<Stack> {
        let mut config =
            StackConfig::ethernet(Profile::parse("linux-6.1")?, self.iface.mac, self.address.into(), 24);
        config.iface = self.iface.clone();
        Ok(Stack::new(config)?)
    }
}

/// Serves.
///
/// # Errors
/// The interface or the bridge cannot be used, the address is taken, or the directory cannot be written.
pub fn main(args: &ServeArgs) -> Result<u8> {
    let service = Service::of(args)?;
    let place = match (&args.interface, &args.bridge) {
        (Some(name), _) => Place::Interface(name.clone()),
        (None, Some(name)) => Place::Bridge(name.clone()),
        (None, None) => bail!("say where the device is, with --interface or --bridge"),
    };
    free_here(args.address)?;
    let out = directory(args.out.as_deref(), args.force)?;
    let mut wire = Outside::open(&place, service.iface.mac)?;
    if let Some(owner) = wire.owner(service.address, service.iface.mac)? {
        bail!("{} already belongs to {owner}; give a free one with --address", service.address);
    }
    introduce(args, &service);
    let stop = stop_flag()?;
    let begun = Clock::now();
    let mut results = Results::new(&service.situations, args.seed);
    let patience = args.wait.map(|s| StdDuration::from_nanos(s.0.as_nanos()));
    loop {
        let next = service.situations.iter().position(|s| results.cell(&args.name, &s.name).is_none());
        if next.is_none() {
            break;
        }
        let Some((syn, which)) = wait(&mut wire, &service, next, &stop, patience)? else { break };
        let Some(situation) = service.situations.get(which) else { continue };
        let peer = syn.source;
        wire.begin(format!("{} at {}", args.name, peer.ip()));
        anstream::eprintln!("{:<22} {peer} connects", situation.name);
        let plan = Plan {
            iface: service.iface.clone(),
            receiver: SocketAddr::new(service.address.into(), syn.destination.port()),
            content: if args.pattern { Content::Pattern } else { Content::Consistent },
            total: args.bytes,
            enough: args.bytes.is_none().then_some(situation.bytes.0),
            seed: args.seed,
            ..Plan::new(situation.clone(), scenario::Clock::Real)
        };
        let judged =
            matrix::recorded(&out, &args.name, &plan, |capture| cell::run(&plan, &mut wire, capture, &stop));
        let report = CellReport {
            peer: args.name.clone(),
            situation: situation.name.clone(),
            state: matrix::state_of(judged),
        };
        anstream::eprint!("{:<22} {} {}", "", glyph(&report.state), text::cell(&report));
        write_cell(&out, &report)?;
        results.cells.retain(|c| c.situation != report.situation);
        results.cells.push(report);
        results.cells.sort_by_key(|c| service.situations.iter().position(|s| s.name == c.situation));
        matrix::compare(&mut results.cells, &service.situations);
        results.seconds = begun.elapsed().as_secs_f64();
        // Whatever ends us: what was found until now is there.
        super::command::write(&results, &out, None)?;
    }
    results.complete = !stop.load(Ordering::Relaxed);
    results.seconds = begun.elapsed().as_secs_f64();
    if results.cells.is_empty() {
        if results.complete {
            bail!("nobody connected to {} port {} in time", service.address, service.port);
        }
        return Ok(INTERRUPTED);
    }
    super::command::write(&results, &out, None)?;
    conclude_run(&results, &out, args.json)?;
    if !results.complete {
        return Ok(INTERRUPTED);
    }
    Ok(broken(&results, args.fail_on))
}

/// The address must not be one of this machine: its kernel would answer, too.
fn free_here(address: Cidr) -> Result<()> {
    let addresses = Netlink::open().context("cannot talk to rtnetlink")?.addresses()?;
    if addresses.iter().any(|a| a.cidr.address() == address.address()) {
        bail!("{} is an address of this machine; give one that nobody has with --address", address.address());
    }
    Ok(())
}

fn introduce(args: &ServeArgs, service: &Service) {
    let where_to = args.interface.as_deref().or(args.bridge.as_deref()).unwrap_or_default();
    let most = service.situations.iter().map(|s| s.bytes.0).max().unwrap_or(0);
    anstream::eprintln!(
        "{} port {} on {where_to} is the receiver ({}). Let the device connect, send, and close, {} times; {most} bytes are \
         enough for every situation, and it may send without end.",
        service.address,
        service.port,
        Mac(service.iface.mac.0),
        service.situations.len()
    );
    for (i, s) in service.situations.iter().enumerate() {
        anstream::eprintln!("  port {}  {:<22} {}", usize::from(service.port) + 1 + i, s.name, s.about);
    }
}

/// Waits for a connection, which is left in the wire; answers ARP and the like meanwhile. `None` if it is time to go.
fn wait(
    wire: &mut Outside,
    service: &Service,
    next: Option<usize>,
    stop: &Arc<AtomicBool>,
    patience: Option<StdDuration>,
) -> Result<Option<(Segment, usize)>> {
    const NAP: StdDuration = StdDuration::from_millis(100);
    let mut idle = service.idle()?;
    let begun = Clock::now();
    while !stop.load(Ordering::Relaxed) && patience.is_none_or(|p| begun.elapsed() < p) {
        let now = wire.now();
        match wire.recv(now)? {
            Some((frame, meta)) => {
                if let Some(found) = service.asked(&frame, next) {
                    wire.give_back(frame);
                    return Ok(Some(found));
                }
                idle.ingress(now, &frame, meta);
            }
            None => wire.wait(idle.poll_timeout(), NAP)?,
        }
        let now = wire.now();
        if idle.poll_timeout().is_some_and(|t| t <= now) {
            idle.handle_timeout(now);
        }
        while let Some(tx) = idle.poll_transmit() {
            wire.send(now, &tx.frame)?;
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Typed {
        #[command(flatten)]
        args: ServeArgs,
    }

    fn service(line: &str) -> Result<Service, String> {
        let words = ["serve", "-i", "eth0"].into_iter().chain(line.split_whitespace());
        let typed = Typed::try_parse_from(words).map_err(|e| e.to_string())?;
        Service::of(&typed.args).map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn a_port_says_which_situation() {
        let s = service("-a 192.0.2.9/24 -s plain -s saw").unwrap();
        assert_eq!(s.iface.mac, MacAddr([2, 0x52, 192, 0, 2, 9]));
        assert_eq!(s.situation(5001, Some(1)), Some(1));
        assert_eq!(s.situation(5001, None), None);
        assert_eq!((s.situation(5002, None), s.situation(5003, Some(0))), (Some(0), Some(1)));
        assert_eq!((s.situation(5004, Some(0)), s.situation(80, Some(0))), (None, None));
    }

    #[test]
    fn what_cannot_be_served_is_said() {
        let say = |line: &str| service(line).err().unwrap();
        assert!(say("-a fd00::1/64").contains("only IPv4"));
        assert!(say("-a 192.0.2.9/24 --mac ff:ff:ff:ff:ff:ff").contains("one station"));
        assert!(say("-a 192.0.2.9/24 -s nowhere").contains("nowhere"));
        assert!(say("").contains("--address"));
        assert!(say("-a 192.0.2.9/24 -b br0").contains("cannot be used with"));
        assert!(say("-a 192.0.2.9/24 --short -s saw").contains("cannot be used with"));
    }
}
