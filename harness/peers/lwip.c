/*
 * A peer (see the harness' peer contract) that sends with the TCP of lwIP, through its raw API. It needs an lwIP built
 * with NO_SYS=0, that is with a tcpip thread, as Debian's liblwip-dev is; 2.1.x and 2.2.x will do.
 *
 *   cc -O1 -o lwip-peer lwip.c $(pkg-config --cflags --libs lwip)
 *
 * Two threads. lwIP's own runs the stack and every callback below; only it touches the connection and only it writes
 * frames. The main thread does nothing but read frames and hand them over.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#define _POSIX_C_SOURCE 200809L
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lwip/etharp.h"
#include "lwip/ethip6.h"
#include "lwip/init.h"
#include "lwip/sys.h"
#include "lwip/tcp.h"
#include "lwip/tcpip.h"

#if LWIP_VERSION < 0x02010000 || NO_SYS || !LWIP_TCP || !LWIP_ARP || !LWIP_IPV4
#error "lwIP 2.1 or later is needed, with the tcpip thread, TCP, ARP and IPv4"
#endif

#define FRAME_MAX 1514
#define PERIOD 65521  /* of the pattern */
#define REPORT_MS 250 /* between two lines about the progress */
#define WATCH_MS 20   /* between two looks for the end of the connection */

static ip4_addr_t address, netmask, receiver;
static u8_t mac[6];
static unsigned port, mtu;
static uint64_t bytes, written, told;
static bool nodelay, shut, silent;
static u8_t pattern[2 * PERIOD]; /* twice, so that a write need never stop at the end of a period */
static struct netif nic;
static struct tcp_pcb *conn;
static sys_sem_t started;

static void misuse(const char *name)
{
    const char *value = getenv(name);
    fprintf(stderr, "lwip peer: %s%s: %s\n", name, value ? " makes no sense" : " is not set", value ? value : "");
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
    struct in_addr in_a, in_r;
    unsigned prefix;
    int end = 0;
    const char *text = need("RIGHTEDGE_ADDRESS");
    if (sscanf(text, "%15[0-9.]/%2u%n", a, &prefix, &end) != 2 || text[end] || prefix < 1 || prefix > 32 ||
        inet_pton(AF_INET, a, &in_a) != 1)
        misuse("RIGHTEDGE_ADDRESS");
    ip4_addr_set_u32(&address, in_a.s_addr);
    ip4_addr_set_u32(&netmask, htonl(0xffffffffu << (32 - prefix)));

    text = need("RIGHTEDGE_RECEIVER"); /* on the same network, there is no gateway to go through */
    if (sscanf(text, "%15[0-9.]:%5u%n", r, &port, &end) != 2 || text[end] || port < 1 || port > 65535 ||
        inet_pton(AF_INET, r, &in_r) != 1 || (in_a.s_addr ^ in_r.s_addr) & ip4_addr_get_u32(&netmask))
        misuse("RIGHTEDGE_RECEIVER");
    ip4_addr_set_u32(&receiver, in_r.s_addr);

    text = need("RIGHTEDGE_MAC");
    if (strspn(text, "0123456789abcdefABCDEF:") != 17 ||
        sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", mac, mac + 1, mac + 2, mac + 3, mac + 4, mac + 5,
               &end) != 6 || end != 17 || text[end])
        misuse("RIGHTEDGE_MAC");

    text = need("RIGHTEDGE_MTU");
    if (sscanf(text, "%5u%n", &mtu, &end) != 1 || text[end] || mtu < 68 || mtu > FRAME_MAX - 14)
        misuse("RIGHTEDGE_MTU");

    text = need("RIGHTEDGE_BYTES");
    errno = 0;
    bytes = strtoull(text, NULL, 10);
    if (!*text || text[strspn(text, "0123456789")] || errno)
        misuse("RIGHTEDGE_BYTES");

    for (text = getenv("RIGHTEDGE_OPTIONS"); text && *text; text += end + (text[end] == ',')) {
        end = (int)strcspn(text, ",");
        if (end == 7 && !memcmp(text, "nodelay", 7))
            nodelay = true;
        else if (end)
            misuse("RIGHTEDGE_OPTIONS");
    }
}

static void tell_written(void)
{
    if (told != written)
        printf("written %" PRIu64 "\n", told = written);
    fflush(stdout);
}

/* _exit(), because exit() would run at-exit handlers under the feet of the other thread. */
static void leave(const char *error)
{
    tell_written();
    printf(error ? "error %s\n" : "done\n", error);
    fflush(stdout);
    _exit(error ? 1 : 0);
}

/* Waits if the socket is full: a dropped frame would be a loss that nobody asked for. The main thread goes on reading
 * meanwhile, so harness and peer cannot end up waiting for each other. */
static err_t frame_out(struct netif *netif, struct pbuf *p)
{
    static u8_t frame[FRAME_MAX];
    u16_t length = (u16_t)(p->tot_len - ETH_PAD_SIZE);
    (void)netif;
    if (length > sizeof frame || pbuf_copy_partial(p, frame, length, ETH_PAD_SIZE) != length)
        return ERR_BUF;
    while (send(0, frame, length, MSG_NOSIGNAL) < 0)
        if (errno != EINTR)
            return ERR_IF; /* the reader will notice and end the process */
    return ERR_OK;
}

static err_t nic_init(struct netif *netif)
{
    memcpy(netif->name, "re", 2);
    netif->mtu = (u16_t)mtu;
    netif->hwaddr_len = sizeof mac;
    memcpy(netif->hwaddr, mac, sizeof mac);
    netif->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET | NETIF_FLAG_LINK_UP;
    netif->output = etharp_output;
#if LWIP_IPV6
    netif->output_ip6 = ethip6_output; /* no IPv6 address is set, but a stray frame must not find a null pointer */
#endif
    netif->linkoutput = frame_out;
    return ERR_OK;
}

/* The names that lwIP's own socket layer would give. That it gave up (retransmissions, SYNs or probes without an
 * answer) lwIP calls "aborted", not "timed out"; nothing here aborts. */
static const char *error_name(err_t error)
{
    return error == ERR_RST ? "ECONNRESET" : error == ERR_ABRT ? "ECONNABORTED" : error == ERR_CLSD ? "ENOTCONN"
         : error == ERR_RTE ? "EHOSTUNREACH" : error == ERR_MEM ? "ENOMEM" : "EIO";
}

/* Says at once how far it is, then keeps silent for a while; the timer makes up for what it missed, so that the last
 * line is right also when the stack takes no more. */
static void progress(void *from_timer)
{
    if (from_timer)
        silent = false;
    if (!silent && told != written) {
        tell_written();
        silent = true;
        sys_timeout(REPORT_MS, progress, &silent);
    }
}

/* The stack has room: it has just connected, or something was acknowledged. */
static err_t on_room(void *arg, struct tcp_pcb *pcb, u16_t length)
{
    (void)arg, (void)pcb, (void)length;
    while (written < bytes) {
        uint64_t left = bytes - written;
        u16_t n = (u16_t)LWIP_MIN(LWIP_MIN(left, (uint64_t)PERIOD), (uint64_t)tcp_sndbuf(conn));
        err_t error = ERR_MEM;
        /* Queued buffers are limited as well as bytes, and tcp_write() takes all or nothing: try with less. */
        for (; n && error == ERR_MEM; n = error == ERR_MEM && n > tcp_mss(conn) ? n / 2 : 0) {
            error = tcp_write(conn, pattern + written % PERIOD, n,
                              TCP_WRITE_FLAG_COPY | (n < left ? TCP_WRITE_FLAG_MORE : 0));
            written += error == ERR_OK ? n : 0;
        }
        if (error == ERR_MEM)
            break; /* the next acknowledgment or the poll timer tries again */
        if (error != ERR_OK)
            leave(error_name(error));
    }
    /* Only the sending side: after a full close lwIP would not wait for the receiver's FIN for ever. */
    if (written == bytes && !shut)
        shut = tcp_shutdown(conn, 0, 1) == ERR_OK;
    progress(NULL);
    return ERR_OK;
}

static err_t on_poll(void *arg, struct tcp_pcb *pcb)
{
    return on_room(arg, pcb, 0);
}

static err_t on_connected(void *arg, struct tcp_pcb *pcb, err_t error)
{
    (void)error;
    tcp_sent(pcb, on_room);
    tcp_poll(pcb, on_poll, 2);
    return on_room(arg, pcb, 0);
}

/* Both FINs are out, but this side's may not be acknowledged yet, and lwIP tells nobody when it is. Also the last ACK
 * leaves only after the callback that reports the receiver's FIN. Hence a look a little later. */
static void watch(void *arg)
{
    if (conn->state == TIME_WAIT)
        leave(NULL);
    sys_timeout(WATCH_MS, watch, arg);
}

static err_t on_received(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t error)
{
    (void)error;
    if (p) { /* nobody should send anything here; read it and forget it */
        tcp_recved(pcb, p->tot_len);
        pbuf_free(p);
    } else { /* the receiver's FIN; if it comes before this side's, sending goes on and on_error() sees the end */
        sys_timeout(WATCH_MS, watch, arg);
    }
    return ERR_OK;
}

/* The connection is no more; lwIP has freed it. An orderly end from LAST_ACK arrives here too. */
static void on_error(void *arg, err_t error)
{
    (void)arg;
    leave(error == ERR_CLSD && shut ? NULL : error_name(error));
}

static void on_start(void *arg)
{
    ip4_addr_t none;
    ip_addr_t to;
    err_t error;
    (void)arg;
    ip4_addr_set_zero(&none);
    ip_addr_copy_from_ip4(to, receiver);
    conn = tcp_new();
    if (!conn || !netif_add(&nic, &address, &netmask, &none, NULL, nic_init, tcpip_input))
        leave("ENOMEM");
    netif_set_default(&nic);
    netif_set_up(&nic);
    tcp_err(conn, on_error);
    tcp_recv(conn, on_received);
    if (nodelay)
        tcp_nagle_disable(conn);
    error = tcp_connect(conn, &to, (u16_t)port, on_connected);
    if (error != ERR_OK)
        leave(error_name(error));
    sys_sem_signal(&started);
}

int main(void)
{
    static u8_t frame[FRAME_MAX];
    configure();
    fcntl(0, F_SETFL, fcntl(0, F_GETFL) & ~O_NONBLOCK); /* both threads wait in the calls themselves */
    for (unsigned i = 0; i < sizeof pattern; i++) {
        unsigned at = i % PERIOD;
        pattern[i] = (u8_t)(7 * at + 13 * (at >> 8) + (at >> 3));
    }
    /* The library does not tell its version at run time; the headers it was built with do. */
    printf("stack lwip %s\n", LWIP_VERSION_STRING);
    fflush(stdout);

    if (sys_sem_new(&started, 0) != ERR_OK)
        leave("ENOMEM");
    tcpip_init(on_start, NULL);
    sys_arch_sem_wait(&started, 0); /* until the interface is there, tcpip_input() would take frames for packets */

    for (;;) {
        ssize_t length = recv(0, frame, sizeof frame, MSG_TRUNC);
        if ((length < 0 && errno == EINTR) || length > (ssize_t)sizeof frame)
            continue;
        if (length <= 0) {
            bool usage = length < 0 && errno == ENOTSOCK;
            if (usage)
                perror("lwip peer: descriptor 0");
            _exit(usage ? 2 : 1); /* else the harness has gone */
        }
        struct pbuf *p = pbuf_alloc(PBUF_RAW, (u16_t)(length + ETH_PAD_SIZE), PBUF_RAM);
        if (p && (pbuf_take_at(p, frame, (u16_t)length, ETH_PAD_SIZE) != ERR_OK || tcpip_input(p, &nic) != ERR_OK))
            pbuf_free(p); /* its queue is full */
    }
}
