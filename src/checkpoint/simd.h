/* simd.h - how wide the vector instructions are that this folder uses. Any thread. */
#ifndef VARVE_CHECKPOINT_SIMD_H
#define VARVE_CHECKPOINT_SIMD_H

enum simd {
    SIMD_PLAIN,  /* C */
    SIMD_AVX2,   /* and BMI1, BMI2, POPCNT */
    SIMD_AVX512, /* and BW, VL, VBMI2; what AVX2 wants too */
    SIMD_LEVELS
};

/* The widest that the processor has, or less after simd_limit(). */
enum simd simd_level(void);

/* Use nothing wider than this from now on: for tests and benchmarks, which want all of them.
 * Returns what simd_level() gives now. */
enum simd simd_limit(enum simd most);

/* "plain", "avx2", "avx512". Static storage. */
const char *simd_name(enum simd level);

#endif
