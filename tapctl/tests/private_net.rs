//! Whole runs in private namespaces: devices, links, sysctls and observation against the live kernel.
//! Without rights they skip loudly; RIGHTEDGE_REQUIRE=all makes a skip a failure.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, SystemTime};

use rightedge_tapctl::capture::{Capture, Direction};
use rightedge_tapctl::ethtool::{self, Feature};
use rightedge_tapctl::link::{Cidr, LinkError, Mac, Metric, Netlink, Route};
use rightedge_tapctl::netns::{PrivateNet, run_in_new_netns};
use rightedge_tapctl::observe::{self, KernelSocketView, NetCounters};
use rightedge_tapctl::rights::{Need, require};
use rightedge_tapctl::sysctl::{self, SysctlGuard};
use rightedge_tapctl::tap::{
    IoMode, Layer, MAX_FRAME_LEN, Napi, OffloadOptions, OffloadTap, Offloads, PlainTap, Queues, Tap, TapError,
};
use rightedge_tapctl::vnet::{GsoType, VnetHdr, VnetHdrSize, pseudo_header_sum};

const WAIT: Option<Duration> = Some(Duration::from_secs(5));
const PEER_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

/// 10.0.0.1/24 on the device, 10.0.0.2 known, no IPv6 chatter.
fn configure(device: &str) -> Netlink {
    sysctl::disable_ipv6(device).unwrap();
    let mut links = Netlink::open().unwrap();
    links.add_address(device, cidr("10.0.0.1/24")).unwrap();
    links.set_up(device).unwrap();
    links.add_neighbour(device, ip("10.0.0.2"), PEER_MAC).unwrap();
    links
}

/// The next frame that satisfies a test, header included.
fn next_frame(tap: &Tap, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut buf = vec![0; MAX_FRAME_LEN];
    for _ in 0..100 {
        assert!(tap.wait_readable(WAIT).unwrap(), "no frame in time");
        let len = tap.recv(&mut buf).unwrap();
        if wanted(&buf[..len]) {
            return buf[..len].to_vec();
        }
    }
    panic!("a hundred frames, none of them wanted");
}

#[test]
fn addresses_and_routes_with_metrics_come_back_from_the_kernel() {
    if !require("addresses_and_routes", &[Need::Tap]) {
        return;
    }
    run_in_new_netns(|| {
        let tap = Tap::plain("re0", IoMode::NonBlocking).unwrap();
        let mut links = Netlink::open().unwrap();
        links.set_mtu("re0", 1400).unwrap();
        links.set_mac("re0", Mac([2, 0, 0, 0, 0, 1])).unwrap();
        links.set_tx_queue_len("re0", 77).unwrap();
        links.add_address("re0", cidr("10.0.0.1/24")).unwrap();
        if sysctl::has_ipv6() {
            links.add_address("re0", cidr("2001:db8::1/64")).unwrap();
        }
        links.set_up("re0").unwrap();
        let link = links.link("re0").unwrap();
        assert_eq!((link.mtu, link.tx_queue_len, link.up, link.kind.as_str()), (1400, 77, true, "tun"));
        assert_eq!(link.mac, Some(Mac([2, 0, 0, 0, 0, 1])));
        let found: Vec<String> = links.addresses().unwrap().iter().map(|a| a.cidr.to_string()).collect();
        assert!(found.contains(&"10.0.0.1/24".to_owned()));
        assert_eq!(found.contains(&"2001:db8::1/64".to_owned()), sysctl::has_ipv6());

        let text = "10.1.0.0/16 via 10.0.0.2 dev re0 mtu lock 1300 window 60000 advmss 1000 initcwnd 20 \
                    features ecn rto_min 300ms initrwnd 40 quickack 1 congctl reno";
        let route: Route = text.parse().unwrap();
        links.add_route(&route).unwrap();
        let mine = |links: &mut Netlink, to: &str| {
            links.routes().unwrap().into_iter().find(|r| r.destination == cidr(to))
        };
        assert_eq!(mine(&mut links, "10.1.0.0/16").unwrap().to_string(), text);
        assert!(matches!(links.add_route(&route), Err(LinkError::Refused { .. })));
        let changed = "10.1.0.0/16 via 10.0.0.2 initrwnd 5".parse().unwrap();
        links.replace_route(&changed).unwrap();
        let now = mine(&mut links, "10.1.0.0/16").unwrap();
        assert_eq!((now.metrics.get(Metric::InitRwnd), now.metrics.get(Metric::Mtu)), (Some(5), None));
        links.delete_route(&changed).unwrap();
        assert_eq!(mine(&mut links, "10.1.0.0/16"), None);

        if sysctl::has_ipv6() {
            let six: Route = "2001:db8:1::/48 via 2001:db8::2 initrwnd 7".parse().unwrap();
            links.add_route(&six).unwrap();
            assert_eq!(mine(&mut links, "2001:db8:1::/48").unwrap().metrics.get(Metric::InitRwnd), Some(7));
            links.delete_route(&six).unwrap();
        }

        links.remove_address("re0", cidr("10.0.0.1/24")).unwrap();
        assert!(!links.addresses().unwrap().iter().any(|a| a.cidr == cidr("10.0.0.1/24")));
        links.set_down("re0").unwrap();
        assert!(!links.link("re0").unwrap().up);
        drop(tap);
        assert!(matches!(links.link("re0"), Err(LinkError::NoDevice { .. })));
    })
    .unwrap();
}

#[test]
fn a_kernel_datagram_is_read_from_a_plain_tap_and_answered() {
    if !require("plain_tap", &[Need::Tap]) {
        return;
    }
    run_in_new_netns(|| {
        let tap = Tap::plain("re0", IoMode::NonBlocking).unwrap();
        assert_eq!((tap.layer(), tap.vnet_hdr(), tap.offloads()), (Layer::Ethernet, None, Offloads::NONE));
        let _links = configure("re0");
        let error = tap.recv(&mut [0; 2000]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        let socket = UdpSocket::bind("10.0.0.1:5000").unwrap();
        socket.set_read_timeout(WAIT).unwrap();
        socket.send_to(b"right edge", "10.0.0.2:6000").unwrap();
        let mut frame = next_frame(&tap, |f| f.len() > 42 && f[12..14] == [8, 0] && f[23] == 17);
        assert!(frame.ends_with(b"right edge"));
        assert_eq!(frame[..6], PEER_MAC.0);

        // Back to sender: swap both ends; ones' complement sums do not mind the order.
        let swapped = [
            &frame[6..12],
            &frame[..6],
            &frame[12..26],
            &frame[30..34],
            &frame[26..30],
            &frame[36..38],
            &frame[34..36],
            &frame[38..],
        ]
        .concat();
        frame = swapped;
        let (head, rest) = frame.split_at(20);
        let parts = [std::io::IoSlice::new(head), std::io::IoSlice::new(rest)];
        assert_eq!(tap.send_vectored(&parts).unwrap(), frame.len());
        let mut answer = [0; 64];
        let (len, from) = socket.recv_from(&mut answer).unwrap();
        assert_eq!((&answer[..len], from.to_string().as_str()), (&b"right edge"[..], "10.0.0.2:6000"));
    })
    .unwrap();
}

#[test]
fn a_tun_device_carries_bare_packets_and_blocking_reads_wait() {
    if !require("tun", &[Need::Tap]) {
        return;
    }
    run_in_new_netns(|| {
        let tun = Tap::tun("re0", IoMode::Blocking).unwrap();
        assert_eq!((tun.layer(), tun.io_mode()), (Layer::Ip, IoMode::Blocking));
        sysctl::disable_ipv6("re0").unwrap();
        let mut links = Netlink::open().unwrap();
        links.add_address("re0", cidr("10.0.0.1/24")).unwrap();
        links.set_up("re0").unwrap();
        let socket = UdpSocket::bind("10.0.0.1:0").unwrap();
        socket.send_to(b"x", "10.0.0.2:6000").unwrap();
        let packet = next_frame(&tun, |p| p[0] == 0x45);
        assert_eq!(packet[16..20], [10, 0, 0, 2]);
    })
    .unwrap();
}

/// Plays just enough of a peer to make a kernel sender emit a super-segment.
#[test]
fn an_offloaded_tap_yields_partial_checksums_and_super_segments() {
    if !require("offload", &[Need::VnetHdr]) {
        return;
    }
    for size in [VnetHdrSize::Ten, VnetHdrSize::Twelve] {
        run_in_new_netns(|| super_segment(size)).unwrap();
    }
}

fn super_segment(size: VnetHdrSize) {
    let options = OffloadOptions { vnet_hdr: Some(size), ..OffloadOptions::default() };
    let tap = Tap::offload("re0", options).unwrap();
    let _links = configure("re0");
    let sender = std::thread::spawn(|| {
        let mut stream = TcpStream::connect_timeout(&"10.0.0.2:80".parse().unwrap(), WAIT.unwrap()).unwrap();
        stream.write_all(&[7; 14_000]).unwrap();
    });
    let is_tcp = |f: &[u8]| {
        VnetHdr::parse(f, size).is_ok_and(|(_, f)| f.len() >= 54 && f[12..14] == [8, 0] && f[23] == 6)
    };
    let syn = next_frame(&tap, is_tcp);
    let (header, frame) = VnetHdr::parse(&syn, size).unwrap();
    assert!(header.needs_csum() && frame[47] & 2 != 0);
    assert_eq!((header.csum_start.get(), header.csum_offset.get()), (34, 16));
    header.validate(frame.len()).unwrap();
    let mut whole = frame.to_vec();
    header.complete_checksum(&mut whole).unwrap();
    let length = u32::try_from(whole.len() - 34).unwrap();
    assert_eq!(verify(&whole[34..], pseudo_header_sum(ip("10.0.0.1"), ip("10.0.0.2"), 6, length)), 0xffff);

    let isn = u32::from_be_bytes(frame[38..42].try_into().unwrap());
    let mut reply = [0u8; 12 + 14 + 20 + 24];
    let used = VnetHdr::needs_checksum(34, 16).emit(size, &mut reply).unwrap();
    let answer = syn_ack(frame, isn);
    let parts = [std::io::IoSlice::new(&reply[..used]), std::io::IoSlice::new(&answer)];
    tap.send_vectored(&parts).unwrap();

    let data = next_frame(&tap, |f| is_tcp(f) && f.len() > 2000);
    let (header, frame) = VnetHdr::parse(&data, size).unwrap();
    let payload = frame.len() - usize::from(header.hdr_len.get());
    assert_eq!((header.gso(), header.gso_size.get()), (GsoType::TcpV4, 1460));
    assert!(payload > 2 * 1460, "{header:?}");
    assert_eq!(header.segments(payload), payload.div_ceil(1460));
    sender.join().unwrap();
}

/// SYN-ACK with MSS 1460 to the SYN in `frame`; the TCP checksum holds the pseudo-header sum only.
fn syn_ack(frame: &[u8], isn: u32) -> Vec<u8> {
    let mut out = [&frame[6..12], &PEER_MAC.0, &[8, 0]].concat();
    let mut header = vec![0x45, 0, 0, 44, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1];
    let sum = !verify(&header, 0);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    out.extend(header);
    out.extend([0, 80]);
    out.extend(&frame[34..36]);
    out.extend(1000u32.to_be_bytes());
    out.extend(isn.wrapping_add(1).to_be_bytes());
    out.extend([0x60, 0x12, 0xff, 0xff]);
    out.extend(pseudo_header_sum(ip("10.0.0.1"), ip("10.0.0.2"), 6, 24).to_be_bytes());
    out.extend([0, 0, 2, 4, 0x05, 0xb4]);
    out
}

/// Folded ones' complement sum; 0xffff means a correct checksum is inside.
fn verify(bytes: &[u8], start: u16) -> u16 {
    let mut sum = u32::from(start);
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

#[test]
fn offloads_are_written_even_when_zero_and_ethtool_shows_them() {
    if !require("offload_switches", &[Need::VnetHdr]) {
        return;
    }
    run_in_new_netns(|| {
        let mut tap = OffloadTap::open("re0", OffloadOptions::default()).unwrap();
        assert!(ethtool::get("re0", Feature::Tso).unwrap());
        tap.set_offloads(Offloads::NONE).unwrap();
        assert!(
            !ethtool::get("re0", Feature::Tso).unwrap() && !ethtool::get("re0", Feature::TxCsum).unwrap()
        );
        tap.set_offloads(Offloads { ecn: false, tso6: false, ..Offloads::TSO }).unwrap();
        assert!(ethtool::features("re0").unwrap().tx_csum);
        tap.set_persist(true).unwrap();
        drop(tap);
        // The mask survived in the device; opening it plainly must clear it.
        let plain = PlainTap::open("re0", Layer::Ethernet, IoMode::NonBlocking).unwrap();
        assert!(!ethtool::get("re0", Feature::TxCsum).unwrap());
        assert!(matches!(Tap::plain("re0", IoMode::Blocking), Err(TapError::Busy { .. })));
        drop(plain);
        let bare = OffloadOptions { vnet_hdr: None, ..OffloadOptions::default() };
        assert!(matches!(OffloadTap::open("re1", bare), Err(TapError::OffloadsWithoutHeader { .. })));
        assert!(matches!(Tap::plain("lo", IoMode::Blocking), Err(TapError::Mismatch { .. })));
        assert!(matches!(ethtool::get("re-none", Feature::Tso), Err(ethtool::EthtoolError::Read { .. })));
    })
    .unwrap();
}

#[test]
fn queues_napi_and_sndbuf() {
    if !require("queues_napi", &[Need::NapiFrags]) {
        return;
    }
    run_in_new_netns(|| {
        let multi =
            OffloadOptions { queues: Queues::Multi, sndbuf: Some(1 << 20), ..OffloadOptions::default() };
        let first = OffloadTap::open("re%d", multi).unwrap();
        assert_eq!(first.name(), "re0");
        let second = first.add_queue().unwrap();
        assert_eq!(second.name(), "re0");
        first.set_carrier(false).unwrap();
        let single = OffloadTap::open("re1", OffloadOptions::default()).unwrap();
        assert!(matches!(single.add_queue(), Err(TapError::Busy { .. })));
        let napi = OffloadOptions { napi: Napi::Frags, ..OffloadOptions::default() };
        assert!(OffloadTap::open("re2", napi.clone()).is_ok());
        let tun = OffloadOptions { layer: Layer::Ip, ..napi };
        assert!(matches!(OffloadTap::open("re3", tun), Err(TapError::NapiFragsNeedsEthernet { .. })));
    })
    .unwrap();
}

#[test]
fn the_kernel_tells_about_its_sockets_and_counters() {
    if !require("observe", &[Need::Netns]) {
        return;
    }
    run_in_new_netns(|| {
        let before = NetCounters::read().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let idle = KernelSocketView::of(&listener).unwrap();
        assert_eq!((idle.tcp_info.tcpi_state(), idle.inq), (Some(10), None));
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        sender.write_all(&[1; 5000]).unwrap();
        let view = KernelSocketView::of(&receiver).unwrap();
        let mem = view.mem.unwrap();
        assert_eq!(view.inq, Some(5000));
        assert!(mem.rmem_alloc >= 5000 && mem.rcvbuf > mem.rmem_alloc, "{mem:?}");
        let info = view.tcp_info;
        assert_eq!((info.tcpi_state(), info.tcpi_bytes_received()), (Some(1), Some(5000)));
        assert!(info.tcpi_rcv_ssthresh().unwrap() > 0 && info.tcpi_rcv_mss().unwrap() > 0);
        assert_eq!(info.tcpi_rcv_wscale(), KernelSocketView::of(&sender).unwrap().tcp_info.tcpi_snd_wscale());
        assert!(info.tcpi_rcv_wscale().unwrap() > 0 && view.window_clamp.unwrap() > 0);
        assert_eq!(info.get("tcpi_rcv_wnd"), info.tcpi_rcv_wnd().map(u64::from));
        let entry = observe::sockets()
            .unwrap()
            .into_iter()
            .find(|s| s.local == receiver.local_addr().unwrap() && s.state == "ESTAB")
            .unwrap();
        assert_eq!(entry.rx_queue, 5000);
        receiver.read_exact(&mut [0; 5000]).unwrap();
        assert_eq!(KernelSocketView::of(&receiver).unwrap().inq, Some(0));
        let delta = NetCounters::read().unwrap().delta(&before);
        assert_eq!((delta.get("TcpPassiveOpens"), delta.get("ActiveOpens")), (Some(1), Some(1)));
        assert!(delta.get("IpExtInOctets").unwrap() > 5000);
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(KernelSocketView::of(&udp).is_err());
    })
    .unwrap();
}

#[test]
fn sysctls_belong_to_the_namespace_and_come_back() {
    if !require("sysctl", &[Need::Netns]) {
        return;
    }
    let host = sysctl::read("tcp_rmem").unwrap();
    run_in_new_netns(|| {
        let before = sysctl::read("tcp_rmem").unwrap();
        let guard = SysctlGuard::set("tcp_rmem", "4096 100000 200000").unwrap();
        assert_eq!(sysctl::read_numbers("net.ipv4.tcp_rmem").unwrap(), [4096, 100_000, 200_000]);
        drop(guard);
        assert_eq!(sysctl::read("tcp_rmem").unwrap(), before);
        SysctlGuard::set("tcp_sack", 0).unwrap().keep();
        assert_eq!(sysctl::read("tcp_sack").unwrap(), "0");
        assert!(matches!(sysctl::write("tcp_sack", "many"), Err(sysctl::SysctlError::Refused { .. })));
        assert!(matches!(sysctl::write("tcp_nothing", 1), Err(sysctl::SysctlError::Missing { .. })));
        assert!(matches!(sysctl::read("tcp_nothing"), Err(sysctl::SysctlError::Missing { .. })));
    })
    .unwrap();
    assert_eq!(sysctl::read("tcp_rmem").unwrap(), host);
}

#[test]
fn two_namespaces_joined_by_veth_and_watched() {
    if !require("veth", &[Need::Netns, Need::Packet]) {
        return;
    }
    let (left, right) = (PrivateNet::new().unwrap(), PrivateNet::new().unwrap());
    let capture = left
        .run(|| {
            let mut links = Netlink::open().unwrap();
            links.create_veth("re0", "re1", Some(std::os::fd::AsFd::as_fd(&right))).unwrap();
            links.add_address("re0", cidr("10.0.0.1/24")).unwrap();
            links.set_up("re0").unwrap();
            ethtool::set("re0", Feature::Tso, false).unwrap();
            ethtool::set("re0", Feature::Gso, false).unwrap();
            assert!(!ethtool::get("re0", Feature::Tso).unwrap());
            Capture::open("re0").unwrap()
        })
        .unwrap();
    let listener = right
        .run(|| {
            let mut links = Netlink::open().unwrap();
            links.add_address("re1", cidr("10.0.0.2/24")).unwrap();
            links.set_up("re1").unwrap();
            TcpListener::bind("10.0.0.2:80").unwrap()
        })
        .unwrap();
    // A socket stays in the namespace it was made in, whatever thread uses it.
    let mut stream = left.run(|| TcpStream::connect("10.0.0.2:80").unwrap()).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    stream.write_all(b"hello").unwrap();
    let mut got = [0; 5];
    far.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");
    capture.set_rcvbuf(1 << 20).unwrap();
    let (mut sent, mut received) = (0, 0);
    let mut buf = vec![0; MAX_FRAME_LEN];
    while let Some(frame) = capture.recv(&mut buf).unwrap() {
        let age = SystemTime::now().duration_since(frame.timestamp).unwrap();
        assert!(age < Duration::from_secs(60) && frame.len == frame.wire_len);
        if buf[12..14] == [8, 0] && buf[23] == 6 {
            match frame.direction {
                Direction::Sent => sent += 1,
                Direction::Received => received += 1,
            }
        }
    }
    assert!(sent >= 3 && received >= 1, "{sent} sent, {received} received");
    assert_eq!(capture.drops().unwrap(), 0);
}

#[test]
fn threads_and_processes_started_inside_stay_inside() {
    if !require("inheritance", &[Need::Netns]) {
        return;
    }
    let net = PrivateNet::new().unwrap();
    let ns = |path: &str| std::fs::read_link(path).unwrap();
    let outside = ns("/proc/thread-self/ns/net");
    let (inside, nested) = net
        .run(|| {
            let nested = std::thread::spawn(move || ns("/proc/thread-self/ns/net")).join().unwrap();
            (ns("/proc/thread-self/ns/net"), nested)
        })
        .unwrap();
    assert_ne!(inside, outside);
    assert_eq!(inside, nested);
    let mut command = std::process::Command::new("readlink");
    let child = net.spawn(command.arg("/proc/self/ns/net").stdout(std::process::Stdio::piped())).unwrap();
    let printed = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(printed.trim(), inside.to_str().unwrap());
    assert_eq!(ns("/proc/thread-self/ns/net"), outside);
}
