/* fuzz-main.c - drives a fuzzer's LLVMFuzzerTestOneInput() where libFuzzer is not linked.
 *
 * usage: FUZZER [--count N] [--seed N] [--max BYTES] [FILE...]
 * Runs the files (a corpus, or one input that failed), then count inputs by seed: random bytes, or
 * a file of the corpus with some bytes changed. An input that crashes is left in fuzz-failed.bin.
 */
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t state;
static const uint8_t *current;
static size_t current_size;

static uint64_t next(void)
{
    uint64_t z = state += 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

static void on_signal(int number)
{
    FILE *out = fopen("fuzz-failed.bin", "wb");
    if (out) {
        fwrite(current, 1, current_size, out);
        fclose(out);
    }
    fprintf(stderr, "signal %d; the input is in fuzz-failed.bin\n", number);
    signal(number, SIG_DFL);
    raise(number);
}

static void run(const uint8_t *data, size_t size)
{
    current = data;
    current_size = size;
    alarm(60);
    LLVMFuzzerTestOneInput(data, size);
}

static size_t read_file(const char *path, uint8_t *buf, size_t max)
{
    FILE *in = fopen(path, "rb");
    if (!in) {
        perror(path);
        exit(2);
    }
    size_t n = fread(buf, 1, max, in);
    fclose(in);
    return n;
}

int main(int argc, char **argv)
{
    uint64_t count = 0, max = 256, files = 0;
    static uint8_t buf[1 << 20];
    char **paths = calloc((size_t)argc, sizeof(*paths));
    const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGALRM};
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        signal(signals[i], on_signal);
    for (int i = 1; i < argc && paths; i++) {
        uint64_t *number = strcmp(argv[i], "--count") == 0  ? &count
                           : strcmp(argv[i], "--seed") == 0 ? &state
                           : strcmp(argv[i], "--max") == 0  ? &max
                                                            : NULL;
        if (number && i + 1 < argc) {
            *number = strtoull(argv[++i], NULL, 0);
        } else {
            paths[files++] = argv[i];
            run(buf, read_file(argv[i], buf, sizeof(buf)));
        }
    }
    max = max < sizeof(buf) ? max : sizeof(buf);
    for (uint64_t i = 0; i < count; i++) {
        size_t size = next() % (max + 1);
        for (size_t j = 0; j < size; j++)
            buf[j] = (uint8_t)next();
        if (files && next() % 2) {
            size = read_file(paths[next() % files], buf, sizeof(buf));
            for (uint64_t n = 1 + next() % 8; n && size; n--)
                buf[next() % size] = (uint8_t)next();
        }
        run(buf, size);
    }
    free(paths);
    printf("%llu inputs and %llu files: all right\n", (unsigned long long)count,
           (unsigned long long)files);
    return 0;
}
