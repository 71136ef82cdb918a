//! What tests share: frames, and a small matrix.

use std::sync::Arc;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Address, Ipv4Packet,
    Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, TcpTimestampRepr,
};

use super::matrix::{self, CellReport, CellState, Progress, Request};
use super::peer::Shop;
use super::results::{Results, write_cell};
use super::situation::Situation;

/// A matrix of our model and two of its faults in virtual time, and a cell that makes no sense and one that failed beside
/// them; in its directory are captures and cells, and nothing that is made of all of them.
pub(super) fn small_matrix() -> (tempfile::TempDir, Results) {
    let dir = tempfile::tempdir().unwrap();
    let named = |names: &[&str]| names.iter().map(|n| Situation::load(n).unwrap()).collect::<Vec<_>>();
    let peers = ["model", "bad:never-probes", "bad:keeps-window"];
    let request = Request {
        peers: peers.iter().map(|p| p.parse().unwrap()).collect(),
        situations: named(&["plain", "window-one", "zero-silent", "shrink-in-duplicates"]),
        jobs: 2,
        out: dir.path().to_owned(),
        clock: None,
        seed: 1,
        shop: Shop::default(),
    };
    let each = |p: Progress<'_>| {
        if let Progress::Over { report } = p {
            write_cell(dir.path(), report).unwrap();
        }
    };
    let mut results = Results::new(&request.situations, request.seed);
    results.cells = matrix::run(&request, &Arc::default(), &each).unwrap();
    let odd = |peer: &str, situation: &str, state| CellReport {
        peer: peer.to_owned(),
        situation: situation.to_owned(),
        state,
    };
    let why = || "it <did> not & \"could\" not".to_owned();
    results.cells.push(odd("model,wscale=14", "natural-unscaled", CellState::NotApplicable { why: why() }));
    results.cells.push(odd("exec:nothing", "window-one", CellState::Failed { why: why() }));
    for cell in &results.cells {
        write_cell(dir.path(), cell).unwrap();
    }
    results.seconds = 1.5;
    results.complete = true;
    (dir, results)
}

/// The peer's address and the receiver's.
pub(super) const PEER: (Ipv4Address, u16) = (Ipv4Address::new(10, 0, 0, 1), 40_000);
pub(super) const RECEIVER: (Ipv4Address, u16) = (Ipv4Address::new(10, 0, 0, 2), 5001);

/// A segment of the peer without anything in it.
pub(super) fn plain<'a>() -> TcpRepr<'a> {
    TcpRepr {
        src_port: PEER.1,
        dst_port: RECEIVER.1,
        control: TcpControl::None,
        seq_number: TcpSeqNumber(0),
        ack_number: None,
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    }
}

/// Timestamps.
pub(super) fn stamps(tsval: u32, tsecr: u32) -> Option<TcpTimestampRepr> {
    Some(TcpTimestampRepr::new(tsval, tsecr))
}

/// A frame from the peer, or to it if the ports say so.
pub(super) fn frame(tcp: &TcpRepr<'_>) -> Vec<u8> {
    let from_peer = tcp.dst_port == RECEIVER.1;
    let (source, destination) = if from_peer { (PEER.0, RECEIVER.0) } else { (RECEIVER.0, PEER.0) };
    let ip = Ipv4Repr {
        src_addr: source,
        dst_addr: destination,
        next_header: IpProtocol::Tcp,
        payload_len: tcp.buffer_len(),
        hop_limit: 64,
    };
    let eth = EthernetRepr {
        src_addr: EthernetAddress([2, 0, 0, 0, 0, 1]),
        dst_addr: EthernetAddress([2, 0, 0, 0, 0, 2]),
        ethertype: EthernetProtocol::Ipv4,
    };
    let at = EthernetFrame::<&[u8]>::header_len();
    let mut frame = vec![0; at + ip.buffer_len() + tcp.buffer_len()];
    eth.emit(&mut EthernetFrame::new_unchecked(&mut frame));
    let caps = ChecksumCapabilities::default();
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut frame[at..]), &caps);
    let at = at + ip.buffer_len();
    tcp.emit(&mut TcpPacket::new_unchecked(&mut frame[at..]), &source.into(), &destination.into(), &caps);
    frame
}
