/* fuzz-main.c - run a fuzz target without a fuzzer: replay a corpus, then a number of inputs that
 * are mutations of it.
 *
 *     fuzz-X CORPUS-DIRECTORY [COUNT [SEED]]
 *
 * Input i of a run is made from seed SEED + i alone: a failure names the seed that repeats it (with
 * COUNT 1). Linked instead of libFuzzer's own main; the target is the same. */
#include "base/cleanup.h"

#include <dirent.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define MAX_FILES       4096
#define MAX_INPUT_BYTES 65536

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    uint8_t *data;
    size_t size;
    char name[256];
};

static struct input corpus[MAX_FILES];
static size_t n_corpus;

/* What a signal handler may say. */
static char running[320];

static void on_crash(int sig)
{
    ssize_t written = write(STDERR_FILENO, running, strlen(running));
    (void)written;
    signal(sig, SIG_DFL);
    raise(sig);
}

/* xorshift64*: the same everywhere, unlike rand(). */
static uint64_t random_state;

static uint64_t next_random(void)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * 0x2545F4914F6CDD1DULL;
}

static size_t below(size_t n)
{
    return n ? next_random() % n : 0;
}

static void seed_random(uint64_t seed)
{
    random_state = (seed + 1) * 0x9E3779B97F4A7C15ULL;
    next_random();
}

static size_t insert(uint8_t *data, size_t size, const uint8_t *from, size_t len)
{
    if (size >= MAX_INPUT_BYTES)
        return size;
    if (len > MAX_INPUT_BYTES - size)
        len = MAX_INPUT_BYTES - size;
    size_t at = below(size);
    memmove(data + at + len, data + at, size - at);
    memcpy(data + at, from, len);
    return size + len;
}

static size_t mutate_once(uint8_t *data, size_t size)
{
    static const uint64_t odd_values[] = {0,      1,          0x7f,       0x80,       0xff,
                                          0x1000, 0x7fffffff, 0x80000000, 0xffffffff, UINT64_MAX};
    size_t at = below(size), len;

    switch (below(8)) {
    case 0:
        if (size)
            data[at] ^= (uint8_t)(1u << below(8));
        return size;
    case 1:
        if (size)
            data[at] = (uint8_t)next_random();
        return size;
    case 2: { /* a big-endian number that is a bound of something */
        uint64_t v = odd_values[below(sizeof(odd_values) / sizeof(odd_values[0]))] + below(3) - 1;
        len = (size_t)1 << below(4);
        for (size_t i = 0; i < len && at + i < size; i++)
            data[at + i] = (uint8_t)(v >> 8 * (len - 1 - i));
        return size;
    }
    case 3: /* a piece goes */
        len = below(size - at < 64 ? size - at : 64);
        memmove(data + at, data + at + len, size - at - len);
        return size - len;
    case 4: { /* a piece of it twice */
        uint8_t piece[128];
        len = below(size - at < sizeof(piece) ? size - at : sizeof(piece));
        memcpy(piece, data + at, len);
        return insert(data, size, piece, len);
    }
    case 5: { /* a piece of another */
        const struct input *other = &corpus[below(n_corpus)];
        size_t from = below(other->size);
        len = below(other->size - from < 256 ? other->size - from : 256);
        return insert(data, size, other->data + from, len);
    }
    case 6: /* the end goes, rarely */
        return below(4) ? size : at;
    default:
        for (size_t n = below(4); n && size; n--)
            data[below(size)] = (uint8_t)next_random();
        return size;
    }
}

static void run_mutation(uint64_t seed)
{
    static uint8_t data[MAX_INPUT_BYTES];

    seed_random(seed);
    const struct input *from = &corpus[below(n_corpus)];
    size_t size = from->size;
    memcpy(data, from->data, size);
    for (size_t n = 1 + below(6); n; n--)
        size = mutate_once(data, size);
    /* A copy of the exact size, so that a sanitizer sees reads beyond it. */
    _cleanup_free_ uint8_t *exact = malloc(size ? size : 1);
    if (!exact)
        abort();
    memcpy(exact, data, size);
    snprintf(running, sizeof(running), "\nfailed: mutation of %s, count 1 seed %llu\n", from->name,
             (unsigned long long)seed);
    LLVMFuzzerTestOneInput(exact, size);
}

static int compare(const void *a, const void *b)
{
    return strcmp(((const struct input *)a)->name, ((const struct input *)b)->name);
}

static int load(const char *path)
{
    DIR *dir = opendir(path);
    const struct dirent *entry;

    if (!dir) {
        perror(path);
        return -1;
    }
    while ((entry = readdir(dir)) && n_corpus < MAX_FILES) {
        char name[4096];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
        FILE *file = fopen(name, "rb");
        struct input *input = &corpus[n_corpus];
        input->data = malloc(MAX_INPUT_BYTES);
        if (!file || !input->data) {
            perror(name);
            return -1;
        }
        input->size = fread(input->data, 1, MAX_INPUT_BYTES, file);
        snprintf(input->name, sizeof(input->name), "%s", entry->d_name);
        fclose(file);
        n_corpus++;
    }
    closedir(dir);
    qsort(corpus, n_corpus, sizeof(corpus[0]), compare);
    return 0;
}

int main(int argc, char **argv)
{
    unsigned long long count = argc > 2 ? strtoull(argv[2], NULL, 0) : 0;
    unsigned long long seed = argc > 3 ? strtoull(argv[3], NULL, 0) : 1;

    if (argc < 2) {
        fprintf(stderr, "usage: %s CORPUS-DIRECTORY [COUNT [SEED]]\n", argv[0]);
        return 2;
    }
    if (load(argv[1]))
        return 1;
    if (!n_corpus) {
        fprintf(stderr, "%s: no inputs\n", argv[1]);
        return 1;
    }
    const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGALRM};
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        signal(signals[i], on_crash);
    for (size_t i = 0; i < n_corpus; i++) {
        snprintf(running, sizeof(running), "\nfailed: %s\n", corpus[i].name);
        alarm(60);
        LLVMFuzzerTestOneInput(corpus[i].data, corpus[i].size);
    }
    for (unsigned long long i = 0; i < count; i++) {
        alarm(60);
        run_mutation(seed + i);
    }
    printf("%zu inputs and %llu mutations from seed %llu: fine\n", n_corpus, count, seed);
    for (size_t i = 0; i < n_corpus; i++)
        free(corpus[i].data);
    return 0;
}
