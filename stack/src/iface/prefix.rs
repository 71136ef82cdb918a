//! An address with the length of its network's prefix.

use core::{fmt, net::IpAddr, str::FromStr};

/// An address of ours and the network it is in, written `10.0.0.1/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// The address.
    addr: IpAddr,
    /// Leading bits that name the network.
    len: u8,
}

/// Not an address with a prefix length.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address with a prefix length: {0:?}")]
pub struct PrefixError(
    /// What was given instead.
    pub String,
);

impl Prefix {
    /// `addr` in a network of which the first `len` bits are the name; more bits than there are means all of them.
    #[must_use]
    pub fn new(addr: IpAddr, len: u8) -> Self {
        Prefix { addr, len: len.min(bits(addr)) }
    }

    /// The address.
    #[must_use]
    pub fn addr(&self) -> IpAddr {
        self.addr
    }

    /// Leading bits that name the network.
    #[must_use]
    pub fn prefix_len(&self) -> u8 {
        self.len
    }

    /// In the same network.
    #[must_use]
    pub fn contains(&self, other: IpAddr) -> bool {
        match (self.addr, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                (a.to_bits() ^ b.to_bits()).leading_zeros() >= u32::from(self.len)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                (a.to_bits() ^ b.to_bits()).leading_zeros() >= u32::from(self.len)
            }
            _ => false,
        }
    }

    /// The network's broadcast address, or its first address, which old hosts use for the same (RFC 1122 §3.3.6).
    #[must_use]
    pub fn is_broadcast(&self, other: IpAddr) -> bool {
        let (IpAddr::V4(_), IpAddr::V4(b)) = (self.addr, other) else { return false };
        // RFC 3021: a network of two has no broadcast address.
        if self.len >= 31 || !self.contains(other) {
            return false;
        }
        let host = u32::MAX >> self.len;
        b.to_bits() & host == host || b.to_bits() & host == 0
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// `address/length`, or an address alone, which is then a network of its own.
    fn from_str(s: &str) -> Result<Self, PrefixError> {
        let wrong = || PrefixError(s.to_owned());
        let (addr, len) = match s.split_once('/') {
            Some((addr, len)) => (addr, Some(len.parse().map_err(|_| wrong())?)),
            None => (s, None),
        };
        let addr: IpAddr = addr.parse().map_err(|_| wrong())?;
        let len = len.unwrap_or_else(|| bits(addr));
        if len > bits(addr) {
            return Err(wrong());
        }
        Ok(Prefix { addr, len })
    }
}

fn bits(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}
