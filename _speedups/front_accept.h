/* How the lane gets its connections: from listening sockets, within the caps, and, where there are
 * several lanes, from the one that accepts.
 */
#ifndef RELAY_FRONT_ACCEPT_H
#define RELAY_FRONT_ACCEPT_H

#include <netinet/tcp.h>

#include "front_connections.h"

#define FL_ACCEPTS 64 /* in one go */
#define FL_LISTENER FL_NONE
#define FL_KICK FL_NONE /* among the listeners */

/* A slot for an accepted socket, or NULL: it is beyond a cap. */
static inline fl_connection *fl_admit(fl_reactor *reactor, int fd, const fp_peer *peer)
{
    const fl_config *config = &reactor->config;
    fl_connection like = {
        .fd = fd,
        .state = FL_READING,
        .events = FL_READ_EVENTS,
        .peer = *peer,
        .judged = fw_judge(&config->rules, peer->address),
        .opened = reactor->now,
        .idle_since = reactor->now,
        .head_since = FL_NEVER,
        .body_since = FL_NEVER,
        .write_since = FL_NEVER,
        .drain_since = FL_NEVER,
        .linger_since = FL_NEVER,
    };
    fl_lanes *lanes = reactor->lanes;
    fl_connection *connection = NULL;
    fk_enter(&lanes->lock);
    bool full = lanes->open >= config->max_connections;
    bool many = !full && config->max_per_address && like.judged.capped &&
                fl_count_of(lanes, &like.judged.itself.client) >= config->max_per_address;
    if (!full && !many)
        connection = fl_open(reactor, &like);
    fk_leave(&lanes->lock);
    reactor->counted = reactor->stirred = true;
    reactor->full |= full;
    reactor->counts.refused_total += full;
    reactor->counts.refused_address += many;
    reactor->counts.accepted += !full && !many;
    return connection;
}

static inline void fl_take_in(fl_reactor *reactor, int fd, const fp_peer *peer)
{
    fl_connection *connection = fl_admit(reactor, fd, peer);
    if (connection == NULL) {
        close(fd);
        return;
    }
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event event = {.events = FL_READ_EVENTS,
                                .data.u64 = fl_token(reactor, connection)};
    if (epoll_ctl(reactor->epoll, EPOLL_CTL_ADD, fd, &event) != 0)
        fl_close(reactor, connection);
}

/* ---- Accepting for others ---- */

static inline void fl_kick(fl_reactor *reactor)
{
    uint64_t one = 1;
    ssize_t written = write(reactor->own.kick, &one, sizeof one);
    (void)written; /* it can only fail because it is kicked already */
}

/* Leaves a socket at another lane's door; false: no memory. */
static inline bool fl_leave_with(fl_reactor *other, int fd, const fp_peer *peer)
{
    fl_thread *own = &other->own;
    pthread_mutex_lock(&own->nursery);
    if (own->foundling_count == own->foundling_room) {
        uint32_t room = own->foundling_room ? own->foundling_room * 2 : FL_ACCEPTS;
        fl_foundling *grown = realloc(own->foundlings, room * sizeof *grown);
        if (grown == NULL) {
            pthread_mutex_unlock(&own->nursery);
            return false;
        }
        own->foundlings = grown;
        own->foundling_room = room;
    }
    own->foundlings[own->foundling_count++] = (fl_foundling){fd, *peer};
    pthread_mutex_unlock(&own->nursery);
    fl_kick(other);
    return true;
}

/* Takes in what others have left here. */
static inline void fl_adopt(fl_reactor *reactor)
{
    fl_thread *own = &reactor->own;
    for (;;) {
        fl_foundling next;
        pthread_mutex_lock(&own->nursery);
        bool any = own->foundling_count != 0;
        if (any)
            next = own->foundlings[--own->foundling_count];
        pthread_mutex_unlock(&own->nursery);
        if (!any)
            return;
        fl_take_in(reactor, next.fd, &next.peer);
    }
}

/* Gives each lane its share of connections, in turn. */
static inline void fl_place(fl_reactor *reactor, int fd, const fp_peer *peer)
{
    fl_reactor *next = reactor;
    if (reactor->own.runs) {
        next = reactor->lanes->all[reactor->next_lane];
        reactor->next_lane = (reactor->next_lane + 1) % reactor->lanes->count;
    }
    if (next == reactor || !fl_leave_with(next, fd, peer))
        fl_take_in(reactor, fd, peer);
}

static inline void fl_watch_listeners(fl_reactor *reactor, bool accepting)
{
    for (uint32_t i = 0; i < reactor->listener_count; i++) {
        struct epoll_event event = {.events = accepting ? EPOLLIN : 0,
                                    .data.u64 = (uint64_t)FL_LISTENER << 32 | i};
        epoll_ctl(reactor->epoll, EPOLL_CTL_MOD, reactor->listeners[i], &event);
    }
}

static inline void fl_accept(fl_reactor *reactor, int listener)
{
    for (int i = 0; i < FL_ACCEPTS; i++) {
        struct sockaddr_storage address;
        socklen_t size = sizeof address;
        int fd = accept4(listener, (struct sockaddr *)&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EAGAIN)
                return;
            if (errno == ECONNABORTED || errno == EPROTO || errno == EPERM || errno == EINTR)
                continue; /* that client gave up, or the firewall did */
            reactor->accept_error = errno;
            fl_watch_listeners(reactor, false);
            return;
        }
        fp_peer peer;
        if (fp_read(&address, &peer))
            fl_place(reactor, fd, &peer);
        else
            close(fd);
    }
}

#endif
