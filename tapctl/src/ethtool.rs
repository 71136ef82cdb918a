//! A device's own offload switches, as `ethtool -k` and `-K` show them.
//!
//! They bound what the device may do whatever was asked when it was opened: with `tso` off here, a TAP with
//! TSO still sees wire-sized frames.

use std::io;
use std::os::fd::AsFd as _;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::sys;

// include/uapi/linux/ethtool.h: the ETHTOOL_G*/ETHTOOL_S* pairs.
const RX_CSUM: (u32, u32) = (0x14, 0x15);
const TX_CSUM: (u32, u32) = (0x16, 0x17);
const SG: (u32, u32) = (0x18, 0x19);
const TSO: (u32, u32) = (0x1e, 0x1f);
const GSO: (u32, u32) = (0x23, 0x24);
const GRO: (u32, u32) = (0x2b, 0x2c);

/// One switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Feature {
    /// rx-checksumming.
    RxCsum,
    /// tx-checksumming.
    TxCsum,
    /// scatter-gather; TSO and GSO need it.
    Sg,
    /// tcp-segmentation-offload.
    Tso,
    /// generic-segmentation-offload.
    Gso,
    /// generic-receive-offload.
    Gro,
}

/// Every [`Feature`], in an order in which they can be switched on.
pub const FEATURES: [Feature; 6] =
    [Feature::RxCsum, Feature::TxCsum, Feature::Sg, Feature::Tso, Feature::Gso, Feature::Gro];

impl Feature {
    /// The name `ethtool -K` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RxCsum => "rx",
            Self::TxCsum => "tx",
            Self::Sg => "sg",
            Self::Tso => "tso",
            Self::Gso => "gso",
            Self::Gro => "gro",
        }
    }

    const fn commands(self) -> (u32, u32) {
        match self {
            Self::RxCsum => RX_CSUM,
            Self::TxCsum => TX_CSUM,
            Self::Sg => SG,
            Self::Tso => TSO,
            Self::Gso => GSO,
            Self::Gro => GRO,
        }
    }
}

/// All switches of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceFeatures {
    /// rx-checksumming.
    pub rx_csum: bool,
    /// tx-checksumming.
    pub tx_csum: bool,
    /// scatter-gather.
    pub sg: bool,
    /// tcp-segmentation-offload.
    pub tso: bool,
    /// generic-segmentation-offload.
    pub gso: bool,
    /// generic-receive-offload.
    pub gro: bool,
}

/// Why a switch could not be read or set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EthtoolError {
    /// No socket to ask through.
    #[error("ethtool: no socket to ask through ({source}); check the limit on open files")]
    Socket {
        /// What the kernel said.
        source: io::Error,
    },
    /// Reading failed.
    #[error("device {device:?}: reading {feature} failed ({source}); check the name and the namespace")]
    Read {
        /// The device.
        device: String,
        /// The switch.
        feature: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Setting failed.
    #[error(
        "device {device:?}: setting {feature} to {value} refused ({source}); it needs CAP_NET_ADMIN and a device that has the switch"
    )]
    Write {
        /// The device.
        device: String,
        /// The switch.
        feature: &'static str,
        /// The value.
        value: bool,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel took the call but not the value.
    #[error(
        "device {device:?}: {feature} stayed {stayed}; the driver fixes it, or another switch it needs is off"
    )]
    Stuck {
        /// The device.
        device: String,
        /// The switch.
        feature: &'static str,
        /// What it still is.
        stayed: bool,
    },
}

/// Reads one switch of a device in the calling thread's namespace.
pub fn get(device: &str, feature: Feature) -> Result<bool, EthtoolError> {
    let socket = socket()?;
    sys::ethtool_value(socket.as_fd(), device, feature.commands().0, 0)
        .map(|value| value != 0)
        .map_err(|source| EthtoolError::Read { device: device.to_owned(), feature: feature.name(), source })
}

/// Sets one switch and checks that it took.
pub fn set(device: &str, feature: Feature, value: bool) -> Result<(), EthtoolError> {
    let socket = socket()?;
    sys::ethtool_value(socket.as_fd(), device, feature.commands().1, u32::from(value)).map_err(|source| {
        EthtoolError::Write { device: device.to_owned(), feature: feature.name(), value, source }
    })?;
    let now = get(device, feature)?;
    if now == value {
        Ok(())
    } else {
        Err(EthtoolError::Stuck { device: device.to_owned(), feature: feature.name(), stayed: now })
    }
}

/// Reads all switches.
pub fn features(device: &str) -> Result<DeviceFeatures, EthtoolError> {
    Ok(DeviceFeatures {
        rx_csum: get(device, Feature::RxCsum)?,
        tx_csum: get(device, Feature::TxCsum)?,
        sg: get(device, Feature::Sg)?,
        tso: get(device, Feature::Tso)?,
        gso: get(device, Feature::Gso)?,
        gro: get(device, Feature::Gro)?,
    })
}

fn socket() -> Result<std::os::fd::OwnedFd, EthtoolError> {
    rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| EthtoolError::Socket { source: errno.into() })
}
