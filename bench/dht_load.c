/* A load generator for one DHT node that checks every reply.
 *
 *     dht_load PORT SECONDS WINDOW RATE QUERIES
 *
 * QUERIES is a file of records, little endian: u32 length and bytes of a query; u32 offset of its
 * four bytes of transaction id; u32 length and bytes that the reply has to hold somewhere. Records
 * are sent in turn. With RATE 0, WINDOW queries are under way at any time, as fast as the node
 * answers; otherwise RATE queries a second are sent, whatever comes back, in equal steps.
 *
 * A reply counts as good if it is a response with the id of a query under way and holds the bytes.
 * A query that stays unanswered for two seconds is lost. Prints one line of JSON. Datagrams go
 * and come in batches (sendmmsg, recvmmsg), so that this costs less than what it measures.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#define RING (1u << 17)
#define BATCH 64
#define REPLY_MAX 2048
#define LOST_NS 2000000000
#define STEP_NS 500000
#define LATENCIES_MAX (1u << 22)

typedef struct {
    uint8_t *query;
    const uint8_t *needle;
    uint32_t length, tid_at, needle_length;
} Record;

typedef struct {
    int64_t sent_ns;
    uint32_t record;
    uint8_t waiting;
} Slot;

static Record *records;
static uint32_t record_count;
static Slot ring[RING];
static uint8_t outgoing[BATCH][REPLY_MAX], incoming[BATCH][REPLY_MAX];
static struct mmsghdr out[BATCH], in[BATCH];
static struct iovec out_parts[BATCH], in_parts[BATCH];
static uint32_t *latencies_us;
static uint64_t sent, good, wrong, late, lost, nodes_sum, bytes_sum, refused;
static uint64_t oldest; /* number of the first query that may still be under way */
static int fd;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void read_records(const char *path) {
    int file = open(path, O_RDONLY);
    struct stat info;
    if (file < 0 || fstat(file, &info) < 0) perror(path), exit(1);
    uint8_t *data = mmap(NULL, info.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    if (data == MAP_FAILED) perror(path), exit(1);
    uint32_t capacity = 0;
    for (uint8_t *p = data, *end = data + info.st_size; p < end; record_count++) {
        if (record_count == capacity) {
            capacity = capacity ? 2 * capacity : 1024;
            records = realloc(records, capacity * sizeof *records);
        }
        Record *r = &records[record_count];
        memcpy(&r->length, p, 4), p += 4;
        r->query = p, p += r->length;
        memcpy(&r->tid_at, p, 4), p += 4;
        memcpy(&r->needle_length, p, 4), p += 4;
        r->needle = p, p += r->needle_length;
    }
}

static void send_queries(uint32_t count) {
    while (count) {
        uint32_t batch = count < BATCH ? count : BATCH;
        int64_t now = now_ns();
        for (uint32_t i = 0; i < batch; i++) {
            uint32_t number = (uint32_t)(sent + i);
            Record *r = &records[number % record_count];
            memcpy(outgoing[i], r->query, r->length);
            memcpy(outgoing[i] + r->tid_at, &number, 4);
            out_parts[i] = (struct iovec){outgoing[i], r->length};
            ring[number % RING] = (Slot){now, number % record_count, 1};
        }
        int n = sendmmsg(fd, out, batch, 0);
        if (n < 0) n = 0, refused++;
        sent += n;
        count -= n;
        if (n < (int)batch) return;
    }
}

static void digest(const uint8_t *reply, uint32_t length, int64_t now) {
    const uint8_t *tid = memmem(reply, length, "1:t4:", 5);
    /* Random bytes may look like it; the last one in the dictionary is the one. */
    for (const uint8_t *next = tid; next;) {
        tid = next;
        next = memmem(next + 1, length - (next + 1 - reply), "1:t4:", 5);
    }
    uint32_t number;
    if (!tid || tid + 9 > reply + length) {
        wrong++;
        return;
    }
    memcpy(&number, tid + 5, 4);
    Slot *slot = &ring[number % RING];
    if (!slot->waiting || (uint32_t)sent - number - 1 >= RING) {
        late++;
        return;
    }
    const Record *r = &records[slot->record];
    slot->waiting = 0;
    if (!memmem(reply, length, "1:y1:r", 6) || !memmem(reply, length, r->needle, r->needle_length)) {
        wrong++;
        return;
    }
    const uint8_t *nodes = memmem(reply, length, "5:nodes", 7);
    if (nodes && nodes + 11 < reply + length) nodes_sum += atoi((const char *)nodes + 7) / 26;
    bytes_sum += length;
    if (good < LATENCIES_MAX) latencies_us[good] = (now - slot->sent_ns) / 1000;
    good++;
}

static int receive(void) {
    int n = recvmmsg(fd, in, BATCH, MSG_DONTWAIT, NULL);
    if (n <= 0) return 0;
    int64_t now = now_ns();
    for (int i = 0; i < n; i++) digest(incoming[i], in[i].msg_len, now);
    return n;
}

/* Returns how many queries are under way, those that waited too long given up. */
static uint64_t under_way(int64_t now) {
    while (oldest < sent) {
        Slot *slot = &ring[oldest % RING];
        if (slot->waiting) {
            if (now - slot->sent_ns < LOST_NS) break;
            slot->waiting = 0;
            lost++;
        }
        oldest++;
    }
    return sent - good - wrong - lost;
}

static int compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

int main(int count, char **arguments) {
    if (count != 6) {
        fprintf(stderr, "usage: dht_load PORT SECONDS WINDOW RATE QUERIES\n");
        return 2;
    }
    double seconds = atof(arguments[2]);
    uint32_t window = atoi(arguments[3]), rate = atoi(arguments[4]);
    read_records(arguments[5]);
    latencies_us = malloc(sizeof *latencies_us * LATENCIES_MAX);
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    int room = 4 << 20;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1]))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0) return perror("connect"), 1;
    for (int i = 0; i < BATCH; i++) {
        in_parts[i] = (struct iovec){incoming[i], REPLY_MAX};
        in[i].msg_hdr = (struct msghdr){.msg_iov = &in_parts[i], .msg_iovlen = 1};
        out[i].msg_hdr = (struct msghdr){.msg_iov = &out_parts[i], .msg_iovlen = 1};
    }
    int64_t begun = now_ns(), deadline = begun + (int64_t)(seconds * 1e9), now = begun;
    while (now < deadline) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        uint64_t waiting = under_way(now);
        if (rate) {
            uint64_t due = (uint64_t)((now - begun) / 1e9 * rate);
            if (due > sent) send_queries(due - sent);
            struct timespec step = {.tv_nsec = STEP_NS};
            ppoll(&ready, 1, &step, NULL);
        } else {
            if (waiting < window) send_queries(window - waiting);
            poll(&ready, 1, 10);
        }
        while (receive() == BATCH) {}
        now = now_ns();
    }
    double taken_s = (now - begun) / 1e9;
    uint64_t in_time = good;
    while (under_way(now_ns())) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        poll(&ready, 1, 10);
        receive();
    }
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double loader_s = used.ru_utime.tv_sec + used.ru_stime.tv_sec;
    loader_s += (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    uint64_t n = good < LATENCIES_MAX ? good : LATENCIES_MAX;
    qsort(latencies_us, n, sizeof *latencies_us, compare);
    printf("{\"seconds\": %.6f, \"sent\": %lu, \"good\": %lu, \"in_time\": %lu, \"wrong\": %lu, "
           "\"late\": %lu, \"lost\": %lu, \"refused\": %lu, \"nodes\": %.3f, \"reply_bytes\": %.1f, "
           "\"p50_us\": %u, \"p99_us\": %u, \"loader_s\": %.6f}\n",
           taken_s, sent, good, in_time, wrong, late, lost, refused,
           good ? (double)nodes_sum / good : 0, good ? (double)bytes_sum / good : 0,
           n ? latencies_us[n / 2] : 0, n ? latencies_us[(uint64_t)(0.99 * (n - 1))] : 0, loader_s);
    return 0;
}
