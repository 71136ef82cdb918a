//! What the model sender is told, and what it reports.

use std::net::Ipv4Addr;

use serde::Serialize;

use rightedge_stack::time::Duration;

use super::wire::Mac;
use crate::sender::{End, Role};

/// Settings of a [`ModelSender`](super::ModelSender). The default is a Linux-like server at 10.0.0.1:5001 that
/// writes 64 KiB at a time without end.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// Who opens the connection.
    pub role: Role,
    /// Our hardware address.
    pub mac: Mac,
    /// The stack's hardware address; it is never asked for.
    pub peer_mac: Mac,
    /// Our address.
    pub addr: Ipv4Addr,
    /// The stack's address; as a server any peer address is taken and this one is not used.
    pub peer_addr: Ipv4Addr,
    /// Our port: listened on as a server, connected from as a client.
    pub port: u16,
    /// The stack's port, as a client.
    pub peer_port: u16,
    /// Our initial sequence number.
    pub iss: u32,
    /// Maximum segment size: announced, and the most we send (less the options), 88…65 000.
    pub mss: u16,
    /// Offer timestamps (RFC 7323).
    pub timestamps: bool,
    /// Offer selective acknowledgements (RFC 2018).
    pub sack: bool,
    /// Our window scale, `None` to offer none (which also switches the peer's off).
    pub wscale: Option<u8>,
    /// The window we offer for data from the stack, in bytes.
    pub rcv_wnd: u32,
    /// What the application does.
    pub app: AppModel,
    /// How much may be written and not acknowledged.
    pub sndbuf: SndBuf,
    /// First congestion window, in segments.
    pub initcwnd: u32,
    /// How the congestion window moves.
    pub congestion: Congestion,
    /// Fall back towards `initcwnd` when idle for a retransmission time-out (tcp_slow_start_after_idle).
    pub slow_start_after_idle: bool,
    /// Largest super-segment in payload bytes; 0 sends one frame per segment.
    pub gso_max: u32,
    /// Smallest retransmission time-out (TCP_RTO_MIN).
    pub rto_min: Duration,
    /// Largest retransmission time-out and probe interval (TCP_RTO_MAX).
    pub rto_max: Duration,
    /// Retransmissions before giving up with ETIMEDOUT, counted as Linux does: as the time so many would take from
    /// `rto_min` (tcp_retries2; 15 means 924.6 s). Also the unanswered zero-window probes.
    pub retries2: u32,
    /// SYN retransmissions before a client gives up (tcp_syn_retries).
    pub syn_retries: u32,
    /// Take over a smaller window whatever it comes with, as RFC 9293 §3.10.7.4 asks. Linux does so only if the segment has
    /// something new: an acknowledgement, or its sequence number.
    pub smaller_window: bool,
}

/// What the application does.
#[derive(Clone, Debug)]
pub struct AppModel {
    /// Sizes of its writes, used in turn.
    pub write_sizes: Vec<u32>,
    /// Time from one write to the next; zero writes whenever there is room.
    pub pace: Duration,
    /// TCP_NODELAY.
    pub nodelay: bool,
    /// Stop after so many bytes.
    pub total: Option<u64>,
    /// Stop so long after the connection was established.
    pub stop_after: Option<Duration>,
    /// What happens then.
    pub end: End,
}

/// The send buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SndBuf {
    /// SO_SNDBUF locked at this many bytes (already doubled, as `ss` shows it).
    Fixed(u64),
    /// Grown with the congestion window up to this (third value of tcp_wmem).
    Auto(u64),
}

/// How the congestion window moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Congestion {
    /// Slow start, congestion avoidance, halving on loss.
    Reno,
    /// Held at this many segments, so that only the receiver limits; a retransmission time-out still falls back to
    /// one segment until everything sent before it is acknowledged.
    Fixed(u32),
}

/// Where the connection stands (RFC 9293 §3.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the RFC's")]
pub enum ModelState {
    Listen,
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
    Closed,
}

/// A snapshot of the model sender.
#[derive(Clone, Debug, Serialize)]
pub struct ModelStats {
    /// Connection state.
    pub state: ModelState,
    /// Why the connection died, as an errno name.
    pub error: Option<&'static str>,
    /// Bytes the application wrote.
    pub bytes_written: u64,
    /// Payload bytes sent for the first time.
    pub bytes_sent: u64,
    /// Payload bytes acknowledged.
    pub bytes_acked: u64,
    /// Payload bytes sent again.
    pub bytes_retransmitted: u64,
    /// Frames with payload, SYN or FIN that were sent, retransmissions included.
    pub frames_sent: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Retransmission time-outs.
    pub rtos: u64,
    /// Times fast recovery was entered.
    pub recoveries: u64,
    /// Zero-window probes sent.
    pub probes: u64,
    /// Probes since the last answer.
    pub probes_out: u32,
    /// The window as last taken over, in bytes.
    pub snd_wnd: u32,
    /// Times the right edge moved left.
    pub edge_shrinks: u64,
    /// The most bytes it ever moved left at once.
    pub edge_shrink_max: u64,
    /// Times the window became zero.
    pub zero_windows: u64,
    /// Payload bytes sent again behind the right edge (RFC 9293 MAY-7).
    pub bytes_beyond_edge: u64,
    /// Congestion window in segments.
    pub cwnd: u32,
    /// Slow-start threshold in segments.
    pub ssthresh: u32,
    /// Segments in flight as the congestion control counts them.
    pub in_flight: u32,
    /// Segment size in payload bytes.
    pub mss: u32,
    /// Smoothed round trip, once measured.
    pub srtt: Option<Duration>,
    /// Retransmission time-out, back-off included.
    pub rto: Duration,
    /// Send buffer in use, with an estimate of the kernel's overhead.
    pub wmem_queued: u64,
    /// Send buffer limit.
    pub sndbuf: u64,
    /// The application waits for room.
    pub blocked: bool,
    /// Frames that were damaged, with the last reason.
    pub bad_frames: u64,
    /// What was wrong with the last damaged frame.
    pub last_bad: Option<&'static str>,
}

impl Default for ModelConfig {
    fn default() -> Self {
        ModelConfig {
            role: Role::Server,
            mac: [0x02, 0, 0, 0, 0, 0x01],
            peer_mac: [0x02, 0, 0, 0, 0, 0x02],
            addr: Ipv4Addr::new(10, 0, 0, 1),
            peer_addr: Ipv4Addr::new(10, 0, 0, 2),
            port: 5001,
            peer_port: 5001,
            iss: 0x1000_0000,
            mss: 1460,
            timestamps: true,
            sack: true,
            wscale: Some(7),
            rcv_wnd: 64_240,
            app: AppModel::default(),
            sndbuf: SndBuf::Auto(4 << 20),
            initcwnd: 10,
            congestion: Congestion::Reno,
            slow_start_after_idle: true,
            gso_max: 0,
            rto_min: Duration::from_millis(200),
            rto_max: Duration::from_secs(120),
            retries2: 15,
            syn_retries: 6,
            smaller_window: false,
        }
    }
}

impl Default for AppModel {
    fn default() -> Self {
        AppModel {
            write_sizes: vec![65_536],
            pace: Duration::ZERO,
            nodelay: false,
            total: None,
            stop_after: None,
            end: End::Close,
        }
    }
}
