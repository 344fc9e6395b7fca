/* Rows of the database as SQLite writes them, a space between two, packed for the table.
 *
 *     row    = checksum (8 hex digits) || key (64) || last seen (16) || payload
 *     packed = size of the record (2, big endian) || key (32) || record
 *
 * Twin and specification: `pack_rows` in relay/store/records.py. */
#ifndef RELAY_TABLE_ROWS_H
#define RELAY_TABLE_ROWS_H

#include "packet_blocks.h"

#define TR_SIZE_BYTES 2
#define TR_CHECKSUM_BYTES 4
#define TR_HEAD_BYTES (TR_SIZE_BYTES + PT_KEY_BYTES)

/* CRC-32 as zlib has it (reflected 0x04c11db7), eight bytes at a time: `tables[i]` is for a byte
 * that i more bytes follow. */
typedef struct {
    uint32_t tables[8][256];
    uint8_t digits[256]; /* of hex; above 15: no digit */
} tr_constants;

static inline void tr_prepare(tr_constants *constants)
{
    for (uint32_t octet = 0; octet < 256; octet++) {
        uint32_t sum = octet;
        for (int bit = 0; bit < 8; bit++)
            sum = sum >> 1 ^ (sum & 1 ? 0xedb88320 : 0);
        constants->tables[0][octet] = sum;
    }
    for (int i = 1; i < 8; i++)
        for (uint32_t octet = 0; octet < 256; octet++) {
            uint32_t before = constants->tables[i - 1][octet];
            constants->tables[i][octet] = before >> 8 ^ constants->tables[0][before & 0xff];
        }
    memset(constants->digits, 0xff, sizeof constants->digits);
    for (uint8_t digit = 0; digit < 10; digit++)
        constants->digits['0' + digit] = digit;
    for (uint8_t digit = 10; digit < 16; digit++)
        constants->digits['a' + digit - 10] = constants->digits['A' + digit - 10] = digit;
}

static inline uint32_t tr_checksum(const tr_constants *constants, const uint8_t *octets,
                                   size_t count)
{
    const uint32_t(*tables)[256] = constants->tables;
    uint32_t sum = 0xffffffff;
    for (; count >= 8; count -= 8, octets += 8) {
        uint64_t word = pt_load_64_little(octets) ^ sum;
        sum = 0;
        for (int i = 0; i < 8; i++)
            sum ^= tables[7 - i][word >> 8 * i & 0xff];
    }
    for (; count > 0; count--, octets++)
        sum = sum >> 8 ^ tables[0][(sum ^ *octets) & 0xff];
    return ~sum;
}

/* Where the row that begins at `text` ends. */
static inline const char *tr_row_end(const char *text, const char *end)
{
    const char *space = memchr(text, ' ', (size_t)(end - text));
    return space != NULL ? space : end;
}

/* Packs one row; how many bytes that took, 0: the row is spoiled. */
static inline size_t tr_pack_row(const tr_constants *constants, const char *row, size_t length,
                                 uint8_t *pack)
{
    size_t octets = length / 2;
    if (length % 2 != 0 || octets < TR_CHECKSUM_BYTES + PT_KEY_BYTES + PT_RECORD_MIN
        || octets > TR_CHECKSUM_BYTES + PT_KEY_BYTES + PT_RECORD_MAX)
        return 0;
    uint8_t decoded[TR_CHECKSUM_BYTES + PT_KEY_BYTES + PT_RECORD_MAX];
    uint8_t strange = 0;
    for (size_t i = 0; i < octets; i++) {
        uint8_t high = constants->digits[(uint8_t)row[2 * i]];
        uint8_t low = constants->digits[(uint8_t)row[2 * i + 1]];
        strange |= high | low;
        decoded[i] = (uint8_t)(high << 4 | low);
    }
    const uint8_t *checked = decoded + TR_CHECKSUM_BYTES;
    size_t size = octets - TR_CHECKSUM_BYTES;
    uint32_t told = pt_load_16_big(decoded) << 16 | pt_load_16_big(decoded + 2);
    if (strange > 15 || tr_checksum(constants, checked, size) != told)
        return 0;
    size_t record_bytes = size - PT_KEY_BYTES;
    pack[0] = (uint8_t)(record_bytes >> 8);
    pack[1] = (uint8_t)record_bytes;
    memcpy(pack + TR_SIZE_BYTES, checked, size);
    return TR_SIZE_BYTES + size;
}

/* Packs all rows of `text` that are not spoiled; the pack takes less than half of their room.
 * How many bytes it took; `good` becomes the number of rows. */
static inline size_t tr_pack(const tr_constants *constants, const char *text, size_t length,
                             uint8_t *pack, size_t *good)
{
    const char *end = text + length;
    size_t packed = 0;
    *good = 0;
    for (;;) {
        const char *row_end = tr_row_end(text, end);
        size_t bytes = tr_pack_row(constants, text, (size_t)(row_end - text), pack + packed);
        packed += bytes;
        *good += bytes > 0;
        if (row_end == end)
            return packed;
        text = row_end + 1;
    }
}

/* Bytes of the packed row at the beginning of `pack`, of which `left` are left; 0: it is none. */
static inline size_t tr_packed_bytes(const uint8_t *pack, size_t left)
{
    if (left < TR_HEAD_BYTES + PT_RECORD_MIN)
        return 0;
    size_t record_bytes = pt_load_16_big(pack);
    if (record_bytes < PT_RECORD_MIN || record_bytes > PT_RECORD_MAX
        || record_bytes > left - TR_HEAD_BYTES)
        return 0;
    return TR_HEAD_BYTES + record_bytes;
}

#endif
