//! Frames that nobody should send: noise, lies and forgeries, none of which may change what a connection delivers.
//!
//! What is forged for the real connection is either broken in a way that a check must catch, or lies far outside its
//! window: a forgery that guesses right would be a legitimate part of the connection.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration as StdDuration;

use anyhow::Result;
use bytes::Bytes;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64;
use rightedge::observer::Observer;
use rightedge::record::Direction;
use rightedge::run::wire::{PORT, SENDER_MAC, STACK_MAC, SenderReport, Wire};
use rightedge_stack::{time::Instant, wire::RxMeta};

/// The longest frame on a link with an MTU of 1500.
const LONGEST: usize = 1514;
/// What all forgeries have in common, so that the observer can be kept from believing them; the stack does not care.
const FORGER_MAC: [u8; 6] = [2, b'f', b'o', b'r', b'g', b'e'];
/// Ethernet and IPv4 without options.
const TO_TCP: usize = 34;

/// Makes hostile frames.
pub struct Forger {
    rng: Pcg64,
}

impl Forger {
    /// One that always makes the same.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Forger { rng: Pcg64::seed_from_u64(seed) }
    }

    /// The next one. `real` is a TCP segment of the connection, on its way to the stack.
    pub fn forge(&mut self, real: &[u8]) -> Vec<u8> {
        let mut frame = match self.rng.random_range(0..8) {
            0 => self.noise(),
            1 => self.noise_of_a_protocol(),
            2 => real.get(..self.rng.random_range(14..=real.len())).unwrap_or_default().to_vec(),
            3 => self.damaged(real),
            4 => self.lying_ip(real),
            5 => self.stranger(real),
            6 => self.blind(real),
            _ => self.icmp(real),
        };
        frame.truncate(LONGEST);
        if let Some(source) = frame.get_mut(6..12) {
            source.copy_from_slice(&FORGER_MAC);
        }
        frame
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let mut b = vec![0; self.rng.random_range(0..=most)];
        self.rng.fill_bytes(&mut b);
        b
    }

    fn noise(&mut self) -> Vec<u8> {
        let mut f = vec![0; 14];
        self.rng.fill_bytes(&mut f);
        f.extend(self.bytes(LONGEST - 14));
        f
    }

    fn noise_of_a_protocol(&mut self) -> Vec<u8> {
        let types = [0x0800u16, 0x0806, 0x86dd, 0x8100, 0x88a8];
        let ethertype = types[self.rng.random_range(0..types.len())];
        let mut f = [STACK_MAC.0, SENDER_MAC.0].concat();
        f.extend(ethertype.to_be_bytes());
        f.extend(self.bytes(200));
        if ethertype == 0x0806 && f.len() >= 42 {
            // A well-formed ARP of somebody else: to take the sender's address over would be no lie to ARP.
            f[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, self.rng.random_range(0..4)]);
            f[28..32].copy_from_slice(&[10, 0, 0, self.rng.random_range(3..=255)]);
        }
        f
    }

    /// One byte behind the Ethernet header is another: a checksum must catch it.
    fn damaged(&mut self, real: &[u8]) -> Vec<u8> {
        let mut f = real.to_vec();
        let at = self.rng.random_range(14..f.len());
        f[at] ^= self.rng.random_range(1..=255u8);
        f
    }

    /// The IP header says something else than the frame, under a right IP checksum; TCP's no longer fits.
    fn lying_ip(&mut self, real: &[u8]) -> Vec<u8> {
        let mut f = real.to_vec();
        match self.rng.random_range(0..5) {
            0 => f[14] = self.rng.random_range(0..=0x44),
            1 => {
                let len = self.rng.random_range(0..=u16::MAX);
                // The true length would be no lie.
                let truth = u16::from_be_bytes([f[16], f[17]]);
                f[16..18].copy_from_slice(&if len == truth { 0 } else { len }.to_be_bytes());
            }
            2 => f[20..22].copy_from_slice(&self.rng.random_range(1..=0x3fffu16).to_be_bytes()),
            3 => f[23] = self.rng.random_range(7..=255),
            _ => f[26] ^= self.rng.random_range(1..=255u8),
        }
        fix_ip(&mut f);
        f
    }

    /// A well-summed segment of another connection, with anything in it.
    fn stranger(&mut self, real: &[u8]) -> Vec<u8> {
        let mut f = real.get(..TO_TCP).unwrap_or_default().to_vec();
        let dst = if self.rng.random_bool(0.7) { PORT } else { self.rng.random() };
        f.extend(self.rng.random_range(1..1024u16).to_be_bytes());
        f.extend(dst.to_be_bytes());
        let (seq, ack) = (self.rng.random(), self.rng.random());
        self.segment(f, seq, ack)
    }

    /// A well-summed segment of the real connection, at least 2^28 away from its window.
    fn blind(&mut self, real: &[u8]) -> Vec<u8> {
        let f = real.get(..TO_TCP + 4).unwrap_or_default().to_vec();
        let seq = u32::from_be_bytes(real[TO_TCP + 4..TO_TCP + 8].try_into().unwrap_or_default());
        let far = self.rng.random_range(1 << 28..=u32::MAX - (1 << 28));
        let ack = self.rng.random();
        self.segment(f, seq.wrapping_add(far), ack)
    }

    /// Completes headers up to the ports with flags, options and payload at random.
    fn segment(&mut self, mut f: Vec<u8>, seq: u32, ack: u32) -> Vec<u8> {
        let options = self.options();
        let data_offset = match self.rng.random_range(0..4) {
            0 => self.rng.random_range(0..16),
            _ => 5 + options.len() / 4,
        };
        f.extend(seq.to_be_bytes());
        f.extend(ack.to_be_bytes());
        f.push((data_offset as u8) << 4);
        f.push(if self.rng.random_bool(0.3) { 0x02 } else { self.rng.random() });
        f.extend(self.rng.random::<u16>().to_be_bytes());
        f.extend([0, 0]);
        f.extend(self.rng.random::<u16>().to_be_bytes());
        f.extend(options);
        f.extend(self.bytes(100));
        let len = (f.len() - 14) as u16;
        f[16..18].copy_from_slice(&len.to_be_bytes());
        fix_ip(&mut f);
        fix_tcp(&mut f);
        f
    }

    fn options(&mut self) -> Vec<u8> {
        let mut o = Vec::new();
        while o.len() < 36 && self.rng.random_bool(0.7) {
            let kind = self.rng.random_range(0..10u8);
            let len = match self.rng.random_range(0..4) {
                0 => self.rng.random(),
                _ => [1, 1, 4, 3, 2, 10, 6, 6, 10, 3][usize::from(kind)],
            };
            o.extend([kind, len]);
            let body = usize::from(len).saturating_sub(2).min(10);
            o.extend((0..body).map(|_| self.rng.random::<u8>()));
        }
        o.truncate(40);
        o.resize(o.len().next_multiple_of(4), 1);
        o
    }

    /// ICMP about the connection: unreachable, too big, exceeded, and kinds that do not exist.
    fn icmp(&mut self, real: &[u8]) -> Vec<u8> {
        let mut f = real.get(..TO_TCP).unwrap_or_default().to_vec();
        f[23] = 1;
        let kind = [3, 3, 5, 11, 12, self.rng.random()][self.rng.random_range(0..6)];
        let mut body = vec![kind, self.rng.random_range(0..16), 0, 0];
        body.extend(self.rng.random::<u32>().to_be_bytes());
        // What it quotes: a packet the stack might have sent.
        let mut quoted = real.get(14..42).unwrap_or_default().to_vec();
        for (a, b) in [(12, 16), (13, 17), (14, 18), (15, 19), (20, 22), (21, 23)] {
            quoted.swap(a, b);
        }
        body.extend(quoted);
        let check = sum(&body, 0);
        body[2..4].copy_from_slice(&check.to_be_bytes());
        f.extend(body);
        let len = (f.len() - 14) as u16;
        f[16..18].copy_from_slice(&len.to_be_bytes());
        fix_ip(&mut f);
        f
    }
}

/// The Internet checksum.
fn sum(data: &[u8], start: u32) -> u16 {
    let mut all = start;
    for pair in data.chunks(2) {
        all += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        all = (all & 0xffff) + (all >> 16);
    }
    !(all as u16)
}

fn fix_ip(f: &mut [u8]) {
    let header = (usize::from(f[14] & 15) * 4).clamp(20, f.len() - 14);
    f[24..26].fill(0);
    let check = sum(&f[14..14 + header], 0);
    f[24..26].copy_from_slice(&check.to_be_bytes());
}

fn fix_tcp(f: &mut [u8]) {
    f[TO_TCP + 16..TO_TCP + 18].fill(0);
    let len = (f.len() - TO_TCP) as u32;
    let addresses = !sum(&f[26..34], 6 + len);
    let check = sum(&f[TO_TCP..], u32::from(addresses));
    f[TO_TCP + 16..TO_TCP + 18].copy_from_slice(&check.to_be_bytes());
}

/// The last real segment that carried payload, for whoever forges in another thread.
pub type LastReal = Arc<Mutex<Vec<u8>>>;

/// A wire that watches what passes, and may add hostile frames behind every real one.
pub struct Watched<W> {
    inner: W,
    forger: Option<(Forger, usize)>,
    waiting: VecDeque<Vec<u8>>,
    last: LastReal,
    observer: Rc<RefCell<Observer>>,
    forgeries: Rc<RefCell<Observer>>,
    frames: u64,
    over: bool,
    hold: Box<dyn Fn() -> bool>,
}

impl<W: Wire> Watched<W> {
    /// Watches `inner`; with a forger, as many forgeries follow every real frame. The run lasts while `hold` says so.
    pub fn new(inner: W, forger: Option<(Forger, usize)>, hold: impl Fn() -> bool + 'static) -> Self {
        Watched {
            inner,
            forger,
            waiting: VecDeque::new(),
            last: LastReal::default(),
            observer: Rc::default(),
            forgeries: Rc::default(),
            frames: 0,
            over: false,
            hold: Box::new(hold),
        }
    }

    /// The last real segment.
    #[must_use]
    pub fn last(&self) -> LastReal {
        Arc::clone(&self.last)
    }

    /// The observer of everything that passes but for forgeries: it does not verify checksums and would believe them.
    #[must_use]
    pub fn observer(&self) -> Rc<RefCell<Observer>> {
        Rc::clone(&self.observer)
    }

    /// The observer of the forgeries.
    #[must_use]
    pub fn forgeries(&self) -> Rc<RefCell<Observer>> {
        Rc::clone(&self.forgeries)
    }

    fn watch(&mut self, now: Instant, direction: Direction, frame: &[u8]) {
        self.frames += 1;
        if self.over {
            return;
        }
        let is_forged = direction == Direction::In && frame.get(6..12) == Some(&FORGER_MAC);
        let observer = if is_forged { &self.forgeries } else { &self.observer };
        observer.borrow_mut().frame(self.frames, now.as_nanos(), direction, frame);
        // Once the stack has closed too, a forged SYN of the same addresses may begin another connection.
        self.over = direction == Direction::Out && frame.len() >= 54 && frame[23] == 6 && frame[47] & 1 != 0;
    }

    fn note(&mut self, frame: &[u8]) {
        let is_tcp = frame.len() >= 54 && frame[12..14] == [8, 0] && frame[14] == 0x45 && frame[23] == 6;
        let is_data = is_tcp && frame.len() > TO_TCP + usize::from(frame[46] >> 4) * 4;
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Forgeries that come over the device start behind the first real segment and could be taken for one.
        if is_data && (self.forger.is_some() || last.is_empty()) {
            *last = frame.get(..frame.len().min(LONGEST)).unwrap_or_default().to_vec();
        }
    }
}

impl<W: Wire> Wire for Watched<W> {
    fn now(&mut self) -> Instant {
        self.inner.now()
    }

    fn recv(&mut self, now: Instant) -> Result<Option<(Bytes, RxMeta)>> {
        if let Some(frame) = self.waiting.pop_front() {
            self.watch(now, Direction::In, &frame);
            return Ok(Some((frame.into(), RxMeta::default())));
        }
        let got = self.inner.recv(now)?;
        if let Some((frame, _)) = &got {
            self.note(frame);
            self.watch(now, Direction::In, frame);
            let last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some((forger, n)) = &mut self.forger
                && !last.is_empty()
            {
                self.waiting.extend((0..*n).map(|_| forger.forge(&last)));
            }
        }
        Ok(got)
    }

    fn send(&mut self, now: Instant, frame: &Bytes) -> Result<bool> {
        self.watch(now, Direction::Out, frame);
        self.inner.send(now, frame)
    }

    fn wait(&mut self, until: Option<Instant>, at_most: StdDuration) -> Result<()> {
        self.inner.wait(until, at_most)
    }

    fn sender_done(&self) -> bool {
        self.inner.sender_done() && !(self.hold)()
    }

    fn sender(&mut self) -> SenderReport {
        self.inner.sender()
    }

    fn stop(&mut self, now: Instant) {
        self.inner.stop(now);
    }
}
