//! What can be typed to name a peer: a stack, and options behind commas.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::bad::How;
use super::drivers::Driver;
use crate::guest::Kernel;
use rightedge_tapctl::sysctl;

/// A peer, as in `linux,cc=bbr,sack=off`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSpec {
    /// Which stack.
    pub kind: Kind,
    /// Its options.
    pub options: Options,
    text: String,
}

/// A stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This machine's kernel.
    Host,
    /// A kernel that is booted for it.
    Guest(Kernel),
    /// One of the drivers.
    Driver(Driver),
    /// smoltcp.
    Smoltcp,
    /// The model sender: ours, not a real stack.
    Model,
    /// The model sender with a fault.
    Bad(How),
    /// A program that keeps to the peer contract.
    Exec(Vec<String>),
}

/// Options of a peer by name; those without a value are switches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(BTreeMap<String, Option<String>>);

impl Options {
    /// The value of an option.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Option::as_deref)
    }

    /// Is the switch there, or on?
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|v| v.as_deref().is_none_or(|v| v != "off"))
    }

    /// Is it switched off?
    #[must_use]
    pub fn is_off(&self, name: &str) -> bool {
        self.get(name) == Some("off")
    }

    /// The sysctls among them.
    pub fn sysctls(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .filter_map(|(n, v)| Some((n.as_str(), v.as_deref()?)))
            .filter(|(n, _)| n.starts_with("net."))
    }

    /// The window scale that the receiver shall have with this peer.
    #[must_use]
    pub fn wscale(&self) -> Option<u8> {
        self.get("wscale").and_then(|v| v.parse().ok())
    }

    /// As the contract hands them on: all but what is about the receiver.
    #[must_use]
    pub fn for_peer(&self) -> String {
        let one = |(n, v): (&String, &Option<String>)| match v {
            Some(v) => format!("{n}={v}"),
            None => n.clone(),
        };
        self.0.iter().filter(|(n, _)| *n != "wscale").map(one).collect::<Vec<_>>().join(",")
    }
}

/// What a kernel takes.
const KERNEL: &[(&str, &str)] = &[
    ("cc", "a congestion control the kernel has: reno, cubic, bbr"),
    ("sack", "on or off"),
    ("timestamps", "on or off"),
    ("nodelay", "nothing: a switch"),
    ("net.*", "a sysctl of its namespace, as in net.ipv4.tcp_retries2=5"),
];
/// What every peer takes.
const ANY: &[(&str, &str)] = &[("wscale", "0 to 14: the window scale of the receiver")];

impl Kind {
    /// The options it takes, and what they are.
    #[must_use]
    pub fn takes(&self) -> Vec<(&'static str, &'static str)> {
        let own: &[(&str, &str)] = match self {
            Kind::Host | Kind::Guest(_) => KERNEL,
            Kind::Driver(driver) => driver.takes(),
            Kind::Smoltcp => &[("nodelay", "nothing: a switch"), ("cc", "none, reno or cubic")],
            Kind::Model | Kind::Bad(_) => &[],
            Kind::Exec(_) => &[("*", "whatever the program knows")],
        };
        own.iter().chain(ANY).copied().collect()
    }
}

impl FromStr for PeerSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (head, rest) = text.split_once(',').map_or((text, None), |(h, r)| (h, Some(r)));
        let (name, argument) = head.split_once(':').map_or((head, None), |(n, a)| (n, Some(a)));
        let kind = match (name, argument) {
            ("linux" | "host", None) => Kind::Host,
            ("uml" | "qemu", _) => Kind::Guest(head.parse::<Kernel>()?),
            ("smoltcp", None) => Kind::Smoltcp,
            ("model", None) => Kind::Model,
            ("bad", Some(how)) => Kind::Bad(how.parse()?),
            ("exec", Some(words)) if !words.trim().is_empty() => {
                Kind::Exec(words.split_whitespace().map(str::to_owned).collect())
            }
            _ => match Driver::named(head) {
                Some(driver) => Kind::Driver(driver),
                None => return Err(format!("peer '{text}': there are {}", Self::names().join(", "))),
            },
        };
        let mut options = BTreeMap::new();
        for part in rest.into_iter().flat_map(|r| r.split(',')).map(str::trim).filter(|p| !p.is_empty()) {
            let (n, v) = part.split_once('=').map_or((part, None), |(n, v)| (n, Some(v)));
            check(&kind, n, v).map_err(|why| format!("peer '{text}': {why}"))?;
            if options.insert(n.to_owned(), v.map(str::to_owned)).is_some() {
                return Err(format!("peer '{text}': {n} is said twice; leave one out"));
            }
        }
        Ok(PeerSpec { kind, options: Options(options), text: text.to_owned() })
    }
}

impl PeerSpec {
    /// What there is, for messages.
    #[must_use]
    pub fn names() -> Vec<String> {
        let drivers = Driver::ALL.iter().map(|d| d.name().to_owned());
        let first = ["linux", "uml", "uml:BINARY", "qemu:IMAGE", "smoltcp"].map(str::to_owned);
        let last = ["model", "bad:FAULT", "exec:COMMAND"].map(str::to_owned);
        first.into_iter().chain(drivers).chain(last).collect()
    }

    /// Its name without options.
    #[must_use]
    pub fn stack(&self) -> &str {
        self.text.split(',').next().unwrap_or_default()
    }
}

fn check(kind: &Kind, name: &str, value: Option<&str>) -> Result<(), String> {
    let takes = kind.takes();
    let known = |n: &str| takes.iter().any(|(k, _)| *k == n);
    if name.starts_with("net.") && known("net.*") {
        let value = value.ok_or(format!("{name} needs a value, as in {name}=1"))?;
        let set = sysctl::parse_setting(&format!("{name}={value}"));
        return set.map(drop).map_err(|e| e.to_string());
    }
    if !known(name) && !known("*") {
        let all: Vec<_> = takes.iter().map(|(n, what)| format!("{n} ({what})")).collect();
        return Err(format!("no option '{name}'; it takes {}", all.join(", ")));
    }
    match (name, value) {
        ("wscale", v) if v.and_then(|v| v.parse::<u8>().ok()).is_none_or(|n| n > 14) => {
            Err(format!("wscale={}: write a number from 0 to 14", v.unwrap_or_default()))
        }
        ("sack" | "timestamps", v) if !matches!(v, Some("on" | "off")) => {
            Err(format!("{name}={}: write on or off", v.unwrap_or_default()))
        }
        ("cc", None) => Err("cc needs a name, as in cc=reno".to_owned()),
        _ => Ok(()),
    }
}

impl fmt::Display for PeerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_options() {
        let p: PeerSpec = "linux,cc=bbr,sack=off,nodelay,net.ipv4.tcp_retries2=5,wscale=14".parse().unwrap();
        assert_eq!((p.kind.clone(), p.stack()), (Kind::Host, "linux"));
        assert_eq!((p.options.get("cc"), p.options.wscale()), (Some("bbr"), Some(14)));
        assert!(p.options.has("nodelay") && p.options.is_off("sack") && !p.options.has("sack"));
        assert_eq!(p.options.sysctls().collect::<Vec<_>>(), [("net.ipv4.tcp_retries2", "5")]);
        assert_eq!(p.to_string(), "linux,cc=bbr,sack=off,nodelay,net.ipv4.tcp_retries2=5,wscale=14");
        assert_eq!(p.options.for_peer(), "cc=bbr,net.ipv4.tcp_retries2=5,nodelay,sack=off");
        for name in [
            "uml",
            "uml:/x/linux",
            "qemu:/boot/vmlinuz",
            "smoltcp",
            "lwip",
            "gvisor,cc=reno",
            "slirp",
            "passt",
            "pytcp",
            "model",
        ] {
            assert_eq!(name.parse::<PeerSpec>().unwrap().to_string(), name);
        }
        let p: PeerSpec = "exec:./my-peer --fast,anything=1".parse().unwrap();
        assert_eq!(p.kind, Kind::Exec(vec!["./my-peer".to_owned(), "--fast".to_owned()]));
        assert_eq!(p.options.for_peer(), "anything=1");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let say = |t: &str| t.parse::<PeerSpec>().unwrap_err();
        assert!(say("windows").contains("gvisor"));
        assert!(say("linux,colour=red").contains("cc (a congestion control"));
        assert!(say("linux,wscale=15").contains("0 to 14"));
        assert!(say("linux,sack=maybe").contains("on or off"));
        assert!(say("linux,sack=on,sack=off").contains("twice"));
        assert!(say("lwip,cc=bbr").contains("no option 'cc'"));
        assert!(say("linux,kernel.panic=1").contains("no option"));
        assert!(say("linux,net.ipv4/../x=1").contains("net.ipv4"));
        assert!(say("qemu").contains("qemu:IMAGE"));
        assert!(say("bad:manners").contains("ignores-edge"));
        assert!(say("exec:").contains("exec:COMMAND"));
    }
}
