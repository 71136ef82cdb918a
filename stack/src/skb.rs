//! A queued segment: its bytes, its place in sequence space, and the memory it is charged for.
//!
//! Payload arrives as a slice of the frame and stays one ([`Bytes`]). Bytes are copied only where Linux copies them:
//! into the tail room of a queued buffer, and when a queue is collapsed.

use bytes::Bytes;

use crate::{
    decision::{CoalesceHow, CoalesceRefusal},
    nic::Layout,
    profile::{KernelBuild, SKB_DESCRIPTOR},
    units::Seq,
    wire::TcpFlags,
};

/// Payload up to this length is copied when it is queued: it must not keep a whole frame alive.
const SMALL: usize = 256;
/// A head and as many fragments as a buffer usually takes.
const PIECES: usize = 18;
/// Lists and small buffers kept for the next segments, each.
const SPARE: usize = 64;
/// A larger buffer is not kept. Small payloads of a whole buffer, and what doubling adds, are less.
const SPARE_BYTES: usize = 10 << 10;

/// Payload bytes that lie in one place.
#[derive(Debug, Clone)]
enum Piece {
    /// In the frame they came in.
    Slice(Bytes),
    /// In memory of our own, which can be appended to.
    Copied(Vec<u8>),
}

impl Piece {
    const fn none() -> Self {
        Piece::Copied(Vec::new())
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Slice(b) => b,
            Piece::Copied(v) => v,
        }
    }
}

/// Memory of buffers that were read, for the next ones: a stream that is read as it comes allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Spare {
    lists: Vec<Vec<Piece>>,
    buffers: Vec<Vec<u8>>,
}

impl Spare {
    fn list(&mut self) -> Vec<Piece> {
        self.lists.pop().unwrap_or_else(|| Vec::with_capacity(PIECES))
    }

    fn buffer(&mut self, room: usize) -> Vec<u8> {
        self.buffers.pop().unwrap_or_else(|| Vec::with_capacity(room))
    }

    fn keep(&mut self, piece: Piece) {
        if let Piece::Copied(mut v) = piece
            && self.buffers.len() < SPARE
            && (1..=SPARE_BYTES).contains(&v.capacity())
        {
            v.clear();
            self.buffers.push(v);
        }
    }

    fn keep_list(&mut self, mut list: Vec<Piece>) {
        if list.capacity() == 0 {
            return;
        }
        list.drain(..).for_each(|piece| self.keep(piece));
        if self.lists.len() < SPARE {
            self.lists.push(list);
        }
    }

    /// What `skb` held, now that nobody needs it any more.
    pub(crate) fn recycle(&mut self, skb: Skb) {
        self.keep(skb.first);
        self.keep_list(skb.more);
    }
}

/// One buffer in a queue.
#[derive(Debug, Clone)]
pub(crate) struct Skb {
    pub(crate) seq: Seq,
    /// Behind the last byte, FIN and SYN counted.
    pub(crate) end_seq: Seq,
    pub(crate) flags: TcpFlags,
    /// Payload bytes.
    pub(crate) len: u32,
    pub(crate) truesize: i32,
    /// Payload bytes in the head.
    pub(crate) headlen: u32,
    /// Usable bytes of the head.
    pub(crate) end: u32,
    tailroom: u32,
    pub(crate) nr_frags: u32,
    head_frag: bool,
    cloned: bool,
    pub(crate) gso_size: u16,
    pub(crate) gso_segs: u16,
    first: Piece,
    /// What was merged behind it; without memory of its own until then.
    more: Vec<Piece>,
}

/// What the estimators look at once the segment itself is queued or joined to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) len: u32,
    pub(crate) truesize: i32,
    pub(crate) headlen: u32,
    pub(crate) end: u32,
    pub(crate) gso_size: u16,
}

/// What a merge cost and how it was done.
pub(crate) struct Merge {
    pub(crate) how: CoalesceHow,
    pub(crate) delta: i32,
}

impl Skb {
    #[inline(always)]
    pub(crate) fn new(seq: Seq, flags: TcpFlags, payload: Bytes, layout: &Layout, gso: (u16, u16)) -> Self {
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut end_seq = seq + len;
        if flags.contains(TcpFlags::FIN) {
            end_seq += 1;
        }
        if flags.contains(TcpFlags::SYN) {
            end_seq += 1;
        }
        Skb {
            seq,
            end_seq,
            flags,
            len,
            truesize: i32::try_from(layout.truesize).unwrap_or(i32::MAX),
            headlen: layout.headlen.min(len),
            end: layout.end,
            tailroom: layout.tailroom,
            nr_frags: layout.nr_frags,
            head_frag: layout.head_frag,
            cloned: layout.cloned,
            gso_size: gso.0,
            gso_segs: gso.1,
            first: Piece::Slice(payload),
            more: Vec::new(),
        }
    }

    /// An empty buffer for a collapse: a slab head with room for `capacity` bytes.
    pub(crate) fn for_collapse(seq: Seq, flags: TcpFlags, end: u32, truesize: u32, capacity: u32) -> Self {
        Skb {
            seq,
            end_seq: seq,
            flags,
            len: 0,
            truesize: i32::try_from(truesize).unwrap_or(i32::MAX),
            headlen: 0,
            end,
            tailroom: end,
            nr_frags: 0,
            head_frag: false,
            cloned: false,
            gso_size: 0,
            gso_segs: 0,
            first: Piece::Copied(Vec::with_capacity(capacity as usize)),
            more: Vec::new(),
        }
    }

    /// The figures that outlive queueing.
    #[inline(always)]
    pub(crate) fn seen(&self) -> Seen {
        Seen {
            len: self.len,
            truesize: self.truesize,
            headlen: self.headlen,
            end: self.end,
            gso_size: self.gso_size,
        }
    }

    /// Segments this buffer counts for in drop and out-of-order statistics.
    pub(crate) fn segments(&self) -> u32 {
        u32::from(self.gso_segs.max(1))
    }

    /// Room that a neighbour may be copied into: none once there are fragments (`skb_tailroom`).
    #[inline(always)]
    fn copy_room(&self) -> u32 {
        if self.nr_frags == 0 { self.tailroom } else { 0 }
    }

    /// A local sender drops its copy of a buffer once it is acknowledged; then the buffer is ours alone. (That the
    /// sender sees the ACK before the next segment arrives is a simplification of the veth model.)
    #[inline(always)]
    pub(crate) fn forget_clone(&mut self, acked: Seq) {
        if self.cloned && !self.end_seq.after(acked) {
            self.cloned = false;
        }
    }

    /// `skb_condense`: pulls fragments that fit into the head, and forgets memory that is no longer used.
    pub(crate) fn condense(&mut self, build: &KernelBuild) {
        if self.nr_frags > 0 {
            let paged = self.len - self.headlen;
            if self.cloned || paged > self.tailroom {
                return;
            }
            self.headlen = self.len;
            self.nr_frags = 0;
            self.tailroom -= paged;
        }
        self.truesize = i32::try_from(build.truesize(self.end)).unwrap_or(i32::MAX);
    }

    /// `skb_try_coalesce`: joins `from` onto the end of this buffer. On success the caller owns what is left of `from`
    /// (its own charge, if it was charged).
    #[inline(always)]
    pub(crate) fn try_coalesce(
        &mut self,
        from: &mut Skb,
        build: &KernelBuild,
        spare: &mut Spare,
    ) -> Result<Merge, CoalesceRefusal> {
        if from.seq != self.end_seq {
            return Err(CoalesceRefusal::NotContiguous);
        }
        if self.cloned {
            return Err(CoalesceRefusal::TargetCloned);
        }
        let merge = if from.len <= self.copy_room() {
            self.tailroom -= from.len;
            self.headlen += from.len;
            self.copy_in(from.first.bytes(), spare);
            if !from.more.is_empty() {
                from.more.iter().for_each(|piece| self.copy_in(piece.bytes(), spare));
            }
            self.append_figures(from);
            Merge { how: CoalesceHow::TailRoom, delta: 0 }
        } else {
            self.attach(from, build, spare)?
        };
        Ok(merge)
    }

    /// What making `from` a fragment of this buffer would cost: how, and by how much the charge would grow. A slab head
    /// with payload cannot be a fragment; a page-fragment head can, and then only its descriptor goes; an empty head goes.
    #[inline(always)]
    fn attachable(&self, from: &Skb, build: &KernelBuild) -> Result<Merge, CoalesceRefusal> {
        let max = build.max_skb_frags.max(17);
        let frags = self.nr_frags + from.nr_frags;
        if from.headlen > 0 {
            if frags >= max {
                return Err(CoalesceRefusal::TooManyFrags);
            }
            if !from.head_frag || from.cloned {
                return Err(CoalesceRefusal::HeadNotStealable);
            }
            return Ok(Merge {
                how: CoalesceHow::HeadStolen,
                delta: from.truesize.wrapping_sub(SKB_DESCRIPTOR as i32),
            });
        }
        if frags > max {
            return Err(CoalesceRefusal::TooManyFrags);
        }
        let head = i32::try_from(build.truesize(from.end)).unwrap_or(i32::MAX);
        Ok(Merge { how: CoalesceHow::FragsMoved, delta: from.truesize.wrapping_sub(head) })
    }

    /// Could [`Skb::join`] make `from` a fragment of this buffer?
    pub(crate) fn joins(&self, from: &Skb, build: &KernelBuild) -> bool {
        from.seq == self.end_seq && !self.cloned && self.attachable(from, build).is_ok()
    }

    /// Makes `from` a fragment of this buffer, wherever there is tail room: nothing is copied. Returns by how much the
    /// charge grows.
    pub(crate) fn join(&mut self, from: &mut Skb, build: &KernelBuild, spare: &mut Spare) -> Option<i32> {
        if !self.joins(from, build) {
            return None;
        }
        self.attach(from, build, spare).ok().map(|m| m.delta)
    }

    #[inline(always)]
    fn attach(
        &mut self,
        from: &mut Skb,
        build: &KernelBuild,
        spare: &mut Spare,
    ) -> Result<Merge, CoalesceRefusal> {
        let merge = self.attachable(from, build)?;
        self.nr_frags += from.nr_frags + u32::from(merge.how == CoalesceHow::HeadStolen);
        self.move_in(from, spare);
        self.truesize = self.truesize.wrapping_add(merge.delta);
        self.append_figures(from);
        Ok(merge)
    }

    #[inline(always)]
    fn append_figures(&mut self, from: &Skb) {
        self.len += from.len;
        self.end_seq = from.end_seq;
        self.flags |= from.flags;
    }

    /// The buffer is queued on its own: a small payload is copied out of its frame.
    pub(crate) fn settle(&mut self, spare: &mut Spare) {
        if let Piece::Slice(bytes) = &self.first
            && (1..=SMALL).contains(&bytes.len())
        {
            let mut copy = spare.buffer(bytes.len().saturating_add(self.tailroom as usize));
            copy.extend_from_slice(bytes);
            self.first = Piece::Copied(copy);
        }
    }

    /// Appends bytes by copying them.
    #[inline(always)]
    fn copy_in(&mut self, bytes: &[u8], spare: &mut Spare) {
        if bytes.is_empty() {
            return;
        }
        if let Piece::Copied(v) = self.more.last_mut().unwrap_or(&mut self.first) {
            v.extend_from_slice(bytes);
            return;
        }
        let mut copy = spare.buffer(bytes.len().saturating_add(self.tailroom as usize));
        copy.extend_from_slice(bytes);
        self.append(Piece::Copied(copy), spare);
    }

    #[inline(always)]
    fn append(&mut self, piece: Piece, spare: &mut Spare) {
        if self.more.capacity() == 0 {
            self.more = spare.list();
        }
        self.more.push(piece);
    }

    /// Appends the pieces of `from` without copying, unless they are small.
    #[inline(always)]
    fn move_in(&mut self, from: &mut Skb, spare: &mut Spare) {
        self.move_piece(core::mem::replace(&mut from.first, Piece::none()), spare);
        if from.more.capacity() > 0 {
            let mut more = core::mem::take(&mut from.more);
            more.drain(..).for_each(|piece| self.move_piece(piece, spare));
            spare.keep_list(more);
        }
    }

    #[inline(always)]
    fn move_piece(&mut self, piece: Piece, spare: &mut Spare) {
        if piece.bytes().len() > SMALL {
            self.append(piece, spare);
        } else {
            self.copy_in(piece.bytes(), spare);
            spare.keep(piece);
        }
    }

    /// The buffer with all it holds; what stays behind holds nothing.
    pub(crate) fn take(&mut self) -> Skb {
        let first = core::mem::replace(&mut self.first, Piece::none());
        Skb { first, more: core::mem::take(&mut self.more), ..*self }
    }

    /// All it held went elsewhere: it has no memory to give back.
    #[inline]
    pub(crate) fn is_bare(&self) -> bool {
        matches!(&self.first, Piece::Copied(v) if v.capacity() == 0) && self.more.capacity() == 0
    }

    /// Appends up to `max` bytes of `from`, beginning `offset` bytes into it, by copying. Returns how many.
    pub(crate) fn append_copy(&mut self, from: &Skb, offset: u32, max: u32) -> u32 {
        let n = from.len.saturating_sub(offset).min(max);
        if let Piece::Copied(v) = &mut self.first {
            if from.more.is_empty() {
                let range = offset as usize..(offset + n) as usize;
                v.extend_from_slice(from.first.bytes().get(range).unwrap_or_default());
            } else {
                from.copy_range(offset, n, |piece| v.extend_from_slice(piece));
            }
        }
        self.len += n;
        self.headlen += n;
        self.end_seq += n;
        self.tailroom = self.tailroom.saturating_sub(n);
        n
    }

    /// Calls `f` with consecutive pieces of the `n` bytes from `offset` on.
    #[inline]
    pub(crate) fn copy_range(&self, offset: u32, n: u32, mut f: impl FnMut(&[u8])) {
        if offset == 0 && n == self.len {
            let mut give = |bytes: &[u8]| {
                if !bytes.is_empty() {
                    f(bytes);
                }
            };
            give(self.first.bytes());
            for piece in &self.more {
                give(piece.bytes());
            }
            return;
        }
        let (mut skip, mut left) = (offset as usize, n as usize);
        // True once there is no more to give.
        let mut give = |piece: &[u8]| {
            let Some(rest) = piece.get(skip..).filter(|rest| !rest.is_empty()) else {
                skip -= piece.len();
                return false;
            };
            skip = 0;
            let part = rest.get(..left).unwrap_or(rest);
            left -= part.len();
            f(part);
            left == 0
        };
        if n == 0 {
            return;
        }
        let _ = give(self.first.bytes()) || self.more.iter().any(|piece| give(piece.bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        nic::{Driver, FrameShape, layout},
        profile::Profile,
    };

    fn skb(d: Driver, p: &Profile, seq: u32, len: u32) -> Skb {
        let shape = FrameShape { frame: len + 66, headers: 66, payload: len, vnet_hdr_len: 0 };
        let bytes: Vec<u8> = (0..len).map(|i| (seq + i) as u8).collect();
        Skb::new(Seq(seq), TcpFlags::ACK, Bytes::from(bytes), &layout(d, p, &shape), (0, 1))
    }

    fn bytes(s: &Skb) -> Vec<u8> {
        let mut v = Vec::new();
        s.copy_range(0, s.len, |p| v.extend_from_slice(p));
        v
    }

    #[test]
    fn page_fragment_heads_are_stolen_seventeen_times() {
        let p = Profile::linux_6_18();
        let mut to = skb(Driver::TapBuild, &p, 0, 1448);
        assert_eq!(to.truesize, 2176);
        for i in 1..=17 {
            let m = to
                .try_coalesce(&mut skb(Driver::TapBuild, &p, i * 1448, 1448), &p.build, &mut Spare::default())
                .unwrap();
            assert_eq!((m.how, m.delta), (CoalesceHow::HeadStolen, 1920));
        }
        let full =
            to.try_coalesce(&mut skb(Driver::TapBuild, &p, 18 * 1448, 1448), &p.build, &mut Spare::default());
        assert_eq!(full.err(), Some(CoalesceRefusal::TooManyFrags));
        assert_eq!(bytes(&to), (0..18 * 1448).map(|i| i as u8).collect::<Vec<_>>());
    }

    #[test]
    fn slab_heads_only_fill_tail_room() {
        let p = Profile::linux_6_1();
        let mut to = skb(Driver::TapAlloc, &p, 0, 200);
        let m = to
            .try_coalesce(&mut skb(Driver::TapAlloc, &p, 200, 200), &p.build, &mut Spare::default())
            .unwrap();
        assert_eq!((m.how, m.delta), (CoalesceHow::TailRoom, 0));
        let no = to.try_coalesce(&mut skb(Driver::TapAlloc, &p, 400, 200), &p.build, &mut Spare::default());
        assert_eq!(no.err(), Some(CoalesceRefusal::HeadNotStealable));
        assert_eq!(bytes(&to), (0..400).map(|i| i as u8).collect::<Vec<_>>());
    }

    #[test]
    fn tiny_segments_fill_tail_room_first_then_steal() {
        // 27 one-byte segments share a buffer on both kernels (no timestamps).
        let p = Profile::linux_6_18();
        let one = |seq| {
            let shape = FrameShape { frame: 55, headers: 54, payload: 1, vnet_hdr_len: 0 };
            Skb::new(
                Seq(seq),
                TcpFlags::ACK,
                Bytes::from_static(b"x"),
                &layout(Driver::TapBuild, &p, &shape),
                (0, 1),
            )
        };
        let mut to = one(0);
        let mut n = 1;
        while to.try_coalesce(&mut one(n), &p.build, &mut Spare::default()).is_ok() {
            n += 1;
        }
        assert_eq!(n, 27);
    }

    /// Queues 60 segments of `len` bytes without timestamps as the measuring program did: truesize of the first buffer,
    /// segments per buffer, and what merging added.
    fn sixty(policy: &str, d: Driver, in_order: bool, len: u32) -> (i32, Vec<u32>, Vec<i32>) {
        let p = Profile::parse(policy).unwrap();
        let vnet_hdr_len = if d == Driver::TapVnet { 54 } else { 0 };
        let shape = FrameShape { frame: len + 54, headers: 54, payload: len, vnet_hdr_len };
        let payload = Bytes::from(vec![0; len as usize]);
        let (mut queue, mut counts, mut added, mut first) = (Vec::<Skb>::new(), Vec::new(), Vec::new(), 0);
        for i in 0..60 {
            let mut skb =
                Skb::new(Seq(i * len), TcpFlags::ACK, payload.clone(), &layout(d, &p, &shape), (0, 1));
            if let (Some(tail), Some(n)) = (queue.last_mut(), counts.last_mut())
                && let Ok(merge) = tail.try_coalesce(&mut skb, &p.build, &mut Spare::default())
            {
                *n += 1;
                added.push(merge.delta);
                continue;
            }
            if !in_order {
                skb.condense(&p.build);
            }
            if queue.is_empty() {
                first = skb.truesize;
            }
            queue.push(skb);
            counts.push(1);
        }
        added.sort_unstable();
        added.dedup();
        (first, counts, added)
    }

    /// Rows of the tables measured on 6.1.176 (user-mode-linux) and on 6.18.44.
    #[test]
    fn queues_fill_as_measured() {
        const UML: &str = "linux-6.1,net_ip_align=2";
        const NEW: &str = "linux-6.18";
        let groups = |n: u32| {
            let mut v = vec![n; 60 / n as usize];
            v.extend((60 % n > 0).then_some(60 % n));
            v
        };
        type Row = (&'static str, Driver, bool, u32, i32, u32, &'static [i32]);
        let rows: &[Row] = &[
            (UML, Driver::TapAlloc, true, 1, 768, 60, &[0]),
            (UML, Driver::TapAlloc, true, 10, 768, 7, &[0]),
            (UML, Driver::TapAlloc, true, 50, 768, 1, &[]),
            (UML, Driver::TapAlloc, false, 100, 1280, 5, &[0]),
            (UML, Driver::TapAlloc, true, 200, 1280, 2, &[0]),
            (UML, Driver::TapAlloc, true, 293, 1280, 1, &[]),
            (NEW, Driver::TapAlloc, true, 10, 832, 13, &[0]),
            (NEW, Driver::TapAlloc, false, 69, 832, 2, &[0]),
            (NEW, Driver::TapAlloc, true, 70, 832, 1, &[]),
            (NEW, Driver::TapAlloc, true, 139, 1280, 4, &[0]),
            (NEW, Driver::TapAlloc, true, 293, 1280, 2, &[0]),
            (NEW, Driver::TapAlloc, true, 294, 1280, 1, &[]),
            (UML, Driver::TapBuild, true, 1, 704, 25, &[0, 448]),
            (UML, Driver::TapBuild, false, 10, 768, 24, &[0, 512]),
            (UML, Driver::TapBuild, true, 50, 768, 18, &[512]),
            (NEW, Driver::TapBuild, true, 1, 704, 27, &[0, 448]),
            (NEW, Driver::TapBuild, true, 10, 704, 18, &[448]),
            (NEW, Driver::TapBuild, false, 1448, 2176, 18, &[1920]),
            (NEW, Driver::TapBuild, true, 4000, 8448, 1, &[]),
            (UML, Driver::TapVnet, true, 138, 1280, 4, &[0]),
            (UML, Driver::TapVnet, true, 4000, 4864, 17, &[4096]),
            (NEW, Driver::TapVnet, true, 200, 1280, 2, &[0]),
            (NEW, Driver::TapVnet, false, 4000, 4928, 17, &[4096]),
            (UML, Driver::NapiFrags, true, 1, 1281, 17, &[1]),
            (UML, Driver::NapiFrags, true, 1448, 2728, 17, &[1448]),
            (UML, Driver::NapiFrags, false, 1, 1280, 60, &[0]),
            (UML, Driver::NapiFrags, false, 10, 1280, 60, &[0, 10]),
            (UML, Driver::NapiFrags, false, 50, 1280, 28, &[0, 50]),
            (UML, Driver::NapiFrags, false, 100, 1280, 22, &[0, 100]),
            (UML, Driver::NapiFrags, false, 200, 1280, 19, &[0, 200]),
            (UML, Driver::NapiFrags, false, 293, 1280, 18, &[293]),
            (UML, Driver::NapiFrags, false, 536, 1280, 18, &[536]),
            (UML, Driver::NapiFrags, false, 1000, 2280, 17, &[1000]),
            (NEW, Driver::NapiFrags, true, 70, 902, 17, &[70]),
            (NEW, Driver::NapiFrags, true, 4000, 4832, 17, &[4000]),
            (NEW, Driver::NapiFrags, false, 10, 832, 30, &[0, 10]),
            (NEW, Driver::NapiFrags, false, 69, 832, 19, &[0, 69]),
            (NEW, Driver::NapiFrags, false, 70, 832, 18, &[70]),
            (NEW, Driver::NapiFrags, false, 138, 832, 18, &[138]),
            (NEW, Driver::NapiFrags, false, 139, 971, 17, &[139]),
        ];
        for (policy, d, in_order, len, first, segments, adds) in rows {
            let got = sixty(policy, *d, *in_order, *len);
            assert_eq!(
                got,
                (*first, groups(*segments), adds.to_vec()),
                "{policy} {} {in_order} {len}",
                d.name()
            );
        }
    }

    #[test]
    fn fragments_move_with_their_exact_bytes() {
        let p = Profile::linux_6_18();
        let mut to = skb(Driver::NapiFrags, &p, 0, 1448);
        let m = to
            .try_coalesce(&mut skb(Driver::NapiFrags, &p, 1448, 1448), &p.build, &mut Spare::default())
            .unwrap();
        assert_eq!((m.how, m.delta), (CoalesceHow::FragsMoved, 1448));
    }

    #[test]
    fn a_hole_or_a_clone_refuses() {
        let p = Profile::linux_6_18();
        let mut to = skb(Driver::TapBuild, &p, 0, 10);
        assert_eq!(
            to.try_coalesce(&mut skb(Driver::TapBuild, &p, 11, 10), &p.build, &mut Spare::default()).err(),
            Some(CoalesceRefusal::NotContiguous)
        );
        let mut to = skb(Driver::Veth, &p, 0, 10);
        assert_eq!(
            to.try_coalesce(&mut skb(Driver::TapBuild, &p, 10, 10), &p.build, &mut Spare::default()).err(),
            Some(CoalesceRefusal::TargetCloned)
        );
    }
}
