/* Locks for what the lanes of several threads share. They cost nothing until there are threads,
 * and count who had to wait.
 *
 * Order: a lane's own lock (front_threads.h), then one of these or the packet table's; never two
 * of these at once. Nobody waits for the GIL while holding one.
 */
#ifndef RELAY_FRONT_LOCKS_H
#define RELAY_FRONT_LOCKS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "front_cells.h"

typedef struct {
    pthread_mutex_t mutex;
    bool shared; /* changes only while one thread knows the lock */
    uint64_t waits;
} fk_lock;

static inline bool fk_init(fk_lock *lock)
{
    lock->shared = false;
    lock->waits = 0;
    return pthread_mutex_init(&lock->mutex, NULL) == 0;
}

static inline void fk_destroy(fk_lock *lock) { pthread_mutex_destroy(&lock->mutex); }

static inline void fk_enter(fk_lock *lock)
{
    if (lock->shared && pthread_mutex_trylock(&lock->mutex) != 0) {
        pthread_mutex_lock(&lock->mutex);
        lock->waits++;
    }
}

static inline void fk_leave(fk_lock *lock)
{
    if (lock->shared)
        pthread_mutex_unlock(&lock->mutex);
}

static inline uint64_t fk_waits(fk_lock *lock)
{
    fk_enter(lock);
    uint64_t waits = lock->waits;
    fk_leave(lock);
    return waits;
}

/* The limiter's cells, which the lanes and Python count in. */
typedef struct {
    fc_table cells;
    fk_lock lock;
} fk_limiter;

static inline fc_decision fk_check(fk_limiter *limiter, const fc_key *key, fc_ns now)
{
    fk_enter(&limiter->lock);
    fc_decision decision = fc_check(&limiter->cells, key, now);
    fk_leave(&limiter->lock);
    return decision;
}

static inline fc_decision fk_foresee(fk_limiter *limiter, const fc_key *key, fc_ns now)
{
    fk_enter(&limiter->lock);
    fc_decision decision = fc_foresee(&limiter->cells, key, now);
    fk_leave(&limiter->lock);
    return decision;
}

#endif
