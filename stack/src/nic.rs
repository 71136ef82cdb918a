//! How an arriving frame becomes memory: driver models.
//!
//! The memory that Linux charges for a segment is decided before TCP sees it, by the driver that built the buffer. A
//! [`Driver`] says what one frame costs ([`Layout::truesize`]) and what later operations can do with it: how much tail
//! room its head has, whether payload lies in fragments, and whether the head can be *stolen* as a fragment by
//! coalescing. Formulas were measured on 6.1 and 6.18 for TUN and TAP; the others follow the drivers' buffer sizes.
//!
//! Answers to (Linux 6.1 and 6.18): `tun_build_skb`, `tun_alloc_skb`, `__alloc_skb`, `kmalloc_reserve`, `build_skb`,
//! `napi_alloc_skb`, virtio-net's `receive_mergeable`.

use crate::profile::{KernelBuild, Profile, SKB_DESCRIPTOR, SmallHead, TunLarge};

/// A driver model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Driver {
    /// A TAP descriptor that is non-blocking: page-fragment heads as long as the frame needs.
    TapBuild,
    /// A TAP descriptor that blocks: slab heads.
    TapAlloc,
    /// A TAP descriptor with virtio headers: headers linear as declared, payload in pages.
    TapVnet,
    /// A TUN descriptor: slab heads.
    Tun,
    /// TAP with NAPI fragments: headers in a small head, payload in exact fragments.
    NapiFrags,
    /// A NIC with 2 KiB half-page buffers.
    HalfPage,
    /// A NIC with 4 KiB buffers.
    Page4K,
    /// A NIC with 16 KiB buffers.
    Buf16K,
    /// A NIC with 32 KiB buffers.
    Buf32K,
    /// A NIC that splits headers into a small head and payload into a 4 KiB buffer.
    HeaderSplit,
    /// A NIC that copies small frames into fresh heads.
    Copybreak,
    /// virtio-net with mergeable buffers of one MTU.
    Virtio,
    /// Loopback or veth: the sender's own buffers, payload counted exactly.
    Veth,
    /// No overhead at all beyond the descriptor: the tightest any driver could be.
    Tight,
}

impl Driver {
    /// All models with their names and one line each.
    pub const ALL: &'static [(Driver, &'static str, &'static str)] = &[
        (Driver::TapBuild, "tap", "TAP, non-blocking descriptor: page-fragment heads"),
        (Driver::TapAlloc, "tap-blocking", "TAP, blocking descriptor: slab heads"),
        (Driver::TapVnet, "tap-vnet", "TAP with virtio headers: headers linear, payload in pages"),
        (Driver::Tun, "tun", "TUN: slab heads"),
        (Driver::NapiFrags, "napi-frags", "TAP with NAPI fragments: exact fragments"),
        (Driver::HalfPage, "half-page", "NIC with 2 KiB half-page buffers"),
        (Driver::Page4K, "page-4k", "NIC with 4 KiB buffers"),
        (Driver::Buf16K, "buf-16k", "NIC with 16 KiB buffers"),
        (Driver::Buf32K, "buf-32k", "NIC with 32 KiB buffers"),
        (Driver::HeaderSplit, "header-split", "NIC that splits headers from payload, 4 KiB payload buffers"),
        (Driver::Copybreak, "copybreak", "NIC that copies small frames into fresh heads"),
        (Driver::Virtio, "virtio", "virtio-net, mergeable buffers of one MTU"),
        (Driver::Veth, "veth", "loopback or veth: the sender's own buffers"),
        (Driver::Tight, "tight", "no overhead but the descriptor"),
    ];

    /// The model of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Driver> {
        Self::ALL.iter().find(|(_, n, _)| *n == name).map(|(d, _, _)| *d)
    }

    /// The model's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(d, _, _)| *d == self).map_or("?", |(_, n, _)| n)
    }
}

/// One frame as a driver sees it.
#[derive(Clone, Copy, Debug, Default)]
pub struct FrameShape {
    /// Bytes of the frame behind any virtio header.
    pub frame: u32,
    /// Bytes in front of the TCP payload.
    pub headers: u32,
    /// Bytes of TCP payload.
    pub payload: u32,
    /// hdr_len of the virtio header; 0 if none.
    pub vnet_hdr_len: u32,
}

/// What a frame costs and how its bytes lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Charged memory, bytes.
    pub truesize: u32,
    /// Usable bytes of the head ("end").
    pub end: u32,
    /// Payload bytes that lie in the head.
    pub headlen: u32,
    /// Free bytes behind the data in the head. Only a buffer without fragments can be appended to there.
    pub tailroom: u32,
    /// Fragments.
    pub nr_frags: u32,
    /// The head is a page fragment and can be stolen.
    pub head_frag: bool,
    /// The buffer is shared with its sender until acknowledged: it cannot be coalesced into.
    pub cloned: bool,
}

/// Bytes in front of a frame in a receive buffer (NET_SKB_PAD).
const PAD: u32 = 64;
const PAGE: u32 = 4096;
/// The largest head that stays within an order-0 page.
const GOOD_HEAD: u32 = PAGE - 320;

/// The usable size and the charged size of a slab head of `n` bytes.
pub(crate) fn slab_head(profile: &Profile, n: u32) -> (u32, u32) {
    let build = &profile.build;
    let si = build.shared_info();
    let want = align64(n) + si;
    let object = match profile.small_head {
        SmallHead::Fixed if want <= build.small_head() => build.small_head(),
        _ => size_class(want),
    };
    (object - si, object + SKB_DESCRIPTOR)
}

fn align64(n: u32) -> u32 {
    n.saturating_add(63) & !63
}

/// The allocator's size class for an object: powers of two with two steps between (96, 192), pages above 8 KiB.
fn size_class(n: u32) -> u32 {
    match n {
        0..=8 => 8,
        65..=96 => 96,
        129..=192 => 192,
        _ => n.checked_next_power_of_two().unwrap_or(1 << 31),
    }
}

/// The layout that `driver` gives to a frame.
#[must_use]
pub fn layout(driver: Driver, profile: &Profile, shape: &FrameShape) -> Layout {
    let build = &profile.build;
    match driver {
        Driver::TapBuild => tap_build(profile, shape),
        Driver::TapAlloc | Driver::TapVnet => tun_alloc(profile, shape, build.net_ip_align),
        Driver::Tun => tun_alloc(profile, shape, 0),
        Driver::NapiFrags => {
            let (end, ts) = napi_head(profile, build.max_header + 128);
            split(end, ts + shape.payload, shape, frags_of(shape.payload, PAGE))
        }
        Driver::HalfPage => page_head(build, shape, 2048),
        Driver::Page4K => page_head(build, shape, 4096),
        Driver::Buf16K => page_head(build, shape, 16_384),
        Driver::Buf32K => page_head(build, shape, 32_768),
        Driver::HeaderSplit => {
            let (end, ts) = napi_head(profile, 256);
            let buffers = frags_of(shape.payload, PAGE);
            split(end, ts + buffers * PAGE, shape, buffers)
        }
        Driver::Copybreak => {
            let (end, ts) = napi_head(profile, shape.frame);
            linear(end, ts, shape, PAD + shape.frame, true)
        }
        Driver::Virtio => virtio(build, shape),
        Driver::Veth => {
            let (end, ts) = slab_head(profile, build.max_tcp_header());
            let mut l = split(end, ts + shape.payload, shape, frags_of(shape.payload, 32_768));
            l.cloned = true;
            l
        }
        Driver::Tight => Layout {
            truesize: shape.payload.saturating_add(SKB_DESCRIPTOR),
            end: shape.payload,
            headlen: shape.payload,
            tailroom: 0,
            nr_frags: 0,
            head_frag: true,
            cloned: false,
        },
    }
}

fn frags_of(payload: u32, size: u32) -> u32 {
    payload.div_ceil(size)
}

fn linear(end: u32, truesize: u32, shape: &FrameShape, used: u32, head_frag: bool) -> Layout {
    Layout {
        truesize,
        end,
        headlen: shape.payload,
        tailroom: end.saturating_sub(used),
        nr_frags: 0,
        head_frag,
        cloned: false,
    }
}

fn split(end: u32, truesize: u32, shape: &FrameShape, nr_frags: u32) -> Layout {
    if shape.payload == 0 {
        return linear(end, truesize, shape, PAD + shape.frame, false);
    }
    let tailroom = end.saturating_sub(PAD + shape.headers);
    Layout { truesize, end, headlen: 0, tailroom, nr_frags, head_frag: false, cloned: false }
}

fn page_head(build: &KernelBuild, shape: &FrameShape, buffer: u32) -> Layout {
    let room = buffer - build.shared_info();
    let buffers = (PAD + shape.frame).div_ceil(room).max(1);
    if buffers == 1 {
        return linear(room, buffer + SKB_DESCRIPTOR, shape, PAD + shape.frame, true);
    }
    // A frame that spans buffers: the first is the head, the others are fragments.
    Layout {
        truesize: buffers * buffer + SKB_DESCRIPTOR,
        end: room,
        headlen: room.saturating_sub(PAD + shape.headers).min(shape.payload),
        tailroom: 0,
        nr_frags: buffers - 1,
        head_frag: true,
        cloned: false,
    }
}

/// `napi_alloc_skb`: small heads since 6.3, 1 KiB fragments before; larger ones from a page fragment or the slab.
fn napi_head(profile: &Profile, n: u32) -> (u32, u32) {
    let build = &profile.build;
    let si = build.shared_info();
    let want = align64(n.saturating_add(PAD));
    match profile.small_head {
        SmallHead::SizeClass if want <= 1024 - si => (1024 - si, 1024 + SKB_DESCRIPTOR),
        SmallHead::Fixed if want + si <= build.small_head() => {
            (build.small_head() - si, build.small_head() + SKB_DESCRIPTOR)
        }
        _ if want <= GOOD_HEAD => (want, want + si + SKB_DESCRIPTOR),
        _ => slab_head(profile, want),
    }
}

/// `tun_build_skb`: the frame is copied into a page fragment cut to its size; too large a frame takes the other path.
fn tap_build(profile: &Profile, shape: &FrameShape) -> Layout {
    let build = &profile.build;
    let pad = PAD + build.net_ip_align;
    let si = build.shared_info();
    // The fit is tested with room for an XDP headroom of 256 bytes, which is not allocated without a program.
    let fits = align64(shape.frame.saturating_add(pad + 256)).saturating_add(si) <= PAGE;
    if !fits {
        return tun_alloc(profile, shape, build.net_ip_align);
    }
    let end = align64(shape.frame + pad);
    linear(end, end + si + SKB_DESCRIPTOR, shape, pad + shape.frame, true)
}

/// `tun_alloc_skb`: a slab head, and pages for what does not go into it.
fn tun_alloc(profile: &Profile, shape: &FrameShape, align: u32) -> Layout {
    let pad = PAD + align;
    let f = shape.frame;
    let declared = shape.vnet_hdr_len.min(GOOD_HEAD - PAD - align);
    let head = if pad.saturating_add(f) < PAGE {
        f
    } else {
        match (profile.tun_large, declared) {
            (TunLarge::Linear, 0) => f,
            (TunLarge::HighOrder, 0) => f.min(GOOD_HEAD - PAD - align),
            (_, d) => d.min(f),
        }
    };
    let (end, head_ts) = slab_head(profile, pad.saturating_add(head));
    let paged = f - head;
    if paged == 0 {
        return linear(end, head_ts, shape, pad + f, false);
    }
    let (pages, nr_frags) = match profile.tun_large {
        TunLarge::Linear => (paged.div_ceil(PAGE).saturating_mul(PAGE), paged.div_ceil(PAGE)),
        TunLarge::HighOrder => high_order_pages(paged),
    };
    Layout {
        truesize: head_ts.saturating_add(pages),
        end,
        headlen: head.saturating_sub(shape.headers).min(shape.payload),
        tailroom: end.saturating_sub(pad.saturating_add(head)),
        nr_frags,
        head_frag: false,
        cloned: false,
    }
}

/// Pages of decreasing order, beginning with 32 KiB: bytes and number of fragments.
fn high_order_pages(mut left: u32) -> (u32, u32) {
    let (mut bytes, mut frags, mut size) = (0u32, 0u32, PAGE << 3);
    while left > 0 {
        while size > PAGE && left.div_ceil(PAGE).saturating_mul(PAGE) < size {
            size >>= 1;
        }
        bytes = bytes.saturating_add(size);
        frags += 1;
        left = left.saturating_sub(size);
    }
    (bytes, frags)
}

/// virtio-net with mergeable buffers sized for the frame at hand (the average of past lengths is taken to have settled).
fn virtio(build: &KernelBuild, shape: &FrameShape) -> Layout {
    const HEADER: u32 = 12;
    const COPY: u32 = 128;
    let si = build.shared_info();
    let buffer = align64(HEADER + shape.frame.clamp(1500, PAGE - HEADER));
    let tail = buffer.saturating_sub(HEADER + shape.frame);
    if shape.frame > COPY && tail >= si {
        let end = buffer - si;
        return linear(end, buffer + SKB_DESCRIPTOR, shape, HEADER + shape.frame, true);
    }
    let end = align64(COPY + PAD);
    if shape.frame <= COPY {
        return linear(end, build.truesize(end), shape, PAD + shape.frame, false);
    }
    let buffers = (HEADER + shape.frame).div_ceil(buffer).max(1);
    Layout {
        truesize: build.truesize(end) + buffers * buffer,
        end,
        headlen: 0,
        tailroom: 0,
        nr_frags: buffers,
        head_frag: false,
        cloned: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TCP payload with timestamps over IPv4, as in the measured tables.
    fn tap(payload: u32) -> FrameShape {
        FrameShape { frame: payload + 66, headers: 66, payload, vnet_hdr_len: 0 }
    }

    fn tun(payload: u32) -> FrameShape {
        FrameShape { frame: payload + 52, headers: 52, payload, vnet_hdr_len: 0 }
    }

    fn cost(d: Driver, p: &Profile, s: &FrameShape) -> u32 {
        layout(d, p, s).truesize
    }

    #[test]
    fn measured_on_6_18() {
        let p = Profile::linux_6_18();
        for (payload, want_tun, want_tap) in [
            (1, 832, 832),
            (76, 832, 832),
            (77, 832, 832),
            (140, 832, 1280),
            (141, 1280, 1280),
            (500, 1280, 1280),
            (800, 2304, 2304),
            (1448, 2304, 2304),
            (3596, 4352, 4352),
            (3661, 8448, 8448),
            (4044, 8448, 8448),
            (8000, 12_544, 12_544),
        ] {
            assert_eq!(cost(Driver::Tun, &p, &tun(payload)), want_tun, "TUN {payload}");
            assert_eq!(cost(Driver::TapAlloc, &p, &tap(payload)), want_tap, "TAP {payload}");
        }
    }

    #[test]
    fn measured_on_6_1() {
        let p = Profile::linux_6_1();
        for (payload, want) in [
            (1, 768),
            (76, 768),
            (77, 1280),
            (141, 1280),
            (500, 1280),
            (1448, 2304),
            (3661, 8448),
            (8000, 16_640),
        ] {
            assert_eq!(cost(Driver::Tun, &p, &tun(payload)), want, "TUN {payload}");
        }
        // user-mode-linux keeps two bytes for IP alignment: the steps come two bytes earlier.
        let uml = Profile::parse("linux-6.1,net_ip_align=2").unwrap();
        for (payload, want) in [(60, 768), (61, 1280), (572, 1280), (573, 2304), (3644, 4352), (3645, 8448)] {
            assert_eq!(cost(Driver::TapAlloc, &uml, &tap(payload)), want, "UML {payload}");
        }
        for (payload, want) in [(60, 768), (61, 832), (124, 832), (125, 896), (701, 1472)] {
            assert_eq!(cost(Driver::TapBuild, &uml, &tap(payload)), want, "UML build {payload}");
        }
    }

    #[test]
    fn build_path_charges_what_the_frame_needs() {
        let p = Profile::linux_6_18();
        for (payload, want) in [
            (1, 768),
            (76, 832),
            (140, 896),
            (500, 1216),
            (800, 1536),
            (1000, 1728),
            (1284, 2048),
            (1400, 2112),
            (1448, 2176),
        ] {
            let l = layout(Driver::TapBuild, &p, &tap(payload));
            assert_eq!(l.truesize, want, "{payload}");
            assert!(l.head_frag && l.tailroom < 64);
        }
        assert_eq!(layout(Driver::TapBuild, &p, &tap(3596)).truesize, 4352);
    }

    #[test]
    fn tail_room_of_slab_heads_as_measured() {
        // 13 segments of 10 bytes share a buffer on 6.18, 2 of 69, 1 of 70 (no timestamps).
        let p = Profile::linux_6_18();
        let room = |n: u32| {
            let s = FrameShape { frame: n + 54, headers: 54, payload: n, vnet_hdr_len: 0 };
            layout(Driver::TapAlloc, &p, &s).tailroom
        };
        assert_eq!((room(10) / 10, room(69) / 69, room(70) / 70), (12, 1, 0));
    }

    #[test]
    fn fragments_and_page_heads() {
        let p = Profile::linux_6_18();
        let l = layout(Driver::NapiFrags, &p, &tap(1448));
        assert_eq!((l.truesize, l.headlen, l.nr_frags), (832 + 1448, 0, 1));
        assert_eq!(cost(Driver::Veth, &p, &tap(1448)), 832 + 1448);
        assert_eq!(cost(Driver::Veth, &Profile::linux_6_1(), &tap(1448)), 1280 + 1448);
        assert_eq!(cost(Driver::HalfPage, &p, &tap(1448)), 2304);
        assert_eq!(cost(Driver::Page4K, &p, &tap(1448)), 4352);
        assert_eq!(cost(Driver::Buf16K, &p, &tap(1448)), 16_640);
        assert_eq!(cost(Driver::Buf32K, &p, &tap(1448)), 33_024);
    }

    #[test]
    fn absurd_frames_do_not_overflow() {
        for p in [Profile::linux_6_1(), Profile::linux_6_18()] {
            for (d, _, _) in Driver::ALL {
                for frame in [0u32, 1, 54, 65_535, 70_000, 1 << 20] {
                    let s = FrameShape {
                        frame,
                        headers: frame.min(54),
                        payload: frame.saturating_sub(54),
                        vnet_hdr_len: 0,
                    };
                    let l = layout(*d, &p, &s);
                    assert!(l.headlen <= s.payload || s.payload == 0);
                }
            }
        }
    }
}
