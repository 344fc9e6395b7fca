/* Sends datagrams from many addresses of this network namespace and counts what comes back.
 *
 *     udp_flood PORT SECONDS RATE FIRST COUNT DATAGRAMS
 *
 * To 127.0.0.1:PORT, RATE a second (0: as many as the system takes), in equal steps, from one
 * socket whose datagrams claim the sources FIRST, FIRST + 1 ... in turn, COUNT of them; these must
 * be addresses of ours (`__main__.py` has 131,072), so the answers come back here. DATAGRAMS is
 * a file of records: u32 length, little endian, and the bytes; sent in turn. Prints a line of JSON.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH 64
#define STEP_NS 2000000
#define DATAGRAM_MAX 65536
#define DRAIN_NS 300000000
#define SO_RCVBUFFORCE_ 33

typedef struct {
    struct cmsghdr head;
    struct in_pktinfo info;
} Control;

static struct mmsghdr out[BATCH], in[BATCH];
static struct iovec out_parts[BATCH], in_parts[BATCH];
static Control controls[BATCH];
static uint8_t incoming[BATCH][2048];
static uint64_t sent, sent_bytes, refused, replies, reply_bytes, largest;
static int fd;

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void take_replies(void)
{
    for (;;) {
        int count = recvmmsg(fd, in, BATCH, MSG_DONTWAIT, NULL);
        if (count <= 0)
            return;
        for (int i = 0; i < count; i++) {
            replies++;
            reply_bytes += in[i].msg_len;
            if (in[i].msg_len > largest)
                largest = in[i].msg_len;
        }
    }
}

int main(int argc, char **argv)
{
    if (argc != 7)
        return 2;
    double seconds = atof(argv[2]);
    uint64_t rate = strtoull(argv[3], NULL, 10), number = 0;
    uint32_t first = ntohl(inet_addr(argv[4])), count = strtoul(argv[5], NULL, 10);
    FILE *file = fopen(argv[6], "rb");
    if (!file)
        fail(argv[6]);
    static struct iovec records[1 << 16];
    uint32_t size, record_count = 0;
    while (record_count < 1 << 16 && fread(&size, 4, 1, file) == 1) {
        void *bytes = malloc(size + 1);
        if (size > DATAGRAM_MAX || fread(bytes, 1, size, file) != size)
            return 2;
        records[record_count++] = (struct iovec){bytes, size};
    }
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    int room = 64 << 20;
    struct sockaddr_in here = {.sin_family = AF_INET};
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE_, &room, sizeof room) < 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    if (fd < 0 || bind(fd, (struct sockaddr *)&here, sizeof here) < 0 || !record_count || !count)
        fail("socket");
    for (int i = 0; i < BATCH; i++) {
        controls[i].head = (struct cmsghdr){CMSG_LEN(sizeof(struct in_pktinfo)), IPPROTO_IP,
                                            IP_PKTINFO};
        out[i].msg_hdr = (struct msghdr){.msg_name = &there, .msg_namelen = sizeof there,
                                         .msg_iov = &out_parts[i], .msg_iovlen = 1,
                                         .msg_control = &controls[i],
                                         .msg_controllen = sizeof controls[i]};
        in_parts[i] = (struct iovec){incoming[i], sizeof incoming[i]};
        in[i].msg_hdr = (struct msghdr){.msg_iov = &in_parts[i], .msg_iovlen = 1};
    }
    int64_t began = now_ns(), end = began + (int64_t)(seconds * 1e9), now;
    while ((now = now_ns()) < end) {
        take_replies();
        uint64_t due = rate ? (uint64_t)((double)(now - began) * 1e-9 * rate) + 1 : number + BATCH;
        if (due <= number) {
            struct timespec pause = {0, STEP_NS};
            nanosleep(&pause, NULL);
            continue;
        }
        unsigned batch = due - number < BATCH ? due - number : BATCH;
        for (unsigned i = 0; i < batch; i++) {
            out_parts[i] = records[(number + i) % record_count];
            controls[i].info.ipi_spec_dst.s_addr = htonl(first + (uint32_t)((number + i) % count));
        }
        int done = sendmmsg(fd, out, batch, 0);
        if (done <= 0) { /* too large for an interface, say: left out */
            if (errno == EADDRNOTAVAIL || errno == EINVAL)
                fail("these sources are not ours");
            refused++, number++;
            continue;
        }
        for (int i = 0; i < done; i++)
            sent_bytes += out_parts[i].iov_len;
        sent += done, number += done;
    }
    double took = (double)(now_ns() - began) * 1e-9;
    for (int64_t until = now_ns() + DRAIN_NS; now_ns() < until;) {
        struct timespec pause = {0, STEP_NS};
        take_replies();
        nanosleep(&pause, NULL);
    }
    printf("{\"seconds\": %.3f, \"sent\": %llu, \"sent_bytes\": %llu, \"refused\": %llu, "
           "\"replies\": %llu, \"reply_bytes\": %llu, \"largest\": %llu}\n",
           took, (unsigned long long)sent, (unsigned long long)sent_bytes,
           (unsigned long long)refused, (unsigned long long)replies,
           (unsigned long long)reply_bytes, (unsigned long long)largest);
    return 0;
}
