//! What a kernel's configuration changes in what a receiver can be seen to do.

use std::collections::BTreeMap;

use rightedge_stack::profile::KernelBuild;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Constants of a kernel build and how each was come by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BuildFacts {
    /// CONFIG_HZ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hz: Option<u32>,
    /// MAX_HEADER, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_header: Option<u32>,
    /// NET_IP_ALIGN, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net_ip_align: Option<u32>,
    /// CONFIG_MAX_SKB_FRAGS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_skb_frags: Option<u32>,
    /// Where each comes from: "measured", or the file that says so.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub from: BTreeMap<String, String>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl BuildFacts {
    /// `build` with what is known here put in.
    #[must_use]
    pub fn apply(&self, build: KernelBuild) -> KernelBuild {
        KernelBuild {
            hz: self.hz.unwrap_or(build.hz),
            max_header: self.max_header.unwrap_or(build.max_header),
            net_ip_align: self.net_ip_align.unwrap_or(build.net_ip_align),
            max_skb_frags: self.max_skb_frags.unwrap_or(build.max_skb_frags),
        }
    }
}
