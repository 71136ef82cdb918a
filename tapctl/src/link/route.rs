//! Routes with the metrics TCP reads from them, in the words of `ip route`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use netlink_packet_route::route::RouteMetric;

use super::LinkError;

/// An address with its prefix length, as `10.0.0.1/24`; host bits are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    prefix_len: u8,
}

impl Cidr {
    /// From its parts.
    pub fn new(address: IpAddr, prefix_len: u8) -> Result<Self, LinkError> {
        let most = if address.is_ipv4() { 32 } else { 128 };
        if prefix_len > most {
            return Err(LinkError::Cidr { text: format!("{address}/{prefix_len}") });
        }
        Ok(Self { address, prefix_len })
    }

    /// One single address.
    pub const fn host(address: IpAddr) -> Self {
        let prefix_len = if address.is_ipv4() { 32 } else { 128 };
        Self { address, prefix_len }
    }

    /// `0.0.0.0/0`.
    pub const DEFAULT_V4: Self = Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), prefix_len: 0 };
    /// `::/0`.
    pub const DEFAULT_V6: Self = Self { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), prefix_len: 0 };

    /// The address, host bits included.
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// The prefix length.
    pub const fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    /// The same prefix with the host bits cleared, as routes need it.
    pub fn network(self) -> Self {
        let address = match self.address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(u32::from(32 - self.prefix_len.min(32))).unwrap_or(0);
                IpAddr::V4((u32::from(v4) & mask).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(u32::from(128 - self.prefix_len.min(128))).unwrap_or(0);
                IpAddr::V6((u128::from(v6) & mask).into())
            }
        };
        Self { address, prefix_len: self.prefix_len }
    }
}

impl FromStr for Cidr {
    type Err = LinkError;

    /// Reads `10.0.0.1/24`, `2001:db8::1/64` or a bare address.
    fn from_str(text: &str) -> Result<Self, LinkError> {
        let bad = || LinkError::Cidr { text: text.to_owned() };
        match text.split_once('/') {
            None => Ok(Self::host(text.parse().map_err(|_| bad())?)),
            Some((address, prefix_len)) => {
                Self::new(address.parse().map_err(|_| bad())?, prefix_len.parse().map_err(|_| bad())?)
            }
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

/// A metric with a number for a value (`RTAX_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Metric {
    /// Path MTU.
    Mtu,
    /// Largest window to advertise to peers, in bytes.
    Window,
    /// Initial round-trip estimate, in eighths of a millisecond.
    Rtt,
    /// Its variance, in quarters of a millisecond.
    RttVar,
    /// Initial slow-start threshold of our sender.
    SsThresh,
    /// Clamp of our congestion window.
    Cwnd,
    /// MSS to advertise to peers.
    Advmss,
    /// Initial reordering degree.
    Reordering,
    /// Hop limit.
    Hoplimit,
    /// Initial congestion window in segments.
    InitCwnd,
    /// Bit mask, see [`features`].
    Features,
    /// Least retransmission timeout, in milliseconds.
    RtoMin,
    /// Initial receive window in segments.
    InitRwnd,
    /// Acknowledge at once.
    QuickAck,
    /// Allow Fast Open without a cookie.
    FastopenNoCookie,
}

/// Bits of [`Metric::Features`].
pub mod features {
    /// `RTAX_FEATURE_ECN`.
    pub const ECN: u32 = 1;
    /// `RTAX_FEATURE_TCP_USEC_TS` (Linux 6.7).
    pub const TCP_USEC_TS: u32 = 16;
}

/// Name in `ip route`, number in `rtnetlink.h`.
const METRICS: [(Metric, &str, u16); 15] = [
    (Metric::Mtu, "mtu", 2),
    (Metric::Window, "window", 3),
    (Metric::Rtt, "rtt", 4),
    (Metric::RttVar, "rttvar", 5),
    (Metric::SsThresh, "ssthresh", 6),
    (Metric::Cwnd, "cwnd", 7),
    (Metric::Advmss, "advmss", 8),
    (Metric::Reordering, "reordering", 9),
    (Metric::Hoplimit, "hoplimit", 10),
    (Metric::InitCwnd, "initcwnd", 11),
    (Metric::Features, "features", 12),
    (Metric::RtoMin, "rto_min", 13),
    (Metric::InitRwnd, "initrwnd", 14),
    (Metric::QuickAck, "quickack", 15),
    (Metric::FastopenNoCookie, "fastopen_no_cookie", 17),
];

const RTAX_CC_ALGO: u16 = 16;

impl Metric {
    /// The name `ip route` uses.
    pub fn name(self) -> &'static str {
        self.row().map_or("", |row| row.1)
    }

    fn number(self) -> u16 {
        self.row().map_or(0, |row| row.2)
    }

    fn row(self) -> Option<&'static (Self, &'static str, u16)> {
        METRICS.iter().find(|row| row.0 == self)
    }

    fn from_name(name: &str) -> Option<Self> {
        METRICS.iter().find(|row| row.1 == name).map(|row| row.0)
    }
}

/// One metric's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Value {
    metric: Metric,
    value: u32,
    locked: bool,
}

/// The metrics of a route. Unset ones keep the kernel's default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteMetrics {
    values: Vec<Value>,
    congctl: Option<(String, bool)>,
}

impl RouteMetrics {
    /// No metric set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets one metric.
    #[must_use]
    pub fn with(mut self, metric: Metric, value: u32) -> Self {
        self.set(metric, value, false);
        self
    }

    /// Sets one metric and locks it, so that the kernel does not adapt it (path MTU discovery, for one).
    #[must_use]
    pub fn with_locked(mut self, metric: Metric, value: u32) -> Self {
        self.set(metric, value, true);
        self
    }

    /// Chooses the congestion control of connections over this route.
    #[must_use]
    pub fn with_congctl(mut self, name: impl Into<String>) -> Self {
        self.congctl = Some((name.into(), false));
        self
    }

    /// A metric's value, if set.
    pub fn get(&self, metric: Metric) -> Option<u32> {
        self.values.iter().find(|value| value.metric == metric).map(|value| value.value)
    }

    /// Is the metric locked?
    pub fn is_locked(&self, metric: Metric) -> bool {
        self.values.iter().any(|value| value.metric == metric && value.locked)
    }

    /// The congestion control, if set.
    pub fn congctl(&self) -> Option<&str> {
        self.congctl.as_ref().map(|(name, _)| name.as_str())
    }

    /// Set metrics with their values, in the kernel's order.
    pub fn iter(&self) -> impl Iterator<Item = (Metric, u32)> + '_ {
        self.values.iter().map(|value| (value.metric, value.value))
    }

    /// Is nothing set?
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.congctl.is_none()
    }

    fn set(&mut self, metric: Metric, value: u32, locked: bool) {
        self.values.retain(|old| old.metric != metric);
        self.values.push(Value { metric, value, locked });
        self.values.sort_by_key(|value| value.metric.number());
    }

    pub(super) fn to_netlink(&self) -> Vec<RouteMetric> {
        let mut lock = 0u32;
        let mut out = Vec::new();
        for value in &self.values {
            if value.locked {
                lock |= 1 << value.metric.number();
            }
            out.push(netlink_metric(value.metric, value.value));
        }
        if let Some((name, locked)) = &self.congctl {
            if *locked {
                lock |= 1 << RTAX_CC_ALGO;
            }
            out.push(RouteMetric::CcAlgo(name.clone()));
        }
        if lock != 0 {
            out.insert(0, RouteMetric::Lock(lock));
        }
        out
    }

    pub(super) fn from_netlink(metrics: &[RouteMetric]) -> Self {
        let mut out = Self::default();
        let lock = metrics.iter().find_map(|metric| match metric {
            RouteMetric::Lock(mask) => Some(*mask),
            _ => None,
        });
        let locked = |number: u16| lock.unwrap_or(0) & (1 << number) != 0;
        for metric in metrics {
            if let RouteMetric::CcAlgo(name) = metric {
                out.congctl = Some((name.clone(), locked(RTAX_CC_ALGO)));
            } else if let Some((metric, value)) = our_metric(metric) {
                out.set(metric, value, locked(metric.number()));
            }
        }
        out
    }
}

fn netlink_metric(metric: Metric, value: u32) -> RouteMetric {
    match metric {
        Metric::Mtu => RouteMetric::Mtu(value),
        Metric::Window => RouteMetric::Window(value),
        Metric::Rtt => RouteMetric::Rtt(value),
        Metric::RttVar => RouteMetric::RttVar(value),
        Metric::SsThresh => RouteMetric::SsThresh(value),
        Metric::Cwnd => RouteMetric::Cwnd(value),
        Metric::Advmss => RouteMetric::Advmss(value),
        Metric::Reordering => RouteMetric::Reordering(value),
        Metric::Hoplimit => RouteMetric::Hoplimit(value),
        Metric::InitCwnd => RouteMetric::InitCwnd(value),
        Metric::Features => RouteMetric::Features(value),
        Metric::RtoMin => RouteMetric::RtoMin(value),
        Metric::InitRwnd => RouteMetric::InitRwnd(value),
        Metric::QuickAck => RouteMetric::QuickAck(value),
        Metric::FastopenNoCookie => RouteMetric::FastopenNoCookie(value),
    }
}

fn our_metric(metric: &RouteMetric) -> Option<(Metric, u32)> {
    Some(match metric {
        RouteMetric::Mtu(value) => (Metric::Mtu, *value),
        RouteMetric::Window(value) => (Metric::Window, *value),
        RouteMetric::Rtt(value) => (Metric::Rtt, *value),
        RouteMetric::RttVar(value) => (Metric::RttVar, *value),
        RouteMetric::SsThresh(value) => (Metric::SsThresh, *value),
        RouteMetric::Cwnd(value) => (Metric::Cwnd, *value),
        RouteMetric::Advmss(value) => (Metric::Advmss, *value),
        RouteMetric::Reordering(value) => (Metric::Reordering, *value),
        RouteMetric::Hoplimit(value) => (Metric::Hoplimit, *value),
        RouteMetric::InitCwnd(value) => (Metric::InitCwnd, *value),
        RouteMetric::Features(value) => (Metric::Features, *value),
        RouteMetric::RtoMin(value) => (Metric::RtoMin, *value),
        RouteMetric::InitRwnd(value) => (Metric::InitRwnd, *value),
        RouteMetric::QuickAck(value) => (Metric::QuickAck, *value),
        RouteMetric::FastopenNoCookie(value) => (Metric::FastopenNoCookie, *value),
        _ => return None,
    })
}

impl fmt::Display for RouteMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        for Value { metric, value, locked } in &self.values {
            let lock = if *locked { "lock " } else { "" };
            let shown = match metric {
                Metric::RtoMin => format!("{value}ms"),
                Metric::Features => feature_words(*value),
                _ => value.to_string(),
            };
            words.push(format!("{} {lock}{shown}", metric.name()));
        }
        if let Some((name, locked)) = &self.congctl {
            words.push(format!("congctl {}{name}", if *locked { "lock " } else { "" }));
        }
        f.write_str(&words.join(" "))
    }
}

fn feature_words(mask: u32) -> String {
    let known = [(features::ECN, "ecn"), (features::TCP_USEC_TS, "tcp_usec_ts")];
    let rest = known.iter().fold(mask, |rest, (bit, _)| rest & !bit);
    let mut words: Vec<String> =
        known.iter().filter(|(bit, _)| mask & bit != 0).map(|(_, word)| (*word).to_owned()).collect();
    if rest != 0 || words.is_empty() {
        words.push(rest.to_string());
    }
    words.join(" features ")
}

/// A route of the main table, or of [`Route::table`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to; host bits are ignored.
    pub destination: Cidr,
    /// `via`.
    pub gateway: Option<IpAddr>,
    /// `dev`.
    pub device: Option<String>,
    /// `src`.
    pub source: Option<IpAddr>,
    /// `metric`, the priority among equal prefixes.
    pub priority: Option<u32>,
    /// `table`; `None` is the main table.
    pub table: Option<u32>,
    /// What TCP reads from the route.
    pub metrics: RouteMetrics,
}

impl Route {
    /// A route to a prefix with nothing else said.
    pub fn to(destination: Cidr) -> Self {
        Self {
            destination,
            gateway: None,
            device: None,
            source: None,
            priority: None,
            table: None,
            metrics: RouteMetrics::new(),
        }
    }

    /// Through a gateway.
    #[must_use]
    pub fn via(mut self, gateway: IpAddr) -> Self {
        self.gateway = Some(gateway);
        self
    }

    /// Through a device.
    #[must_use]
    pub fn dev(mut self, device: impl Into<String>) -> Self {
        self.device = Some(device.into());
        self
    }

    /// With these metrics.
    #[must_use]
    pub fn metrics(mut self, metrics: RouteMetrics) -> Self {
        self.metrics = metrics;
        self
    }
}

impl FromStr for Route {
    type Err = LinkError;

    /// Reads what `ip route add` takes: `PREFIX|default [via ADDR] [dev NAME] [src ADDR] [metric N] [table N]`
    /// and any of `mtu window rtt rttvar ssthresh cwnd advmss reordering hoplimit initcwnd features rto_min
    /// initrwnd quickack fastopen_no_cookie congctl`, each with `lock` before its value if wanted. `rto_min`
    /// takes `200ms` or `1s`; `features` takes `ecn`, `tcp_usec_ts` or a number.
    fn from_str(text: &str) -> Result<Self, LinkError> {
        let bad = |word: &str, fix: &str| LinkError::RouteSpec {
            text: text.to_owned(),
            word: word.to_owned(),
            fix: fix.to_owned(),
        };
        let mut words = text.split_whitespace();
        let first = words
            .next()
            .ok_or_else(|| bad("", "write PREFIX via GATEWAY, as in 10.1.0.0/16 via 10.0.0.2"))?;
        let mut destination = match first {
            "default" => None,
            prefix => Some(
                prefix
                    .parse::<Cidr>()
                    .map_err(|_| bad(prefix, "start with a prefix such as 10.1.0.0/16, or default"))?,
            ),
        };
        let mut route = Self::to(Cidr::DEFAULT_V4);
        while let Some(key) = words.next() {
            let mut value = words.next().ok_or_else(|| bad(key, "give it a value"))?;
            let locked = value == "lock";
            if locked {
                value = words.next().ok_or_else(|| bad(key, "give a value after lock"))?;
            }
            let number =
                || value.parse::<u32>().map_err(|_| bad(value, &format!("give {key} a whole number")));
            let address =
                || value.parse::<IpAddr>().map_err(|_| bad(value, &format!("give {key} an IP address")));
            if locked && Metric::from_name(key).is_none() && key != "congctl" {
                return Err(bad(key, "lock goes with a TCP metric only"));
            }
            match key {
                "via" => route.gateway = Some(address()?),
                "src" => route.source = Some(address()?),
                "dev" => route.device = Some(value.to_owned()),
                "metric" | "priority" => route.priority = Some(number()?),
                "table" => route.table = Some(number()?),
                // The kernel's limit is TCP_CA_NAME_MAX with its zero.
                "congctl" if value.len() < 16 => route.metrics.congctl = Some((value.to_owned(), locked)),
                "congctl" => return Err(bad(value, "a congestion control has at most 15 letters")),
                "rto_min" => {
                    let ms = milliseconds(value)
                        .ok_or_else(|| bad(value, "give rto_min a time such as 200ms or 1s"))?;
                    route.metrics.set(Metric::RtoMin, ms, locked);
                }
                "features" => {
                    let bit = match value {
                        "ecn" => features::ECN,
                        "tcp_usec_ts" => features::TCP_USEC_TS,
                        _ => number().map_err(|_| bad(value, "features are ecn, tcp_usec_ts or a number"))?,
                    };
                    let so_far = route.metrics.get(Metric::Features).unwrap_or(0);
                    route.metrics.set(Metric::Features, so_far | bit, locked);
                }
                _ => match Metric::from_name(key) {
                    Some(metric) => route.metrics.set(metric, number()?, locked),
                    None => return Err(bad(key, "unknown word; see `ip route help`")),
                },
            }
        }
        let one = destination.take().map(|cidr| cidr.network());
        route.destination = one.unwrap_or(match route.gateway.or(route.source) {
            Some(IpAddr::V6(_)) => Cidr::DEFAULT_V6,
            _ => Cidr::DEFAULT_V4,
        });
        let is_v4 = route.destination.address().is_ipv4();
        for other in [route.gateway, route.source].into_iter().flatten() {
            if other.is_ipv4() != is_v4 {
                return Err(bad(&other.to_string(), "use one address family in a route"));
            }
        }
        Ok(route)
    }
}

fn milliseconds(text: &str) -> Option<u32> {
    if let Some(ms) = text.strip_suffix("ms") {
        return ms.parse().ok();
    }
    if let Some(seconds) = text.strip_suffix('s') {
        return seconds.parse::<u32>().ok()?.checked_mul(1000);
    }
    text.parse().ok()
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.destination.prefix_len() == 0 {
            f.write_str("default")?;
        } else {
            write!(f, "{}", self.destination)?;
        }
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if let Some(device) = &self.device {
            write!(f, " dev {device}")?;
        }
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        if let Some(priority) = self.priority {
            write!(f, " metric {priority}")?;
        }
        if let Some(table) = self.table {
            write!(f, " table {table}")?;
        }
        if !self.metrics.is_empty() {
            write!(f, " {}", self.metrics)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidr() {
        let cidr: Cidr = "10.1.2.3/8".parse().unwrap();
        assert_eq!(cidr.network().to_string(), "10.0.0.0/8");
        assert_eq!("10.1.2.3".parse::<Cidr>().unwrap().prefix_len(), 32);
        assert_eq!("2001:db8::ff/64".parse::<Cidr>().unwrap().network().to_string(), "2001:db8::/64");
        assert_eq!("1.2.3.4/0".parse::<Cidr>().unwrap().network(), Cidr::DEFAULT_V4);
        for bad in ["", "10.0.0.1/33", "::1/129", "10.0.0.1/", "x/8", "10.0.0.1/-1"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn route_as_ip_route_writes_it() {
        let text = "10.1.0.0/16 via 10.0.0.2 dev re0 metric 5 mtu lock 1400 window 60000 advmss 1000 \
                    initcwnd 20 features ecn rto_min 200ms initrwnd 40 quickack 1 congctl reno";
        let route: Route = text.parse().unwrap();
        assert_eq!(route.to_string(), text);
        assert_eq!(route.metrics.get(Metric::InitRwnd), Some(40));
        assert!(route.metrics.is_locked(Metric::Mtu) && !route.metrics.is_locked(Metric::Window));
        let netlink = route.metrics.to_netlink();
        assert_eq!(netlink.first(), Some(&RouteMetric::Lock(1 << 2)));
        assert_eq!(RouteMetrics::from_netlink(&netlink), route.metrics);
    }

    #[test]
    fn default_takes_the_family_of_its_gateway() {
        assert_eq!("default via fe80::1".parse::<Route>().unwrap().destination, Cidr::DEFAULT_V6);
        assert_eq!("default dev re0".parse::<Route>().unwrap().destination, Cidr::DEFAULT_V4);
    }

    #[test]
    fn wrong_routes_name_the_word() {
        for (text, word) in [
            ("", ""),
            ("nonsense", "nonsense"),
            ("10.0.0.0/8 via", "via"),
            ("10.0.0.0/8 via x", "x"),
            ("10.0.0.0/8 initcwnd ten", "ten"),
            ("10.0.0.0/8 initcwnd 4294967296", "4294967296"),
            ("10.0.0.0/8 mtu lock", "mtu"),
            ("10.0.0.0/8 via lock 10.0.0.1", "via"),
            ("10.0.0.0/8 frobnicate 1", "frobnicate"),
            ("10.0.0.0/8 rto_min 5000000s", "5000000s"),
            ("10.0.0.0/8 via ::1", "::1"),
            ("10.0.0.0/8 congctl sixteen_letters_", "sixteen_letters_"),
        ] {
            match text.parse::<Route>() {
                Err(LinkError::RouteSpec { word: named, .. }) => assert_eq!(named, word, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn every_metric_has_its_name_and_number() {
        for (metric, name, number) in METRICS {
            assert_eq!((metric.name(), metric.number()), (name, number));
            assert_eq!(our_metric(&netlink_metric(metric, 7)), Some((metric, 7)));
        }
    }
}
