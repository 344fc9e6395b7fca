/* The front lane: accepts connections, answers what it can from the packet table, and passes on
 * the rest. An epoll reactor in plain C, without a Python object or a call into Python.
 *
 *     bytes → fr_parse ─ understood ─ in the table, fresh → answered here          (hot)
 *                      │            └ anything else       → a request for Python   (warm)
 *                      └ not understood                   → the connection is lent to Python
 *
 * fl_turn does a bounded amount of work, fl_sweep keeps deadlines; after either, and after
 * fl_answer_warm, fl_drain and fl_give_back, fl_next_news says what concerns Python. Every request
 * of one turn has the same `now`. One thread at a time may be in a lane: Python's, as here, or
 * that of front_threads.h.
 *
 * Order is kept per connection: while a request is with Python, or answers wait to be taken by
 * the client, nothing further is read from it. So a client costs at most FL_IN_BYTES, and
 * FL_OUT_BYTES and one answer, however it behaves.
 *
 * Source: design/architecture.md, section 1; the deadlines are those of relay/http/connection.py.
 */
#ifndef RELAY_FRONT_REACTOR_H
#define RELAY_FRONT_REACTOR_H

#include <time.h>

#include "front_accept.h"
#include "front_connections.h"

#define FL_ROUNDS 4
#define FL_TURN_NS 400000 /* nothing new is begun after that long: others want the thread, too */
#define FL_LONG_TURN_NS 1000000 /* the same where no others have shown up */
#define FL_BUSY 4 /* events in a turn from which on it is worth while to look for more */
#define FL_LOOK_NS 20000 /* for so long: leaving and coming back takes twice that */
#define FL_QUIET_S 1.0 /* who has not asked for that long is hardly about to */

static inline uint64_t fl_clock_ns(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* ---- Answering ---- */

static inline void fl_count(fl_reactor *reactor, fr_method method, fl_status status)
{
    reactor->counts.answers[method][status]++;
    reactor->counts.hits += status != FL_429;
    reactor->unmeasured[status == FL_429 ? FL_REFUSED : FL_HIT]++;
    reactor->counted = true;
}

static inline unsigned fl_span(uint64_t ns)
{
    uint64_t units = ns ? (ns - 1) / FL_SPAN_NS : 0;
    unsigned at = units ? 64 - (unsigned)__builtin_clzll(units) : 0;
    return at < FL_SPANS ? at : FL_SPANS - 1;
}

/* Notes how long the answers made since the last call took: from when the lane was told of their
 * requests until the kernel had them. No clock is read for it that is not read anyway. */
static inline void fl_measure(fl_reactor *reactor, uint64_t since_ns, uint64_t now_ns)
{
    uint64_t ns = now_ns > since_ns ? now_ns - since_ns : 0;
    for (int sort = 0; sort < FL_SORTS; sort++) {
        uint32_t count = reactor->unmeasured[sort];
        if (!count)
            continue;
        reactor->spans[sort].counts[fl_span(ns)] += count;
        reactor->spans[sort].ns += ns * count;
        reactor->unmeasured[sort] = 0;
    }
}

static inline bool fl_refuse(fl_reactor *reactor, const fr_request *request, fc_decision decision,
                             uint32_t burst, uint8_t **out)
{
    *out = fa_too_many(*out, request, decision.wait, burst, reactor->now_us);
    fl_count(reactor, request->method, FL_429);
    return true;
}

/* Writes an answer at `*out` and moves it on; false, and nothing changed: a request for Python.
 * That one counts it, so here the limiter is only asked whether it would refuse. */
static inline bool fl_answer(fl_reactor *reactor, const fl_connection *connection,
                      const fr_request *request, uint8_t **out)
{
    fk_limiter *limiter = reactor->limiter;
    fw_client who = connection->judged.itself;
    fc_decision decision = {true, 0, 0};
    uint32_t burst = 0;
    if (!request->has_key)
        return false;
    /* Without a limiter it does not matter who asks. */
    if (limiter != NULL && request->forwarded && connection->judged.forwards &&
        !fw_find(&reactor->config.rules, request, connection->peer.address, &who))
        return false;
    if (who.exempt)
        limiter = NULL;
    if (limiter != NULL) {
        burst = limiter->cells.burst;
        decision = fk_foresee(limiter, &who.client, reactor->limiter_now);
        if (!decision.allowed)
            return fl_refuse(reactor, request, decision, burst, out);
    }
    pt_packet packet;
    if (request->method == FR_PUT || !request->plain || request->policy == FR_NETWORK_ONLY ||
        reactor->table == NULL ||
        !pt_lookup_copy(reactor->table, request->key, &packet, reactor->payload))
        return false;
    uint64_t ttl_s = fa_ttl_s(&packet, &reactor->config.bounds);
    if (request->policy == FR_CACHE_FIRST && fa_is_expired(&packet, ttl_s, reactor->now_us))
        return false;
    uint8_t tag[FA_TAG_BYTES];
    fa_write_tag(tag, packet.tag);
    fa_condition condition = fa_judge(request, tag, packet.timestamp_us);
    if (condition == FA_UNCLEAR)
        return false;
    if (limiter != NULL)
        decision = fk_check(limiter, &who.client, reactor->limiter_now);
    if (!decision.allowed) /* another thread was faster */
        return fl_refuse(reactor, request, decision, burst, out);
    *out = fa_packet(*out, request, &packet, tag, condition == FA_MET, ttl_s, reactor->now_us,
                     burst, decision.remaining);
    fl_count(reactor, request->method, condition == FA_MET ? FL_304 : FL_200);
    return true;
}

/* ---- Reading ---- */

typedef enum { FL_INCOMPLETE, FL_BLOCKED, FL_NOT_HOT, FL_NOT_OURS, FL_ENDED, FL_DEAD } fl_stop;

/* Answers requests one after the other; returns why it stopped at `*at`. `first`, parsed already,
 * is at the beginning of `data`. */
static inline fl_stop fl_answer_all(fl_reactor *reactor, fl_connection *connection, const uint8_t *data,
                             size_t size, size_t *at, fr_verdict verdict, fr_request *first)
{
    uint8_t *out = reactor->out;
    fl_stop stop = FL_INCOMPLETE;
    fr_request other, *request = first;
    connection->head_bytes = 0;
    while (stop == FL_INCOMPLETE && *at < size) {
        if (*at > 0) {
            request = &other;
            verdict = fr_parse(data + *at, size - *at, request);
        }
        if (verdict == FR_MORE)
            break;
        if (verdict == FR_HAND_OVER) {
            stop = FL_NOT_OURS;
            break;
        }
        size_t whole = request->head_bytes + request->body_bytes;
        connection->head_bytes = (uint32_t)request->head_bytes;
        connection->request_bytes = (uint32_t)whole;
        if (size - *at < whole)
            break;
        if (FL_OUT_BYTES - (size_t)(out - reactor->out) < FA_BYTES_MAX) {
            if (!fl_send(reactor, connection, reactor->out, (size_t)(out - reactor->out)))
                return FL_DEAD;
            out = reactor->out;
            if (connection->out_bytes) {
                stop = FL_BLOCKED;
                break;
            }
        }
        request->close |= connection->last;
        connection->closing = request->close;
        if (!fl_answer(reactor, connection, request, &out)) {
            stop = FL_NOT_HOT;
            break;
        }
        *at += whole;
        connection->served++;
        connection->idle_since = reactor->now;
        connection->head_since = connection->body_since = FL_NEVER;
        connection->head_bytes = 0;
        if (connection->closing)
            stop = FL_ENDED;
    }
    if (!fl_send(reactor, connection, reactor->out, (size_t)(out - reactor->out)))
        return FL_DEAD;
    return stop;
}

static inline void fl_lend(fl_reactor *reactor, fl_connection *connection)
{
    epoll_ctl(reactor->epoll, EPOLL_CTL_DEL, connection->fd, NULL);
    connection->state = FL_LENT;
    fl_tell(reactor, connection, FL_IS_LENT);
}

/* Since when a head or a body is being waited for. */
static inline void fl_note_waiting(fl_reactor *reactor, fl_connection *connection, bool begun)
{
    if (connection->head_bytes) {
        if (connection->body_since < 0)
            connection->body_since = reactor->now;
    } else if (begun && connection->head_since < 0) {
        connection->head_since = reactor->now;
    }
}

/* Does what can be done with the bytes at `data`, which begin with `first`, and keeps the rest. */
static inline void fl_process(fl_reactor *reactor, fl_connection *connection, const uint8_t *data,
                       size_t size, fr_verdict verdict, fr_request *first)
{
    size_t at = 0;
    fl_stop stop = fl_answer_all(reactor, connection, data, size, &at, verdict, first);
    if (stop == FL_ENDED)
        at = size;
    if (stop == FL_DEAD || !fl_keep(connection, data + at, size - at)) {
        fl_close(reactor, connection);
        return;
    }
    switch (stop) {
    case FL_NOT_HOT:
        connection->state = FL_WARM;
        connection->body_late = false;
        connection->head_since = connection->body_since = FL_NEVER;
        fl_tell(reactor, connection, FL_ASKS);
        break;
    case FL_NOT_OURS:
        if (!connection->out_bytes) {
            fl_lend(reactor, connection);
            return;
        }
        break; /* answers first; then it is read again */
    case FL_ENDED:
        if (!connection->out_bytes) {
            fl_finish(reactor, connection);
            return;
        }
        break;
    default:
        fl_note_waiting(reactor, connection, size > at);
    }
    fl_arm(reactor, connection);
}

/* Goes on with what has been read already. */
static inline void fl_resume(fl_reactor *reactor, fl_connection *connection)
{
    size_t size = connection->in_bytes;
    if (connection->closing) {
        fl_finish(reactor, connection);
    } else if (size) {
        fr_request first;
        memcpy(reactor->in, connection->in, size);
        fr_verdict verdict = fr_parse(reactor->in, size, &first);
        fl_process(reactor, connection, reactor->in, size, verdict, &first);
    } else {
        fl_arm(reactor, connection);
    }
}

static inline bool fl_may_read(const fl_connection *connection)
{
    return connection->state == FL_READING && connection->out_bytes == 0 &&
           !(connection->events & EPOLLOUT);
}

/* Reads what a client has sent; the answer follows in fl_go_on. If it asks for a packet, the
 * processor begins to look for where that is. */
static inline void fl_read(fl_reactor *reactor, uint64_t token, fl_ahead *ahead)
{
    fl_connection *connection = fl_find(reactor, token);
    ahead->any = ahead->has_foreseen = false;
    if (connection == NULL || !fl_may_read(connection))
        return;
    size_t held = connection->in_bytes;
    if (held)
        memcpy(ahead->in, connection->in, held);
    ssize_t got = recv(connection->fd, ahead->in + held, FL_IN_BYTES - held, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    ahead->any = true;
    ahead->token = token;
    ahead->size = got > 0 ? held + (size_t)got : 0;
    if (got <= 0)
        return;
    ahead->verdict = fr_parse(ahead->in, ahead->size, &ahead->request);
    ahead->has_foreseen =
        ahead->verdict == FR_REQUEST && ahead->request.has_key && reactor->table != NULL;
    if (ahead->has_foreseen)
        ahead->foreseen = pt_foresee(reactor->table, ahead->request.key);
}

/* Goes on with what fl_read has read. */
static inline void fl_go_on(fl_reactor *reactor, fl_ahead *ahead)
{
    fl_connection *connection = fl_find(reactor, ahead->token);
    if (connection == NULL)
        return;
    if (ahead->size)
        fl_process(reactor, connection, ahead->in, ahead->size, ahead->verdict, &ahead->request);
    else
        fl_close(reactor, connection);
}

static inline void fl_linger(fl_reactor *reactor, fl_connection *connection)
{
    ssize_t got = recv(connection->fd, reactor->in, FL_IN_BYTES, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0 || (size_t)got >= connection->linger_left)
        fl_close(reactor, connection);
    else
        connection->linger_left -= (uint32_t)got;
}

static inline void fl_handle(fl_reactor *reactor, fl_connection *connection, uint32_t events)
{
    bool warm = connection->state == FL_WARM;
    if (connection->state == FL_LINGERING) {
        fl_linger(reactor, connection);
        return;
    }
    if (warm && events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
        fl_close(reactor, connection);
        return;
    }
    if (warm && events & EPOLLIN)
        connection->pipelines = true; /* it is read later; now only its end is watched for */
    if (connection->out_bytes && !fl_flush(connection))
        fl_close(reactor, connection);
    else if (connection->out_bytes || warm)
        fl_arm(reactor, connection);
    else if (connection->events & EPOLLOUT)
        fl_resume(reactor, connection);
}

/* ---- What Python calls ---- */

static inline void fl_set_clocks(fl_reactor *reactor, double now, fc_ns limiter_now)
{
    reactor->now = now;
    reactor->limiter_now = limiter_now;
    reactor->now_us = fl_clock_ns(CLOCK_REALTIME) / 1000;
}

static inline void fl_be_kicked(fl_reactor *reactor)
{
    uint64_t kicks;
    ssize_t got = read(reactor->own.kick, &kicks, sizeof kicks);
    (void)got;
    fl_adopt(reactor);
}

static inline void fl_handle_event(fl_reactor *reactor, struct epoll_event event)
{
    uint32_t low = (uint32_t)event.data.u64;
    fl_connection *connection = fl_find(reactor, event.data.u64);
    if (connection != NULL) /* it may have been closed meanwhile */
        fl_handle(reactor, connection, event.events);
    else if (event.data.u64 >> 32 == FL_LISTENER && low < reactor->listener_count)
        fl_accept(reactor, reactor->listeners[low]);
    else if (event.data.u64 >> 32 == FL_LISTENER && low == FL_KICK)
        fl_be_kicked(reactor);
}

/* Handles the next few events: reads of all of them before it answers the first. Where there are
 * many packets, half a microsecond of a look-up is waiting for memory; here the processor fetches
 * some while the kernel delivers the next. Returns what time it is then. */
static inline uint64_t fl_handle_some(fl_reactor *reactor)
{
    uint64_t now = 0;
    const struct epoll_event *events = reactor->events + reactor->events_at;
    int left = reactor->events_count - reactor->events_at;
    int count = left < FL_AHEAD ? left : FL_AHEAD;
    for (int i = 0; i < count; i++) {
        fl_read(reactor, events[i].data.u64, &reactor->ahead[i]);
        if (i > 0 && reactor->ahead[i - 1].has_foreseen)
            pt_fetch(reactor->table, reactor->ahead[i - 1].foreseen);
    }
    if (reactor->ahead[count - 1].has_foreseen && count > 1)
        pt_fetch(reactor->table, reactor->ahead[count - 1].foreseen);
    reactor->events_at += count;
    for (int i = 0; i < count; i++) {
        if (reactor->ahead[i].any)
            fl_go_on(reactor, &reactor->ahead[i]);
        else
            fl_handle_event(reactor, events[i]);
        now = fl_clock_ns(CLOCK_MONOTONIC);
        fl_measure(reactor, reactor->told_ns, now);
    }
    return now;
}

/* Handles what epoll has told of; false: there is more, but the time is over, or others want the
 * lane. What is left over comes first in the next turn: epoll puts everything that it has told of
 * at the end of its line, and who was left out would wait until all others have had their turn,
 * again and again. */
static inline bool fl_handle_events(fl_reactor *reactor, uint64_t end)
{
    reactor->rounds++;
    while (reactor->events_at < reactor->events_count) {
        uint64_t now = fl_handle_some(reactor);
        if (now > end ||
            atomic_load_explicit(&reactor->own.wanted, memory_order_relaxed))
            return false;
    }
    return true;
}

/* Asks epoll for events; of a lane that is `busy` also after a moment in which there are none. */
static inline int fl_look(fl_reactor *reactor, bool busy)
{
    uint64_t begun = busy ? fl_clock_ns(CLOCK_MONOTONIC) : 0;
    int count;
    do
        count = epoll_wait(reactor->epoll, reactor->events, FL_EVENTS, 0);
    while (count == 0 && busy && fl_clock_ns(CLOCK_MONOTONIC) - begun < FL_LOOK_NS);
    if (count > 0)
        reactor->told_ns = fl_clock_ns(CLOCK_MONOTONIC);
    return count;
}

/* Handles what has happened, for a bounded time: longer and more eagerly if nobody but the lane
 * wants the thread, as far as is known, since each turn costs a round of the event loop. */
static inline void fl_turn(fl_reactor *reactor, bool alone)
{
    uint64_t end = fl_clock_ns(CLOCK_MONOTONIC) + (alone ? FL_LONG_TURN_NS : FL_TURN_NS);
    int handled = 0;
    for (int round = 0; alone || round < FL_ROUNDS; round++) {
        if (reactor->events_at >= reactor->events_count) {
            reactor->events_at = 0;
            reactor->events_count = fl_look(reactor, alone && handled >= FL_BUSY);
        }
        if (reactor->events_count <= 0)
            return;
        handled += reactor->events_count - reactor->events_at;
        if (!fl_handle_events(reactor, end))
            return;
        if (reactor->first_news != FL_NONE)
            return;
    }
}

/* Python's answer: a head up to its own last fields, and a body. */
static inline void fl_answer_warm(fl_reactor *reactor, uint64_t token, const uint8_t *head,
                           size_t head_bytes, const uint8_t *body, size_t body_bytes, bool close)
{
    fl_connection *connection = fl_find(reactor, token);
    if (connection == NULL || connection->state != FL_WARM)
        return;
    uint8_t *out = reactor->out;
    uint64_t begun = fl_clock_ns(CLOCK_MONOTONIC);
    connection->closing |= close || connection->last || connection->body_late;
    if (head_bytes > FL_OUT_BYTES / 2) {
        fl_close(reactor, connection); /* none of ours is so large */
        return;
    }
    out = fa_put(out, head, head_bytes);
    out = fa_end(out, reactor->now_us, connection->closing);
    if (body_bytes <= FL_OUT_BYTES - (size_t)(out - reactor->out)) {
        out = fa_put(out, body, body_bytes);
        body_bytes = 0;
    }
    connection->state = FL_READING;
    connection->idle_since = reactor->now;
    connection->served++;
    connection->in_bytes -= connection->request_bytes;
    memmove(connection->in, connection->in + connection->request_bytes, connection->in_bytes);
    connection->head_bytes = 0;
    if (!fl_send(reactor, connection, reactor->out, (size_t)(out - reactor->out)) ||
        !fl_send(reactor, connection, body, body_bytes))
        fl_close(reactor, connection);
    else if (connection->out_bytes)
        fl_arm(reactor, connection);
    else
        fl_resume(reactor, connection);
    fl_measure(reactor, begun, fl_clock_ns(CLOCK_MONOTONIC)); /* requests that waited behind it */
}

/* A lent connection has ended. */
static inline void fl_give_back(fl_reactor *reactor, uint64_t token)
{
    fl_connection *connection = fl_find(reactor, token);
    if (connection == NULL || connection->state != FL_LENT)
        return;
    fl_uncount(reactor, connection);
    fl_free(reactor, connection);
}

/* Takes no new request; ends now, or after what is under way. */
static inline void fl_drain(fl_reactor *reactor, fl_connection *connection)
{
    connection->last = true;
    if (connection->drain_since < 0)
        connection->drain_since = reactor->now;
    if (connection->state != FL_READING || connection->body_since >= 0)
        return;
    connection->closing = true;
    if (!connection->out_bytes)
        fl_finish(reactor, connection);
}

static inline bool fl_passed(const fl_reactor *reactor, double since, double limit_s)
{
    return since >= 0 && reactor->now - since >= limit_s;
}

/* Ends a connection that has come of age. A busy client is told so in its next answer: were it
 * only closed, a request on its way would be lost. */
static inline void fl_retire(fl_reactor *reactor, fl_connection *connection)
{
    bool waiting = connection->head_since >= 0 || connection->body_since >= 0;
    connection->last = true;
    if (connection->drain_since < 0)
        connection->drain_since = reactor->now;
    if (connection->state == FL_READING && !waiting &&
        fl_passed(reactor, connection->idle_since, FL_QUIET_S))
        fl_drain(reactor, connection);
}

static inline void fl_sweep_reading(fl_reactor *reactor, fl_connection *connection)
{
    const fl_deadlines *deadlines = &reactor->config.deadlines;
    double head_since = connection->served ? connection->head_since : connection->opened;
    if (connection->out_bytes)
        return;
    if (fl_passed(reactor, connection->body_since, deadlines->body_s)) {
        connection->state = FL_WARM;
        connection->body_late = true;
        connection->request_bytes = connection->in_bytes;
        fl_tell(reactor, connection, FL_ASKS);
        fl_arm(reactor, connection);
    } else if (connection->body_since < 0 &&
               (fl_passed(reactor, head_since, deadlines->head_s) ||
                fl_passed(reactor, connection->idle_since, deadlines->idle_s))) {
        fl_drain(reactor, connection);
    }
}

/* Keeps the deadlines of all connections; to be called some times in the shortest of them. */
static inline void fl_sweep(fl_reactor *reactor)
{
    const fl_deadlines *deadlines = &reactor->config.deadlines;
    for (uint32_t slot = 0; slot < reactor->capacity; slot++) {
        fl_connection *connection = &reactor->connections[slot];
        bool ours = connection->state == FL_READING || connection->state == FL_WARM;
        if (connection->state == FL_LINGERING) {
            if (fl_passed(reactor, connection->linger_since, deadlines->linger_s))
                fl_close(reactor, connection);
        } else if (!ours) {
            continue;
        } else if (fl_passed(reactor, connection->write_since, deadlines->write_s) ||
                   fl_passed(reactor, connection->drain_since, deadlines->drain_s)) {
            fl_close(reactor, connection);
        } else if (fl_passed(reactor, connection->opened, deadlines->age_s)) {
            fl_retire(reactor, connection);
        } else if (connection->state == FL_READING) {
            fl_sweep_reading(reactor, connection);
        }
    }
}

static inline void fl_stop_accepting(fl_reactor *reactor)
{
    for (uint32_t i = 0; i < reactor->listener_count; i++)
        epoll_ctl(reactor->epoll, EPOLL_CTL_DEL, reactor->listeners[i], NULL);
    reactor->listener_count = 0;
}

static inline void fl_drain_all(fl_reactor *reactor)
{
    fl_adopt(reactor);
    for (uint32_t slot = 0; slot < reactor->capacity; slot++) {
        fl_connection *connection = &reactor->connections[slot];
        if (connection->state == FL_READING || connection->state == FL_WARM)
            fl_drain(reactor, connection);
    }
}

/* ---- Beginning and end ---- */

/* Makes a lane one of `lanes`. False: no descriptor, or too many lanes; fl_clear it nevertheless. */
static inline bool fl_init(fl_reactor *reactor, fl_lanes *lanes)
{
    reactor->first_free = reactor->first_news = reactor->last_news = FL_NONE;
    memset(reactor->buckets, 0xff, sizeof reactor->buckets);
    reactor->own.kick = -1;
    reactor->own.news = -1;
    reactor->lanes = lanes;
    reactor->epoll = epoll_create1(EPOLL_CLOEXEC);
    pthread_mutex_init(&reactor->own.mutex, NULL); /* without attributes it cannot fail */
    pthread_mutex_init(&reactor->own.nursery, NULL);
    if (reactor->epoll < 0 || lanes->count == FL_LANES_MAX)
        return false;
    reactor->number = lanes->count;
    lanes->all[lanes->count++] = reactor;
    return true;
}

/* The listeners' array and the networks' are the caller's until here, and freed by fl_clear. */
static inline bool fl_listen(fl_reactor *reactor, int listener)
{
    struct epoll_event event = {.events = EPOLLIN,
                                .data.u64 = (uint64_t)FL_LISTENER << 32 | reactor->listener_count};
    if (epoll_ctl(reactor->epoll, EPOLL_CTL_ADD, listener, &event) != 0)
        return false;
    reactor->listeners[reactor->listener_count++] = listener;
    return true;
}

static inline void fl_clear(fl_reactor *reactor)
{
    reactor->lanes->count = 0; /* a server's lanes end together, and their threads have ended */
    for (uint32_t slot = 0; slot < reactor->capacity; slot++) {
        fl_connection *connection = &reactor->connections[slot];
        bool lent = connection->state == FL_LENT && connection->news != FL_IS_LENT;
        if (connection->state != FL_FREE && connection->state != FL_GONE && !lent) {
            close(connection->fd);
            fl_drop_buffers(connection);
        }
    }
    for (uint32_t i = 0; i < reactor->own.foundling_count; i++)
        close(reactor->own.foundlings[i].fd);
    if (reactor->own.kick >= 0)
        close(reactor->own.kick);
    if (reactor->epoll >= 0)
        close(reactor->epoll);
    pthread_mutex_destroy(&reactor->own.mutex);
    pthread_mutex_destroy(&reactor->own.nursery);
    free(reactor->own.foundlings);
    free(reactor->connections);
    free(reactor->listeners);
    free(reactor->config.rules.trusted);
    free(reactor->config.rules.exempt);
}

#endif
