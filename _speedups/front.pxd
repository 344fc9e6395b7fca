from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "packet_table.h":
    const char *PT_CAPSULE
    ctypedef struct pt_table:
        pass

    uint64_t pt_waits(pt_table *table)

cdef extern from "front_cells.h":
    ctypedef struct fc_key:
        uint8_t octets[16]
        uint8_t size

    # 128 bits; Cython only passes them on.
    ctypedef long long fc_ns

    ctypedef struct fc_table:
        uint32_t count

    ctypedef struct fc_decision:
        bint allowed
        uint32_t remaining
        fc_ns wait

    bint fc_init(
        fc_table *table, int64_t interval, uint32_t burst, uint32_t max_keys, const uint64_t *seed,
    )
    void fc_clear(fc_table *table)
    fc_ns fc_from_s(double seconds)
    uint64_t fc_high(fc_ns value)
    uint64_t fc_low(fc_ns value)

cdef extern from "front_locks.h":
    ctypedef struct fk_lock:
        bint shared

    ctypedef struct fk_limiter:
        fc_table cells
        fk_lock lock

    bint fk_init(fk_lock *lock)
    void fk_destroy(fk_lock *lock)
    void fk_enter(fk_lock *lock)
    void fk_leave(fk_lock *lock)
    uint64_t fk_waits(fk_lock *lock)
    fc_decision fk_check(fk_limiter *limiter, const fc_key *key, fc_ns now)

cdef extern from "front_dates.h":
    enum:
        FD_BYTES
    void fd_write(uint8_t *out, uint64_t timestamp_us)
    bint fd_read(const uint8_t *text, size_t size, uint64_t *timestamp_us)

cdef extern from "front_parse.h":
    ctypedef enum fr_verdict:
        FR_MORE
        FR_REQUEST
        FR_HAND_OVER

    ctypedef enum fr_method:
        FR_GET
        FR_HEAD
        FR_PUT

    ctypedef struct fr_slice:
        const uint8_t *at
        size_t size

    ctypedef struct fr_request:
        fr_method method
        bint has_key
        bint plain
        unsigned forwarded
        bint close
        int policy
        uint8_t key[32]
        fr_slice origin
        fr_slice none_match
        fr_slice since
        size_t head_bytes
        size_t body_bytes

    fr_verdict fr_parse(const uint8_t *data, size_t size, fr_request *request)

cdef extern from "front_peers.h":
    ctypedef struct fp_network:
        uint8_t octets[16]
        uint8_t size
        uint8_t prefix

    ctypedef struct fp_peer:
        fc_key address
        uint16_t port

    fc_key fp_address(const uint8_t *octets, size_t size)

cdef extern from "front_forwarded.h":
    ctypedef struct fw_rules:
        unsigned ipv6_prefix
        bint behind_proxy
        fp_network *trusted
        fp_network *exempt
        size_t trusted_count
        size_t exempt_count

    ctypedef struct fw_client:
        fc_key client
        bint exempt

    ctypedef struct fw_peer:
        fw_client itself
        bint forwards
        bint capped

    fw_peer fw_judge(const fw_rules *rules, fc_key address)
    bint fw_find(
        const fw_rules *rules, const fr_request *request, fc_key address, fw_client *client,
    )

cdef extern from "front_connections.h":
    enum:
        FL_STATUSES
        FL_SPANS

    ctypedef enum fl_news:
        FL_NO_NEWS
        FL_ASKS
        FL_IS_LENT
        FL_IS_GONE

    ctypedef struct fl_connection:
        int fd
        fl_news news
        fp_peer peer
        uint8_t *in_ "in"
        uint32_t in_bytes
        uint32_t head_bytes
        uint32_t request_bytes
        uint32_t served
        bint body_late
        double opened
        double head_since

    ctypedef struct fa_bounds:
        uint64_t ttl_min_s
        uint64_t ttl_max_s

    ctypedef struct fl_deadlines:
        double head_s
        double body_s
        double idle_s
        double write_s
        double age_s
        double drain_s
        double linger_s

    ctypedef struct fl_config:
        uint32_t max_connections
        uint32_t max_per_address
        fw_rules rules
        fa_bounds bounds
        fl_deadlines deadlines

    ctypedef struct fl_counts:
        uint64_t hits
        uint64_t answers[3][3]
        uint64_t accepted
        uint64_t refused_total
        uint64_t refused_address

    ctypedef struct fl_spans:
        uint64_t counts[1]      # FL_SPANS of them
        uint64_t ns

    ctypedef struct fl_lanes:
        fk_lock lock
        uint32_t count
        uint32_t open

    ctypedef struct fl_thread:
        bint runs
        uint64_t waits

    ctypedef struct fl_reactor:
        fl_lanes *lanes
        fl_thread own
        int epoll
        int *listeners
        fl_config config
        pt_table *table
        fk_limiter *limiter
        uint64_t seed[2]
        double now
        int accept_error
        uint64_t rounds
        bint full
        bint counted
        fl_counts counts
        fl_spans *spans         # one for each sort of answer

    uint64_t fl_token(const fl_reactor *reactor, const fl_connection *connection)
    fl_connection *fl_next_news(fl_reactor *reactor)
    void fl_drop_buffers(fl_connection *connection)
    void fl_free(fl_reactor *reactor, fl_connection *connection)

cdef extern from "front_reactor.h":
    bint fl_init(fl_reactor *reactor, fl_lanes *lanes)
    bint fl_listen(fl_reactor *reactor, int listener)
    void fl_clear(fl_reactor *reactor)
    unsigned fl_span(uint64_t ns)
    void fl_set_clocks(fl_reactor *reactor, double now, fc_ns limiter_now)
    void fl_turn(fl_reactor *reactor, bint alone)
    void fl_sweep(fl_reactor *reactor)
    void fl_drain_all(fl_reactor *reactor)
    void fl_stop_accepting(fl_reactor *reactor)
    void fl_watch_listeners(fl_reactor *reactor, bint accepting)
    void fl_give_back(fl_reactor *reactor, uint64_t token)
    void fl_answer_warm(
        fl_reactor *reactor, uint64_t token, const uint8_t *head, size_t head_bytes,
        const uint8_t *body, size_t body_bytes, bint close,
    )

cdef extern from "front_threads.h" nogil:
    void fl_enter(fl_reactor *reactor)
    void fl_leave(fl_reactor *reactor)
    bint fl_begin_threads(fl_lanes *lanes, double now, double limiter_now, int news)
    void fl_end_threads(fl_lanes *lanes)
