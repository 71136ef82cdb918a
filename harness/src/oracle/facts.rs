//! What a kernel's configuration changes in what a receiver can be seen to do.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rightedge_stack::nic::{self, Driver, FrameShape};
use rightedge_stack::profile::{KernelBuild, Profile};
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

    /// What the configuration of the kernel we run on says, wherever it lies; empty if it lies nowhere.
    #[must_use]
    pub fn detect() -> Self {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let packed = Path::new("/proc/config.gz");
        let plain = [
            PathBuf::from(format!("/boot/config-{release}")),
            PathBuf::from(format!("/lib/modules/{release}/config")),
        ];
        if let Some(text) = unpack(packed) {
            return Self::from_config(&text, &release, "/proc/config.gz");
        }
        for path in plain {
            if let Ok(text) = std::fs::read_to_string(&path) {
                return Self::from_config(&text, &release, &path.display().to_string());
            }
        }
        Self::default()
    }

    /// From the text of a kernel configuration; `file` is where it was found.
    #[must_use]
    pub fn from_config(text: &str, release: &str, file: &str) -> Self {
        let set: BTreeMap<&str, &str> = text
            .lines()
            .filter_map(|l| l.trim().strip_prefix("CONFIG_")?.split_once('='))
            .map(|(k, v)| (k, v.trim()))
            .collect();
        let is = |k: &str| set.get(k) == Some(&"y");
        let enabled = |k: &str| matches!(set.get(k), Some(&("y" | "m")));
        let number = |k: &str| set.get(k).and_then(|v| v.parse::<u32>().ok());
        let mut facts = BuildFacts::default();
        if set.is_empty() {
            return facts;
        }
        // LL_MAX_HEADER and MAX_HEADER of linux/netdevice.h. AX.25 counts before 7.0.
        let radio = is("WLAN") || (major(release) < 7 && enabled("AX25"));
        let link = if is("HYPERV_NET") || (radio && is("MAC80211_MESH")) {
            128
        } else if radio {
            96
        } else {
            32
        };
        let tunnels = ["NET_IPIP", "NET_IPGRE", "IPV6_SIT", "IPV6_TUNNEL"].into_iter().any(enabled);
        facts.max_header = Some(link + if tunnels { 48 } else { 0 });
        facts.hz = number("HZ").filter(|hz| (1..=10_000).contains(hz));
        // An option since 6.4; 17 with pages of 4 KiB before.
        facts.max_skb_frags = Some(number("MAX_SKB_FRAGS").unwrap_or(17));
        // NET_IP_ALIGN is 2 unless an architecture says otherwise; user-mode-linux does not, whatever it runs on.
        let aligned = ["X86", "ARM64", "PPC"].into_iter().any(is) && !is("UML");
        facts.net_ip_align = Some(if aligned { 0 } else { 2 });
        for key in ["hz", "max_header", "net_ip_align", "max_skb_frags"] {
            let source =
                if key == "net_ip_align" { format!("architecture in {file}") } else { file.to_owned() };
            facts.from.insert(key.to_owned(), source);
        }
        if facts.hz.is_none() {
            facts.from.remove("hz");
        }
        facts
    }

    /// Puts what was measured beside what the configuration says. Where they disagree the measurement is right, if it
    /// decides.
    pub fn measured(&mut self, hz: u32, ladder: &[Rung]) {
        let said = self.hz.replace(hz);
        let from = match said {
            Some(said) if said == hz => format!("{}, measured", self.source("hz")),
            Some(said) => format!("measured; {} says {said}", self.source("hz")),
            None => "measured".to_owned(),
        };
        self.from.insert("hz".to_owned(), from);
        if ladder.is_empty() {
            self.note_unknown("nothing measured");
            return;
        }
        let fits: Vec<KernelBuild> =
            candidates().filter(|(p, _)| explains(p, ladder)).map(|(_, build)| build).collect();
        if fits.is_empty() {
            self.note_unknown("no build explains the ladder measured");
            return;
        }
        // If the configuration explains all of it, it is right in what the ladder leaves open.
        let whole = fits.iter().any(|b| {
            (Some(b.max_header), Some(b.net_ip_align), Some(b.max_skb_frags))
                == (self.max_header, self.net_ip_align, self.max_skb_frags)
        });
        let all = |f: fn(&KernelBuild) -> u32| fits.iter().map(f).collect::<BTreeSet<u32>>();
        self.max_header = self.judge("max_header", self.max_header, &all(|b| b.max_header), whole);
        self.net_ip_align = self.judge("net_ip_align", self.net_ip_align, &all(|b| b.net_ip_align), whole);
        self.max_skb_frags =
            self.judge("max_skb_frags", self.max_skb_frags, &all(|b| b.max_skb_frags), whole);
    }

    fn judge(&mut self, key: &str, said: Option<u32>, fits: &BTreeSet<u32>, whole: bool) -> Option<u32> {
        let only = fits.first().copied().filter(|_| fits.len() == 1);
        let list = fits.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        let source = self.source(key);
        let (value, from) = match (said, only) {
            (Some(said), Some(only)) if said == only => (Some(said), format!("{source}, measured")),
            (Some(said), _) if whole => (Some(said), source),
            (Some(said), Some(only)) => (Some(only), format!("measured; {source} says {said}")),
            (Some(said), None) if fits.contains(&said) => (Some(said), source),
            (Some(said), None) => (None, format!("measured: one of {list}; {source} says {said}")),
            (None, Some(only)) => (Some(only), "measured".to_owned()),
            (None, None) => (None, format!("measured: one of {list}")),
        };
        self.from.insert(key.to_owned(), from);
        value
    }

    fn source(&self, key: &str) -> String {
        self.from.get(key).cloned().unwrap_or_else(|| "unknown".to_owned())
    }

    fn note_unknown(&mut self, why: &str) {
        for key in ["max_header", "net_ip_align", "max_skb_frags"] {
            let from = match self.from.get(key) {
                Some(from) => format!("{from}; {why}"),
                None => format!("unknown: {why}"),
            };
            self.from.insert(key.to_owned(), from);
        }
    }
}

/// What one segment without timestamps was charged on its way through a blocking TAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rung {
    /// Bytes of payload.
    pub payload: u32,
    /// Charged memory (truesize), bytes.
    pub charged: u32,
}

/// The longest payload that fits an Ethernet frame of 1500 bytes.
const LONGEST: u32 = 1460;

/// Payload lengths worth measuring: both sides of every step that some build has.
#[must_use]
pub fn rungs() -> Vec<u32> {
    let mut lengths = BTreeSet::new();
    for (profile, _) in candidates() {
        let mut before = charge(&profile, 1);
        for n in 2..=LONGEST {
            let now = charge(&profile, n);
            if now != before {
                lengths.extend([n - 1, n]);
            }
            before = now;
        }
    }
    lengths.into_iter().collect()
}

/// Every build there may be, under both ways of allocating heads.
fn candidates() -> impl Iterator<Item = (Profile, KernelBuild)> {
    let base = [Profile::linux_6_1(), Profile::linux_6_18()];
    base.into_iter().flat_map(|profile| {
        [32, 80, 96, 128, 144, 176].into_iter().flat_map(move |max_header| {
            let profile = profile.clone();
            [0, 2].into_iter().flat_map(move |net_ip_align| {
                let profile = profile.clone();
                (17..=45).map(move |max_skb_frags| {
                    let hz = profile.build.hz;
                    let build = KernelBuild { hz, max_header, net_ip_align, max_skb_frags };
                    let mut profile = profile.clone();
                    profile.build = build;
                    (profile, build)
                })
            })
        })
    })
}

fn charge(profile: &Profile, payload: u32) -> u32 {
    let shape = FrameShape { frame: payload + 54, headers: 54, payload, vnet_hdr_len: 0 };
    nic::layout(Driver::TapAlloc, profile, &shape).truesize
}

fn explains(profile: &Profile, ladder: &[Rung]) -> bool {
    ladder.iter().all(|r| charge(profile, r.payload) == r.charged)
}

fn unpack(path: &Path) -> Option<String> {
    /// More than any configuration has.
    const MOST: u64 = 8 << 20;
    let mut text = String::new();
    let file = std::fs::File::open(path).ok()?;
    flate2::read::GzDecoder::new(file).take(MOST).read_to_string(&mut text).ok()?;
    Some(text)
}

fn major(release: &str) -> u32 {
    release.split('.').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str =
        "# Linux\nCONFIG_X86=y\nCONFIG_HZ=250\n# CONFIG_WLAN is not set\nCONFIG_HYPERV_NET=m\n";

    fn header(more: &str, release: &str) -> Option<u32> {
        BuildFacts::from_config(&format!("{CONFIG}{more}"), release, "f").max_header
    }

    fn ladder(profile: &Profile) -> Vec<Rung> {
        rungs().into_iter().map(|payload| Rung { payload, charged: charge(profile, payload) }).collect()
    }

    #[test]
    fn a_configuration_says_it() {
        let f = BuildFacts::from_config(CONFIG, "6.18.1", "f");
        assert_eq!((f.hz, f.net_ip_align, f.max_skb_frags), (Some(250), Some(0), Some(17)));
        assert_eq!((f.max_header, f.from["hz"].as_str()), (Some(32), "f"));
        assert_eq!(header("CONFIG_IPV6_SIT=m\n", "6.18"), Some(80));
        assert_eq!(header("CONFIG_AX25=m\n", "6.18"), Some(96));
        assert_eq!(header("CONFIG_AX25=m\n", "7.1"), Some(32));
        assert_eq!(header("CONFIG_WLAN=y\nCONFIG_MAC80211_MESH=y\nCONFIG_NET_IPIP=m\n", "6.12"), Some(176));
        assert_eq!(header("CONFIG_HYPERV_NET=y\n", "6.12"), Some(128));
        let f = BuildFacts::from_config("CONFIG_UML=y\nCONFIG_X86=y\nCONFIG_MAX_SKB_FRAGS=45\n", "6.1", "f");
        assert_eq!((f.net_ip_align, f.max_skb_frags, f.hz), (Some(2), Some(45), None));
        assert_eq!(BuildFacts::from_config("nonsense\n", "", "f"), BuildFacts::default());
    }

    #[test]
    fn a_ladder_decides_what_it_can() {
        let mut f = BuildFacts::default();
        f.measured(250, &ladder(&Profile::linux_6_18()));
        assert_eq!((f.hz, f.max_header), (Some(250), Some(32)));
        assert_eq!((f.net_ip_align, f.max_skb_frags), (Some(0), Some(17)));
        assert_eq!(f.from["max_header"], "measured");
        // Without small heads the header reserve does not show.
        let mut f = BuildFacts::default();
        f.measured(100, &ladder(&Profile::parse("linux-6.1,net_ip_align=2").unwrap()));
        assert_eq!((f.net_ip_align, f.max_header), (Some(2), None));
        assert!(f.from["max_header"].contains("one of 32, 80"), "{}", f.from["max_header"]);
    }

    #[test]
    fn the_ladder_is_right() {
        let mut f = BuildFacts::from_config(CONFIG, "6.18", "f");
        f.measured(250, &ladder(&Profile::linux_6_18()));
        assert_eq!(f.from["max_header"], "f, measured");
        let mut f = BuildFacts::from_config(CONFIG, "6.18", "f");
        f.measured(1000, &ladder(&Profile::parse("linux-6.18,net_ip_align=2").unwrap()));
        assert_eq!((f.net_ip_align, f.hz), (Some(2), Some(1000)));
        assert_eq!(f.from["net_ip_align"], "measured; architecture in f says 0");
        let mut f = BuildFacts::from_config(CONFIG, "6.18", "f");
        f.measured(250, &[Rung { payload: 1, charged: 1 }]);
        assert_eq!(f.max_header, Some(32));
        assert!(f.from["max_header"].contains("no build explains"));
    }
}
