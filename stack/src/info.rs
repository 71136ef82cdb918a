//! What a socket shows of itself: the views of TCP_INFO and SO_MEMINFO, named as `ss` and the kernel name them.

use crate::{
    mem::SockMem,
    stack::Shared,
    tcb::{State, Tcb},
    units::Seq,
};

/// SO_MEMINFO: the nine figures that `ss -m` prints, bytes unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MemInfo {
    /// r: sk_rmem_alloc.
    pub rmem_alloc: u32,
    /// rb: sk_rcvbuf.
    pub rcvbuf: u32,
    /// t: sk_wmem_alloc; nothing waits in a driver here, so 0.
    pub wmem_alloc: u32,
    /// tb: sk_sndbuf.
    pub sndbuf: u32,
    /// f: sk_forward_alloc (negative values wrap, as in the kernel).
    pub fwd_alloc: u32,
    /// w: sk_wmem_queued.
    pub wmem_queued: u32,
    /// o: option memory; 0.
    pub optmem: u32,
    /// bl: sk_backlog.len.
    pub backlog: u32,
    /// d: segments dropped.
    pub drops: u32,
}

impl From<&SockMem> for MemInfo {
    fn from(m: &SockMem) -> Self {
        MemInfo {
            rmem_alloc: m.sk_rmem_alloc as u32,
            rcvbuf: m.sk_rcvbuf as u32,
            wmem_alloc: 0,
            sndbuf: m.sk_sndbuf as u32,
            fwd_alloc: m.sk_forward_alloc as u32,
            wmem_queued: m.sk_wmem_queued as u32,
            optmem: 0,
            backlog: m.backlog_len as u32,
            drops: m.sk_drops,
        }
    }
}

/// TCP_INFO, as far as it speaks of the receive side, and what else there is to see. Bytes and unscaled windows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Info {
    /// State.
    pub state: State,
    /// The four memory figures and their kin.
    pub mem: MemInfo,
    /// tcpi_rcv_wnd: what the peer may still send (`tcp_receive_window`).
    pub rcv_win: u32,
    /// tp->rcv_wnd as last chosen.
    pub rcv_wnd: u32,
    /// tcpi_rcv_ssthresh.
    pub rcv_ssthresh: u32,
    /// window_clamp (TCP_WINDOW_CLAMP).
    pub window_clamp: u32,
    /// tcpi_rcv_mss.
    pub rcv_mss: u32,
    /// tcpi_advmss.
    pub advmss: u32,
    /// tcpi_snd_mss.
    pub snd_mss: u32,
    /// tcpi_ato, µs.
    pub ato_us: u32,
    /// tcpi_rcv_space (rcvq_space.space).
    pub rcv_space: u32,
    /// tcpi_rcv_rtt, µs.
    pub rcv_rtt_us: u32,
    /// tcpi_rtt, µs.
    pub rtt_us: u32,
    /// tcpi_rto, µs.
    pub rto_us: u64,
    /// Scale of our window.
    pub rcv_wscale: u8,
    /// Scale of the peer's window.
    pub snd_wscale: u8,
    /// scaling_ratio in 256ths, where the generation has one.
    pub scaling_ratio: u8,
    /// tcpi_bytes_received.
    pub bytes_received: u64,
    /// tcpi_bytes_acked.
    pub bytes_acked: u64,
    /// tcpi_segs_in.
    pub segs_in: u32,
    /// tcpi_segs_out.
    pub segs_out: u32,
    /// tcpi_data_segs_in.
    pub data_segs_in: u32,
    /// tcpi_rcv_ooopack.
    pub rcv_ooopack: u32,
    /// tcpi_total_retrans.
    pub total_retrans: u32,
    /// Unread bytes in order (Recv-Q).
    pub recv_q: u32,
    /// Bytes of this side not acknowledged yet (Send-Q).
    pub send_q: u32,
    /// Bytes held out of order.
    pub ofo_bytes: u64,
    /// Buffers in the receive queue.
    pub rcvq_skbs: usize,
    /// Buffers in the out-of-order queue.
    pub ofo_skbs: usize,
    /// The peer's initial sequence number.
    pub irs: Seq,
    /// Our initial sequence number.
    pub iss: Seq,
    /// Next sequence number expected.
    pub rcv_nxt: Seq,
    /// First unread sequence number.
    pub copied_seq: Seq,
    /// What was acknowledged last.
    pub rcv_wup: Seq,
    /// Timestamps, SACK and window scaling in use.
    pub timestamps: bool,
    /// SACK in use.
    pub sack: bool,
    /// Window scaling in use.
    pub wscale: bool,
    /// Immediate ACKs left.
    pub quick: u8,
    /// Header prediction is on.
    pub predicting: bool,
    /// Segments merged into a queued one.
    pub coalesced: u32,
    /// Times a queue was rewritten by a collapse.
    pub collapses: u32,
    /// Times memory ran out (`tcp_prune_queue` was entered).
    pub prunes: u32,
    /// Times the clamp raised sk_rcvbuf or cut rcv_ssthresh.
    pub clamps: u32,
    /// Segments dropped for want of memory.
    pub memory_drops: u32,
    /// Segments dropped because of where the window's edge was.
    pub window_drops: u32,
}

impl Info {
    pub(crate) fn of(t: &Tcb, shared: &Shared) -> Self {
        Info {
            state: t.state,
            mem: MemInfo::from(&t.mem),
            rcv_win: t.receive_window(),
            rcv_wnd: t.win.rcv_wnd,
            rcv_ssthresh: t.win.rcv_ssthresh,
            window_clamp: t.win.window_clamp,
            rcv_mss: t.rcv_mss,
            advmss: t.advmss,
            snd_mss: t.snd.mss_cache,
            ato_us: t.shown_ato(shared).saturating_mul(1_000_000 / shared.tick.hz().max(1)),
            rcv_space: t.rcvq.space,
            rcv_rtt_us: t.rtt.rtt_us8 >> 3,
            rtt_us: t.snd.srtt_us8 >> 3,
            rto_us: t.snd.rto_us,
            rcv_wscale: t.win.rcv_wscale,
            snd_wscale: t.opts.snd_wscale,
            scaling_ratio: t.win.scaling_ratio,
            bytes_received: t.stats.bytes_received,
            bytes_acked: t.stats.bytes_acked,
            segs_in: t.stats.segs_in,
            segs_out: t.stats.segs_out,
            data_segs_in: t.stats.data_segs_in,
            rcv_ooopack: t.stats.rcv_ooopack,
            total_retrans: t.stats.total_retrans,
            recv_q: t.unread(),
            send_q: t.snd.snd_nxt.since(t.snd.snd_una).max(0).unsigned_abs(),
            ofo_bytes: t.ofo_bytes,
            rcvq_skbs: t.queue.len(),
            ofo_skbs: t.ofo.len(),
            irs: t.irs,
            iss: t.snd.iss,
            rcv_nxt: t.rcv_nxt,
            copied_seq: t.copied_seq,
            rcv_wup: t.win.rcv_wup,
            timestamps: t.opts.timestamps,
            sack: t.opts.sack,
            wscale: t.opts.wscale,
            quick: t.ack.quick,
            predicting: t.pred.is_some(),
            coalesced: t.stats.coalesced,
            collapses: t.stats.collapses,
            prunes: t.stats.prunes,
            clamps: t.stats.clamps,
            memory_drops: t.stats.memory_drops,
            window_drops: t.stats.window_drops,
        }
    }
}
