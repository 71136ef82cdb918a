//! Does the book-keeping add up? For tests: nothing here decides anything.

use super::{Entry, Slot, Stack};
use crate::{
    SocketId,
    mem::SockMem,
    tcb::{OFO_TIES, Tcb},
    units::Seq,
};

/// What one socket holds of the memory all share, bytes.
fn held(m: &SockMem) -> i64 {
    i64::from(m.sk_rmem_alloc) + i64::from(m.sk_wmem_queued) + i64::from(m.sk_forward_alloc)
}

fn same<T: PartialEq + core::fmt::Debug>(what: &str, is: T, should: T) -> Result<(), String> {
    if is == should { Ok(()) } else { Err(format!("{what}: {is:?}, not {should:?}")) }
}

fn socket(t: &Tcb) -> Result<(), String> {
    let queued: i64 = t.queue.iter().map(|s| i64::from(s.truesize)).sum();
    let ofo: i64 = t.ofo.iter().map(|(_, s)| i64::from(s.truesize)).sum();
    same("sk_rmem_alloc", i64::from(t.mem.sk_rmem_alloc), queued + ofo)?;
    same("sk_wmem_queued", i64::from(t.mem.sk_wmem_queued), t.snd.queued_truesize())?;
    same("pages", held(&t.mem).rem_euclid(4096), 0)?;
    let mut end: Option<Seq> = None;
    for s in &t.queue {
        if let Some(end) = end
            && (s.seq.after(end) || s.end_seq.before(end))
        {
            return Err(format!("receive queue: {}..{} behind {end}", s.seq, s.end_seq));
        }
        end = Some(s.end_seq);
    }
    if let Some(end) = end {
        same("end of the receive queue", end, t.rcv_nxt)?;
    }
    if t.copied_seq.after(t.rcv_nxt) {
        return Err(format!("copied_seq {} is beyond rcv_nxt {}", t.copied_seq, t.rcv_nxt));
    }
    for (key, s) in t.ofo.iter() {
        same("key in the out-of-order queue", key >> OFO_TIES, t.ofo_key(s.seq) >> OFO_TIES)?;
    }
    Ok(())
}

impl Stack {
    /// Compares every sum that is kept with what it is the sum of.
    ///
    /// # Errors
    /// Says in words what does not add up.
    #[doc(hidden)]
    pub fn audit(&self) -> Result<(), String> {
        let (mut pages, mut count) = (0, 0);
        for (index, Entry { generation, slot }) in &self.sockets {
            let Slot::Connection(t) = slot else { continue };
            let id = SocketId { index: index as u32, generation: *generation };
            socket(t).map_err(|e| format!("{id}: {e}"))?;
            pages += held(&t.mem) >> 12;
            count += 1;
        }
        same("pages of all sockets", self.shared.mem.in_use(), pages)?;
        same("sockets", self.shared.mem.sockets, count)
    }
}
