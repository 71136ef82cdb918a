//! Receive-buffer autotuning (`tcp_moderate_rcvbuf`): the buffer follows what the reader takes in a round trip.
//!
//! Answers to: `tcp_rcv_space_adjust` (Linux 6.1 to 7.3), `tcp_rcvbuf_grow` (6.18, 7.3).

use super::{Cx, Tcb};
use crate::{
    decision::Decision,
    profile::{Autotune, AutotuneClock, AutotuneCount},
};

impl Tcb {
    /// Runs after each piece the reader took.
    pub(crate) fn space_adjust(&mut self, cx: &mut Cx<'_>) {
        let rtt_us8 = self.rtt.rtt_us8;
        let now = match cx.shared.profile.autotune_clock {
            AutotuneClock::Read => cx.now,
            AutotuneClock::Segment => self.clock,
        };
        let elapsed = now.since(self.rcvq.since).as_micros();
        if rtt_us8 == 0 || elapsed < u64::from(rtt_us8 >> 3) {
            return;
        }
        let mut copied = i64::from(self.copied_seq.since(self.rcvq.seq));
        if cx.shared.profile.autotune_count == AutotuneCount::CopiedLessQueued {
            copied -= i64::from(self.rcv_nxt.since(self.copied_seq));
        }
        let space = self.rcvq.space;
        if copied > i64::from(space) {
            let before = self.mem.sk_rcvbuf;
            let copied32 = copied as u32;
            match cx.shared.profile.autotune {
                Autotune::Cushioned | Autotune::CushionedRatio => self.grow_cushioned(cx, copied32),
                Autotune::Plain | Autotune::LowRtt => self.grow_plain(cx, copied32),
            }
            self.rcvq.space = copied32;
            let (sk_rcvbuf, window_clamp, rcv_rtt_us) =
                (self.mem.sk_rcvbuf, self.win.window_clamp, rtt_us8 >> 3);
            self.decide(cx, move || Decision::Autotuned {
                copied,
                space,
                sk_rcvbuf_before: before,
                sk_rcvbuf,
                window_clamp,
                rcv_rtt_us,
            });
        }
        self.rcvq.seq = self.copied_seq;
        self.rcvq.since = now;
    }

    fn may_grow(&self, cx: &Cx<'_>) -> bool {
        cx.shared.sysctl.tcp_moderate_rcvbuf && !self.mem.rcvbuf_locked
    }

    /// Twice what was read, sixteen segments on top, and ahead of growth.
    fn grow_cushioned(&mut self, cx: &mut Cx<'_>, copied: u32) {
        if !self.may_grow(cx) {
            return;
        }
        let space = u64::from(self.rcvq.space.max(1));
        let mut window = (u64::from(copied) << 1) + 16 * u64::from(self.advmss);
        window += (window * (u64::from(copied) - space.min(u64::from(copied))) / space) << 1;
        let largest = cx.shared.sysctl.tcp_rmem[2].max(0).unsigned_abs();
        let wanted = match cx.shared.profile.autotune {
            Autotune::Cushioned => {
                let build = &cx.shared.profile.build;
                let mut buffer = build.truesize(self.advmss + build.max_tcp_header());
                while self.window_from_space(cx, buffer as i32) < self.advmss as i32 && buffer < 1 << 24 {
                    buffer += 128;
                }
                (window / u64::from(self.advmss.max(1)))
                    .saturating_mul(u64::from(buffer))
                    .min(u64::from(largest)) as u32
            }
            _ => (self.space_rule(cx).space_from_window(window as i32) as u32).min(largest),
        };
        self.raise_rcvbuf(cx, wanted);
    }

    /// `tcp_rcvbuf_grow`: twice what was read, ahead of growth, and what is held out of order.
    pub(crate) fn grow_plain(&mut self, cx: &mut Cx<'_>, copied: u32) {
        if !self.may_grow(cx) {
            return;
        }
        let old = u64::from(self.rcvq.space.max(1));
        let mut window = copied.wrapping_shl(1);
        let more = u64::from(copied).saturating_sub(old);
        let rtt_us = u64::from(self.rtt.rtt_us8 >> 3);
        let threshold = u64::from(cx.shared.sysctl.tcp_rcvbuf_low_rtt);
        let grow = match cx.shared.profile.autotune {
            Autotune::LowRtt if rtt_us < threshold => u64::from(window) * rtt_us / threshold,
            Autotune::LowRtt => (u64::from(window) << 1) * more / old,
            _ => (u64::from(window) * more / old) << 1,
        };
        window = window.wrapping_add(grow as u32);
        if let Some((_, last)) = self.ofo.last() {
            window = window.wrapping_add(last.end_seq.since(self.rcv_nxt) as u32);
        }
        let largest = cx.shared.sysctl.tcp_rmem[2].max(0).unsigned_abs();
        let wanted = (self.space_rule(cx).space_from_window(window as i32) as u32).min(largest);
        self.raise_rcvbuf(cx, wanted);
    }

    fn raise_rcvbuf(&mut self, cx: &mut Cx<'_>, wanted: u32) {
        if i64::from(wanted) > i64::from(self.mem.sk_rcvbuf) {
            self.mem.sk_rcvbuf = wanted as i32;
            self.win.window_clamp = self.window_from_space(cx, wanted as i32) as u32;
        }
    }
}
