/*
 * passt.c - a peer whose TCP stack is passt (https://passt.top), as the sender.
 *
 * Build:  cc -std=c11 -O2 -Wall -Wextra -o passt-peer passt.c
 * Run:    by the harness, with descriptor 0 and the RIGHTEDGE_* variables. It needs passt in the PATH and the right
 *         to make a network namespace (root, or root of a user namespace).
 *
 * passt listens on a host port and carries what arrives there to its guest: here, the receiver. So this program
 *   - moves into a fresh network namespace: port, route and all vanish with the processes, however they end. passt
 *     demands a default route to copy settings from; one through `lo` will do and needs no interface.
 *   - starts passt on one end of a socket pair (--fd) and alone holds the other end. passt ends when that closes,
 *     after SIGKILL too, where PR_SET_PDEATHSIG would not help (passt changes its user).
 *   - copies frames between descriptor 0 and passt, which has a 4-byte length in front of each.
 *   - asks by ARP for the receiver, as passt never does: it learns the guest's MAC from the guest's frames, and its
 *     first SYN would go to 00:00:00:00:00:00 otherwise. The answer goes to passt like any other frame.
 *   - connects to the forwarded port (on the wire, passt's --gateway becomes the source address) and writes.
 * `written` counts what the loopback connection took: its buffers run some megabytes ahead of the wire.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { FRAME_MIN = 14, FRAME_MAX = 1514, PERIOD = 65521, CHUNK = 65536, HOST_PORT = 40000 };

static char own[INET_ADDRSTRLEN], prefix[24], receiver[INET_ADDRSTRLEN], mtu[24];
static uint8_t own_ip[4], receiver_ip[4], own_mac[6];
static uint16_t receiver_port;
static uint64_t total, written, reported;
static bool nodelay;
static pid_t passt_pid;
static int passt_fd, tcp_fd = -1;

/* What went by on the wire, [0] from passt and [1] from the receiver: the loopback connection cannot tell when the
 * FINs, and before them all the data, have arrived. */
static struct { uint32_t fin_end, ack; bool fin; } seen[2];
static bool seen_reset;

static _Noreturn void leave(int code)
{
    if (passt_pid > 0) { /* it would end by itself, but so it is gone before we are */
        kill(passt_pid, SIGKILL);
        waitpid(passt_pid, NULL, 0);
    }
    exit(code);
}

static _Noreturn void die(int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("passt peer: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    leave(code);
}

static void report(void)
{
    if (reported != written || total == 0)
        printf("written %ju\n", (uintmax_t)written);
    reported = written;
}

static _Noreturn void fail(int error)
{
    const char *name = strerrorname_np(error == EPIPE && seen_reset ? ECONNRESET : error);
    report();
    printf("error %s\n", name ? name : "EIO");
    leave(1);
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static char *setting(const char *name)
{
    if (!getenv(name))
        die(2, "%s is not set", name);
    return getenv(name);
}

static uint64_t number(const char *name, const char *text, uint64_t least, uint64_t most)
{
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || n < least || n > most)
        die(2, "%s: '%s' is not a number from %ju to %ju", name, text, (uintmax_t)least, (uintmax_t)most);
    return n;
}

/* Reads ADDRESS<separator>NUMBER and returns the number. */
static uint64_t address(const char *name, char separator, uint64_t most, uint8_t ip[4], char text[INET_ADDRSTRLEN])
{
    const char *value = setting(name), *rest = strchr(value, separator);
    if (!rest || rest - value >= INET_ADDRSTRLEN)
        die(2, "%s: '%s' is not ADDRESS%cNUMBER", name, value, separator);
    memcpy(text, value, (size_t)(rest - value));
    if (inet_pton(AF_INET, text, ip) != 1)
        die(2, "%s: '%s' is not an IPv4 address", name, text);
    return number(name, rest + 1, 1, most);
}

static void read_settings(void)
{
    sprintf(prefix, "%d", (int)address("RIGHTEDGE_ADDRESS", '/', 32, own_ip, own));
    receiver_port = (uint16_t)address("RIGHTEDGE_RECEIVER", ':', 65535, receiver_ip, receiver);
    sprintf(mtu, "%d", (int)number("RIGHTEDGE_MTU", setting("RIGHTEDGE_MTU"), 68, FRAME_MAX - 14));
    total = number("RIGHTEDGE_BYTES", setting("RIGHTEDGE_BYTES"), 0, INT64_MAX);

    const char *mac = setting("RIGHTEDGE_MAC");
    if (strlen(mac) != 17 || strspn(mac, "0123456789abcdefABCDEF:") != 17 ||
        sscanf(mac, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx", &own_mac[0], &own_mac[1], &own_mac[2], &own_mac[3],
               &own_mac[4], &own_mac[5]) != 6 || (own_mac[0] & 1))
        die(2, "RIGHTEDGE_MAC: '%s' is not a unicast hardware address", mac);

    char *options = strdup(getenv("RIGHTEDGE_OPTIONS") ? getenv("RIGHTEDGE_OPTIONS") : "");
    for (char *word = options ? strtok(options, ",") : NULL; word; word = strtok(NULL, ",")) {
        if (strcmp(word, "nodelay") != 0) /* for the loopback connection: passt itself knows no Nagle */
            die(2, "RIGHTEDGE_OPTIONS: '%s' is not known", word);
        nodelay = true;
    }
    free(options);
}

static bool version_from(const char *command, char version[128])
{
    char line[160];
    FILE *p = popen(command, "r");
    bool got = p && fgets(line, sizeof line, p) && sscanf(line, "passt %127s", version) == 1;
    if (p)
        pclose(p);
    return got;
}

static void say_version(void)
{
    char version[128] = "unknown";
    if (!version_from("passt --version </dev/null 2>/dev/null", version))
        die(2, "passt --version does not work: is passt installed?");
    if (strcmp(version, "unknown") == 0) /* what Debian's passt says; its package knows */
        version_from("dpkg-query -W -f 'passt ${Version}\\n' passt </dev/null 2>/dev/null", version);
    printf("stack passt %s\n", version);
}

static void make_network(void)
{
    struct ifreq lo = { .ifr_name = "lo" };
    struct rtentry route = { .rt_flags = RTF_UP, .rt_dev = lo.ifr_name }; /* the rest is 0: to 0.0.0.0/0 */
    route.rt_dst.sa_family = route.rt_genmask.sa_family = AF_INET;
    if (unshare(CLONE_NEWNET) < 0)
        die(2, "cannot make a network namespace: %s", strerror(errno));
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    lo.ifr_flags = IFF_UP | IFF_LOOPBACK | IFF_RUNNING;
    if (s < 0 || ioctl(s, SIOCSIFFLAGS, &lo) < 0 || ioctl(s, SIOCADDRT, &route) < 0)
        die(2, "cannot set up the loopback interface: %s", strerror(errno));
    close(s);
}

static void start_passt(void)
{
    int pair[2], null = open("/dev/null", O_RDWR | O_CLOEXEC);
    char fd[16], forward[64];
    if (null < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        die(2, "cannot make a socket pair: %s", strerror(errno));
    sprintf(fd, "%d", pair[1]);
    sprintf(forward, "127.0.0.1/%d:%d", HOST_PORT, receiver_port);
    passt_pid = fork();
    if (passt_pid < 0)
        die(2, "fork: %s", strerror(errno));
    if (passt_pid == 0) {
        /* Not our descriptors 0 and 1: their other ends must see them close when this program ends. */
        if (dup2(null, 0) == 0 && dup2(null, 1) == 1 && fcntl(pair[1], F_SETFD, 0) == 0)
            execlp("passt", "passt", "--foreground", "--quiet", "--ipv4-only", "--fd", fd, "--address", receiver,
                   "--netmask", prefix, "--gateway", own, "--mac-addr", getenv("RIGHTEDGE_MAC"), "--mtu", mtu,
                   "--tcp-ports", forward, "--udp-ports", "none", "--dns", "none", "--search", "none", "--no-udp",
                   "--no-icmp", "--no-dhcp", "--no-map-gw", (char *)NULL);
        _exit(127);
    }
    close(pair[1]);
    close(null);
    passt_fd = pair[0];
}

static void connect_tcp(void)
{
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(HOST_PORT) };
    int on = nodelay, mss = 536;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    tcp_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    /* passt narrows this connection's window to the receiver's. Segments as large as `lo` has them would not fit, and
     * the kernel would send one at each 200 ms tick of its persist timer only. */
    if (tcp_fd < 0 || setsockopt(tcp_fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 ||
        setsockopt(tcp_fd, IPPROTO_TCP, TCP_MAXSEG, &mss, sizeof mss) < 0 ||
        connect(tcp_fd, (struct sockaddr *)&to, sizeof to) < 0) /* the kernel answers for passt, at once */
        fail(errno);
}

static uint8_t in[131072], out[4 + 65536]; /* the stream from passt; one frame, its length in front, to passt */
static size_t in_fill, out_fill;

static uint32_t be(const uint8_t *p, int bytes)
{
    uint32_t n = 0;
    while (bytes-- > 0)
        n = n << 8 | *p++;
    return n;
}

static void watch(const uint8_t *f, size_t n, int from)
{
    size_t ip = n < 54 ? 0 : (f[14] & 15u) * 4, length = n < 54 ? 0 : be(f + 16, 2);
    const uint8_t *t = f + 14 + ip;
    if (ip < 20 || be(f + 12, 2) != 0x0800 || f[23] != IPPROTO_TCP || length < ip + 20 || 14 + length > n ||
        memcmp(f + (from ? 26 : 30), receiver_ip, 4) != 0 || be(t + (from ? 0 : 2), 2) != receiver_port)
        return;
    if (t[13] & 0x04)
        seen_reset = true;
    if (t[13] & 0x10)
        seen[from].ack = be(t + 8, 4);
    if (t[13] & 0x01) {
        seen[from].fin = true;
        seen[from].fin_end = be(t + 4, 4) + (uint32_t)(length - ip - (t[12] >> 4) * 4u) + 1;
    }
}

static bool closed_both_ways(void)
{
    return seen[0].fin && seen[1].fin && (int32_t)(seen[1].ack - seen[0].fin_end) >= 0 &&
           (int32_t)(seen[0].ack - seen[1].fin_end) >= 0;
}

static void to_harness(const uint8_t *frame, size_t n)
{
    if (send(0, frame, n, MSG_NOSIGNAL) < 0) /* waits, if it has to */
        die(1, "the harness has gone: %s", strerror(errno));
    watch(frame, n, 0);
}

static void ask_for_receiver(void)
{
    uint8_t frame[60] = { 255, 255, 255, 255, 255, 255, [12] = 8, 6, 0, 1, 8, 0, 6, 4, 0, 1 };
    memcpy(frame + 6, own_mac, 6);
    memcpy(frame + 22, own_mac, 6);
    memcpy(frame + 28, own_ip, 4);
    memcpy(frame + 38, receiver_ip, 4);
    to_harness(frame, sizeof frame);
}

/* Takes what passt has to say and hands the whole frames on; false when passt has ended. */
static bool deliver(void)
{
    ssize_t got = recv(passt_fd, in + in_fill, sizeof in - in_fill, MSG_DONTWAIT);
    size_t at = 0, n;
    if (got == 0 || (got < 0 && errno != EAGAIN))
        return false;
    for (in_fill += got > 0 ? (size_t)got : 0; in_fill - at >= 4; at += 4 + n) {
        n = be(in + at, 4);
        if (n > sizeof in - 4)
            die(1, "passt announces a frame of %zu bytes", n);
        if (n > in_fill - at - 4)
            break;
        if (n <= FRAME_MAX)
            to_harness(in + at + 4, n);
        else
            fprintf(stderr, "passt peer: dropped a frame of %zu bytes from passt\n", n);
    }
    memmove(in, in + at, in_fill -= at);
    return true;
}

/* Puts one frame from the harness into `out`; true if it is the answer to our ARP request. */
static bool fetch(void)
{
    ssize_t n = recv(0, out + 4, sizeof out - 4, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN))
        die(1, "the harness has gone");
    if (n < FRAME_MIN || n > FRAME_MAX)
        return false;
    memcpy(out, &(uint32_t){ htonl((uint32_t)n) }, 4);
    out_fill = 4 + (size_t)n;
    watch(out + 4, (size_t)n, 1);
    return n >= 42 && be(out + 16, 2) == 0x0806 && be(out + 24, 2) == 2 && memcmp(out + 32, receiver_ip, 4) == 0;
}

static void write_pattern(void)
{
    static uint8_t pattern[PERIOD + CHUNK];
    for (size_t i = 0; written == 0 && i < sizeof pattern; i++) {
        size_t p = i % PERIOD;
        pattern[i] = (uint8_t)(7 * p + 13 * (p >> 8) + (p >> 3));
    }
    uint64_t left = total - written;
    ssize_t n = send(tcp_fd, pattern + written % PERIOD, left < CHUNK ? left : CHUNK, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN)
        fail(errno);
    written += n > 0 ? (uint64_t)n : 0;
}

int main(void)
{
    enum { ASKING, ANSWERED, WRITING, ENDING } phase = ASKING;
    static char waste[CHUNK]; /* a receiver may talk; nobody listens */
    bool end_of_stream = false;
    int64_t last = -1000; /* the last ARP request or report */
    int type = 0, unread = 0;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (getsockopt(0, SOL_SOCKET, SO_TYPE, &type, &(socklen_t){ sizeof type }) < 0 || type != SOCK_SEQPACKET)
        die(2, "descriptor 0 is not a SOCK_SEQPACKET socket");
    read_settings();
    say_version();
    make_network();
    start_passt();

    while (!(phase == ENDING && end_of_stream && closed_both_ways())) {
        int64_t now = now_ms();
        if (phase == ASKING && now - last >= 1000) {
            ask_for_receiver();
            last = now;
        }
        /* Once passt has read the answer, it runs, listens and knows the receiver's MAC. */
        if (phase == ANSWERED && !out_fill && ioctl(passt_fd, SIOCOUTQ, &unread) == 0 && unread == 0) {
            connect_tcp();
            phase = WRITING;
        }
        if (phase == WRITING && written == total) {
            report();
            if (shutdown(tcp_fd, SHUT_WR) < 0)
                fail(errno);
            phase = ENDING;
        }
        if (phase == WRITING && reported != written && now - last >= 250) {
            report();
            last = now;
        }
        if (phase == ENDING && end_of_stream) { /* the rest shows on the wire only */
            if (seen_reset)
                fail(ECONNRESET);
            if (tcp_fd >= 0) /* it would wake us over and over */
                close(tcp_fd);
            tcp_fd = -1;
        }

        struct pollfd fds[3] = {
            { .fd = 0, .events = out_fill ? 0 : POLLIN }, /* one frame at a time */
            { .fd = passt_fd, .events = out_fill ? POLLIN | POLLOUT : POLLIN },
            { .fd = tcp_fd, .events = (short)((end_of_stream ? 0 : POLLIN) | (phase == WRITING ? POLLOUT : 0)) },
        };
        int most = phase == ASKING ? 1000 : phase == ANSWERED ? 5 : reported != written ? 250 : -1;
        if (poll(fds, 3, most) < 0 && errno != EINTR)
            die(1, "poll: %s", strerror(errno));

        if (out_fill && fds[0].revents)
            die(1, "the harness has gone");
        if (fds[0].revents && fetch() && phase == ASKING)
            phase = ANSWERED;
        /* The kernel takes so short a message whole or not at all; if passt is gone, the reading side notices. */
        if (out_fill && send(passt_fd, out, out_fill, MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
            out_fill = 0;
        if (fds[1].revents && !deliver()) {
            fprintf(stderr, "passt peer: passt has ended\n");
            if (phase < WRITING)
                leave(2); /* it does not like the settings or cannot run here, and has said so */
            fail(EPIPE);
        }
        if (fds[2].revents && !end_of_stream) {
            ssize_t n = recv(tcp_fd, waste, sizeof waste, MSG_DONTWAIT);
            if (n < 0 && errno != EAGAIN)
                fail(errno);
            end_of_stream = n == 0;
        }
        if (fds[2].revents && phase == WRITING && written < total)
            write_pattern();
    }
    puts("done");
    leave(0);
}
