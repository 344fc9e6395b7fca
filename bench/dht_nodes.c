/* Fake DHT nodes that fill the routing table of one node under test.
 *
 *     dht_nodes COUNT PORT FIRST FULL...
 *
 * COUNT sockets on 127.1.0.1, 127.1.0.2 and so on, all on PORT. Each answers whatever query comes,
 * with no nodes and a token; nothing else. A fake node takes its id from who asks: FIRST nodes
 * differ from the asker in the first bit, so many fit its first bucket; the further arguments say
 * how many fit the following ones, the last of them for all that remain. So a table of 500 nodes
 * can be had although random ids would fill no more than nine or ten buckets.
 *
 * Answers are paced, as the bootstrap of a node asks all of them at once and its socket's buffer
 * holds only some of the answers. Ends when its stdin does.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAUSE_US 300
#define ID 20

static int depth_of(int number, int count, char **full) {
    for (int depth = 0;; depth++) {
        int here = atoi(full[depth < count ? depth : count - 1]);
        if (number < here) return depth;
        number -= here;
    }
}

/* The asker's id up to the depth, the next bit turned, and then bits that depend on the number. */
static void fake_id(const uint8_t *asker, int number, int depth, uint8_t *id) {
    uint64_t state = 0x9e3779b97f4a7c15u * (number + 1);
    for (int i = 0; i < ID; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        id[i] = state >> 56;
    }
    for (int bit = 0; bit <= depth; bit++) {
        uint8_t mask = 0x80 >> (bit & 7);
        id[bit >> 3] = (id[bit >> 3] & ~mask) | (asker[bit >> 3] & mask);
    }
    id[depth >> 3] ^= 0x80 >> (depth & 7);
}

static void answer(int fd, int number, int count, char **full) {
    uint8_t query[2048], id[ID], reply[512];
    struct sockaddr_in from;
    socklen_t size = sizeof from;
    ssize_t n = recvfrom(fd, query, sizeof query, 0, (struct sockaddr *)&from, &size);
    if (n <= 0 || !memmem(query, n, "1:y1:q", 6)) return;
    uint8_t *asker = memmem(query, n, "2:id20:", 7);
    uint8_t *method = memmem(query, n, "1:q", 3);
    uint8_t *end = query + n;
    if (!asker || !method || asker + 7 + ID > end) return;
    uint8_t *tid = memmem(method, end - method, "1:t", 3);
    if (!tid || tid + 5 > end) return;
    int length = tid[3] - '0';
    if (length < 1 || length > 8 || tid[4] != ':' || tid + 5 + length > end) return;
    fake_id(asker + 7, number, depth_of(number, count, full), id);
    uint8_t *at = reply;
    at = mempcpy(at, "d1:rd2:id20:", 12);
    at = mempcpy(at, id, ID);
    at = mempcpy(at, "5:nodes0:5:token4:fakee", 23);
    at = mempcpy(at, tid, 5 + length);
    at = mempcpy(at, "1:y1:re", 7);
    sendto(fd, reply, at - reply, 0, (struct sockaddr *)&from, size);
    usleep(PAUSE_US);
}

int main(int count, char **arguments) {
    if (count < 4) return 2;
    int nodes = atoi(arguments[1]), port = atoi(arguments[2]), watch = epoll_create1(0);
    for (int i = 0; i < nodes; i++) {
        int fd = socket(AF_INET, SOCK_DGRAM, 0);
        struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(port)};
        here.sin_addr.s_addr = htonl(0x7f010000u + (i / 250 << 8) + i % 250 + 1);
        if (bind(fd, (struct sockaddr *)&here, sizeof here) < 0) return perror("bind"), 1;
        struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)i << 32 | fd};
        epoll_ctl(watch, EPOLL_CTL_ADD, fd, &event);
    }
    struct epoll_event stdin_event = {.events = EPOLLIN, .data.u64 = UINT64_MAX};
    epoll_ctl(watch, EPOLL_CTL_ADD, 0, &stdin_event);
    puts("{\"event\": \"ready\"}");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[64];
        int n = epoll_wait(watch, events, 64, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.u64 == UINT64_MAX) return 0;
            uint64_t data = events[i].data.u64;
            answer((int)(uint32_t)data, data >> 32, count - 3, arguments + 3);
        }
    }
}
