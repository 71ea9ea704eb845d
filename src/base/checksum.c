/* checksum.c - picks the widest XXH3 that the processor has. All give the same. */
#include "base/checksum.h"

#include <stdatomic.h>

typedef uint32_t checksum_fn(uint64_t address, const void *buf, size_t len);

checksum_fn checksum_plain, checksum_avx2, checksum_avx512;

static checksum_fn *pick(void)
{
#ifdef CHECKSUM_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f"))
        return checksum_avx512;
    if (__builtin_cpu_supports("avx2"))
        return checksum_avx2;
#endif
    return checksum_plain;
}

uint32_t checksum_at(uint64_t address, const void *buf, size_t len)
{
    static _Atomic(checksum_fn *) picked;
    checksum_fn *fn = atomic_load_explicit(&picked, memory_order_relaxed);
    if (!fn) {
        fn = pick(); /* by each thread the same */
        atomic_store_explicit(&picked, fn, memory_order_relaxed);
    }
    return fn(address, buf, len);
}
