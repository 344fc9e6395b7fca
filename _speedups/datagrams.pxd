"""C-level contract of the datagram lane: datagram_lane.h moves, datagram_answerer.h answers."""

from libc.stdint cimport uint8_t


cdef extern from "datagram_answerer.h":
    const char *LA_CAPSULE

    ctypedef enum la_verdict:
        LA_NOT_MINE
        LA_SILENT
        LA_REPLY

    ctypedef struct la_answerer:
        void *state
        int (*begin)(void *state) except -1
        int (*end)(void *state) except -1


cdef extern from "datagram_lane.h":
    enum:
        DL_BATCH
        DL_SOURCE_BYTES

    ctypedef struct sockaddr_in "struct sockaddr_in":
        pass

    ctypedef struct iovec "struct iovec":
        void *iov_base
        size_t iov_len

    ctypedef struct dl_lane:
        unsigned replies
        iovec out_bytes[32]
        sockaddr_in in_address[32]
        sockaddr_in out_address[32]
        uint8_t datagrams[32][2048]

    ctypedef struct dl_sent:
        unsigned done
        unsigned errors
        int fault

    void dl_init(dl_lane *lane, int fd)
    int dl_receive(dl_lane *lane, unsigned limit)
    size_t dl_size(const dl_lane *lane, unsigned i)
    void dl_source(const sockaddr_in *address, uint8_t *out)
    void dl_address(const uint8_t *source, sockaddr_in *out)
    la_verdict dl_answer(dl_lane *lane, const la_answerer *answerer, unsigned i, double now)
    dl_sent dl_send(dl_lane *lane, unsigned count)
    double dl_now()
