//! Senders that misbehave on purpose: the model sender with one fault each, so that the judge can be put to the test.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use pnet::packet::ipv4::{self, MutableIpv4Packet};
use pnet::packet::tcp::{self, MutableTcpPacket};
use pnet::packet::{MutablePacket as _, Packet as _};
use rightedge_stack::time::{Duration, Instant};

use crate::observer::segment::{self, ACK, FIN, RST, SYN, Segment};
use crate::run::wire::{SenderReport, embedded::SansIo};

/// The fault of a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Believes that the window is always wide open.
    IgnoresEdge,
    /// Takes a smaller window only with an acknowledgement of something new, as BSD and Linux do.
    KeepsWindow,
    /// Sends nothing while the window is closed.
    NeverProbes,
    /// Probes a closed window at a steady pace.
    ProbesSteadily,
    /// Sends nothing while the window is open, but for less than a segment.
    NeedsSegment,
    /// Gives the connection up when the window has been closed for ten seconds.
    GivesUp,
    /// Resets the connection when the right edge moves left.
    Resets,
    /// Falls silent for ever when the right edge moves left.
    FallsSilent,
    /// Sends every segment three times.
    Duplicates,
    /// Sends other bytes when it sends data again.
    Corrupts,
    /// Does not hear an acknowledgement beyond the edge offered before.
    DeafBeyondEdge,
    /// Sends a byte less than it was to.
    StopsShort,
    /// Repeats its first data segment without end.
    Floods,
}

/// All of them, by name, with what they do.
pub const ALL: &[(How, &str)] = &[
    (How::IgnoresEdge, "ignores-edge"),
    (How::KeepsWindow, "keeps-window"),
    (How::NeverProbes, "never-probes"),
    (How::ProbesSteadily, "probes-steadily"),
    (How::NeedsSegment, "needs-segment"),
    (How::GivesUp, "gives-up"),
    (How::Resets, "resets"),
    (How::FallsSilent, "falls-silent"),
    (How::Duplicates, "duplicates"),
    (How::Corrupts, "corrupts"),
    (How::DeafBeyondEdge, "deaf-beyond-edge"),
    (How::StopsShort, "stops-short"),
    (How::Floods, "floods"),
];

impl FromStr for How {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        ALL.iter().find(|(_, n)| *n == text).map(|(h, _)| *h).ok_or_else(|| {
            let all: Vec<_> = ALL.iter().map(|(_, n)| *n).collect();
            format!("fault '{text}': there are {}", all.join(", "))
        })
    }
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ALL.iter().find(|(h, _)| h == self).map_or("", |(_, n)| n))
    }
}

/// How long [`How::GivesUp`] bears a closed window.
const BEARS: Duration = Duration::from_secs(10);
/// The pace of [`How::ProbesSteadily`].
const PACE: Duration = Duration::from_millis(400);

/// A sender with a fault.
#[derive(Debug)]
pub struct Bad<S> {
    good: S,
    how: How,
    /// Bytes that it is to send.
    bytes: u32,
    out: VecDeque<(Bytes, u16)>,
    scale: u8,
    mss: u32,
    /// First sequence number of the stream, and the furthest sent.
    first: Option<u32>,
    sent: u32,
    /// What was heard last.
    ack: u32,
    window: u32,
    edge: Option<u32>,
    closed_since: Option<Instant>,
    shrunk: bool,
    next_probe: Option<Instant>,
    template: Option<Bytes>,
    first_data: Option<Bytes>,
    dead: Option<&'static str>,
}

impl<S: SansIo> Bad<S> {
    /// `good`, which sends so many bytes, with the fault.
    pub fn new(good: S, how: How, bytes: u64) -> Self {
        Bad {
            good,
            how,
            bytes: bytes as u32,
            out: VecDeque::new(),
            scale: 0,
            mss: 536,
            first: None,
            sent: 0,
            ack: 0,
            window: u32::MAX,
            edge: None,
            closed_since: None,
            shrunk: false,
            next_probe: None,
            template: None,
            first_data: None,
            dead: None,
        }
    }

    fn hear(&mut self, now: Instant, s: &Segment) -> bool {
        if s.has(SYN) {
            self.scale = s.wscale.unwrap_or(0).min(14);
            self.mss = s.mss.unwrap_or(536).into();
        }
        let window = if s.has(SYN) { u32::from(s.window) } else { u32::from(s.window) << self.scale };
        let edge = s.ack.wrapping_add(window);
        let before = self.edge.unwrap_or(edge);
        let left = edge.wrapping_sub(before).cast_signed() < 0;
        if self.how == How::DeafBeyondEdge && self.shrunk && s.ack.wrapping_sub(before).cast_signed() > 0 {
            return false;
        }
        self.shrunk |= left;
        (self.ack, self.window, self.edge) = (s.ack, window, Some(edge));
        self.closed_since = (window == 0).then(|| self.closed_since.unwrap_or(now));
        if window == 0 && self.next_probe.is_none() {
            self.next_probe = Some(now + PACE);
        } else if window > 0 {
            self.next_probe = None;
        }
        if left && self.how == How::Resets {
            self.reset("ECONNABORTED");
        }
        true
    }

    fn reset(&mut self, error: &'static str) {
        if let Some(rst) = self.template.as_ref().map(|t| {
            changed(t, Some(0), |tcp| {
                tcp.set_flags(RST | ACK);
                tcp.set_sequence(self.sent);
            })
        }) {
            self.out.push_back((rst, 0));
        }
        self.dead = Some(error);
    }

    /// What becomes of a frame that the good sender would send.
    fn say(&mut self, frame: Bytes, gso: u16) {
        let Ok(s) = segment::parse(&frame) else {
            self.out.push_back((frame, gso));
            return;
        };
        self.template = Some(frame.clone());
        let data = s.payload > 0 || s.has(FIN);
        let first = *self.first.get_or_insert(s.seq.wrapping_add(1));
        let end = s.seq.wrapping_add(s.payload);
        let new = end.wrapping_sub(self.sent).cast_signed() > 0 || self.sent == 0;
        if s.payload > 0 && self.first_data.is_none() {
            self.first_data = Some(frame.clone());
        }
        if new && s.payload > 0 {
            self.sent = end;
        }
        match self.how {
            How::NeverProbes | How::ProbesSteadily if self.closed_since.is_some() => {}
            How::NeedsSegment if data && self.window > 0 && self.window < self.mss => {}
            How::FallsSilent if self.shrunk => {}
            How::Duplicates if s.payload > 0 => self.out.extend(std::iter::repeat_n((frame, gso), 3)),
            How::Corrupts if s.payload > 1 && !new => {
                let other = changed(&frame, None, |tcp| {
                    if let Some(byte) = tcp.payload_mut().last_mut() {
                        *byte ^= 0x55;
                    }
                });
                self.out.push_back((other, gso));
            }
            How::StopsShort if end.wrapping_sub(first) == self.bytes && s.payload > 0 => {
                let short = changed(&frame, Some(s.payload as usize - 1), |_| {});
                self.out.push_back((short, gso));
            }
            How::StopsShort if s.has(FIN) => {
                let seq = s.seq.wrapping_sub(1);
                self.out.push_back((changed(&frame, Some(0), |tcp| tcp.set_sequence(seq)), gso));
            }
            How::Floods if s.payload > 0 && end.wrapping_sub(first) > 10_000 => {
                // What it has to say is said again and again below.
                self.shrunk = true;
            }
            _ => self.out.push_back((frame, gso)),
        }
    }
}

impl<S: SansIo> SansIo for Bad<S> {
    fn on_frame(&mut self, now: Instant, frame: &Bytes) {
        if self.dead.is_some() {
            return;
        }
        let Ok(s) = segment::parse(frame) else { return self.good.on_frame(now, frame) };
        let shift = self.scale;
        let kept = (self.how == How::KeepsWindow && self.edge.is_some() && s.ack == self.ack && s.window > 0)
            .then(|| (self.window >> shift) as u16)
            .filter(|kept| s.window < *kept && !s.has(SYN));
        if let Some(kept) = kept {
            return self.good.on_frame(now, &changed(frame, None, |tcp| tcp.set_window(kept)));
        }
        if !self.hear(now, &s) || self.dead.is_some() {
            return;
        }
        if self.how == How::IgnoresEdge && !s.has(SYN) {
            let open = changed(frame, None, |tcp| tcp.set_window(u16::MAX));
            return self.good.on_frame(now, &open);
        }
        self.good.on_frame(now, frame);
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<(Bytes, u16)> {
        if self.dead.is_none() {
            while let Some((frame, gso)) = self.good.poll_transmit(now) {
                self.say(frame, gso);
            }
            if self.how == How::GivesUp && self.closed_since.is_some_and(|t| now.since(t) >= BEARS) {
                self.reset("ETIMEDOUT");
            }
            if self.how == How::ProbesSteadily
                && let (Some(at), Some(t)) = (self.next_probe, &self.template)
                && at <= now
            {
                let ack = self.ack;
                self.out.push_back((changed(t, Some(0), |tcp| tcp.set_sequence(ack.wrapping_sub(1))), 0));
                self.next_probe = Some(at + PACE);
            }
            if self.how == How::Floods && self.shrunk && self.out.is_empty() {
                self.out.extend(self.first_data.clone().map(|f| (f, 0)));
            }
        }
        self.out.pop_front()
    }

    fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        if self.dead.is_some() {
            return None;
        }
        let gives_up = self.closed_since.filter(|_| self.how == How::GivesUp).map(|t| t + BEARS);
        let probe = self.next_probe.filter(|_| self.how == How::ProbesSteadily);
        [self.good.poll_timeout(now), gives_up, probe].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.dead.is_none() {
            self.good.handle_timeout(now);
        }
    }

    fn is_over(&self) -> bool {
        self.dead.is_some() && self.out.is_empty() || self.dead.is_none() && self.good.is_over()
    }

    fn report(&self) -> SenderReport {
        let good = self.good.report();
        SenderReport {
            what: format!("{} that {}", good.what, self.how),
            error: self.dead.map(str::to_owned).or(good.error.clone()),
            ..good
        }
    }

    fn stop(&mut self, now: Instant) {
        self.good.stop(now);
    }
}

/// A copy of an IPv4 segment with `change` made to it, cut to `payload` bytes if that is said; checksums are right again.
fn changed(frame: &Bytes, payload: Option<usize>, change: impl FnOnce(&mut MutableTcpPacket<'_>)) -> Bytes {
    const ETHERNET: usize = 14;
    let mut copy = frame.to_vec();
    let edit = |copy: &mut Vec<u8>| -> Option<()> {
        let mut ip = MutableIpv4Packet::new(copy.get_mut(ETHERNET..)?)?;
        let header = usize::from(ip.get_header_length()) * 4;
        let (source, destination) = (ip.get_source(), ip.get_destination());
        let mut total = usize::from(ip.get_total_length());
        if let Some(payload) = payload {
            let offset = usize::from(*ip.packet().get(header + 12)? >> 4) * 4;
            total = header + offset + payload;
            ip.set_total_length(u16::try_from(total).ok()?);
            let sum = ipv4::checksum(&ip.to_immutable());
            ip.set_checksum(sum);
        }
        copy.truncate(ETHERNET + total);
        let mut tcp = MutableTcpPacket::new(copy.get_mut(ETHERNET + header..)?)?;
        change(&mut tcp);
        let sum = tcp::ipv4_checksum(&tcp.to_immutable(), &source, &destination);
        tcp.set_checksum(sum);
        Some(())
    };
    edit(&mut copy);
    copy.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_have_names() {
        for (how, name) in ALL {
            assert_eq!(name.parse::<How>().unwrap(), *how);
            assert_eq!(how.to_string(), *name);
        }
        assert!("manners".parse::<How>().unwrap_err().contains("never-probes"));
    }
}
