/* Who connects: addresses, networks, and what a client is counted by.
 * Twin: relay/http/clients.py; what proxies say is read in front_forwarded.h.
 */
#ifndef RELAY_FRONT_PEERS_H
#define RELAY_FRONT_PEERS_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include "front_cells.h"

typedef struct {
    uint8_t octets[FC_KEY_BYTES];
    uint8_t size;   /* 4 or 16 */
    uint8_t prefix; /* leading bits that count */
} fp_network;

typedef struct {
    fc_key address;
    uint16_t port;
} fp_peer;

/* An IPv4 address that came through an IPv6 socket is IPv4. */
static inline fc_key fp_address(const uint8_t *octets, size_t size)
{
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    fc_key address = {.size = 0};
    if (size == 16 && memcmp(octets, mapped, sizeof mapped) == 0) {
        octets += sizeof mapped;
        size = 4;
    }
    memcpy(address.octets, octets, size);
    address.size = (uint8_t)size;
    return address;
}

static inline bool fp_read(const struct sockaddr_storage *storage, fp_peer *peer)
{
    memset(peer, 0, sizeof *peer);
    if (storage->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)storage;
        peer->address = fp_address((const uint8_t *)&in->sin_addr, 4);
        peer->port = ntohs(in->sin_port);
        return true;
    }
    if (storage->ss_family != AF_INET6)
        return false;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)storage;
    peer->port = ntohs(in6->sin6_port);
    peer->address = fp_address(in6->sin6_addr.s6_addr, 16);
    return true;
}

static inline bool fp_within(const fc_key *address, const fp_network *networks, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const fp_network *network = &networks[i];
        unsigned whole = network->prefix / 8, rest = network->prefix % 8;
        if (network->size != address->size || memcmp(network->octets, address->octets, whole) != 0)
            continue;
        if (!rest || (network->octets[whole] ^ address->octets[whole]) >> (8 - rest) == 0)
            return true;
    }
    return false;
}

/* What limits count by: one IPv4 address, or one IPv6 subscriber. */
static inline fc_key fp_client(fc_key address, unsigned ipv6_prefix)
{
    if (address.size == 16) {
        unsigned whole = ipv6_prefix / 8, rest = ipv6_prefix % 8;
        if (rest)
            address.octets[whole++] &= (uint8_t)(0xff << (8 - rest));
        memset(address.octets + whole, 0, FC_KEY_BYTES - whole);
    }
    return address;
}

#endif
