//! Choosing the receive window: pure arithmetic, no socket.
//!
//! [`initial`] answers to `tcp_select_initial_window`, [`raw`] to `__tcp_select_window`, [`offer`] to
//! `tcp_select_window` (Linux 6.1 and 6.18). An [`Offer`] is only a proposal; the emit path commits it.
//!
//! ```text
//!      copied_seq        rcv_nxt                         rcv_wup + rcv_wnd
//!  ────────┼────────────────┼──────────────────────────────────┼────────▶ sequence space
//!          │  unread bytes  │      what the peer may send      │ right edge
//! ```
//!
//! RFC 9293 §3.8.6 asks a receiver not to move the right edge left; RFC 7323 §2.4 admits that scaling may do it.

use crate::{
    decision::WindowLimit,
    profile::{InitialWindow, ShrinkPolicy, SpaceRule},
    units::round_up,
};

/// The largest window scale (RFC 7323 §2.3).
pub(crate) const MAX_WSCALE: u8 = 14;
/// The largest value of the 16-bit field.
pub(crate) const MAX_FIELD: u32 = 65_535;

/// What the first window is chosen from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InitialInputs {
    /// Window that the whole buffer is worth.
    pub(crate) space: i32,
    pub(crate) mss: u32,
    /// window_clamp so far; 0 for none.
    pub(crate) clamp: u32,
    pub(crate) scaling: bool,
    /// initrwnd of the route in segments; 0 for none.
    pub(crate) initrwnd: u32,
    pub(crate) rule: InitialWindow,
    pub(crate) signed_workaround: bool,
    pub(crate) rmem2: i32,
    pub(crate) rmem_max: i32,
}

/// The first window of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InitialChoice {
    pub(crate) rcv_wnd: u32,
    /// The first rcv_ssthresh: the first window, unless that was said from outside.
    pub(crate) rcv_ssthresh: u32,
    pub(crate) window_clamp: u32,
    pub(crate) wscale: u8,
}

/// The first window, its scale and the clamp that follows from the scale.
pub(crate) fn initial(i: &InitialInputs) -> InitialChoice {
    let clamp = if i.clamp == 0 { MAX_FIELD << MAX_WSCALE } else { i.clamp };
    let mut space = i.space.max(0).unsigned_abs().min(clamp);
    if i.mss > 0 && space > i.mss {
        space -= space % i.mss;
    }
    let mut rcv_wnd = match (i.signed_workaround, i.rule) {
        (true, _) => space.min(32_767),
        (false, InitialWindow::CappedAt64K) => space.min(MAX_FIELD),
        (false, InitialWindow::Full) => space,
    };
    if i.initrwnd > 0 {
        rcv_wnd = rcv_wnd.min(i.initrwnd.wrapping_mul(i.mss));
    }
    let wscale = if i.scaling {
        let most = space.max(i.rmem2.max(0).unsigned_abs()).max(i.rmem_max.max(0).unsigned_abs()).min(clamp);
        most.checked_ilog2().unwrap_or(0).saturating_sub(15).min(u32::from(MAX_WSCALE)) as u8
    } else {
        0
    };
    InitialChoice { rcv_wnd, rcv_ssthresh: rcv_wnd, window_clamp: clamp.min(MAX_FIELD << wscale), wscale }
}

/// What the raw window is chosen from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawInputs {
    pub(crate) rcv_mss: u32,
    pub(crate) free_space: i32,
    pub(crate) full_space: i32,
    pub(crate) window_clamp: u32,
    pub(crate) rcv_ssthresh: u32,
    /// rcv_ssthresh after the cut that memory pressure makes when space is low; `None` without pressure.
    pub(crate) pressed_ssthresh: Option<u32>,
    pub(crate) rcv_wnd: u32,
    pub(crate) wscale: u8,
    pub(crate) shrink: ShrinkPolicy,
}

/// The raw window and what choosing it does to the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawChoice {
    pub(crate) window: u32,
    pub(crate) limit: WindowLimit,
    /// Space is low: quick-ACK mode ends, and under pressure rcv_ssthresh is cut.
    pub(crate) low_space: bool,
}

/// Does the policy let the edge move left at this scale?
#[inline(always)]
pub(crate) fn may_shrink(policy: ShrinkPolicy, wscale: u8) -> bool {
    match policy {
        ShrinkPolicy::Never => false,
        ShrinkPolicy::FirstForm => true,
        ShrinkPolicy::Merged => wscale > 0,
    }
}

/// The window worth offering now, before the old right edge is considered.
#[inline(always)]
pub(crate) fn raw(i: &RawInputs) -> RawChoice {
    let choice = |window, limit, low_space| RawChoice { window, limit, low_space };
    let full = (i.window_clamp as i32).min(i.full_space);
    let mut mss = i.rcv_mss as i32;
    if mss > full {
        mss = full;
        if mss <= 0 {
            return choice(0, WindowLimit::NothingToOffer, false);
        }
    }
    let unit = 1i32 << i.wscale;
    let shrinking = may_shrink(i.shrink, i.wscale) && i.wscale > 0;
    let mut free = i.free_space;
    if shrinking {
        free &= !(unit - 1);
    }
    let low_space = free < full >> 1;
    let mut ssthresh = i.rcv_ssthresh;
    if low_space {
        ssthresh = i.pressed_ssthresh.unwrap_or(ssthresh);
        if !shrinking {
            free &= !(unit - 1);
        }
        if free < i.full_space >> 4 {
            return choice(0, WindowLimit::BelowSixteenth, true);
        }
        if free < mss {
            return choice(0, WindowLimit::BelowMss, true);
        }
        if shrinking && free < unit {
            return choice(0, WindowLimit::BelowScaleUnit, true);
        }
    }
    let capped = free > ssthresh as i32;
    let limit = if capped { WindowLimit::RcvSsthresh } else { WindowLimit::FreeSpace };
    if shrinking {
        let window = if capped { round_up(ssthresh, unit as u32) } else { free as u32 };
        return choice(window, limit, low_space);
    }
    if capped {
        free = ssthresh as i32;
    }
    if i.wscale > 0 {
        return choice(round_up(free as u32, unit as u32), limit, low_space);
    }
    // Without scaling: whole segments, and no move of less than one (RFC 9293 §3.8.6.2.2).
    let old = i.rcv_wnd as i32;
    if old <= free.wrapping_sub(mss) || old > free {
        choice((free - free % mss.max(1)) as u32, WindowLimit::WholeSegments, low_space)
    } else if mss == full && free > old.wrapping_add(full >> 1) {
        choice(free as u32, limit, low_space)
    } else {
        choice(i.rcv_wnd, WindowLimit::KeptWithinMss, low_space)
    }
}

/// A window ready to be committed when the segment leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) rcv_wnd: u32,
    pub(crate) field: u16,
    /// Less was wanted than what is still open, and the old edge was kept.
    pub(crate) edge_kept: bool,
}

/// Applies the no-shrink rule, the scale and the 16-bit field to a raw window.
#[inline(always)]
pub(crate) fn offer(
    raw: u32,
    old_window: u32,
    wscale: u8,
    shrink: ShrinkPolicy,
    signed_workaround: bool,
) -> Offer {
    let edge_kept = raw < old_window && !may_shrink(shrink, wscale);
    // The remaining window is rounded up to the scale, so the edge may creep right by up to one unit.
    let rcv_wnd = if edge_kept { round_up(old_window, 1 << wscale) } else { raw };
    let most = if wscale == 0 && signed_workaround { 32_767 } else { MAX_FIELD << wscale };
    Offer { rcv_wnd, field: (rcv_wnd.min(most) >> wscale) as u16, edge_kept }
}

/// A window that was said from outside: rounded down to what the field can say, wherever the right edge was.
pub(crate) fn steered(window: u32, wscale: u8) -> Offer {
    let field = (window.min(MAX_FIELD << wscale) >> wscale) as u16;
    Offer { rcv_wnd: u32::from(field) << wscale, field, edge_kept: false }
}

/// How memory becomes window, with the numbers of the moment.
#[inline(always)]
pub(crate) fn space_rule(model: crate::profile::SpaceModel, adv_win_scale: i8, ratio: u8) -> SpaceRule {
    match model {
        crate::profile::SpaceModel::AdvWinScale => SpaceRule::AdvWinScale(adv_win_scale),
        crate::profile::SpaceModel::ScalingRatio => SpaceRule::ScalingRatio(ratio),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn first(space: i32, mss: u32, clamp: u32, rmem2: i32, rmem_max: i32) -> (u32, u8, u32) {
        let c = initial(&InitialInputs {
            space,
            mss,
            clamp,
            scaling: true,
            initrwnd: 0,
            rule: InitialWindow::Full,
            signed_workaround: false,
            rmem2,
            rmem_max,
        });
        (c.rcv_wnd, c.wscale, c.window_clamp)
    }

    #[test]
    fn initial_windows_as_measured_on_6_18() {
        const M4: i32 = 4 << 20;
        // tcp_rmem[1], mss and tcp_rmem[2] against SYN-ACK window and scale.
        assert_eq!(first(65_536, 1448, 0, 32 << 20, M4).0, 65_160);
        assert_eq!(first(65_536, 1460, 0, 6 << 20, M4), (64_240, 7, 65_535 << 7));
        assert_eq!(first(43_690, 1460, 0, 6 << 20, M4).0, 42_340);
        assert_eq!(first(8192, 1460, 0, 131_072, M4).0, 7300);
        assert_eq!(first(65_536, 1460, 0, 256 << 20, M4).1, 13);
        assert_eq!(first(131_072, 1460, 0, 512 << 20, M4), (129_940, 14, 65_535 << 14));
        // SO_RCVBUF on the listener fixes the clamp and with it the scale.
        assert_eq!(first(1152, 1460, 1152, 6 << 20, M4), (1152, 0, 1152));
        assert_eq!(first(262_144, 1460, 262_144, 6 << 20, M4), (261_340, 3, 262_144));
        assert_eq!(first(4_194_304, 1460, 4_194_304, 6 << 20, M4).1, 7);
        assert_eq!(first(65_536, 1460, 200_000, 6 << 20, M4).1, 2);
    }

    fn inputs() -> RawInputs {
        RawInputs {
            rcv_mss: 1448,
            free_space: 60_000,
            full_space: 65_536,
            window_clamp: 65_536,
            rcv_ssthresh: 64_088,
            pressed_ssthresh: None,
            rcv_wnd: 65_160,
            wscale: 7,
            shrink: ShrinkPolicy::Never,
        }
    }

    #[test]
    fn scaled_window_rounds_up_without_shrinking_and_down_with() {
        let i = inputs();
        assert_eq!((raw(&i).window, raw(&i).limit), (60_032, WindowLimit::FreeSpace));
        let s = RawInputs { shrink: ShrinkPolicy::Merged, ..i };
        assert_eq!(raw(&s).window, 59_904);
        let c = RawInputs { free_space: 70_000, full_space: 80_000, window_clamp: 80_000, ..i };
        assert_eq!((raw(&c).window, raw(&c).limit), (64_128, WindowLimit::RcvSsthresh));
    }

    #[test]
    fn little_space_is_no_space() {
        let i = RawInputs { free_space: 4095, ..inputs() };
        assert_eq!(raw(&i), RawChoice { window: 0, limit: WindowLimit::BelowSixteenth, low_space: true });
        let i = RawInputs { free_space: 4300, rcv_mss: 4400, ..inputs() };
        assert_eq!(raw(&i).limit, WindowLimit::BelowMss);
        let i = RawInputs { free_space: -5, shrink: ShrinkPolicy::Merged, ..inputs() };
        assert_eq!(raw(&i).window, 0);
        let i = RawInputs {
            free_space: 900,
            full_space: 8000,
            rcv_mss: 500,
            wscale: 10,
            shrink: ShrinkPolicy::Merged,
            ..inputs()
        };
        assert_eq!(raw(&i).window, 0);
    }

    #[test]
    fn the_merged_form_needs_a_scale_and_the_first_form_does_not() {
        let none = |shrink| offer(1000, 5000, 0, shrink, false);
        assert_eq!(none(ShrinkPolicy::Merged), Offer { rcv_wnd: 5000, field: 5000, edge_kept: true });
        assert_eq!(none(ShrinkPolicy::FirstForm), Offer { rcv_wnd: 1000, field: 1000, edge_kept: false });
        assert_eq!(offer(1024, 5000, 7, ShrinkPolicy::Merged, false).rcv_wnd, 1024);
    }

    #[test]
    fn keeping_the_edge_creeps_right_by_less_than_a_unit() {
        let o = offer(0, 63_712, 10, ShrinkPolicy::Never, false);
        assert_eq!((o.rcv_wnd, o.field, o.edge_kept), (64_512, 63, true));
    }

    #[test]
    fn a_steered_window_is_what_the_field_can_say_of_it() {
        let wire = |w, ws| (steered(w, ws).rcv_wnd, steered(w, ws).field);
        assert_eq!(wire(5000, 0), (5000, 5000));
        assert_eq!(wire(5000, 7), (4992, 39));
        assert_eq!(wire(127, 7), (0, 0));
        assert_eq!(wire(u32::MAX, 14), (65_535 << 14, 65_535));
        assert_eq!(wire(70_000, 0), (65_535, 65_535));
    }

    #[test]
    fn unscaled_windows_move_by_whole_segments() {
        // Golden trace T3: 8688 offered, 200-byte segments, one rcv_mss of 536 at first.
        let i = RawInputs {
            rcv_mss: 200,
            free_space: 8720,
            full_space: 10_000,
            window_clamp: 10_000,
            rcv_ssthresh: 8552,
            rcv_wnd: 8488,
            wscale: 0,
            ..inputs()
        };
        assert_eq!((raw(&i).window, raw(&i).limit), (8488, WindowLimit::KeptWithinMss));
        let j = RawInputs { rcv_wnd: 8688, ..i };
        assert_eq!(raw(&j).window, 8400);
    }

    proptest! {
        #[test]
        fn no_shrink_never_moves_the_edge_left(raw_w in 0u32..1 << 30, old in 0u32..1 << 30, ws in 0u8..=14) {
            let o = offer(raw_w, old, ws, ShrinkPolicy::Never, false);
            prop_assert!(o.rcv_wnd >= old);
            if o.edge_kept {
                prop_assert!(o.rcv_wnd - old < 1 << ws);
            }
        }

        #[test]
        fn any_input_yields_a_window(
            rcv_mss in any::<u16>(), free in any::<i32>(), full in any::<i32>(), clamp in any::<u32>(),
            ssthresh in any::<u32>(), rcv_wnd in any::<u32>(), wscale in 0u8..=14, merged in any::<bool>(),
        ) {
            let shrink = if merged { ShrinkPolicy::Merged } else { ShrinkPolicy::Never };
            let _ = raw(&RawInputs {
                rcv_mss: rcv_mss.into(), free_space: free, full_space: full, window_clamp: clamp,
                rcv_ssthresh: ssthresh, pressed_ssthresh: None, rcv_wnd, wscale, shrink,
            });
        }
    }
}
