//! How an arriving frame becomes memory: driver models.
//!
//! The memory that Linux charges for a segment is decided before TCP sees it, by the driver that built the buffer. A
//! [`Driver`] says what one frame costs ([`Layout::truesize`]) and what later operations can do with it: how much tail
//! room its head has, whether payload lies in fragments, and whether the head can be *stolen* as a fragment by
//! coalescing. Formulas were measured on 6.1 and 6.18 for TUN and every way to open a TAP; the others follow the drivers'
//! buffer sizes. A device with IFF_NAPI costs what it costs without; merging before TCP (GRO) is not modelled.
//!
//! Answers to (Linux 6.1 and 6.18): `tun_build_skb`, `tun_alloc_skb`, `__alloc_skb`, `kmalloc_reserve`, `build_skb`,
//! `napi_alloc_skb`, virtio-net's `receive_mergeable`.

use crate::profile::{KernelBuild, NapiHead, Profile, SKB_DESCRIPTOR, SmallHead, TunLarge};

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

    /// A super-segment counts as one segment: what a virtio header says of it is not trusted, and nobody counts again.
    pub(crate) fn hides_segments(self) -> bool {
        self == Driver::TapVnet
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
            let head = napi_head(profile, build.max_header + 128);
            split(&head, head.truesize + shape.payload, shape, frags_of(shape.payload, PAGE))
        }
        Driver::HalfPage => page_head(build, shape, 2048),
        Driver::Page4K => page_head(build, shape, 4096),
        Driver::Buf16K => page_head(build, shape, 16_384),
        Driver::Buf32K => page_head(build, shape, 32_768),
        Driver::HeaderSplit => {
            let head = napi_head(profile, 256);
            let buffers = frags_of(shape.payload, PAGE);
            split(&head, head.truesize + buffers * PAGE, shape, buffers)
        }
        Driver::Copybreak => {
            let head = napi_head(profile, shape.frame);
            linear(head.end, head.truesize, shape, head.pad + shape.frame, head.fragment)
        }
        Driver::Virtio => virtio(profile, shape),
        Driver::Veth => {
            let (end, truesize) = slab_head(profile, build.max_tcp_header());
            let head = Head { end, truesize, pad: PAD, fragment: false };
            let mut l = split(&head, truesize + shape.payload, shape, frags_of(shape.payload, 32_768));
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

fn split(head: &Head, truesize: u32, shape: &FrameShape, nr_frags: u32) -> Layout {
    let &Head { end, pad, fragment, .. } = head;
    if shape.payload == 0 {
        return linear(end, truesize, shape, pad + shape.frame, fragment);
    }
    let tailroom = end.saturating_sub(pad + shape.headers);
    Layout { truesize, end, headlen: 0, tailroom, nr_frags, head_frag: fragment, cloned: false }
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

/// A head that a driver allocated before it knew what comes into it.
struct Head {
    end: u32,
    truesize: u32,
    /// Bytes in front of the frame.
    pad: u32,
    /// It is a page fragment, not an object of the slab.
    fragment: bool,
}

/// `napi_alloc_skb`: little data gets a page fragment of 1 KiB or a small object, what fits a page a fragment of its
/// size, and more an object of the slab.
fn napi_head(profile: &Profile, n: u32) -> Head {
    let build = &profile.build;
    let si = build.shared_info();
    let pad = PAD + build.net_ip_align;
    let want = align64(n.saturating_add(pad));
    let head = |end, fragment| Head { end, truesize: build.truesize(end), pad, fragment };
    match profile.napi_head {
        NapiHead::Fragment if want <= 1024 - si => head(1024 - si, true),
        NapiHead::SmallHead if want + si <= build.small_head() => head(build.small_head() - si, false),
        _ if want <= build.page_room() => head(want, true),
        _ => head(slab_head(profile, want).0, false),
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
    let most = profile.build.page_room() - PAD - align;
    let declared = shape.vnet_hdr_len.min(most);
    let head = if pad.saturating_add(f) < PAGE {
        f
    } else {
        match (profile.tun_large, declared) {
            (TunLarge::Linear, 0) => f,
            (TunLarge::HighOrder, 0) => f.min(most),
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
fn virtio(profile: &Profile, shape: &FrameShape) -> Layout {
    const HEADER: u32 = 12;
    const COPY: u32 = 128;
    let build = &profile.build;
    let si = build.shared_info();
    let buffer = align64(HEADER + shape.frame.clamp(1500, PAGE - HEADER));
    let tail = buffer.saturating_sub(HEADER + shape.frame);
    if shape.frame > COPY && tail >= si {
        let end = buffer - si;
        return linear(end, buffer + SKB_DESCRIPTOR, shape, HEADER + shape.frame, true);
    }
    let head = napi_head(profile, COPY);
    if shape.frame <= COPY {
        return linear(head.end, head.truesize, shape, head.pad + shape.frame, head.fragment);
    }
    let buffers = (HEADER + shape.frame).div_ceil(buffer).max(1);
    Layout {
        truesize: head.truesize + buffers * buffer,
        end: head.end,
        headlen: 0,
        tailroom: 0,
        nr_frags: buffers,
        head_frag: head.fragment,
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

    fn cost(d: Driver, p: &Profile, s: &FrameShape) -> u32 {
        layout(d, p, s).truesize
    }

    /// A frame without or with timestamps.
    fn frame(d: Driver, ts: bool, payload: u32) -> FrameShape {
        let link = if d == Driver::Tun { 0 } else { 14 };
        let headers = link + if ts { 52 } else { 40 };
        // The measuring program declared its headers in the virtio header.
        let vnet_hdr_len = if d == Driver::TapVnet { headers } else { 0 };
        FrameShape { frame: payload + headers, headers, payload, vnet_hdr_len }
    }

    /// Payload from which on a frame costs so much, and what it costs.
    type Steps = &'static [(u32, u32)];

    fn check(policy: &str, d: Driver, ts: bool, steps: Steps) {
        let p = Profile::parse(policy).unwrap();
        for (i, (from, want)) in steps.iter().enumerate() {
            assert_eq!(cost(d, &p, &frame(d, ts, *from)), *want, "{policy} {} {from}", d.name());
            if let Some((next, _)) = steps.get(i + 1) {
                assert_eq!(cost(d, &p, &frame(d, ts, next - 1)), *want, "{policy} {} {next}-1", d.name());
            }
        }
    }

    /// A kernel that keeps two bytes for IP alignment: every step of TAP comes two bytes earlier.
    const UML: &str = "linux-6.1,net_ip_align=2";

    // A descriptor that blocks; IFF_NAPI costs the same for a frame that was not merged.
    const BLOCKING_6_1: Steps =
        &[(1, 768), (73, 1280), (585, 2304), (1609, 4352), (3657, 8448), (7753, 16_640)];
    const BLOCKING_6_1_TS: Steps =
        &[(1, 768), (61, 1280), (573, 2304), (1597, 4352), (3645, 8448), (7741, 16_640)];
    const BLOCKING_6_18: Steps =
        &[(1, 832), (139, 1280), (587, 2304), (1611, 4352), (3659, 8448), (7755, 12_544)];
    const BLOCKING_6_18_TS: Steps =
        &[(1, 832), (127, 1280), (575, 2304), (1599, 4352), (3647, 8448), (7743, 12_544)];

    #[test]
    fn a_blocking_tap_as_measured() {
        check(UML, Driver::TapAlloc, false, BLOCKING_6_1);
        check(UML, Driver::TapAlloc, true, BLOCKING_6_1_TS);
        check("linux-6.18", Driver::TapAlloc, false, BLOCKING_6_18);
        check("linux-6.18", Driver::TapAlloc, true, BLOCKING_6_18_TS);
    }

    #[test]
    fn a_non_blocking_tap_as_measured() {
        check(UML, Driver::TapBuild, false, &[(1, 704), (9, 768), (73, 832), (137, 896), (201, 960)]);
        check(UML, Driver::TapBuild, false, &[(585, 1344), (649, 1408)]);
        check(UML, Driver::TapBuild, true, &[(1, 768), (61, 832), (125, 896), (189, 960), (253, 1024)]);
        check(UML, Driver::TapBuild, true, &[(637, 1408), (701, 1472)]);
        check(
            "linux-6.18",
            Driver::TapBuild,
            false,
            &[(1, 704), (11, 768), (75, 832), (139, 896), (203, 960)],
        );
        check("linux-6.18", Driver::TapBuild, false, &[(587, 1344), (651, 1408)]);
        check(
            "linux-6.18",
            Driver::TapBuild,
            true,
            &[(1, 768), (63, 832), (127, 896), (191, 960), (255, 1024)],
        );
        check("linux-6.18", Driver::TapBuild, true, &[(639, 1408), (703, 1472)]);
        let p = Profile::linux_6_18();
        for (payload, want) in
            [(500, 1216), (800, 1536), (1000, 1728), (1284, 2048), (1400, 2112), (1448, 2176)]
        {
            let l = layout(Driver::TapBuild, &p, &tap(payload));
            assert_eq!(l.truesize, want, "{payload}");
            assert!(l.head_frag && l.tailroom < 64);
        }
        // Too large for a page: as on a descriptor that blocks.
        assert_eq!(cost(Driver::TapBuild, &p, &tap(3596)), 4352);
    }

    #[test]
    fn a_tap_with_virtio_headers_as_measured() {
        let small = |steps: Steps| steps.get(..5).unwrap_or_default();
        check(UML, Driver::TapVnet, false, small(BLOCKING_6_1));
        check(UML, Driver::TapVnet, true, small(BLOCKING_6_1_TS));
        check("linux-6.18", Driver::TapVnet, false, small(BLOCKING_6_18));
        check("linux-6.18", Driver::TapVnet, true, small(BLOCKING_6_18_TS));
        // From here on, payload lies in pages.
        check(UML, Driver::TapVnet, false, &[(3657, 8448), (3976, 4864), (4097, 8960), (8193, 13_056)]);
        check(UML, Driver::TapVnet, true, &[(3645, 8448), (3964, 4864), (4097, 8960), (8193, 13_056)]);
        check(
            "linux-6.18",
            Driver::TapVnet,
            false,
            &[(3659, 8448), (3978, 4928), (4097, 9024), (8193, 13_120)],
        );
        check(
            "linux-6.18",
            Driver::TapVnet,
            true,
            &[(3647, 8448), (3966, 4928), (4097, 9024), (8193, 13_120)],
        );
    }

    #[test]
    fn napi_fragments_as_measured() {
        for (policy, head) in [(UML, 1280), ("linux-6.18", 832)] {
            let p = Profile::parse(policy).unwrap();
            for payload in [1, 10, 138, 139, 294, 536, 1448, 4000, 4096] {
                for ts in [false, true] {
                    let shape = frame(Driver::NapiFrags, ts, payload);
                    assert_eq!(cost(Driver::NapiFrags, &p, &shape), payload + head, "{policy} {payload}");
                }
            }
        }
    }

    #[test]
    fn a_tun_as_measured() {
        check(
            "linux-6.18",
            Driver::Tun,
            true,
            &[(1, 832), (141, 1280), (589, 2304), (1613, 4352), (3661, 8448)],
        );
        check("linux-6.18", Driver::Tun, true, &[(4044, 8448)]);
        check("linux-6.18", Driver::Tun, true, &[(8000, 12_544)]);
        // Alignment is Ethernet's.
        for policy in [UML, "linux-6.1"] {
            let steps: Steps =
                &[(1, 768), (77, 1280), (589, 2304), (1613, 4352), (3661, 8448), (7757, 16_640)];
            check(policy, Driver::Tun, true, steps);
        }
    }

    #[test]
    fn the_build_moves_the_steps_of_small_heads() {
        // A distribution's kernel has small heads of 704 bytes; not measured.
        for policy in ["linux-6.12", "linux-7"] {
            check(
                policy,
                Driver::Tun,
                true,
                &[(1, 960), (269, 1280), (589, 2304), (1613, 4352), (3661, 8448)],
            );
            check(&format!("{policy},max_header=32"), Driver::TapAlloc, true, BLOCKING_6_18_TS);
        }
    }

    #[test]
    fn napi_heads_by_generation() {
        let head = |policy: &str, payload| {
            let p = Profile::parse(policy).unwrap();
            let l = layout(Driver::Copybreak, &p, &tap(payload));
            (l.truesize, l.head_frag)
        };
        for policy in ["linux-6.1", "linux-6.12"] {
            // 704 bytes of a 1 KiB fragment, 64 of them in front.
            assert_eq!((head(policy, 1), head(policy, 574)), ((1280, true), (1280, true)), "{policy}");
            assert_eq!(head(policy, 575), (768 + 576, true), "{policy}");
        }
        assert_eq!((head("linux-6.18", 126), head("linux-6.18", 127)), ((832, false), (896, true)));
        assert_eq!((head("linux-7", 254), head("linux-7", 255)), ((960, false), (1024, true)));
        for policy in Profile::NAMES {
            assert_eq!(head(policy, 4000), (8448, false), "{policy}");
        }
        let split = |policy| cost(Driver::HeaderSplit, &Profile::named(policy).unwrap(), &tap(1448)) - PAGE;
        assert_eq!(Profile::NAMES.iter().map(|p| split(p)).collect::<Vec<_>>(), [1280, 1280, 896, 960]);
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
        for p in Profile::NAMES.iter().map(|n| Profile::named(n).unwrap()) {
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
