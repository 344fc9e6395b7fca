/* Lanes in threads of their own, which run without the GIL.
 *
 * A thread waits for events and handles them in its lane; Python's thread comes in between to
 * answer, to keep deadlines and to hear news. Both are in the lane only with its lock, and Python
 * goes first: the thread leaves after the few events that it is at, and waits. So Python waits for
 * some microseconds, and the lane needs no queues: an answer is written by whoever made it.
 *
 * The first lane accepts, and gives every lane its share. The packet table, the limiter's cells
 * and the caps are one for all, each under a lock of its own; see front_locks.h.
 *
 * That Python is wanted is said by an eventfd: at once for news and for connections that come and
 * go, after FL_TELL_S for mere counts.
 */
#ifndef RELAY_FRONT_THREADS_H
#define RELAY_FRONT_THREADS_H

#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>

#include "front_reactor.h"

#define FL_TELL_S 0.01
#define FL_TELL_MS 10

/* ---- The lock ---- */

/* For Python's thread. */
static inline void fl_enter(fl_reactor *reactor)
{
    if (!reactor->own.runs)
        return;
    atomic_fetch_add(&reactor->own.wanted, 1);
    if (pthread_mutex_trylock(&reactor->own.mutex) != 0) {
        pthread_mutex_lock(&reactor->own.mutex);
        atomic_fetch_add_explicit(&reactor->own.waits, 1, memory_order_relaxed);
    }
    atomic_fetch_sub(&reactor->own.wanted, 1);
}

static inline void fl_leave(fl_reactor *reactor)
{
    if (reactor->own.runs)
        pthread_mutex_unlock(&reactor->own.mutex);
}

static inline void fl_enter_last(fl_reactor *reactor)
{
    bool waited = false;
    while (atomic_load(&reactor->own.wanted)) {
        waited = true;
        sched_yield();
    }
    if (pthread_mutex_trylock(&reactor->own.mutex) != 0) {
        waited = true;
        pthread_mutex_lock(&reactor->own.mutex);
    }
    if (waited)
        atomic_fetch_add_explicit(&reactor->own.waits, 1, memory_order_relaxed);
}

/* ---- The thread ---- */

static inline double fl_monotonic(void)
{
    return (double)fl_clock_ns(CLOCK_MONOTONIC) / 1e9;
}

/* Whether Python is to be told now that there is something for it. */
static inline bool fl_is_time_to_tell(fl_reactor *reactor)
{
    if (reactor->first_news == FL_NONE && !reactor->full && !reactor->accept_error &&
        !reactor->stirred &&
        (!reactor->counted || reactor->now - reactor->own.told_at < FL_TELL_S))
        return false;
    reactor->stirred = false;
    reactor->own.told_at = reactor->now;
    return true;
}

static inline void *fl_run(void *argument)
{
    fl_reactor *reactor = argument;
    fl_thread *own = &reactor->own;
    bool untold = false;
    while (!atomic_load(&own->stopping)) {
        if (reactor->events_at >= reactor->events_count) {
            reactor->events_at = 0;
            reactor->events_count =
                epoll_wait(reactor->epoll, reactor->events, FL_EVENTS, untold ? FL_TELL_MS : -1);
            reactor->told_ns = fl_clock_ns(CLOCK_MONOTONIC);
        }
        fl_enter_last(reactor);
        double monotonic = fl_monotonic();
        fl_set_clocks(reactor, monotonic + own->now_ahead,
                      fc_from_s(monotonic + own->limiter_ahead));
        fl_handle_events(reactor, fl_clock_ns(CLOCK_MONOTONIC) + FL_TURN_NS);
        bool tell = fl_is_time_to_tell(reactor);
        untold = reactor->counted && !tell;
        pthread_mutex_unlock(&own->mutex);
        if (tell) {
            uint64_t one = 1;
            ssize_t written = write(own->news, &one, sizeof one);
            (void)written; /* it can only fail because it is told already */
        }
    }
    return NULL;
}

/* ---- Beginning and end ---- */

static inline void fl_share_all(fl_lanes *lanes, bool shared)
{
    lanes->lock.shared = shared;
    for (uint32_t lane = 0; lane < lanes->count; lane++) {
        fl_reactor *reactor = lanes->all[lane];
        if (reactor->limiter != NULL)
            reactor->limiter->lock.shared = shared;
        if (reactor->table != NULL)
            pt_share(reactor->table, shared);
    }
}

static inline bool fl_prepare(fl_reactor *reactor, double now, double limiter_now, int news)
{
    struct epoll_event event = {.events = EPOLLIN,
                                .data.u64 = (uint64_t)FL_LISTENER << 32 | FL_KICK};
    double monotonic = fl_monotonic();
    reactor->own.now_ahead = now - monotonic;
    reactor->own.limiter_ahead = limiter_now - monotonic;
    reactor->own.told_at = now;
    reactor->own.news = news;
    reactor->own.kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return reactor->own.kick >= 0 &&
           epoll_ctl(reactor->epoll, EPOLL_CTL_ADD, reactor->own.kick, &event) == 0;
}

static inline void fl_join(fl_lanes *lanes, uint32_t count)
{
    for (uint32_t lane = 0; lane < count; lane++) {
        atomic_store(&lanes->all[lane]->own.stopping, true);
        fl_kick(lanes->all[lane]);
        pthread_join(lanes->all[lane]->own.thread, NULL);
    }
    for (uint32_t lane = 0; lane < lanes->count; lane++)
        lanes->all[lane]->own.runs = false;
    fl_share_all(lanes, false);
}

/* Ends all threads, if there are any; the lanes are as if they had never had one. */
static inline void fl_end_threads(fl_lanes *lanes)
{
    if (lanes->count && lanes->all[0]->own.runs)
        fl_join(lanes, lanes->count);
}

/* Starts a thread for each lane. False, with errno, if one of them cannot be had: then there is
 * none. Both clocks are Python's, in seconds, and run as CLOCK_MONOTONIC does. */
static inline bool fl_begin_threads(fl_lanes *lanes, double now, double limiter_now, int news)
{
    sigset_t all, before;
    int failed = 0;
    uint32_t started = 0;
    for (uint32_t lane = 0; lane < lanes->count; lane++)
        if (!fl_prepare(lanes->all[lane], now, limiter_now, news))
            return false;
    fl_share_all(lanes, true);
    for (uint32_t lane = 0; lane < lanes->count; lane++)
        lanes->all[lane]->own.runs = true; /* before any thread looks at the others */
    sigfillset(&all); /* signals are Python's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (started < lanes->count && !failed) {
        fl_reactor *reactor = lanes->all[started];
        failed = pthread_create(&reactor->own.thread, NULL, fl_run, reactor);
        started += !failed;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed)
        fl_join(lanes, started);
    errno = failed;
    return !failed;
}

#endif
