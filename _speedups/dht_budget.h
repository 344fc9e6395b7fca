/* What each source address may still cost us, in cells of a fixed number. The rules, and why, are
 * told in relay/dht/budget.py; the arithmetic is that of the twin, operation by operation:
 * `BudgetCells` in relay/_pure/dht.py. Allocates on first use. */
#ifndef RELAY_DHT_BUDGET_H
#define RELAY_DHT_BUDGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "siphash.h"

#define DB_ROUNDING 1e-6 /* packets that sums of many fractions may be off */

typedef struct {
    double packets_per_s, packets_burst, bytes_per_s, bytes_burst;
} db_allowance;

/* By what time all that was spent will be earned back. */
typedef struct {
    double packets, bytes;
} db_spent;

typedef struct {
    double until;
    db_spent spent;
    uint8_t octets[4];
} db_proof;

typedef struct {
    uint64_t key[2];
    uint64_t cells;
    double credit_ratio, proof_lasts_s;
    db_allowance unproven, proven;
    double in_all_per_s, in_all_burst; /* bytes, of all strangers together */
    double in_all_spent;
    db_spent *strangers;
    db_proof *proofs;
} db_table;

static inline void db_free(db_table *table)
{
    free(table->strangers), free(table->proofs);
    table->strangers = NULL, table->proofs = NULL;
}

/* To be called before the others; false: no memory. */
static inline bool db_prepare(db_table *table)
{
    if (table->strangers)
        return true;
    table->strangers = calloc(table->cells, sizeof *table->strangers);
    table->proofs = calloc(table->cells, sizeof *table->proofs);
    if (table->strangers && table->proofs)
        return true;
    db_free(table);
    return false;
}

static inline uint64_t db_cell(const db_table *table, const uint8_t octets[4])
{
    return sh_hash(table->key, octets, 4, 2, 4) % table->cells;
}

static inline double db_lead(double due, double now)
{
    return due - now > 0.0 ? due - now : 0.0;
}

/* Which of the two budgets in its cell is the source's. */
static inline db_spent *db_find(db_table *table, const uint8_t octets[4], double now,
                                const db_allowance **allowance)
{
    uint64_t cell = db_cell(table, octets);
    db_proof *proof = &table->proofs[cell];
    bool proven = now < proof->until && memcmp(proof->octets, octets, 4) == 0;
    *allowance = proven ? &table->proven : &table->unproven;
    return proven ? &proof->spent : &table->strangers[cell];
}

static inline bool db_admit(db_table *table, const uint8_t octets[4], size_t bytes_in, double now)
{
    const db_allowance *allowance;
    db_spent *spent = db_find(table, octets, now, &allowance);
    double lead = db_lead(spent->packets, now);
    if (lead * allowance->packets_per_s + 1.0 > allowance->packets_burst + DB_ROUNDING)
        return false;
    spent->packets = now + lead + 1.0 / allowance->packets_per_s;
    spent->bytes -= (double)bytes_in * table->credit_ratio / allowance->bytes_per_s;
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
    const db_allowance *allowance;
    db_spent *spent = db_find(table, octets, now, &allowance);
    double lead = db_lead(spent->bytes, now);
    if (lead * allowance->bytes_per_s + (double)bytes_out > allowance->bytes_burst)
        return false;
    if (allowance == &table->unproven && !db_charge_in_all(table, bytes_out, now))
        return false;
    spent->bytes = now + lead + (double)bytes_out / allowance->bytes_per_s;
    return true;
}

static inline void db_prove(db_table *table, const uint8_t octets[4], double now)
{
    db_proof *proof = &table->proofs[db_cell(table, octets)];
    memcpy(proof->octets, octets, 4);
    proof->until = now + table->proof_lasts_s;
}

#endif
