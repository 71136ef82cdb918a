/*
 * A peer (see the harness' peer contract) that sends with the TCP of libslirp (4.4BSD by descent; 4.7 or later).
 *
 *   cc -O1 -o slirp-peer slirp.c $(pkg-config --cflags --libs slirp)
 *
 * libslirp only ever bridges: a host connection on one side, a guest's network on the other. So the receiver plays the
 * guest, and this process connects an ordinary socket to a port of 127.0.0.1 that libslirp forwards to the guest:
 *
 *   pattern -> socket -> loopback (the kernel's TCP) -> libslirp -> its own TCP, the sender -> descriptor 0
 *
 * The peer must be alone with its loopback, best in a network namespace where only lo is up. What to know:
 * - "written" counts what the kernel took. Its buffers (some megabytes) and then libslirp's (128 KiB) lie between that
 *   and the wire, so a short transfer is "written" long before it is sent.
 * - The hardware address is libslirp's own, 52:55 and the four octets of the IPv4 address. RIGHTEDGE_MAC is not used.
 * - The port that the receiver sees is that of the socket, chosen by the kernel.
 * - libslirp asks for the receiver's hardware address by ARP when it sends the SYN, nothing need be announced to it.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#define _GNU_SOURCE /* strerrorname_np() */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <libslirp.h>

#define FRAME_MAX 1514
#define FRAMES_AT_ONCE 32   /* then libslirp's timers and sockets have their turn */
#define PERIOD 65521        /* of the pattern */
#define REPORT_NS 250000000 /* between two lines about the progress */

enum { LINK, CLIENT, SLIRP, POLLED = 16 }; /* places in polled[]; libslirp's own descriptors follow from SLIRP on */

static struct in_addr address, netmask, receiver;
static unsigned port, mtu;
static uint64_t bytes, written, told;
static int64_t told_at;
static uint8_t pattern[2 * PERIOD]; /* twice, so that a write need never stop at the end of a period */
static struct pollfd polled[POLLED];
static nfds_t polled_count;
static int bridged = -1; /* libslirp's end of the loopback connection */
static bool shut, gone;  /* the pattern is written; libslirp has dropped the connection to the receiver */
static char state[16];   /* of that connection, as libslirp names it */

static void misuse(const char *name)
{
    const char *value = getenv(name);
    fprintf(stderr, "slirp peer: %s%s: %s\n", name, value ? " makes no sense" : " is not set", value ? value : "");
    exit(2);
}

static const char *need(const char *name)
{
    if (!getenv(name))
        misuse(name);
    return getenv(name);
}

static void configure(void)
{
    char a[16], r[16];
    unsigned prefix, mac;
    int end = 0;
    const char *text = need("RIGHTEDGE_ADDRESS");
    if (sscanf(text, "%15[0-9.]/%2u%n", a, &prefix, &end) != 2 || text[end] || prefix < 1 || prefix > 32 ||
        inet_pton(AF_INET, a, &address) != 1)
        misuse("RIGHTEDGE_ADDRESS");
    netmask.s_addr = htonl(0xffffffffu << (32 - prefix));

    text = need("RIGHTEDGE_RECEIVER"); /* on the same network, libslirp knows no gateway on the guest's side */
    if (sscanf(text, "%15[0-9.]:%5u%n", r, &port, &end) != 2 || text[end] || port < 1 || port > 65535 ||
        inet_pton(AF_INET, r, &receiver) != 1 || (address.s_addr ^ receiver.s_addr) & netmask.s_addr)
        misuse("RIGHTEDGE_RECEIVER");

    text = need("RIGHTEDGE_MAC");
    if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &mac, &mac, &mac, &mac, &mac, &mac, &end) != 6 || text[end])
        misuse("RIGHTEDGE_MAC");

    text = need("RIGHTEDGE_MTU"); /* libslirp's least MSS is 32, with less room it would send fragments */
    if (sscanf(text, "%5u%n", &mtu, &end) != 1 || text[end] || mtu < 72 || mtu > FRAME_MAX - 14)
        misuse("RIGHTEDGE_MTU");

    text = need("RIGHTEDGE_BYTES");
    errno = 0;
    bytes = strtoull(text, NULL, 10);
    if (!*text || text[strspn(text, "0123456789")] || errno)
        misuse("RIGHTEDGE_BYTES");

    /* libslirp never holds back a short segment that is the last it has (no Nagle), so "nodelay" asks for nothing. */
    for (text = getenv("RIGHTEDGE_OPTIONS"); text && *text; text += end + (text[end] == ',')) {
        end = (int)strcspn(text, ",");
        if (end && (end != 7 || memcmp(text, "nodelay", 7)))
            misuse("RIGHTEDGE_OPTIONS");
    }
}

static int64_t now_ns(void *opaque)
{
    struct timespec now;
    (void)opaque;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* What is left unsaid here is said half a second later at the most: libslirp's slow timer wakes the loop. */
static void tell_written(bool at_once)
{
    if (told == written || (!at_once && now_ns(NULL) - told_at < REPORT_NS))
        return;
    printf("written %" PRIu64 "\n", told = written);
    fflush(stdout);
    told_at = now_ns(NULL);
}

static void leave(const char *error)
{
    tell_written(true);
    printf(error ? "error %s\n" : "done\n", error);
    exit(error ? 1 : 0);
}

/* Waits if the socket is full, though libslirp would allow to drop: that would be a loss that nobody asked for. */
static ssize_t frame_out(const void *frame, size_t length, void *opaque)
{
    (void)opaque;
    while (send(0, frame, length, MSG_NOSIGNAL) < 0 && errno == EINTR)
        ;
    return (ssize_t)length; /* whatever happened: if the harness has gone, reading will tell */
}

static void guest_error(const char *message, void *opaque)
{
    (void)opaque;
    fprintf(stderr, "slirp peer: %s\n", message);
}

/* libslirp announces the descriptor of the connection it accepted, and withdraws it at the moment the TCP behind it
 * has ended for whatever reason. */
static void bridge_opened(int fd, void *opaque)
{
    (void)opaque;
    bridged = fd;
}

static void bridge_closed(int fd, void *opaque)
{
    (void)opaque;
    gone |= fd == bridged && fd >= 0;
}

static void nothing(void *opaque)
{
    (void)opaque;
}

static int add_poll(int fd, int events, void *opaque)
{
    (void)opaque;
    if (polled_count == POLLED)
        return -1;
    polled[polled_count] = (struct pollfd){
        .fd = fd,
        .events = (short)((events & SLIRP_POLL_IN ? POLLIN : 0) | (events & SLIRP_POLL_OUT ? POLLOUT : 0) |
                          (events & SLIRP_POLL_PRI ? POLLPRI : 0)),
    };
    return (int)polled_count++;
}

static int get_revents(int index, void *opaque)
{
    int seen = polled[index].revents;
    (void)opaque;
    return (seen & POLLIN ? SLIRP_POLL_IN : 0) | (seen & POLLOUT ? SLIRP_POLL_OUT : 0) |
           (seen & POLLPRI ? SLIRP_POLL_PRI : 0) | (seen & POLLERR ? SLIRP_POLL_ERR : 0) |
           (seen & POLLHUP ? SLIRP_POLL_HUP : 0);
}

/* The loopback connection does not tell how the one to the receiver ended: both a reset and a regular close may look
 * like an end of file. Therefore look at libslirp's own list of connections, the only thing that shows it. */
static void look(Slirp *slirp)
{
    char *list = slirp_connection_info(slirp), *line = list;
    while (line && (line = strstr(line, "TCP["))) {
        line += 4;
        if (strncmp(line, "HOST_FORWARD", 12))
            sscanf(line, "%15[A-Z_0-9]", state);
    }
    free(list);
}

/* Why libslirp dropped the connection on this frame. */
static const char *reason(const uint8_t *frame, ssize_t length)
{
    ssize_t flags = 14 + (frame[14] & 15) * 4 + 13;
    if (flags < length && frame[flags] & TH_RST)
        return strcmp(state, "SYN_SENT") ? "ECONNRESET" : "ECONNREFUSED";
    return !strcmp(state, "LAST_ACK") ? NULL : "ECONNABORTED"; /* or it reset the connection itself */
}

/* Only ARP and whole IPv4 packets. A receiver sends nothing else, and libslirp 4.7 can crash on fragments. */
static bool wanted(const uint8_t *frame, ssize_t length)
{
    return length >= 34 && frame[12] == 8 && (frame[13] == 6 || (!frame[13] && !(frame[20] & 0x3f) && !frame[21]));
}

static void read_frames(Slirp *slirp)
{
    static uint8_t frame[FRAME_MAX];
    for (int i = 0; i < FRAMES_AT_ONCE && !gone; i++) {
        ssize_t length = recv(0, frame, sizeof frame, MSG_DONTWAIT | MSG_TRUNC);
        if (length < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (length <= 0) {
            bool usage = length < 0 && errno == ENOTSOCK;
            if (usage)
                perror("slirp peer: descriptor 0");
            exit(usage ? 2 : 1); /* else the harness has gone */
        }
        if (length > (ssize_t)sizeof frame || !wanted(frame, length))
            continue;
        slirp_input(slirp, frame, (int)length);
        if (gone)
            leave(reason(frame, length));
        look(slirp);
    }
}

static void use_client(void)
{
    static char unwanted[4096];
    short events = polled[CLIENT].revents;
    int fd = polled[CLIENT].fd;
    ssize_t n = 0;
    if (events & POLLOUT) {
        while (written < bytes && (n = send(fd, pattern + written % PERIOD,
                                            bytes - written < PERIOD ? bytes - written : PERIOD, MSG_NOSIGNAL)) > 0)
            written += (uint64_t)n;
        if (written == bytes && !shut) {
            shut = shutdown(fd, SHUT_WR) == 0;
            polled[CLIENT].events &= ~POLLOUT;
            tell_written(true);
        }
    }
    if (n >= 0 && events & (POLLIN | POLLERR | POLLHUP) && (n = recv(fd, unwanted, sizeof unwanted, 0)) == 0)
        polled[CLIENT].events &= ~POLLIN;
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        leave(strerrorname_np(errno)); /* hardly: libslirp's end breaks only if the connection has gone, seen earlier */
    if (!polled[CLIENT].events)
        polled[CLIENT].fd = -1; /* nothing left to do with it, and poll() would report POLLHUP without end */
}

int main(void)
{
    static const SlirpCb callbacks = {
        .send_packet = frame_out,
        .guest_error = guest_error,
        .clock_get_ns = now_ns,
        .register_poll_fd = bridge_opened,
        .unregister_poll_fd = bridge_closed,
        .notify = nothing, /* one thread: it asks libslirp again before it sleeps anyway */
    };
    struct sockaddr_in forward = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t forward_size = sizeof forward;
    uint32_t timeout = UINT32_MAX;
    int on = 1;
    configure();
    fcntl(0, F_SETFL, fcntl(0, F_GETFL) & ~O_NONBLOCK); /* for writing; reading is told not to wait */
    for (unsigned i = 0; i < sizeof pattern; i++) {
        unsigned at = i % PERIOD;
        pattern[i] = (uint8_t)(7 * at + 13 * (at >> 8) + (at >> 3));
    }
    printf("stack libslirp %s\n", slirp_version_string());
    fflush(stdout);

    const SlirpConfig config = {
        .version = 4,
        .restricted = 1, /* the guest is not to reach the host, whatever its frames say */
        .in_enabled = true,
        .vnetwork.s_addr = address.s_addr & netmask.s_addr,
        .vnetmask = netmask,
        .vhost = address, /* connections from the loopback appear with this one */
        .vnameserver = address,
        .if_mtu = mtu,
        .if_mru = mtu,
        .disable_dns = true,
        .disable_dhcp = true,
    };
    Slirp *slirp = slirp_new(&config, &callbacks, NULL);
    int client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* the loopback is not to hold back a tail */
    polled[LINK] = (struct pollfd){ .fd = 0, .events = POLLIN };
    polled[CLIENT] = (struct pollfd){ .fd = client, .events = POLLIN | POLLOUT };
    polled_count = SLIRP;
    /* Port 0 lets the kernel choose. libslirp does not tell what it chose, but asks for its listening socket to be
     * polled, and at this time it has no other. */
    bool forwards = slirp && slirp_add_hostfwd(slirp, 0, forward.sin_addr, 0, receiver, (int)port) == 0;
    if (forwards)
        slirp_pollfds_fill(slirp, &timeout, add_poll, NULL);
    if (!forwards || getsockname(polled[SLIRP].fd, (struct sockaddr *)&forward, &forward_size) < 0 ||
        (connect(client, (struct sockaddr *)&forward, sizeof forward) < 0 && errno != EINPROGRESS)) {
        fprintf(stderr, "slirp peer: cannot connect to its own forwarded port: %s\n", strerror(errno));
        return 2;
    }

    for (;;) {
        tell_written(false);
        timeout = UINT32_MAX;
        polled_count = SLIRP;
        slirp_pollfds_fill(slirp, &timeout, add_poll, NULL);
        polled[LINK].revents = polled[CLIENT].revents = 0;
        int ready = poll(polled, polled_count, timeout > INT32_MAX ? -1 : (int)timeout);
        if (ready > 0 && polled[LINK].revents)
            read_frames(slirp); /* before libslirp sends, which a fresh ARP entry may now allow */
        slirp_pollfds_poll(slirp, ready < 0, get_revents, NULL);
        if (gone)
            leave("ETIMEDOUT"); /* by a timer; whichever it was, an answer was missing */
        look(slirp);
        if (!strcmp(state, "TIME_WAIT"))
            leave(NULL);
        if (ready > 0 && polled[CLIENT].revents)
            use_client();
    }
}
