/* What each address may still cost us and have of us, in cells of a fixed number. The rules, and
 * why, are told in relay/dht/budget.py; the arithmetic is that of the twin, operation by operation:
 * `BudgetCells` in relay/_pure/dht.py. Allocates on first use. */
#ifndef RELAY_DHT_BUDGET_H
#define RELAY_DHT_BUDGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "siphash.h"

#define DB_ROUNDING 1e-6 /* packets and seconds that sums of many fractions may be off */

/* relay.dht.budget.Pace */
typedef struct {
    double packets_per_s, packets_burst, to_proven, to_strangers;
    double queries_per_s, queries_burst, queries_spare;
} db_pace;

/* By what time all that was spent will be earned back. */
typedef struct {
    double packets; /* of all that we send there */
    double queries; /* of those of our queries that go by right */
    double bytes;   /* of answers to strangers */
    double proof_ends;
    uint8_t proven[4];
} db_cell;

typedef struct {
    uint64_t key[2];
    uint64_t count;
    db_pace pace;
    double bytes_per_s, bytes_burst;   /* of one stranger */
    double in_all_per_s, in_all_burst; /* of all strangers together */
    double in_all_spent;
    double credit_ratio, proof_lasts_s;
    db_cell *cells;
} db_table;

static inline void db_free(db_table *table)
{
    free(table->cells);
    table->cells = NULL;
}

/* To be called before the others; false: no memory. */
static inline bool db_prepare(db_table *table)
{
    if (!table->cells)
        table->cells = calloc(table->count, sizeof *table->cells);
    return table->cells != NULL;
}

static inline db_cell *db_find(const db_table *table, const uint8_t octets[4])
{
    return &table->cells[sh_hash(table->key, octets, 4, 2, 4) % table->count];
}

static inline bool db_proven(const db_cell *cell, const uint8_t octets[4], double now)
{
    return now < cell->proof_ends && memcmp(cell->proven, octets, 4) == 0;
}

static inline double db_lead(double due, double now)
{
    return due - now > 0.0 ? due - now : 0.0;
}

static inline bool db_admit(db_table *table, const uint8_t octets[4], size_t bytes_in, double now)
{
    const db_pace *pace = &table->pace;
    db_cell *cell = db_find(table, octets);
    bool proven = db_proven(cell, octets, now);
    double share = proven ? pace->to_proven : pace->to_strangers;
    double lead = db_lead(cell->packets, now);
    if (lead * pace->packets_per_s + 1.0 > share + DB_ROUNDING)
        return false;
    cell->packets = now + lead + 1.0 / pace->packets_per_s;
    if (!proven)
        cell->bytes -= (double)bytes_in * table->credit_ratio / table->bytes_per_s;
    return true;
}

static inline bool db_charge_in_all(db_table *table, size_t bytes_out, double now)
{
    double lead = db_lead(table->in_all_spent, now);
    if (lead * table->in_all_per_s + (double)bytes_out > table->in_all_burst)
        return false;
    table->in_all_spent = now + lead + (double)bytes_out / table->in_all_per_s;
    return true;
}

static inline bool db_charge(db_table *table, const uint8_t octets[4], size_t bytes_out, double now)
{
    db_cell *cell = db_find(table, octets);
    if (db_proven(cell, octets, now))
        return true;
    double lead = db_lead(cell->bytes, now);
    if (lead * table->bytes_per_s + (double)bytes_out > table->bytes_burst)
        return false;
    if (!db_charge_in_all(table, bytes_out, now))
        return false;
    cell->bytes = now + lead + (double)bytes_out / table->bytes_per_s;
    return true;
}

/* Seconds until `burst` leaves room for one more. */
static inline double db_wait(double lead, double per_s, double burst)
{
    double wait_s = lead - (burst - 1.0) / per_s;
    return wait_s < DB_ROUNDING ? 0.0 : wait_s;
}

static inline double db_reserve(db_table *table, const uint8_t octets[4], double wait_max_s,
                                double now)
{
    const db_pace *pace = &table->pace;
    db_cell *cell = db_find(table, octets);
    double lead = db_lead(cell->packets, now);
    double queries_lead = db_lead(cell->queries, now);
    double spare_s = db_wait(lead, pace->packets_per_s, pace->queries_spare);
    double room_s = db_wait(lead, pace->packets_per_s, pace->packets_burst);
    double right_s = db_wait(queries_lead, pace->queries_per_s, pace->queries_burst);
    if (right_s < room_s)
        right_s = room_s;
    double wait_s = spare_s < right_s ? spare_s : right_s;
    if (wait_s > wait_max_s)
        return wait_s;
    cell->packets = now + lead + 1.0 / pace->packets_per_s;
    if (spare_s > right_s)
        cell->queries = now + queries_lead + 1.0 / pace->queries_per_s;
    return wait_s;
}

/* Whether a query beyond those that go by right would have to wait. */
static inline bool db_busy(const db_table *table, const uint8_t octets[4], double now)
{
    double lead = db_lead(db_find(table, octets)->packets, now);
    return db_wait(lead, table->pace.packets_per_s, table->pace.queries_spare) > 0.0;
}

static inline void db_prove(db_table *table, const uint8_t octets[4], double now)
{
    db_cell *cell = db_find(table, octets);
    memcpy(cell->proven, octets, 4);
    cell->proof_ends = now + table->proof_lasts_s;
}

#endif
