/* front_reactor.h: two clients do what they like, and so does time; nothing is read out of turn.
 *
 * An input is a list of steps: a byte says what is done and to whom, and bytes may follow that are
 * sent. After each step every request that the lane answered by itself ended where a request ends
 * if the client's bytes are read in one go; and what it asks about or hands over is what comes
 * next, without a byte missing. Clients read late, or not at all, from sockets with little room. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include "front_threads.h"

#define CLIENTS 2
#define SENT_MAX 65536

typedef struct {
    int fd;        /* the client's end, or -1 */
    int lanes_end; /* to be compared with a connection's */
    uint64_t token; /* of its connection, as long as that is there */
    bool asked; /* Python has a request of it */
    uint8_t *sent;
    size_t bytes;
} client;

static fl_reactor *reactor;
static client clients[CLIENTS];

static client *client_of(uint64_t token)
{
    for (int i = 0; i < CLIENTS; i++)
        if (clients[i].token == token)
            return &clients[i];
    return NULL;
}

/* Whether a request begins or ends at `at` of what a client has sent. */
static bool is_between_requests(const client *who, size_t at)
{
    fr_request request;
    size_t begin = 0;
    while (begin < at) {
        if (fr_parse(who->sent + begin, who->bytes - begin, &request) != FR_REQUEST)
            return false;
        begin += request.head_bytes + request.body_bytes;
    }
    return begin == at;
}

/* How many bytes of a client the lane has done with. */
static size_t done_with(const client *who, const fl_connection *connection)
{
    int unread = 0;
    assert(ioctl(connection->fd, FIONREAD, &unread) == 0);
    assert(who->bytes >= (size_t)unread + connection->in_bytes);
    size_t done = who->bytes - (size_t)unread - connection->in_bytes;
    assert(!connection->in_bytes
           || !memcmp(connection->in, who->sent + done, connection->in_bytes));
    return done;
}

static void look_at(const fl_connection *connection)
{
    client *who = client_of(fl_token(reactor, connection));
    assert(connection->out_bytes <= FL_OUT_BYTES + FA_BYTES_MAX + 65536);
    assert(connection->in_bytes <= FL_IN_BYTES);
    if (who == NULL || (connection->state != FL_READING && connection->state != FL_WARM))
        return;
    if (!connection->closing)
        assert(is_between_requests(who, done_with(who, connection)));
}

static void hear_news(void)
{
    fl_connection *connection;
    while ((connection = fl_next_news(reactor)) != NULL) {
        fl_news news = connection->news;
        client *who = client_of(fl_token(reactor, connection));
        connection->news = FL_NO_NEWS;
        if (news == FL_IS_GONE) {
            fl_free(reactor, connection);
            continue;
        }
        if (who)
            assert(is_between_requests(who, done_with(who, connection)));
        if (news == FL_ASKS) {
            fr_request request;
            assert(connection->state == FL_WARM);
            assert(fr_parse(connection->in, connection->in_bytes, &request) == FR_REQUEST);
            assert(request.head_bytes == connection->head_bytes);
            assert(connection->body_late || connection->request_bytes
                   == request.head_bytes + request.body_bytes);
            if (who) {
                assert(!who->asked);
                who->asked = true;
            }
        } else {
            assert(news == FL_IS_LENT && connection->state == FL_LENT);
            assert(!connection->out_bytes);
            close(connection->fd);
            fl_drop_buffers(connection);
            fl_give_back(reactor, fl_token(reactor, connection));
        }
    }
    fk_enter(&reactor->lanes->lock);
    uint32_t open = 0;
    for (uint32_t slot = 0; slot < reactor->capacity; slot++) {
        fl_state state = reactor->connections[slot].state;
        open += state != FL_FREE && state != FL_GONE;
        if (state != FL_FREE)
            look_at(&reactor->connections[slot]);
    }
    assert(open == reactor->lanes->open && open <= CLIENTS);
    fk_leave(&reactor->lanes->lock);
}

static void connect_client(client *who)
{
    int ends[2], little = 4608;
    fp_peer peer = {.address = {.octets = {10, 0, 0, 1}, .size = 4}, .port = 1};
    assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0);
    setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &little, sizeof little);
    uint32_t open = reactor->lanes->open;
    fl_take_in(reactor, ends[1], &peer);
    if (reactor->lanes->open == open) {
        close(ends[0]);
        return;
    }
    for (uint32_t slot = 0; slot < reactor->capacity; slot++) {
        fl_connection *connection = &reactor->connections[slot];
        if (connection->state == FL_READING && connection->fd == ends[1])
            who->token = fl_token(reactor, connection);
    }
    who->fd = ends[0];
    who->asked = false;
    who->bytes = 0;
}

static void send_some(client *who, const uint8_t *data, size_t size)
{
    if (who->fd < 0 || size > SENT_MAX - who->bytes)
        return;
    ssize_t sent = send(who->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent <= 0)
        return;
    memcpy(who->sent + who->bytes, data, (size_t)sent);
    who->bytes += (size_t)sent;
}

static void read_some(client *who, size_t size)
{
    uint8_t answer[4096];
    if (who->fd >= 0)
        while (size && recv(who->fd, answer, size < sizeof answer ? size : sizeof answer,
                            MSG_DONTWAIT) > 0)
            size -= size < sizeof answer ? size : sizeof answer;
}

/* Python's answer to what it was asked. */
static void answer(client *who, bool close, size_t body_bytes)
{
    static const uint8_t head[] = "HTTP/1.1 404 \r\ncontent-length: 0\r\n", body[20000];
    if (!who->asked)
        return;
    who->asked = false;
    fl_answer_warm(reactor, who->token, head, sizeof head - 1, body, body_bytes, close);
}

static void pass_time(double seconds)
{
    reactor->now += seconds;
    reactor->limiter_now += (fc_ns)(seconds * 1e9);
    reactor->now_us += (uint64_t)(seconds * 1e6);
}

static void begin(unsigned kind, fl_lanes *lanes, fk_limiter *limiter, fp_network *networks)
{
    static const uint64_t seed[2] = {1, 2};
    static const uint8_t secret[16], key[PT_KEY_BYTES]; /* as text 52 times y */
    uint8_t record[8 + PT_PAYLOAD_MAX] = {0, 4, 0, 0, 0, 0, 0, 0};
    reactor = calloc(1, sizeof *reactor);
    assert(reactor && fk_init(&lanes->lock) && fl_init(reactor, lanes));
    reactor->config = (fl_config){
        .max_connections = CLIENTS,
        .max_per_address = kind >> 1 & 1 ? CLIENTS : 0,
        .rules = {.ipv6_prefix = 64, .behind_proxy = kind >> 2 & 1, .trusted = networks},
        .bounds = {.ttl_min_s = 300, .ttl_max_s = 3600},
        .deadlines = {.head_s = 30, .body_s = 30, .idle_s = 75, .write_s = 30, .age_s = 300,
                      .drain_s = 30, .linger_s = 1},
    };
    reactor->listeners = calloc(1, sizeof(int));
    reactor->now_us = UINT64_C(0x0004000000000000);
    reactor->table = pt_new(4, secret);
    assert(reactor->table);
    assert(pt_put(reactor->table, key, record, kind >> 3 & 1 ? sizeof record : 8 + 72) == PT_DONE);
    if (kind & 1) {
        assert(fc_init(&limiter->cells, 1000000000, 3, 2, seed) && fk_init(&limiter->lock));
        reactor->limiter = limiter;
    }
    for (int i = 0; i < CLIENTS; i++)
        connect_client(&clients[i]);
}

static void step(uint8_t what, const uint8_t *data, size_t size)
{
    client *who = &clients[what >> 3 & 1];
    switch (what & 7) {
    case 0:
        pass_time((double)(what >> 4) * 5);
        fl_sweep(reactor);
        break;
    case 1:
        answer(who, what >> 4 & 1, what >> 5 & 1 ? 20000 : what >> 6 & 7);
        break;
    case 2:
        read_some(who, what >> 4 ? (size_t)(what >> 4) * 4096 : 100);
        break;
    case 3:
        if (who->fd < 0)
            connect_client(who);
        else if (what >> 4 & 1)
            shutdown(who->fd, SHUT_WR);
        else if (what >> 5 & 1)
            fl_drain_all(reactor);
        else {
            close(who->fd); /* the lane has to find out */
            who->fd = -1;
        }
        break;
    default:
        send_some(who, data, size);
    }
    for (int turn = 0; turn < 4 && !(what & 0x80); turn++) { /* else the lane is late */
        fl_turn(reactor, turn & 1);
        hear_news();
    }
    hear_news();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fl_lanes lanes = {.count = 0};
    fk_limiter limiter;
    if (size < 2)
        return 0;
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = (client){.fd = -1, .token = UINT64_MAX, .sent = malloc(SENT_MAX)};
    begin(data[0], &lanes, &limiter, calloc(1, sizeof(fp_network)));
    for (size_t at = 1; at < size;) {
        uint8_t what = data[at++];
        size_t piece = 0, times = 1;
        if ((what & 7) >= 4 && at < size) {
            piece = data[at++]; /* how many bytes; 6 and 7: sent many times over */
            piece = piece < size - at ? piece : size - at;
            times = (what & 7) >= 6 ? 64 : 1;
        }
        while (--times)
            send_some(&clients[what >> 3 & 1], data + at, piece);
        step(what, data + at, piece);
        at += piece;
    }
    for (int i = 0; i < CLIENTS; i++) {
        if (clients[i].fd >= 0)
            close(clients[i].fd);
        free(clients[i].sent);
    }
    fl_clear(reactor);
    pt_free(reactor->table);
    if (reactor->limiter) {
        fc_clear(&limiter.cells);
        fk_destroy(&limiter.lock);
    }
    fk_destroy(&lanes.lock);
    free(reactor);
    return 0;
}
