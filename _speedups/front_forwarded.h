/* Whose budget a request draws on when proxies may speak for clients. Twin, and where the rules
 * are told: relay/http/clients.py.
 *
 * A connection's peer is judged once, by fw_judge. Where its forwarded fields are believed,
 * fw_find reads them for each request. Fields that are many, long lists, or not ASCII are left
 * to the twin, which knows what whitespace is in Latin-1.
 *
 * Source: issue 3, section 2; design/protocol.md, section 4.5; RFC 7239.
 */
#ifndef RELAY_FRONT_FORWARDED_H
#define RELAY_FRONT_FORWARDED_H

#include "front_parse.h"
#include "front_peers.h"

#define FW_HOPS_MAX 32 /* elements of one kind of field */

typedef struct {
    unsigned ipv6_prefix;
    bool behind_proxy; /* without trusted proxies: any peer may be one */
    fp_network *trusted, *exempt;
    size_t trusted_count, exempt_count;
} fw_rules;

typedef struct {
    fc_key client; /* what it is counted by */
    bool exempt;   /* it has no limits */
} fw_client;

typedef struct {
    fw_client itself; /* if it speaks for nobody else */
    bool forwards;    /* what it says of others is believed */
    bool capped;      /* its connections count for its address */
} fw_peer;

typedef struct {
    fr_slice at[FW_HOPS_MAX];
    size_t count;
} fw_hops;

static inline fw_client fw_known(const fw_rules *rules, fc_key address)
{
    return (fw_client){fp_client(address, rules->ipv6_prefix),
                       fp_within(&address, rules->exempt, rules->exempt_count)};
}

static inline fw_peer fw_judge(const fw_rules *rules, fc_key address)
{
    bool named = rules->trusted_count != 0;
    bool trusted = fp_within(&address, rules->trusted, rules->trusted_count);
    fw_client itself = fw_known(rules, address);
    return (fw_peer){itself, named ? trusted : rules->behind_proxy,
                     !trusted && !itself.exempt && (named || !rules->behind_proxy)};
}

/* ---- Elements ---- */

/* A bare address; a zone is dropped. */
static inline bool fw_address(fr_slice text, fc_key *address)
{
    char bare[INET6_ADDRSTRLEN];
    uint8_t octets[FC_KEY_BYTES];
    size_t size = 0;
    bool is_ipv6 = false;
    for (; size < text.size && text.at[size] != '%'; size++) {
        if (size + 1 == sizeof bare)
            return false;
        bare[size] = (char)text.at[size];
        is_ipv6 |= bare[size] == ':';
    }
    bare[size] = '\0';
    if (inet_pton(is_ipv6 ? AF_INET6 : AF_INET, bare, octets) != 1)
        return false;
    *address = fp_address(octets, is_ipv6 ? 16 : 4);
    return true;
}

/* 192.0.2.1, 192.0.2.1:80, 2001:db8::1, [2001:db8::1] or with a port. */
static inline bool fw_address_with_port(fr_slice text, fc_key *address)
{
    size_t colons = 0, first = 0;
    text = fr_trimmed(text);
    if (text.size && text.at[0] == '[') {
        text.at++;
        text.size--;
        for (size_t i = 0; i < text.size; i++)
            if (text.at[i] == ']')
                text.size = i;
        return fw_address(text, address);
    }
    for (size_t i = text.size; i-- > 0;) {
        if (text.at[i] == ':') {
            colons++;
            first = i;
        }
    }
    if (colons == 1)
        text.size = first;
    return fw_address(text, address);
}

/* Takes what stands before the next `separator` off a text; false: nothing is left. */
static inline bool fw_next(fr_slice *text, uint8_t separator, fr_slice *part)
{
    if (text->at == NULL)
        return false;
    const uint8_t *end = text->size ? memchr(text->at, separator, text->size) : NULL;
    size_t size = end ? (size_t)(end - text->at) : text->size;
    *part = (fr_slice){text->at, size};
    *text = end ? (fr_slice){end + 1, text->size - size - 1} : (fr_slice){NULL, 0};
    return true;
}

/* The `for` of one element of Forwarded, without quotes; empty if there is none. */
static inline fr_slice fw_for(fr_slice element)
{
    fr_slice parameter, name;
    while (fw_next(&element, ';', &parameter)) {
        fw_next(&parameter, '=', &name);
        if (!fr_is(fr_trimmed(name), "for"))
            continue;
        parameter = fr_trimmed(parameter);
        while (parameter.size && parameter.at[0] == '"')
            parameter.at++, parameter.size--;
        while (parameter.size && parameter.at[parameter.size - 1] == '"')
            parameter.size--;
        return parameter;
    }
    return (fr_slice){NULL, 0};
}

/* Collects the elements of all fields of one kind; false: leave it to the twin. */
static inline bool fw_collect(const fr_request *request, fr_forwarded_kind kind, fw_hops *hops)
{
    size_t fields = 0;
    hops->count = 0;
    for (unsigned i = 0; i < request->forwarded; i++) {
        fr_slice list = request->hops[i].value, element;
        if (request->hops[i].kind != kind)
            continue;
        fields++;
        for (size_t j = 0; j < list.size; j++)
            if (list.at[j] >= 0x80)
                return false;
        while (fw_next(&list, kind == FR_REAL_IP ? '\0' : ',', &element)) {
            if (hops->count == FW_HOPS_MAX)
                return false;
            hops->at[hops->count++] = fr_trimmed(element);
        }
    }
    if (fields == 1 && hops->count == 1 && hops->at[0].size == 0 && kind != FR_REAL_IP)
        hops->count = 0; /* one empty list; two of them have two empty elements */
    return true;
}

/* ---- The client ---- */

/* From the right, over trusted proxies, to whom they were asked by. */
static inline bool fw_by_trusted(const fw_rules *rules, const fr_request *request, fc_key found,
                                 fw_client *client)
{
    fr_forwarded_kind kind = FR_FORWARDED_FOR;
    fw_hops hops;
    fc_key hop;
    do {
        if (!fw_collect(request, kind, &hops))
            return false;
    } while (hops.count == 0 && kind++ != FR_FORWARDED);
    while (hops.count) {
        fr_slice element = hops.at[--hops.count];
        if (!fw_address_with_port(kind == FR_FORWARDED ? fw_for(element) : element, &hop))
            break;
        found = hop;
        if (!fp_within(&hop, rules->trusted, rules->trusted_count))
            break;
    }
    *client = fw_known(rules, found);
    return true;
}

/* The first address from the left; exempt is who has connected, not who is claimed to ask. */
static inline bool fw_claimed(const fw_rules *rules, const fr_request *request, fw_client *client)
{
    fw_hops hops;
    fc_key claimed;
    for (fr_forwarded_kind kind = FR_FORWARDED_FOR; kind <= FR_FORWARDED; kind++) {
        if (!fw_collect(request, kind, &hops))
            return false;
        if (kind == FR_REAL_IP && hops.count)
            hops.count = 1;
        for (size_t i = 0; i < hops.count; i++) {
            if (kind == FR_FORWARDED ? !fw_address_with_port(fw_for(hops.at[i]), &claimed)
                                     : !fw_address(hops.at[i], &claimed))
                continue;
            client->client = fp_client(claimed, rules->ipv6_prefix);
            return true;
        }
    }
    return true;
}

/* Finds who asks; `client` is who has connected, and stays that where nobody else is named.
 * False: leave it to the twin. Only for peers that are believed. */
static inline bool fw_find(const fw_rules *rules, const fr_request *request, fc_key address,
                           fw_client *client)
{
    if (request->forwarded > FR_FORWARDED_MAX)
        return false;
    if (rules->trusted_count != 0)
        return fw_by_trusted(rules, request, address, client);
    return fw_claimed(rules, request, client);
}

#endif
