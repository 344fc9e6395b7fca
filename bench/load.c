/* An HTTP/1.1 load generator that checks every answer.
 *
 *     load PORT CONNECTIONS SECONDS once|cycle|random REQUESTS
 *
 * REQUESTS is a file of records, little endian: u32 length and bytes of a request; u16 status
 * expected; u32 length and bytes of the body expected (length 0xffffffff: any body). Each
 * connection sends the next record as soon as its last answer is complete, so CONNECTIONS is
 * the concurrency. Records are taken in turn or, with `random`, each uniformly at random. Ends
 * after SECONDS, or with `once` when all records were sent.
 *
 * Prints one line of JSON. Only an answer with the expected status and body counts as `ok`;
 * `loader_s` is the CPU time of the loading, which must be less than that of what it measures.
 * So: one epoll loop, one recv, one send and one look at the clock per request, no allocation,
 * and the records are kept on huge pages, as there may be a million of them.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BUFFER 65536
#define HUGE (1u << 21) /* a huge page: small ones of many records are slow to find */
#define LATENCIES_MAX (1u << 24)
#define ANY_BODY 0xffffffffu
#define STATUSES 600
#define LAST_ANSWERS_NS 10000000000

typedef struct {
    const char *request, *body;
    uint32_t request_length, body_length;
    uint16_t status;
} Record;

typedef struct {
    int fd;
    uint32_t sent, received;
    const Record *record; /* NULL: nothing under way */
    const Record *upcoming; /* with `random`: drawn ahead, so that memory is quicker than the need */
    int64_t started_ns;
    char *buffer;
} Connection;

static Record *records;
static uint64_t record_count, next_record, taken_max;
static uint32_t *latencies_us;
static uint64_t answers, ok, wrong_status, wrong_body, broken, by_status[STATUSES];
static uint64_t random_state = 0x9e3779b97f4a7c15u;
static int64_t deadline_ns;
static int epoll_fd, port, at_random, busy;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void read_records(const char *path) {
    int fd = open(path, O_RDONLY);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) < 0) die(path);
    char *data = aligned_alloc(HUGE, (info.st_size + HUGE) / HUGE * HUGE);
    if (!data) die("aligned_alloc");
    madvise(data, info.st_size, MADV_HUGEPAGE);
    for (off_t at = 0; at < info.st_size;) {
        ssize_t n = read(fd, data + at, info.st_size - at);
        if (n <= 0) die(path);
        at += n;
    }
    close(fd);
    uint64_t capacity = 0;
    for (char *p = data, *end = data + info.st_size; p < end; record_count++) {
        if (record_count == capacity) {
            capacity = capacity ? 2 * capacity : 1024;
            records = realloc(records, capacity * sizeof *records);
        }
        Record *r = &records[record_count];
        memcpy(&r->request_length, p, 4), p += 4;
        r->request = p, p += r->request_length;
        memcpy(&r->status, p, 2), p += 2;
        memcpy(&r->body_length, p, 4), p += 4;
        r->body = p;
        if (r->body_length != ANY_BODY) p += r->body_length;
    }
}

static void watch(Connection *c, uint32_t events, int operation) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll_fd, operation, c->fd, &event) < 0) die("epoll_ctl");
}

static void open_connection(Connection *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0) die("connect");
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    watch(c, EPOLLIN, EPOLL_CTL_ADD);
}

/* Sends what is left of the request; 0 when the connection broke. */
static int push(Connection *c) {
    const Record *r = c->record;
    while (c->sent < r->request_length) {
        ssize_t n = send(c->fd, r->request + c->sent, r->request_length - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            watch(c, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
            return 1;
        }
        if (n < 0) return 0;
        c->sent += n;
    }
    return 1;
}

static uint64_t random_below(uint64_t bound) { /* xorshift64*, scaled: good enough for keys */
    random_state ^= random_state >> 12, random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    uint64_t high = (random_state * 0x2545f4914f6cdd1du) >> 32;
    return high * bound >> 32;
}

static int start(Connection *c, int64_t now) {
    c->sent = c->received = 0;
    if (next_record >= taken_max || now >= deadline_ns) return 1;
    if (at_random) {
        c->record = c->upcoming ? c->upcoming : &records[random_below(record_count)];
        c->upcoming = &records[random_below(record_count)];
        __builtin_prefetch(c->upcoming);
    } else {
        c->record = &records[next_record % record_count];
    }
    next_record++;
    busy++;
    c->started_ns = now;
    int good = push(c);
    if (at_random && c->record->body_length != ANY_BODY) /* the answer takes a while to come */
        for (uint32_t i = 0; i < c->record->body_length; i += 64)
            __builtin_prefetch(c->record->body + i);
    if (at_random)
        for (uint32_t i = 0; i < c->upcoming->request_length; i += 64)
            __builtin_prefetch(c->upcoming->request + i);
    return good;
}

static void done(Connection *c) {
    c->record = NULL;
    busy--;
}

static void reopen(Connection *c) {
    close(c->fd);
    open_connection(c);
    if (!start(c, now_ns())) die("a new connection broke at once");
}

static void judge(Connection *c, int64_t now, int status, const char *body, uint32_t length) {
    const Record *r = c->record;
    uint32_t us = (now - c->started_ns) / 1000;
    if (answers < LATENCIES_MAX) latencies_us[answers] = us;
    answers++;
    by_status[status]++;
    if (status != r->status)
        wrong_status++;
    else if (r->body_length != ANY_BODY &&
             (length != r->body_length || memcmp(body, r->body, length)))
        wrong_body++;
    else
        ok++;
}

/* Looks at what has been received: 1 when the connection goes on, 0 when it must be reopened. */
static int digest(Connection *c) {
    const char *at = c->buffer, *end = c->buffer + c->received, *line_end;
    uint32_t length = 0;
    int closes = 0, status = c->received > 12 ? atoi(c->buffer + 9) : 0;
    for (;; at = line_end + 1) {
        line_end = memchr(at, '\n', end - at);
        if (!line_end) return c->received < BUFFER;
        size_t size = line_end - at;
        if (size <= 1) break;
        if ((*at | 32) != 'c') continue;
        if (size > 15 && !strncasecmp(at, "content-length:", 15))
            length = strtoul(at + 15, NULL, 10);
        else if (size > 11 && !strncasecmp(at, "connection:", 11))
            closes = !strncasecmp(at + 11 + strspn(at + 11, " "), "close", 5);
    }
    const char *body = line_end + 1;
    if (status < 100 || status >= STATUSES || length > BUFFER - (body - c->buffer)) return 0;
    if (end - body < length) return 1;
    int64_t now = now_ns();
    judge(c, now, status, body, length);
    done(c);
    return closes ? 0 : start(c, now);
}

static int readable(Connection *c) {
    ssize_t n = recv(c->fd, c->buffer + c->received, BUFFER - c->received, 0);
    if (n < 0) return errno == EAGAIN;
    if (n == 0) return 0;
    c->received += n;
    return c->record ? digest(c) : 0;
}

static void handle(Connection *c, uint32_t events) {
    int good = 1;
    if (events & EPOLLOUT) {
        watch(c, EPOLLIN, EPOLL_CTL_MOD);
        good = push(c);
    }
    if (good && events & (EPOLLIN | EPOLLHUP | EPOLLERR)) good = readable(c);
    if (!good) {
        if (c->record) broken++, done(c);
        reopen(c);
    }
}

static int compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double cpu_s(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_utime.tv_sec + used.ru_stime.tv_sec +
           (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void report(double seconds, double loader_s) {
    uint64_t n = answers < LATENCIES_MAX ? answers : LATENCIES_MAX;
    qsort(latencies_us, n, sizeof *latencies_us, compare);
    printf("{\"seconds\": %.6f, \"answers\": %lu, \"ok\": %lu, \"wrong_status\": %lu, "
           "\"wrong_body\": %lu, \"broken\": %lu, \"statuses\": {",
           seconds, answers, ok, wrong_status, wrong_body, broken);
    const char *comma = "";
    for (int status = 0; status < STATUSES; status++)
        if (by_status[status]) {
            printf("%s\"%d\": %lu", comma, status, by_status[status]);
            comma = ", ";
        }
    printf("}");
    const double parts[] = {0.5, 0.9, 0.99, 0.999};
    const char *names[] = {"p50", "p90", "p99", "p999"};
    for (int i = 0; i < 4; i++)
        printf(", \"%s_us\": %u", names[i], n ? latencies_us[(uint64_t)(parts[i] * (n - 1))] : 0);
    printf(", \"max_us\": %u, \"loader_s\": %.6f}\n", n ? latencies_us[n - 1] : 0, loader_s);
}

int main(int count, char **arguments) {
    if (count != 6) {
        fprintf(stderr, "usage: load PORT CONNECTIONS SECONDS once|cycle|random REQUESTS\n");
        return 2;
    }
    port = atoi(arguments[1]);
    int connections = atoi(arguments[2]);
    read_records(arguments[5]);
    taken_max = strcmp(arguments[4], "once") ? UINT64_MAX : record_count;
    at_random = !strcmp(arguments[4], "random");
    latencies_us = malloc(sizeof *latencies_us * LATENCIES_MAX);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    Connection *all = calloc(connections, sizeof *all);
    for (int i = 0; i < connections; i++) {
        all[i].buffer = malloc(BUFFER);
        open_connection(&all[i]);
    }
    double prepared_s = cpu_s();
    int64_t begun = now_ns();
    deadline_ns = begun + (int64_t)(atof(arguments[3]) * 1e9);
    for (int i = 0; i < connections; i++)
        if (!start(&all[i], now_ns())) die("send");
    /* After the deadline the answers under way are still awaited, but not for ever. */
    while (busy && now_ns() < deadline_ns + LAST_ANSWERS_NS) {
        struct epoll_event events[256];
        int n = epoll_wait(epoll_fd, events, 256, 1000);
        for (int i = 0; i < n; i++) handle(events[i].data.ptr, events[i].events);
    }
    broken += busy;
    report((now_ns() - begun) / 1e9, cpu_s() - prepared_s);
    return 0;
}
