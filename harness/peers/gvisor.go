// A peer that sends with gVisor's netstack (gvisor.dev/gvisor/pkg/tcpip): it
// takes Ethernet frames from descriptor 0, a SOCK_SEQPACKET socket, connects to
// the receiver, sends the pattern, closes its side and waits for the end.
//
// Debian 12 has all it needs in golang-go and golang-gvisor-gvisor-dev:
//
//	GO111MODULE=off GOPATH=/usr/share/gocode GOFLAGS= go build \
//	  -ldflags "-X main.version=$(dpkg-query -W -f '${Version}' golang-gvisor-gvisor-dev)" \
//	  -o OUT gvisor.go
//
// Besides `nodelay`, RIGHTEDGE_OPTIONS may hold `cc=reno|cubic` and
// `sack=on|off`; without them netstack's own defaults hold: reno, and off. The
// program also builds with Debian's gVisor of 2024, where SACK is on.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// version is set by the linker: netstack does not know its own.
var version = "unknown"

var errGone = errors.New("the harness is gone")

// need ends the program, with what for people to read, unless ok.
func need(ok bool, what string) {
	if !ok {
		fmt.Fprintln(os.Stderr, "gvisor peer:", what)
		os.Exit(2)
	}
}

// address makes netstack's kind of address. That was a string in 2022 and is a
// struct in 2024, but reading one out of an IPv4 header works with either.
func address(a netip.Addr) tcpip.Address {
	hdr := make(header.IPv4, header.IPv4MinimumSize)
	copy(hdr[12:16], a.AsSlice())
	return hdr.SourceAddress()
}

// isZero tells that there is no packet, which was not always a nil pointer.
func isZero[T comparable](v T) bool {
	var zero T
	return v == zero
}

var names = map[string]string{
	"*tcpip.ErrConnectionReset":   "ECONNRESET",
	"*tcpip.ErrConnectionRefused": "ECONNREFUSED",
	"*tcpip.ErrTimeout":           "ETIMEDOUT",
	"*tcpip.ErrHostUnreachable":   "EHOSTUNREACH",
	"*tcpip.ErrAborted":           "EPIPE", // a reset after the receiver's FIN, as on Linux
}

func named(err tcpip.Error) error {
	if err == nil {
		return nil
	}
	kind := fmt.Sprintf("%T", err)
	if name, ok := names[kind]; ok {
		return errors.New(name)
	}
	return errors.New(strings.TrimPrefix(kind, "*tcpip."))
}

// stream holds the pattern repeated to more than a send buffer, so that a Write
// can offer all that fits: netstack fills no segment across the border of two
// writes, and small ones would make for many short segments.
var stream [65 * period]byte

const period = 65521

// receive feeds frames to the stack until the harness hangs up.
func receive(link *channel.Endpoint, gone chan<- struct{}) {
	frame := make([]byte, link.MTU()+1) // one more, to know the oversized
	for {
		n, err := os.Stdin.Read(frame)
		if n == 0 || err != nil {
			close(gone)
			return
		}
		// netstack relies on the hardware to drop what is meant for others.
		if n < header.EthernetMinimumSize || n == len(frame) || frame[0]&1 == 0 && string(frame[:6]) != string(link.LinkAddress()) {
			continue
		}
		var opts stack.PacketBufferOptions
		opts.Payload.WriteFromReader(bytes.NewReader(frame[:n]), int64(n)) // from memory, cannot fail
		pkt := stack.NewPacketBuffer(opts)
		link.InjectInbound(0, pkt) // the Ethernet layer finds the protocol itself
		pkt.DecRef()
	}
}

// transmit writes the stack's frames until ctx ends, then what is still queued.
// It may block, so it has a goroutine of its own and receiving goes on.
func transmit(ctx context.Context, link *channel.Endpoint, flushed chan<- struct{}) {
	for {
		pkt := link.ReadContext(ctx)
		if isZero(pkt) {
			pkt = link.Read()
		}
		if isZero(pkt) {
			close(flushed)
			return
		}
		view := pkt.ToView()
		os.Stdin.Write(view.AsSlice()) // it is open both ways; a failure is a lost frame; receive notices a hang-up
		view.Release()
		pkt.DecRef()
	}
}

type peer struct {
	ep                tcpip.Endpoint
	wake, gone        <-chan struct{} // ep may have changed; the harness has hung up
	total, sent, told int64           // told is in the last `written` line
	toldAt            time.Time
}

func (p *peer) tell() {
	fmt.Printf("written %d\n", p.sent)
	p.told, p.toldAt = p.sent, time.Now()
}

// wait sleeps until there may be something to do. It is also where progress is
// told, so that the number is up to date while the stack takes no more.
func (p *peer) wait() error {
	var due <-chan time.Time
	if p.sent != p.told {
		due = time.After(250*time.Millisecond - time.Since(p.toldAt))
	}
	select {
	case <-p.wake:
	case <-due:
		p.tell()
	case <-p.gone:
		return errGone
	}
	return nil
}

// run lives through one connection.
func (p *peer) run(remote tcpip.FullAddress) error {
	err := p.ep.Connect(remote)
	if _, started := err.(*tcpip.ErrConnectStarted); !started {
		return named(err)
	}
	for p.ep.Readiness(waiter.WritableEvents) == 0 { // neither connected nor failed
		if err := p.wait(); err != nil {
			return err
		}
	}
	for p.sent < p.total {
		next := stream[p.sent%period:]
		if left := p.total - p.sent; left < int64(len(next)) {
			next = next[:left]
		}
		n, err := p.ep.Write(bytes.NewReader(next), tcpip.WriteOptions{})
		p.sent += n
		switch err.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			if err := p.wait(); err != nil {
				return err
			}
		case *tcpip.ErrClosedForSend: // only the consequence, finish knows the cause
			return p.finish()
		default:
			return named(err)
		}
	}
	p.tell()
	p.ep.Shutdown(tcpip.ShutdownWrite) // fails if the connection has, which finish sees
	return p.finish()
}

// finish waits until both sides are closed and acknowledged. It does not sit
// out TIME-WAIT.
func (p *peer) finish() error {
	for lost := error(nil); ; lost = p.wait() {
		var err tcpip.Error
		for err == nil { // nothing should come, but unread it could keep the FIN out
			_, err = p.ep.Read(io.Discard, tcpip.ReadOptions{})
		}
		switch tcp.EndpointState(p.ep.State()) {
		case tcp.StateTimeWait:
			return nil
		case tcp.StateClose:
			return named(p.ep.LastError())
		case tcp.StateError:
			return named(err)
		}
		if lost != nil { // only now: having got the last ACK the harness may hang up
			return lost
		}
	}
}

func main() {
	own, err := netip.ParsePrefix(os.Getenv("RIGHTEDGE_ADDRESS"))
	need(err == nil && own.Addr().Is4(), "RIGHTEDGE_ADDRESS must be an IPv4 address with prefix")
	mac, err := tcpip.ParseMACAddress(os.Getenv("RIGHTEDGE_MAC"))
	need(err == nil && mac[0]&1 == 0, "RIGHTEDGE_MAC must be one station's Ethernet address")
	mtu, err := strconv.ParseUint(os.Getenv("RIGHTEDGE_MTU"), 10, 32)
	need(err == nil && mtu >= 68 && mtu <= 1500, "RIGHTEDGE_MTU must be a number from 68 to 1500")
	remote, err := netip.ParseAddrPort(os.Getenv("RIGHTEDGE_RECEIVER"))
	need(err == nil && remote.Addr().Is4() && remote.Port() != 0, "RIGHTEDGE_RECEIVER must be an IPv4 address and a port")
	total, err := strconv.ParseUint(os.Getenv("RIGHTEDGE_BYTES"), 10, 63)
	need(err == nil, "RIGHTEDGE_BYTES must be a number")

	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{arp.NewProtocol, ipv4.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	must := func(err tcpip.Error) { need(err == nil, fmt.Sprint("netstack: ", err)) }
	nagle := true // the contract's default; netstack's is off
	for _, word := range strings.Split(os.Getenv("RIGHTEDGE_OPTIONS"), ",") {
		switch word {
		case "":
		case "nodelay":
			nagle = false
		case "cc=reno", "cc=cubic":
			cc := tcpip.CongestionControlOption(strings.TrimPrefix(word, "cc="))
			must(s.SetTransportProtocolOption(tcp.ProtocolNumber, &cc))
		case "sack=on", "sack=off":
			sack := tcpip.TCPSACKEnabled(word == "sack=on")
			must(s.SetTransportProtocolOption(tcp.ProtocolNumber, &sack))
		default:
			need(false, "RIGHTEDGE_OPTIONS: not an option: "+word)
		}
	}
	// The queue holds more than a window, so that no burst is cut. The Ethernet
	// layer takes its header off the MTU of the link below.
	link := channel.New(4096, uint32(mtu)+header.EthernetMinimumSize, mac)
	must(s.CreateNIC(1, ethernet.New(link)))
	ownAddress := tcpip.AddressWithPrefix{Address: address(own.Addr()), PrefixLen: own.Bits()}
	must(s.AddProtocolAddress(1, tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: ownAddress}, stack.AddressProperties{}))
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: 1}})

	queue := new(waiter.Queue)
	ep, failure := s.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, queue)
	must(failure)
	ep.SocketOptions().SetDelayOption(nagle)
	entry, wake := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	queue.EventRegister(&entry)
	for at := range stream {
		i := at % period
		stream[at] = byte(7*i + 13*(i>>8) + i>>3)
	}

	gone, flushed := make(chan struct{}), make(chan struct{})
	ctx, stop := context.WithCancel(context.Background())
	go receive(link, gone)
	go transmit(ctx, link, flushed)
	fmt.Printf("stack gvisor %s\n", version)
	p := &peer{ep: ep, wake: wake, gone: gone, total: int64(total)}
	err = p.run(tcpip.FullAddress{NIC: 1, Addr: address(remote.Addr()), Port: remote.Port()})
	if p.sent != p.told {
		p.tell()
	}
	if err == errGone {
		fmt.Fprintln(os.Stderr, "gvisor peer:", err)
		os.Exit(1)
	}
	stop()
	<-flushed // the last ACK is still to go out
	if err != nil {
		fmt.Printf("error %s\n", err)
		os.Exit(1)
	}
	fmt.Println("done")
}
