/* simd.c - asks the processor once. */
#include "checkpoint/simd.h"

#include <stdatomic.h>

static enum simd widest(void)
{
#ifdef __x86_64__
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi") ||
        !__builtin_cpu_supports("bmi2") || !__builtin_cpu_supports("popcnt"))
        return SIMD_PLAIN;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi2"))
        return SIMD_AVX512;
    return SIMD_AVX2;
#else
    return SIMD_PLAIN;
#endif
}

/* 0: not asked yet, else a level and one. By each thread the same. */
static atomic_int chosen;

enum simd simd_level(void)
{
    int level = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (!level) {
        level = (int)widest() + 1;
        atomic_store_explicit(&chosen, level, memory_order_relaxed);
    }
    return (enum simd)(level - 1);
}

enum simd simd_limit(enum simd most)
{
    enum simd level = widest();

    if (level > most)
        level = most;
    atomic_store_explicit(&chosen, (int)level + 1, memory_order_relaxed);
    return level;
}

const char *simd_name(enum simd level)
{
    static const char *const names[] = {"plain", "avx2", "avx512"};
    return names[level];
}
