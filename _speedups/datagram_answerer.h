/* What the datagram lane knows of whoever answers datagrams for it: three calls.
 *
 * An extension that answers hands out a capsule with an `la_answerer`; the extension that moves
 * datagrams needs this header and nothing else of it. */
#ifndef RELAY_DATAGRAM_ANSWERER_H
#define RELAY_DATAGRAM_ANSWERER_H

#include <stddef.h>
#include <stdint.h>

#define LA_CAPSULE "relay._speedups.answerer"
#define LA_REPLY_MAX 2560 /* room; what is sent has at most 1,452 bytes */

typedef enum { LA_NOT_MINE, LA_SILENT, LA_REPLY } la_verdict;

/* Around each batch `begin` and `end` are called, which may use Python and fail (-1, with an
 * error set); `answer` uses none. Source: 4 bytes of address, 2 of port, as on the wire. */
typedef struct {
    void *state;
    int (*begin)(void *state);
    la_verdict (*answer)(void *state, const uint8_t *payload, size_t size,
                         const uint8_t source[6], double now, uint8_t *reply,
                         size_t *reply_bytes);
    int (*end)(void *state);
} la_answerer;

#endif
