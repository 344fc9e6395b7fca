/* Many datagrams in few system calls: recvmmsg, an answer for each, sendmmsg.
 *
 * A batch lies in buffers that are made once. What the answerer takes is answered from there;
 * the rest is handed on by whoever drives this. The kernel stops at the first message that it
 * cannot send and says why at the next call: that one is counted as an error and left out. */
#ifndef RELAY_DATAGRAM_LANE_H
#define RELAY_DATAGRAM_LANE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* recvmmsg, sendmmsg */
#endif
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "datagram_answerer.h"

#define DL_BATCH 32
#define DL_DATAGRAM_MAX 2048 /* relay.net.udp_socket.DATAGRAM_BYTES_MAX */
#define DL_SOURCE_BYTES 6

typedef struct {
    int fd;
    unsigned replies; /* queued in `out` */
    struct mmsghdr in[DL_BATCH], out[DL_BATCH];
    struct iovec in_bytes[DL_BATCH], out_bytes[DL_BATCH];
    struct sockaddr_in in_address[DL_BATCH], out_address[DL_BATCH];
    uint8_t datagrams[DL_BATCH][DL_DATAGRAM_MAX];
    uint8_t reply_bytes[DL_BATCH][LA_REPLY_MAX];
} dl_lane;

/* `lane` is zeroed. */
static inline void dl_init(dl_lane *lane, int fd)
{
    lane->fd = fd;
    for (int i = 0; i < DL_BATCH; i++) {
        lane->in_bytes[i] = (struct iovec){lane->datagrams[i], DL_DATAGRAM_MAX};
        lane->in[i].msg_hdr.msg_iov = &lane->in_bytes[i];
        lane->in[i].msg_hdr.msg_iovlen = 1;
        lane->in[i].msg_hdr.msg_name = &lane->in_address[i];
        lane->out[i].msg_hdr.msg_iov = &lane->out_bytes[i];
        lane->out[i].msg_hdr.msg_iovlen = 1;
        lane->out[i].msg_hdr.msg_name = &lane->out_address[i];
        lane->out[i].msg_hdr.msg_namelen = sizeof lane->out_address[i];
    }
}

/* How many of at most `limit` datagrams came; 0: none is there; below 0: -errno. */
static inline int dl_receive(dl_lane *lane, unsigned limit)
{
    for (unsigned i = 0; i < limit; i++)
        lane->in[i].msg_hdr.msg_namelen = sizeof lane->in_address[i];
    int count = recvmmsg(lane->fd, lane->in, limit, MSG_DONTWAIT, NULL);
    if (count >= 0)
        return count;
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -errno;
}

static inline size_t dl_size(const dl_lane *lane, unsigned i) { return lane->in[i].msg_len; }

/* 4 bytes of address, 2 of port, as on the wire. */
static inline void dl_source(const struct sockaddr_in *address, uint8_t out[DL_SOURCE_BYTES])
{
    memcpy(out, &address->sin_addr, 4);
    memcpy(out + 4, &address->sin_port, 2);
}

static inline void dl_address(const uint8_t source[DL_SOURCE_BYTES], struct sockaddr_in *out)
{
    memset(out, 0, sizeof *out);
    out->sin_family = AF_INET;
    memcpy(&out->sin_addr, source, 4);
    memcpy(&out->sin_port, source + 4, 2);
}

/* Lets the answerer see datagram `i` of the batch and queues its reply, if there is one. There is
 * room: no batch has more replies than datagrams. */
static inline la_verdict dl_answer(dl_lane *lane, const la_answerer *answerer, unsigned i,
                                   double now)
{
    uint8_t source[DL_SOURCE_BYTES];
    size_t size = 0;
    unsigned reply = lane->replies;
    dl_source(&lane->in_address[i], source);
    la_verdict verdict = answerer->answer(answerer->state, lane->datagrams[i], dl_size(lane, i),
                                          source, now, lane->reply_bytes[reply], &size);
    if (verdict == LA_REPLY) {
        lane->out_bytes[reply] = (struct iovec){lane->reply_bytes[reply], size};
        lane->out_address[reply] = lane->in_address[i];
        lane->replies++;
    }
    return verdict;
}

typedef struct {
    unsigned done;   /* sent or given up; the others have to wait */
    unsigned errors; /* given up */
    int fault;       /* errno, where the socket is not one */
} dl_sent;

/* Sends the first `count` of `out`. */
static inline dl_sent dl_send(dl_lane *lane, unsigned count)
{
    dl_sent result = {0, 0, 0};
    while (result.done < count) {
        int sent = sendmmsg(lane->fd, lane->out + result.done, count - result.done, MSG_DONTWAIT);
        if (sent > 0) {
            result.done += (unsigned)sent;
            continue;
        }
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
            break;
        if (errno == EBADF || errno == ENOTSOCK) {
            result.fault = errno;
            break;
        }
        result.errors++;
        result.done++;
    }
    return result;
}

static inline double dl_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

#endif
