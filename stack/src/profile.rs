//! Kernel generations as data: which behaviour applies at each fork, and what one kernel build adds to it.
//!
//! A [`Profile`] is a starting point. Every behaviour is a small enum that names both sides of a fork, and every one can
//! be switched on its own with [`Profile::set`], spelled `switch=value`. Logic elsewhere asks for the behaviour, never
//! for a version.

mod build;

pub use build::KernelBuild;
pub(crate) use build::SKB_DESCRIPTOR;

/// How free memory becomes window (`tcp_win_from_space`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum SpaceRule {
    /// tcp_adv_win_scale, −31…31 (Linux up to 6.5).
    AdvWinScale(i8),
    /// scaling_ratio in 256ths (Linux since 6.6).
    ScalingRatio(u8),
}

impl SpaceRule {
    /// The window that `space` bytes of memory are worth. Rounds towards minus infinity for negative space under a
    /// ratio and a negative scale, as the kernel's arithmetic shift does.
    #[must_use]
    #[inline]
    pub const fn window_from_space(self, space: i32) -> i32 {
        match self {
            SpaceRule::AdvWinScale(a) if a <= 0 => space >> shift_of(-(a as i32)),
            SpaceRule::AdvWinScale(a) => space.wrapping_sub(space >> shift_of(a as i32)),
            SpaceRule::ScalingRatio(r) => ((space as i64 * r as i64) >> 8) as i32,
        }
    }

    /// The memory that a window of `window` bytes needs (only the ratio has an inverse; the scale is inverted
    /// numerically for callers that want one).
    #[must_use]
    pub const fn space_from_window(self, window: i32) -> i32 {
        match self {
            SpaceRule::ScalingRatio(r) => {
                let r = if r == 0 { 1 } else { r as u64 };
                (((window as i64 as u64) << 8) / r) as i32
            }
            SpaceRule::AdvWinScale(a) if a <= 0 => ((window as i64) << shift_of(-(a as i32))) as i32,
            SpaceRule::AdvWinScale(a) => {
                let a = shift_of(a as i32);
                if a == 0 { 0 } else { (((window as i64) << a) / ((1i64 << a) - 1)) as i32 }
            }
        }
    }
}

const fn shift_of(a: i32) -> u32 {
    if a > 31 { 31 } else { a as u32 }
}

macro_rules! behaviours {
    ($($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// The spellings, in order.
            pub const VALUES: &'static [&'static str] = &[$($text),+];

            /// The spelling of this behaviour on the command line.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }

            fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some($name::$variant),)+ _ => None }
            }
        }
    )+};
}

behaviours! {
    /// Whether, and in which form, the right edge of the window may move left.
    ShrinkPolicy {
        /// Never, but for a zero window when memory is out. (tcp_shrink_window = 0)
        Never = "never",
        /// The patch as first published (March 2023): also without window scaling.
        FirstForm = "first",
        /// The patch as merged in 6.5 (`tcp_shrink_window` = 1): only with window scaling.
        Merged = "merged",
    }
    /// Which of the two space rules the generation has.
    SpaceModel {
        /// One sysctl for all sockets, read live.
        AdvWinScale = "adv_win_scale",
        /// One learned ratio per socket.
        ScalingRatio = "scaling_ratio",
    }
    /// What a newly measured scaling_ratio does to window_clamp and rcv_ssthresh.
    RatioClamp {
        /// The semantics of TCP_WINDOW_CLAMP: rcv_ssthresh may jump (6.6, 6.18).
        WindowClampOption = "window-clamp",
        /// window_clamp only (6.12.117, 7.3).
        PlainStore = "plain",
    }
    /// The first rcv_wnd.
    InitialWindow {
        /// At most 65 535 (6.1, 6.6).
        CappedAt64K = "capped",
        /// All the space there is (6.10 and later).
        Full = "full",
    }
    /// Memory for an in-order segment when the receive queue is empty.
    EmptyQueue {
        /// Let in by force without asking (6.1).
        ForcedFirst = "forced",
        /// Asked for first, then let in by force with a zero window (6.6 and later).
        TryThenForce = "try",
    }
    /// What a segment without memory does to the next window.
    NoMemoryWindow {
        /// Nothing (6.1).
        Unchanged = "unchanged",
        /// The next ACK carries window zero, whatever the shrink policy (6.6 and later).
        Zero = "zero",
    }
    /// A bare FIN at a zero window, and one that finds no memory.
    BareFin {
        /// Treated as data (6.1, 6.6).
        LikeData = "like-data",
        /// Let in (6.12 and later).
        LetIn = "let-in",
    }
    /// Which segments are acceptable at the right edge (`tcp_sequence`).
    Acceptance {
        /// Only the start must lie inside (6.1 to 6.12).
        StartInside = "start",
        /// The whole segment must lie inside the live window unless nothing is unread (6.17, 6.18).
        WholeInside = "whole",
        /// As `whole`, measured against the furthest edge ever offered (7.1 and later).
        FurthestEdge = "furthest",
    }
    /// Out-of-order data that is acceptable but lies behind the window of this moment.
    OverWindow {
        /// Dropped without a count (6.1 to 6.18).
        Uncounted = "uncounted",
        /// Counted BeyondWindow (7.x).
        Counted = "counted",
    }
    /// Which acknowledgment numbers header prediction takes.
    PredictedAck {
        /// From the oldest unacknowledged byte to the newest sent (6.12.117, 7.3.4).
        Within = "within",
        /// Any that does not acknowledge what was not sent, old ones too (6.1.176, 6.18.44).
        NotBeyond = "not-beyond",
    }
    /// The admission test of `tcp_try_rmem_schedule`.
    Admission {
        /// What is charged already must not exceed sk_rcvbuf.
        Charged = "charged",
        /// What is charged plus the segment's payload must not (6.17.x to 6.18.16).
        ChargedPlusLen = "charged+len",
        /// What is charged plus the segment's truesize must not (6.17.0).
        ChargedPlusTruesize = "charged+truesize",
    }
    /// When `tcp_prune_queue` calls `tcp_clamp_window`, and what it makes of an empty account.
    PruneEntry {
        /// At or above sk_rcvbuf; an empty account is pruned like any other (6.1 to 6.12).
        AtLimit = "at-limit",
        /// Only above it; an empty account fails at once (6.18, 7.x).
        AboveLimit = "above-limit",
    }
    /// Pruning of the out-of-order queue.
    OfoPrune {
        /// Always, and counted once per call (6.1).
        Unconditional = "unconditional",
        /// Never to make room for a segment beyond all that is held; counted only when something went (6.6 and later).
        SparesOlder = "spares-older",
    }
    /// Whether out-of-order segments are measured for rcv_mss.
    OfoMeasure {
        /// No (6.1).
        No = "no",
        /// Yes (6.6 and later).
        Yes = "yes",
    }
    /// Whether out-of-order arrivals may raise sk_rcvbuf.
    OfoGrow {
        /// No (6.1 to 6.12).
        No = "no",
        /// Yes, by autotuning (6.16 and later).
        Yes = "yes",
    }
    /// Receive-buffer autotuning.
    Autotune {
        /// Twice the copied bytes plus 16 segments, in units of full-size buffers (6.1).
        Cushioned = "cushioned",
        /// The same target through the ratio (6.6, 6.12).
        CushionedRatio = "cushioned-ratio",
        /// No cushion; the out-of-order span is added (6.16 to 6.18).
        Plain = "plain",
        /// As plain, damped below tcp_rcvbuf_low_rtt (6.19 and later).
        LowRtt = "low-rtt",
    }
    /// The time that autotuning takes a read to happen at.
    AutotuneClock {
        /// The time of the read (6.1 to 6.18).
        Read = "read",
        /// The connection's clock, which stands still between segments (7.x).
        Segment = "segment",
    }
    /// What counts as read in autotuning.
    AutotuneCount {
        /// All that was copied (6.1, 6.6).
        Copied = "copied",
        /// What was copied, less what is still unread (6.12 and later).
        CopiedLessQueued = "less-queued",
    }
    /// Receiver round-trip samples of zero from millisecond timestamps.
    RttZero {
        /// Count as one millisecond (6.1, 6.6).
        OneMillisecond = "1ms",
        /// Ignored (6.12 and later).
        Ignored = "ignored",
    }
    /// Averaging of receiver round-trip samples.
    RttAverage {
        /// Always (6.1 to 6.12).
        Always = "always",
        /// Only while everything received has been read (6.16 and later).
        OnlyWhenDrained = "drained",
    }
    /// The width of the stored ATO.
    AtoWidth {
        /// 32 bits (6.1, 6.6).
        Wide = "32",
        /// 8 bits: 256 jiffies and more are cut (6.12 and later).
        Byte = "8",
    }
    /// How far ATO grows, with the pace of arrivals or when the delayed-ACK timer fires.
    AtoCap {
        /// Up to the RTO (6.1, 6.18).
        Rto = "rto",
        /// Up to 200 ms (6.12.117, 7.3).
        DelackMax = "delack-max",
    }
    /// The longest delay of an ACK.
    DelackMax {
        /// 200 ms (6.1).
        Fixed = "fixed",
        /// One jiffy below rto_min, at most 200 ms (6.12 and later).
        BelowRtoMin = "below-rto-min",
    }
    /// Old pure ACKs with an old timestamp.
    PawsOldAck {
        /// Answered like any PAWS failure (6.1 to 6.12).
        Answered = "answered",
        /// Dropped silently and counted PAWSOldAck (6.17 and later).
        Silent = "silent",
    }
    /// The delay of compressed SACKs.
    SackDelay {
        /// 5 % of the round trip (up to 6.18).
        FivePercent = "5%",
        /// tcp_comp_sack_rtt_percent of it (6.19 and later).
        RttPercent = "percent",
    }
    /// What SO_RCVBUF does to window_clamp.
    RcvbufClamp {
        /// Nothing (up to 7.0).
        Leaves = "leaves",
        /// Moves it, as TCP_WINDOW_CLAMP would (7.1 and later).
        Moves = "moves",
    }
    /// One ACK for a batch drained from the backlog.
    BacklogAck {
        /// Every segment decides on its own (6.1).
        Each = "each",
        /// Put off to the end of the batch (6.6 and later).
        Deferred = "deferred",
    }
    /// How small heads are allocated.
    SmallHead {
        /// From the size classes (up to 6.2).
        SizeClass = "size-class",
        /// From one cache of fixed objects (6.3 and later).
        Fixed = "fixed",
    }
    /// The head that a driver gets from its NAPI context for little data (`napi_alloc_skb`).
    NapiHead {
        /// A page fragment of 1 KiB, which can be stolen (6.1 to 6.12).
        Fragment = "fragment",
        /// A small object from the slab (6.18 and later).
        SmallHead = "small-head",
    }
    /// How a large frame written to a TUN or TAP device is laid out.
    TunLarge {
        /// One linear head, or order-0 pages behind a declared header (6.1).
        Linear = "linear",
        /// A bounded head and high-order pages (6.6 and later).
        HighOrder = "high-order",
    }
    /// Whose pressure lets the fair-share test refuse memory.
    FairShare {
        /// The group's or the global one (6.1, 6.6).
        GroupOrGlobal = "group-or-global",
        /// The global one (6.12 and later).
        GlobalOnly = "global",
    }
    /// An acknowledgement of what was never sent, in ESTAB.
    FutureAck {
        /// Dropped without a word.
        Silent = "silent",
        /// Challenged (seen on 6.18).
        Challenged = "challenged",
    }
    /// Which old data is taken for a sign that ACKs do not get through (`tcp_rcv_spurious_retrans`).
    DuplicateRehash {
        /// Data that begins where the last D-SACK did (6.1).
        SameStart = "same-start",
        /// Data with another IPv6 flow label (6.6 and later); flow labels are not looked at here.
        FlowLabel = "flow-label",
    }
    /// Merging of neighbours in the queues.
    Coalesce {
        /// As the kernel does.
        On = "on",
        /// Never: every segment keeps its own buffer.
        Off = "off",
    }
    /// Whether running out of room may raise sk_rcvbuf to what is charged (`tcp_clamp_window`).
    ClampRaise {
        /// As the kernel does.
        On = "on",
        /// Never: the budget stays.
        Off = "off",
    }
    /// The patch of July 2022 that lifts rcv_ssthresh with the route's initrwnd.
    InitrwndSsthresh {
        /// Not applied (every released kernel).
        Off = "off",
        /// Applied.
        On = "on",
    }
}

#[allow(clippy::derivable_impls)]
impl Default for ShrinkPolicy {
    fn default() -> Self {
        ShrinkPolicy::Never
    }
}

/// When queues may be collapsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Collapse {
    /// Whenever memory runs out, as released kernels do.
    On,
    /// Never; pruning then also leaves the out-of-order queue alone.
    Off,
    /// Only while sk_rmem_alloc is at most this many bytes (`tcp_collapse_max_bytes`).
    Below(u32),
    /// As `On`, but into objects of up to 32 KiB instead of one page. In no kernel, like all that follow.
    Large,
    /// As `On`, but a call does at most so many bytes of work and the next one goes on from there. 16 384…2³²−1.
    Bounded(u32),
    /// Neighbours become fragments of one buffer, and nothing is copied.
    Frags,
    /// Never; the sender is slowed before memory is full instead.
    Refuse,
}

impl Collapse {
    /// Work per call under `bounded` without a number, bytes.
    pub const PORTION: u32 = 256 << 10;
    /// The values there are, as listings show them.
    const TAKES: &'static str = "on|off|BYTES|large|bounded:BYTES|frags|refuse";

    fn parse(value: &str) -> Option<Self> {
        let number = |text: &str, lo: u32| text.parse().ok().filter(|n| *n >= lo);
        Some(match value {
            "on" => Collapse::On,
            "off" => Collapse::Off,
            "large" => Collapse::Large,
            "bounded" => Collapse::Bounded(Self::PORTION),
            "frags" => Collapse::Frags,
            "refuse" => Collapse::Refuse,
            _ => match value.strip_prefix("bounded:") {
                // Each queue gets half of it, and that must be more than a collapsed page.
                Some(n) => Collapse::Bounded(number(n, 16_384)?),
                None => Collapse::Below(number(value, 1)?),
            },
        })
    }
}

impl core::fmt::Display for Collapse {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Collapse::On => f.write_str("on"),
            Collapse::Off => f.write_str("off"),
            Collapse::Below(n) => write!(f, "{n}"),
            Collapse::Large => f.write_str("large"),
            Collapse::Bounded(n) => write!(f, "bounded:{n}"),
            Collapse::Frags => f.write_str("frags"),
            Collapse::Refuse => f.write_str("refuse"),
        }
    }
}

/// A kernel generation: its behaviours, its build, its defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
#[allow(missing_docs, reason = "each field is documented by its type")]
pub struct Profile {
    /// Name, as given to [`Profile::named`], with the switches that were set appended.
    pub name: String,
    /// Constants of the build.
    pub build: KernelBuild,
    /// Default of the largest tcp_rmem value on a large machine, bytes.
    pub tcp_rmem_max: u32,
    /// Default of net.core.rmem_max, bytes.
    pub rmem_max: u32,
    /// The smallest value the tcp_rmem sysctl takes.
    pub tcp_rmem_floor: u32,
    /// Default of tcp_comp_sack_slack_ns.
    pub comp_sack_slack_ns: u32,
    pub shrink: ShrinkPolicy,
    pub space: SpaceModel,
    pub ratio_clamp: RatioClamp,
    pub initial_window: InitialWindow,
    pub empty_queue: EmptyQueue,
    pub no_memory_window: NoMemoryWindow,
    pub bare_fin: BareFin,
    pub acceptance: Acceptance,
    pub over_window: OverWindow,
    pub predicted_ack: PredictedAck,
    pub admission: Admission,
    pub prune_entry: PruneEntry,
    pub ofo_prune: OfoPrune,
    pub ofo_measure: OfoMeasure,
    pub ofo_grow: OfoGrow,
    pub autotune: Autotune,
    pub autotune_count: AutotuneCount,
    pub autotune_clock: AutotuneClock,
    pub rtt_zero: RttZero,
    pub rtt_average: RttAverage,
    pub ato_width: AtoWidth,
    pub ato_cap: AtoCap,
    pub delack_max: DelackMax,
    pub paws_old_ack: PawsOldAck,
    pub sack_delay: SackDelay,
    pub rcvbuf_clamp: RcvbufClamp,
    pub backlog_ack: BacklogAck,
    pub small_head: SmallHead,
    pub napi_head: NapiHead,
    pub tun_large: TunLarge,
    pub fair_share: FairShare,
    pub duplicate_rehash: DuplicateRehash,
    pub future_ack: FutureAck,
    pub coalesce: Coalesce,
    pub collapse: Collapse,
    pub clamp_raise: ClampRaise,
    pub initrwnd_ssthresh: InitrwndSsthresh,
}

/// Why a profile or switch was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// No such profile.
    #[error("unknown policy '{name}'; known policies are {known}")]
    UnknownProfile {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// No such switch.
    #[error("unknown switch '{name}'; known switches are {known}")]
    UnknownSwitch {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A switch with a value it does not take.
    #[error("switch '{name}' does not take '{value}'; it takes {takes}")]
    BadValue {
        /// The switch.
        name: String,
        /// The value given.
        value: String,
        /// What it takes.
        takes: String,
    },
    /// A part of a policy that is not `switch=value`.
    #[error("'{part}' is not of the form switch=value, as in linux-6.1,shrink=merged")]
    NotASwitch {
        /// The part.
        part: String,
    },
}

/// One switch of a profile, for listings and help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// Its name on the command line.
    pub name: &'static str,
    /// The values it takes.
    pub takes: String,
    /// Its value in the profile asked.
    pub value: String,
}

macro_rules! switches {
    ($($field:ident: $ty:ident),+ $(,)?) => {
        fn set_behaviour(&mut self, name: &str, value: &str) -> Option<Result<(), String>> {
            match name {
                $(stringify!($field) => Some(match $ty::parse(value) {
                    Some(v) => { self.$field = v; Ok(()) }
                    None => Err($ty::VALUES.join(", ")),
                }),)+
                _ => None,
            }
        }

        fn behaviour_list(&self) -> Vec<Switch> {
            vec![$(Switch {
                name: stringify!($field),
                takes: $ty::VALUES.join("|"),
                value: self.$field.as_str().to_owned(),
            }),+]
        }
    };
}

impl Profile {
    /// The names that [`Profile::named`] knows.
    pub const NAMES: &'static [&'static str] = &["linux-6.1", "linux-6.12", "linux-6.18", "linux-7"];

    /// Linux 6.1: `tcp_adv_win_scale`, forced admission to an empty queue, no zero window for want of memory.
    /// The build is that of Debian's user-mode-linux 6.1 but for `net_ip_align`, which is x86's.
    #[must_use]
    pub fn linux_6_1() -> Self {
        Profile {
            name: "linux-6.1".to_owned(),
            build: KernelBuild { hz: 100, max_header: 80, net_ip_align: 0, max_skb_frags: 17 },
            tcp_rmem_max: 6 << 20,
            rmem_max: 212_992,
            tcp_rmem_floor: 1,
            comp_sack_slack_ns: 100_000,
            shrink: ShrinkPolicy::Never,
            space: SpaceModel::AdvWinScale,
            ratio_clamp: RatioClamp::PlainStore,
            initial_window: InitialWindow::CappedAt64K,
            empty_queue: EmptyQueue::ForcedFirst,
            no_memory_window: NoMemoryWindow::Unchanged,
            bare_fin: BareFin::LikeData,
            acceptance: Acceptance::StartInside,
            over_window: OverWindow::Uncounted,
            predicted_ack: PredictedAck::NotBeyond,
            admission: Admission::Charged,
            prune_entry: PruneEntry::AtLimit,
            ofo_prune: OfoPrune::Unconditional,
            ofo_measure: OfoMeasure::No,
            ofo_grow: OfoGrow::No,
            autotune: Autotune::Cushioned,
            autotune_count: AutotuneCount::Copied,
            autotune_clock: AutotuneClock::Read,
            rtt_zero: RttZero::OneMillisecond,
            rtt_average: RttAverage::Always,
            ato_width: AtoWidth::Wide,
            ato_cap: AtoCap::Rto,
            delack_max: DelackMax::Fixed,
            paws_old_ack: PawsOldAck::Answered,
            sack_delay: SackDelay::FivePercent,
            rcvbuf_clamp: RcvbufClamp::Leaves,
            backlog_ack: BacklogAck::Each,
            small_head: SmallHead::SizeClass,
            napi_head: NapiHead::Fragment,
            tun_large: TunLarge::Linear,
            fair_share: FairShare::GroupOrGlobal,
            duplicate_rehash: DuplicateRehash::SameStart,
            future_ack: FutureAck::Silent,
            coalesce: Coalesce::On,
            collapse: Collapse::On,
            clamp_raise: ClampRaise::On,
            initrwnd_ssthresh: InitrwndSsthresh::Off,
        }
    }

    /// Linux 6.18: `scaling_ratio`, whole segments inside the window, zero windows for want of memory.
    #[must_use]
    pub fn linux_6_18() -> Self {
        Profile {
            name: "linux-6.18".to_owned(),
            build: KernelBuild { hz: 250, max_header: 32, net_ip_align: 0, max_skb_frags: 17 },
            tcp_rmem_max: 32 << 20,
            rmem_max: 4 << 20,
            tcp_rmem_floor: 1,
            comp_sack_slack_ns: 100_000,
            shrink: ShrinkPolicy::Never,
            space: SpaceModel::ScalingRatio,
            ratio_clamp: RatioClamp::WindowClampOption,
            initial_window: InitialWindow::Full,
            empty_queue: EmptyQueue::TryThenForce,
            no_memory_window: NoMemoryWindow::Zero,
            bare_fin: BareFin::LetIn,
            acceptance: Acceptance::WholeInside,
            over_window: OverWindow::Uncounted,
            predicted_ack: PredictedAck::NotBeyond,
            admission: Admission::Charged,
            prune_entry: PruneEntry::AboveLimit,
            ofo_prune: OfoPrune::SparesOlder,
            ofo_measure: OfoMeasure::Yes,
            ofo_grow: OfoGrow::Yes,
            autotune: Autotune::Plain,
            autotune_count: AutotuneCount::CopiedLessQueued,
            autotune_clock: AutotuneClock::Read,
            rtt_zero: RttZero::Ignored,
            rtt_average: RttAverage::OnlyWhenDrained,
            ato_width: AtoWidth::Byte,
            ato_cap: AtoCap::Rto,
            delack_max: DelackMax::BelowRtoMin,
            paws_old_ack: PawsOldAck::Silent,
            sack_delay: SackDelay::FivePercent,
            rcvbuf_clamp: RcvbufClamp::Leaves,
            backlog_ack: BacklogAck::Deferred,
            small_head: SmallHead::Fixed,
            napi_head: NapiHead::SmallHead,
            tun_large: TunLarge::HighOrder,
            fair_share: FairShare::GlobalOnly,
            duplicate_rehash: DuplicateRehash::FlowLabel,
            future_ack: FutureAck::Challenged,
            coalesce: Coalesce::On,
            collapse: Collapse::On,
            clamp_raise: ClampRaise::On,
            initrwnd_ssthresh: InitrwndSsthresh::Off,
        }
    }

    /// Linux 6.12 (as of 6.12.117): the learned ratio and the zero window of 6.6 with what was backported since; the
    /// autotuning and the acceptance test are still the old ones. Read, not measured. The build is a distribution's for
    /// x86-64.
    #[must_use]
    pub fn linux_6_12() -> Self {
        Profile {
            name: "linux-6.12".to_owned(),
            build: KernelBuild::DISTRIBUTION,
            tcp_rmem_max: 6 << 20,
            rmem_max: 212_992,
            tcp_rmem_floor: 4096,
            ratio_clamp: RatioClamp::PlainStore,
            acceptance: Acceptance::StartInside,
            predicted_ack: PredictedAck::Within,
            prune_entry: PruneEntry::AtLimit,
            ofo_grow: OfoGrow::No,
            autotune: Autotune::CushionedRatio,
            rtt_average: RttAverage::Always,
            ato_cap: AtoCap::DelackMax,
            paws_old_ack: PawsOldAck::Answered,
            napi_head: NapiHead::Fragment,
            future_ack: FutureAck::Silent,
            ..Self::linux_6_18()
        }
    }

    /// Linux 7 (as of 7.3.4): segments are judged by the furthest edge ever offered, growth is damped on short round
    /// trips, `SO_RCVBUF` moves the clamp. Read, not measured. The build is a distribution's for x86-64.
    #[must_use]
    pub fn linux_7() -> Self {
        Profile {
            name: "linux-7".to_owned(),
            build: KernelBuild::DISTRIBUTION,
            tcp_rmem_floor: 4096,
            comp_sack_slack_ns: 10_000,
            ratio_clamp: RatioClamp::PlainStore,
            acceptance: Acceptance::FurthestEdge,
            over_window: OverWindow::Counted,
            predicted_ack: PredictedAck::Within,
            autotune: Autotune::LowRtt,
            autotune_clock: AutotuneClock::Segment,
            ato_cap: AtoCap::DelackMax,
            sack_delay: SackDelay::RttPercent,
            rcvbuf_clamp: RcvbufClamp::Moves,
            ..Self::linux_6_18()
        }
    }

    /// The profile of that name.
    ///
    /// # Errors
    /// [`ProfileError::UnknownProfile`] with the names there are.
    pub fn named(name: &str) -> Result<Self, ProfileError> {
        match name {
            "linux-6.1" => Ok(Self::linux_6_1()),
            "linux-6.12" => Ok(Self::linux_6_12()),
            "linux-6.18" => Ok(Self::linux_6_18()),
            "linux-7" => Ok(Self::linux_7()),
            _ => Err(ProfileError::UnknownProfile { name: name.to_owned(), known: Self::NAMES.join(", ") }),
        }
    }

    /// A profile with switches: `NAME[,switch=value]…`, as in `linux-6.1,shrink=merged,collapse=6291456`.
    ///
    /// # Errors
    /// Names the part that is unknown or out of range and what would be right.
    pub fn parse(text: &str) -> Result<Self, ProfileError> {
        let mut parts = text.split(',').map(str::trim);
        let mut profile = Self::named(parts.next().unwrap_or_default())?;
        for part in parts {
            let (name, value) =
                part.split_once('=').ok_or_else(|| ProfileError::NotASwitch { part: part.to_owned() })?;
            profile.set(name.trim(), value.trim())?;
        }
        text.trim().clone_into(&mut profile.name);
        Ok(profile)
    }

    /// Sets one switch. See [`Profile::switches`] for what there is.
    ///
    /// # Errors
    /// Names the switch or the value that is unknown and what would be right.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), ProfileError> {
        let bad = |takes: &str| ProfileError::BadValue {
            name: name.to_owned(),
            value: value.to_owned(),
            takes: takes.to_owned(),
        };
        let number = |lo: u32, hi: u32, takes: &str| match value.parse::<u32>() {
            Ok(n) if (lo..=hi).contains(&n) => Ok(n),
            _ => Err(bad(takes)),
        };
        match name {
            "collapse" => {
                self.collapse = Collapse::parse(value).ok_or_else(|| {
                    bad("on, off, a number of bytes, large, bounded:BYTES (at least 16384), frags or refuse")
                })?;
            }
            "hz" => self.build.hz = number(1, 10_000, "a number from 1 to 10000")?,
            "max_header" => self.build.max_header = number(16, 512, "bytes, 16 to 512")?,
            "net_ip_align" => self.build.net_ip_align = number(0, 2, "0 or 2")?,
            "max_skb_frags" => self.build.max_skb_frags = number(17, 45, "a number from 17 to 45")?,
            _ => match self.set_behaviour(name, value) {
                Some(Ok(())) => {}
                Some(Err(takes)) => return Err(bad(&takes)),
                None => {
                    let known: Vec<_> = self.switches().iter().map(|s| s.name).collect();
                    return Err(ProfileError::UnknownSwitch {
                        name: name.to_owned(),
                        known: known.join(", "),
                    });
                }
            },
        }
        Ok(())
    }

    switches! {
        shrink: ShrinkPolicy, space: SpaceModel, ratio_clamp: RatioClamp, initial_window: InitialWindow,
        empty_queue: EmptyQueue, no_memory_window: NoMemoryWindow, bare_fin: BareFin, acceptance: Acceptance,
        over_window: OverWindow, predicted_ack: PredictedAck, admission: Admission, prune_entry: PruneEntry,
        ofo_prune: OfoPrune, ofo_measure: OfoMeasure, ofo_grow: OfoGrow, autotune: Autotune,
        autotune_count: AutotuneCount, autotune_clock: AutotuneClock, rtt_zero: RttZero,
        rtt_average: RttAverage, ato_width: AtoWidth, ato_cap: AtoCap, delack_max: DelackMax,
        paws_old_ack: PawsOldAck, sack_delay: SackDelay, rcvbuf_clamp: RcvbufClamp, backlog_ack: BacklogAck,
        small_head: SmallHead, napi_head: NapiHead, tun_large: TunLarge, fair_share: FairShare,
        duplicate_rehash: DuplicateRehash, future_ack: FutureAck, coalesce: Coalesce,
        clamp_raise: ClampRaise, initrwnd_ssthresh: InitrwndSsthresh,
    }

    /// Every switch with the values it takes and its value here.
    #[must_use]
    pub fn switches(&self) -> Vec<Switch> {
        let mut all = self.behaviour_list();
        let number = |name, takes: &str, value: u32| Switch {
            name,
            takes: takes.to_owned(),
            value: value.to_string(),
        };
        let collapse = self.collapse.to_string();
        all.push(Switch { name: "collapse", takes: Collapse::TAKES.to_owned(), value: collapse });
        all.push(number("hz", "1…10000", self.build.hz));
        all.push(number("max_header", "16…512", self.build.max_header));
        all.push(number("net_ip_align", "0…2", self.build.net_ip_align));
        all.push(number("max_skb_frags", "17…45", self.build.max_skb_frags));
        all
    }
}

#[cfg(test)]
mod tests;
