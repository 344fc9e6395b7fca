/* The lane's connections: their memory, their place in the caps, and what is left to be sent.
 *
 * A connection is a slot in an array; others name it by a token: generation, lane and slot. It is
 * good until the slot is freed and then names nothing. The caps are those of all lanes together;
 * what they count is changed and read under the lock of `fl_lanes`, all else is the lane's own.
 * States:
 *
 *     READING    its requests are read, or wait in `in` until its answers are taken
 *     WARM       one request is being answered in Python; nothing more is read meanwhile
 *     LINGERING  we have ended; what the client still sends is thrown away
 *     LENT       its socket was given to Python; here it only counts for the caps
 *     GONE       closed while WARM, and Python has not been told yet
 */
#ifndef RELAY_FRONT_CONNECTIONS_H
#define RELAY_FRONT_CONNECTIONS_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "front_answer.h"
#include "front_cells.h"
#include "front_forwarded.h"
#include "front_locks.h"
#include "front_parse.h"
#include "packet_table.h"

#define FL_IN_BYTES 16384 /* read at once; room for a request that is not complete, and more */
#define FL_OUT_BYTES 32768
#define FL_BUCKETS 4096
#define FL_EVENTS 128 /* asked for at once */
#define FL_AHEAD 8 /* connections read before the first of them is answered */
#define FL_LINGER_BYTES (256 * 1024) /* relay/http/stream.py: LINGER_BYTES_MAX */
#define FL_NONE UINT32_MAX
#define FL_SLOT_BITS 24 /* of a token; 8 are the lane's number, 32 the generation */
#define FL_LANES_MAX 64
#define FL_NEVER (-1.0)
#define FL_READ_EVENTS (EPOLLIN | EPOLLRDHUP)

typedef enum { FL_FREE, FL_READING, FL_WARM, FL_LINGERING, FL_LENT, FL_GONE } fl_state;
typedef enum { FL_NO_NEWS, FL_ASKS, FL_IS_LENT, FL_IS_GONE, FL_DROPPED } fl_news;
typedef enum { FL_200, FL_304, FL_429, FL_STATUSES } fl_status;

typedef struct {
    int fd;
    uint32_t generation;
    fl_state state;
    fl_news news;
    uint32_t next; /* in the list it is in: the free ones, or those with news */
    uint32_t next_in_bucket;
    uint32_t events; /* what epoll watches for */
    fp_peer peer;
    fw_peer judged;
    bool closing;  /* no request is read after what is being answered */
    bool last;     /* the answer under way says that it is the last */
    bool body_late;
    bool pipelines; /* has sent something while a request of its was WARM */
    uint8_t *in, *out;
    uint32_t in_bytes, out_bytes, out_at;
    uint32_t head_bytes, request_bytes; /* of the request at the beginning of `in` */
    uint32_t linger_left;
    uint32_t served;
    /* Monotonic seconds; FL_NEVER: does not apply just now. */
    double opened, idle_since, head_since, body_since, write_since, drain_since, linger_since;
} fl_connection;

typedef struct {
    double head_s, body_s, idle_s, write_s, age_s, drain_s, linger_s;
} fl_deadlines;

typedef struct {
    uint32_t max_connections;
    uint32_t max_per_address; /* 0: no cap */
    fw_rules rules;
    fa_bounds bounds;
    fl_deadlines deadlines;
} fl_config;

typedef struct {
    uint64_t hits, answers[3][FL_STATUSES]; /* by fr_method */
    uint64_t accepted, refused_total, refused_address;
} fl_counts;

/* How long answers took, in steps that double: the first holds those of up to FL_SPAN_NS, the
 * last those of any length. relay/histogram.py: SPANS_S. */
#define FL_SPAN_NS 8000
#define FL_SPANS 23

typedef struct {
    uint64_t counts[FL_SPANS], ns;
} fl_spans;

enum { FL_HIT, FL_REFUSED, FL_SORTS };

typedef struct fl_reactor fl_reactor;

/* All lanes of a server: what they count together. */
typedef struct {
    fk_lock lock;
    fl_reactor *all[FL_LANES_MAX];
    uint32_t count;
    uint32_t open; /* connections of all lanes that are neither free nor gone */
} fl_lanes;

/* A socket that one lane has accepted for another. */
typedef struct {
    int fd;
    fp_peer peer;
} fl_foundling;

/* What a lane in a thread of its own needs besides; see front_threads.h. */
typedef struct {
    bool runs;
    pthread_t thread;
    pthread_mutex_t mutex;  /* of the whole lane, but for what follows */
    _Atomic uint32_t wanted; /* how many want the lane before its thread */
    _Atomic bool stopping;
    _Atomic uint64_t waits; /* how often the thread was kept out, or Python */
    int kick;               /* an eventfd in epoll: look at `foundlings` and `stopping` */
    int news;               /* an eventfd of Python's: ask for news */
    double now_ahead, limiter_ahead; /* of CLOCK_MONOTONIC, seconds */
    double told_at;
    pthread_mutex_t nursery;
    fl_foundling *foundlings;
    uint32_t foundling_count, foundling_room;
} fl_thread;

/* What was read of a connection and is not answered yet. */
typedef struct {
    bool any;      /* false: its event asks for something else */
    uint64_t token;
    size_t size;   /* of what is in `in`; 0: the client is gone */
    fr_verdict verdict;
    fr_request request; /* the first one */
    uint64_t foreseen;
    bool has_foreseen;
    uint8_t in[FL_IN_BYTES];
} fl_ahead;

struct fl_reactor {
    int epoll;
    int *listeners;
    uint32_t listener_count;
    fl_config config;
    fl_lanes *lanes;
    uint32_t number; /* among `lanes` */
    uint32_t next_lane; /* whose turn it is to get a connection */
    fl_thread own;
    pt_table *table;     /* NULL: every request goes to Python */
    fk_limiter *limiter; /* NULL: nothing is limited */
    fl_connection *connections;
    uint32_t capacity, first_free, first_news, last_news;
    uint32_t buckets[FL_BUCKETS];
    uint64_t seed[2];
    double now;
    fc_ns limiter_now;
    uint64_t now_us;
    int accept_error; /* errno of an accept that will fail again, else 0 */
    bool full;        /* a connection was refused because of max_connections */
    bool counted;     /* `counts` has changed since it was last taken */
    bool stirred;     /* a connection has come or gone since Python was last told so */
    fl_counts counts;
    fl_spans spans[FL_SORTS];
    uint32_t unmeasured[FL_SORTS]; /* answers made since the clock was last read */
    uint64_t told_ns;              /* when epoll told of `events` */
    struct epoll_event events[FL_EVENTS];
    uint64_t rounds; /* how often events were handled: a sign of life */
    int events_at, events_count; /* those from events_at on are still to be handled */
    fl_ahead ahead[FL_AHEAD];
    uint8_t in[FL_IN_BYTES], out[FL_OUT_BYTES], payload[PT_PAYLOAD_MAX];
};

/* ---- Slots ---- */

static inline uint64_t fl_token(const fl_reactor *reactor, const fl_connection *connection)
{
    return (uint64_t)connection->generation << 32 | reactor->number << FL_SLOT_BITS |
           (uint32_t)(connection - reactor->connections);
}

static inline fl_connection *fl_find(fl_reactor *reactor, uint64_t token)
{
    uint32_t slot = (uint32_t)token & ((1u << FL_SLOT_BITS) - 1);
    if (slot >= reactor->capacity || reactor->connections[slot].state == FL_FREE ||
        reactor->connections[slot].generation != token >> 32)
        return NULL;
    return &reactor->connections[slot];
}

static inline bool fl_grow(fl_reactor *reactor)
{
    uint32_t capacity = reactor->capacity ? reactor->capacity * 2 : 64;
    if (capacity > 1u << FL_SLOT_BITS)
        return false;
    fl_connection *grown = realloc(reactor->connections, capacity * sizeof *grown);
    if (grown == NULL)
        return false;
    memset(grown + reactor->capacity, 0, (capacity - reactor->capacity) * sizeof *grown);
    for (uint32_t slot = capacity; slot-- > reactor->capacity;) {
        grown[slot].next = reactor->first_free;
        reactor->first_free = slot;
    }
    reactor->connections = grown;
    reactor->capacity = capacity;
    return true;
}

static inline uint32_t *fl_bucket(fl_reactor *reactor, const fc_key *client)
{
    return &reactor->buckets[fc_hash(reactor->seed, client) % FL_BUCKETS];
}

/* How many connections of all lanes count for a client; under the lock. */
static inline uint32_t fl_count_of(const fl_lanes *lanes, const fc_key *client)
{
    uint32_t count = 0;
    for (uint32_t lane = 0; lane < lanes->count; lane++) {
        fl_reactor *reactor = lanes->all[lane];
        for (uint32_t slot = *fl_bucket(reactor, client); slot != FL_NONE;
             slot = reactor->connections[slot].next_in_bucket)
            count += fc_same(&reactor->connections[slot].judged.itself.client, client);
    }
    return count;
}

/* A slot that counts for the caps; NULL: no memory. Under the lock. */
static inline fl_connection *fl_open(fl_reactor *reactor, const fl_connection *like)
{
    if (reactor->first_free == FL_NONE && !fl_grow(reactor))
        return NULL;
    uint32_t slot = reactor->first_free;
    fl_connection *connection = &reactor->connections[slot];
    uint32_t generation = connection->generation;
    reactor->first_free = connection->next;
    *connection = *like;
    connection->generation = generation;
    /* Without a cap nobody counts, and one client's thousands would be one long list. */
    connection->judged.capped &= reactor->config.max_per_address != 0;
    if (connection->judged.capped) {
        uint32_t *bucket = fl_bucket(reactor, &connection->judged.itself.client);
        connection->next_in_bucket = *bucket;
        *bucket = slot;
    }
    reactor->lanes->open++;
    reactor->counted = reactor->stirred = true;
    return connection;
}

static inline void fl_free(fl_reactor *reactor, fl_connection *connection)
{
    connection->state = FL_FREE;
    connection->news = FL_NO_NEWS;
    /* The highest generation is the listeners' name in epoll's data. */
    connection->generation = (connection->generation + 1) % FL_NONE;
    connection->next = reactor->first_free;
    reactor->first_free = (uint32_t)(connection - reactor->connections);
}

static inline void fl_uncount(fl_reactor *reactor, fl_connection *connection)
{
    fk_enter(&reactor->lanes->lock);
    if (connection->judged.capped) {
        uint32_t slot = (uint32_t)(connection - reactor->connections);
        uint32_t *link = fl_bucket(reactor, &connection->judged.itself.client);
        while (*link != slot)
            link = &reactor->connections[*link].next_in_bucket;
        *link = connection->next_in_bucket;
    }
    reactor->lanes->open--;
    fk_leave(&reactor->lanes->lock);
    reactor->counted = reactor->stirred = true;
}

static inline void fl_drop_buffers(fl_connection *connection)
{
    free(connection->in);
    free(connection->out);
    connection->in = connection->out = NULL;
    connection->in_bytes = connection->out_bytes = connection->out_at = 0;
}

/* ---- News for Python ---- */

static inline void fl_tell(fl_reactor *reactor, fl_connection *connection, fl_news news)
{
    connection->news = news;
    connection->next = FL_NONE;
    uint32_t slot = (uint32_t)(connection - reactor->connections);
    if (reactor->first_news == FL_NONE)
        reactor->first_news = slot;
    else
        reactor->connections[reactor->last_news].next = slot;
    reactor->last_news = slot;
}

/* The next connection with news, which are still to be read from it; NULL: there are none. */
static inline fl_connection *fl_next_news(fl_reactor *reactor)
{
    while (reactor->first_news != FL_NONE) {
        fl_connection *connection = &reactor->connections[reactor->first_news];
        reactor->first_news = connection->next;
        if (connection->news != FL_DROPPED)
            return connection;
        fl_free(reactor, connection);
    }
    return NULL;
}

/* ---- Ends ---- */

/* Closes at once. Of a request under way Python is told that nobody waits for it. */
static inline void fl_close(fl_reactor *reactor, fl_connection *connection)
{
    close(connection->fd);
    fl_drop_buffers(connection);
    fl_uncount(reactor, connection);
    if (connection->state != FL_WARM) {
        fl_free(reactor, connection);
    } else if (connection->news == FL_ASKS) { /* Python has not even heard of it */
        connection->state = FL_GONE;
        connection->news = FL_DROPPED;
    } else {
        connection->state = FL_GONE;
        fl_tell(reactor, connection, FL_IS_GONE);
    }
}

/* Makes epoll watch for what the state needs; false: it was closed because that failed. */
static inline bool fl_arm(fl_reactor *reactor, fl_connection *connection)
{
    bool unsent = connection->out_bytes != 0;
    uint32_t events = unsent ? EPOLLOUT : 0;
    if (connection->state == FL_WARM)
        events |= EPOLLRDHUP | (connection->pipelines ? 0 : EPOLLIN);
    else if (connection->state == FL_LINGERING || !unsent)
        events |= FL_READ_EVENTS;
    if (events == connection->events)
        return true;
    struct epoll_event event = {.events = events, .data.u64 = fl_token(reactor, connection)};
    connection->events = events;
    if (epoll_ctl(reactor->epoll, EPOLL_CTL_MOD, connection->fd, &event) == 0)
        return true;
    fl_close(reactor, connection);
    return false;
}

/* Ends in good order: our side first, then whatever the client still sends, for a moment,
 * because closing a socket with unread bytes resets it, and a reset may overtake the answer. */
static inline void fl_finish(fl_reactor *reactor, fl_connection *connection)
{
    if (shutdown(connection->fd, SHUT_WR) != 0) {
        fl_close(reactor, connection);
        return;
    }
    connection->state = FL_LINGERING;
    connection->linger_since = reactor->now;
    connection->linger_left = FL_LINGER_BYTES;
    fl_drop_buffers(connection);
    fl_arm(reactor, connection);
}

/* ---- Sending ---- */

/* Sends, or keeps for later; false: the client is gone, or there is no memory. */
static inline bool fl_send(fl_reactor *reactor, fl_connection *connection, const uint8_t *data,
                    size_t size)
{
    if (connection->out_bytes == 0 && size) {
        ssize_t sent;
        do
            sent = send(connection->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        while (sent < 0 && errno == EINTR);
        if (sent < 0 && errno != EAGAIN)
            return false;
        if (sent > 0) {
            data += sent;
            size -= (size_t)sent;
        }
    }
    if (size == 0)
        return true;
    uint8_t *grown = realloc(connection->out, connection->out_bytes + size);
    if (grown == NULL)
        return false;
    memcpy(grown + connection->out_bytes, data, size);
    if (connection->out_bytes == 0)
        connection->write_since = reactor->now;
    connection->out = grown;
    connection->out_bytes += (uint32_t)size;
    return true;
}

/* Sends what was kept, as far as it goes; false: the client is gone. */
static inline bool fl_flush(fl_connection *connection)
{
    while (connection->out_at < connection->out_bytes) {
        ssize_t sent = send(connection->fd, connection->out + connection->out_at,
                            connection->out_bytes - connection->out_at,
                            MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return errno == EAGAIN;
        connection->out_at += (uint32_t)sent;
    }
    free(connection->out);
    connection->out = NULL;
    connection->out_bytes = connection->out_at = 0;
    connection->write_since = FL_NEVER;
    return true;
}

/* Keeps what was read and not answered; false: no memory. */
static inline bool fl_keep(fl_connection *connection, const uint8_t *data, size_t size)
{
    uint8_t *kept = size ? malloc(size) : NULL;
    if (size && kept == NULL)
        return false;
    if (size)
        memcpy(kept, data, size);
    free(connection->in);
    connection->in = kept;
    connection->in_bytes = (uint32_t)size;
    return true;
}

#endif
