/* load.c - the program in the guest of the benchmark (bench/README.md): fills memory with what a
 * program might have there, changes it in several ways, does I/O on each device all the while, and
 * knows what must be where.
 *
 *     load IN OUT           named pipes; a command is a line from IN, its answer a line to OUT
 *
 *     fill MIB              that much memory, kept until the end
 *     few N | random N      from now on N pages a second: 16 bytes of each, or all of it, at random
 *     hot N                 the same N pages over and over, a word of each
 *     work N                N threads of counted work, which writes into WORK_PAGES pages each
 *     steps N               so much arithmetic between two writes of that work
 *     redis N               1: set and get at 127.0.0.1:6379 as fast as that answers; 0: no more
 *     tick N                1: print a number to the serial console each 2 ms; 0: no more
 *     verify                all quiet; compares all memory with its sums and the disk with memory
 *
 * What it counts stands in one page, the mailbox, which the host reads in the guest's memory. The
 * answer to every command begins with its physical address.
 *
 * Each page of the filled memory has the sum of its words in another array, changed with it under
 * one lock: so a machine that goes on from any instant finds both in agreement, or a page is wrong.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define PAGE       4096u
#define WORDS      (PAGE / 8)
#define VOCABULARY 1024u
#define WORK_PAGES 4096u
#define WORK_MAX   8
#define HOT_MAX    16384u
#define BEAT_FILE  "/mnt/beat"
#define BEAT_SLOTS 256u
#define BATCH_US   10000 /* few and random: so often */
#define KEYS       40000u

/* bench/benchlib/machines.py reads it by the same order. */
struct mailbox {
    uint64_t magic, work[WORK_MAX], redis, few, random, hot, beat_disk, beat_net, beat_rng, ticks,
        failures;
};

static volatile struct mailbox *mailbox;
static pthread_mutex_t lock =
    PTHREAD_MUTEX_INITIALIZER; /* the filled memory, its sums, the disk's slots */
static uint64_t *memory, *sums;
static uint64_t n_pages;
static _Atomic unsigned few_rate, random_rate, hot_pages, work_threads, redis_on, tick_on;
static _Atomic unsigned work_steps = 20000;
static char words[VOCABULARY][12];

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void pause_us(long us)
{
    const struct timespec t = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&t, NULL);
}

static void *map_pages(uint64_t pages)
{
    void *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    if (p == MAP_FAILED) {
        perror("load: mmap");
        exit(1);
    }
    return p;
}

static void fail(const char *what)
{
    mailbox->failures++;
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
}

static void start_thread(void *(*fn)(void *), uint64_t number)
{
    pthread_t thread;
    int r = pthread_create(&thread, NULL, fn, (void *)(uintptr_t)number);

    if (r) {
        fprintf(stderr, "load: cannot start a thread: %s\n", strerror(r));
        exit(1);
    }
}

/* ---- what memory is filled with ------------------------------------------------------------- */

static void make_words(void)
{
    for (unsigned i = 0; i < VOCABULARY; i++) {
        uint64_t r = mix(i);
        unsigned len = 2 + r % 8;
        for (unsigned j = 0; j < len; j++)
            words[i][j] = (char)('a' + mix(r + j) % 26);
        words[i][len] = ' ';
    }
}

/* Words of a vocabulary, the first of it more often. */
static void fill_text(char *to, size_t len, uint64_t *seed)
{
    size_t at = 0;

    while (at < len) {
        uint64_t r = next_random(seed);
        const char *word = words[((r & 0xffff) * (r >> 16 & 0xffff) >> 16) * VOCABULARY >> 16];
        size_t n = strlen(word) < len - at ? strlen(word) : len - at;
        memcpy(to + at, word, n);
        at += n;
    }
}

/* What a heap of structures looks like: pointers, small numbers, a name, and room. */
static void fill_records(uint64_t *to, size_t n, uint64_t *seed)
{
    for (size_t i = 0; i + 8 <= n; i += 8) {
        uint64_t r = next_random(seed);
        to[i] = 0x7f3a00000000 | (r & 0xffffff0);
        to[i + 1] = 0x561200000000 | (r >> 32 & 0xfffff0);
        to[i + 2] = r >> 56;
        to[i + 3] = i << 32 | (r >> 48 & 7);
        memcpy(&to[i + 4], words[r >> 20 & (VOCABULARY - 1)], 12);
    }
}

static void fill_random(uint64_t *to, uint64_t *seed)
{
    for (unsigned i = 0; i < WORDS; i++)
        to[i] = next_random(seed);
}

/* Of eight pages three are text, three records, one is random, one a quarter records and else
 * zeros. */
static void fill_page(uint64_t page, uint64_t *to)
{
    uint64_t seed = mix(page + 1);

    switch (mix(~page) % 8) {
    case 0:
    case 1:
    case 2:
        fill_text((char *)to, PAGE, &seed);
        break;
    case 3:
    case 4:
    case 5:
        fill_records(to, WORDS, &seed);
        break;
    case 6:
        fill_random(to, &seed);
        break;
    default:
        fill_records(to, WORDS / 4, &seed);
    }
}

static uint64_t sum_of(const uint64_t *page)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < WORDS; i++)
        sum += page[i];
    return sum;
}

static void *fill_half(void *arg)
{
    for (uint64_t page = (uintptr_t)arg; page < n_pages; page += 2) {
        fill_page(page, memory + page * WORDS);
        sums[page] = sum_of(memory + page * WORDS);
    }
    return NULL;
}

static void fill(uint64_t mib)
{
    pthread_t other;

    n_pages = mib * 256;
    memory = map_pages(n_pages);
    sums = map_pages(n_pages * 8 / PAGE + 1);
    if (pthread_create(&other, NULL, fill_half, (void *)1) != 0)
        exit(1);
    fill_half(NULL);
    pthread_join(other, NULL);
}

/* ---- loads ---------------------------------------------------------------------------------- */

static void change_few(uint64_t page, uint64_t r)
{
    uint64_t *at = memory + page * WORDS + r % (WORDS / 2) * 2;

    sums[page] -= at[0] + at[1];
    at[0] = ++mailbox->few;
    at[1] = r;
    sums[page] += at[0] + at[1];
}

static void change_all(uint64_t page, uint64_t r)
{
    fill_random(memory + page * WORDS, &r);
    sums[page] = sum_of(memory + page * WORDS);
    mailbox->random++;
}

/* Pages a second are kept by the clock: what a late turn missed is made up for, up to a second. */
static void *change_pages(void *arg)
{
    _Atomic unsigned *rate = arg ? &random_rate : &few_rate;
    void (*change)(uint64_t page, uint64_t r) = arg ? change_all : change_few;
    uint64_t seed = mix(arg ? 1 : 2);
    struct timespec last, now;
    double due = 0;

    clock_gettime(CLOCK_MONOTONIC, &last);
    for (;; pause_us(BATCH_US)) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        due += *rate *
               ((double)(now.tv_sec - last.tv_sec) + (double)(now.tv_nsec - last.tv_nsec) / 1e9);
        last = now;
        if (due > *rate)
            due = *rate;
        pthread_mutex_lock(&lock);
        for (; due >= 1 && n_pages && *rate; due -= 1) {
            uint64_t r = next_random(&seed);
            change(r % n_pages, mix(r));
        }
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

static void *keep_hot(void *arg)
{
    uint64_t *pages = NULL, n = 0;

    for (;; pause_us(hot_pages ? 500 : BATCH_US)) {
        unsigned end = hot_pages < HOT_MAX ? hot_pages : HOT_MAX;
        n++;
        if (end && !pages)
            pages = map_pages(HOT_MAX);
        for (unsigned i = 0; i < end; i++)
            pages[(size_t)i * WORDS + n % WORDS] = n;
        mailbox->hot += end;
    }
    return NULL;
}

/* An operation: some arithmetic, and a line of 64 bytes written. */
static void work_once(uint64_t *pages, uint64_t *seed)
{
    uint64_t r = next_random(seed),
             *line = pages + r % WORK_PAGES * WORDS + (r >> 32) % (WORDS / 8) * 8;

    for (unsigned i = 0, end = work_steps; i < end; i++)
        r = r * 6364136223846793005 + 1442695040888963407;
    for (unsigned i = 0; i < 8; i++)
        line[i] += r + i;
}

static void *work(void *arg)
{
    uint64_t number = (uintptr_t)arg, seed = mix(number + 3), *pages = NULL;

    for (;;) {
        if (work_threads <= number) {
            pause_us(BATCH_US);
            continue;
        }
        if (!pages)
            pages = map_pages(WORK_PAGES);
        work_once(pages, &seed);
        mailbox->work[number]++;
    }
    return NULL;
}

static void *tick(void *arg)
{
    int fd = open("/dev/ttyS0", O_WRONLY | O_NOCTTY);
    char text[32];

    for (;; pause_us(tick_on ? 2000 : BATCH_US)) {
        if (!tick_on)
            continue;
        int n = snprintf(text, sizeof(text), "t%" PRIu64 "\n", ++mailbox->ticks);
        if (write(fd, text, (size_t)n) != n)
            fail("serial console");
    }
    return NULL;
}

/* ---- redis ---------------------------------------------------------------------------------- */

static int redis_connect(void)
{
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(6379), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* Send one command, read its answer: "+OK", "$-1", or "$LENGTH" and as much. */
static bool redis_ask(int fd, const char *command, size_t len, char *answer, size_t size)
{
    size_t have = 0, want = 0;

    if (send(fd, command, len, MSG_NOSIGNAL) != (ssize_t)len)
        return false;
    while (!want || have < want) {
        ssize_t n = recv(fd, answer + have, size - 1 - have, 0);
        if (n <= 0)
            return false;
        have += (size_t)n;
        answer[have] = '\0';
        char *end = strstr(answer, "\r\n");
        if (end && !want) {
            long body = *answer == '$' ? strtol(answer + 1, NULL, 10) : -1;
            want = (size_t)(end + 2 - answer) + (body >= 0 ? (size_t)body + 2 : 0);
        }
        if (want >= size)
            return false;
    }
    return *answer == '+' || *answer == '$';
}

/* Every other one a SET of 200 to 1,200 bytes of text. */
static size_t redis_command(char *to, size_t size, uint64_t *seed)
{
    uint64_t r = next_random(seed);
    unsigned key = (unsigned)(r % KEYS), len = 200 + (unsigned)(r >> 32) % 1000;

    if (r >> 20 & 1)
        return (size_t)snprintf(to, size, "*2\r\n$3\r\nGET\r\n$9\r\nkey:%05u\r\n", key);
    size_t n = (size_t)snprintf(to, size, "*3\r\n$3\r\nSET\r\n$9\r\nkey:%05u\r\n$%u\r\n", key, len);
    fill_text(to + n, len, seed);
    memcpy(to + n + len, "\r\n", 2);
    return n + len + 2;
}

static void *redis(void *arg)
{
    static char command[4096], answer[8192];
    uint64_t seed = mix(4);
    int fd = -1;

    for (;;) {
        if (!redis_on) {
            pause_us(BATCH_US);
            continue;
        }
        if (fd < 0 && (fd = redis_connect()) < 0) {
            fail("redis");
            pause_us(100000);
            continue;
        }
        size_t n = redis_command(command, sizeof(command), &seed);
        if (redis_ask(fd, command, n, answer, sizeof(answer))) {
            mailbox->redis++;
        } else {
            fail("redis");
            close(fd);
            fd = -1;
        }
    }
    return NULL;
}

/* ---- a heart that beats: each device does I/O five times a second ---------------------------- */

static bool beat_disk(int fd, char *page)
{
    uint64_t n = mailbox->beat_disk + 1, before = n - 1, *words_of = (uint64_t *)(void *)page;

    if (before >= 1 &&
        (pread(fd, page, PAGE, (off_t)(before % BEAT_SLOTS * PAGE)) != (ssize_t)PAGE ||
         words_of[0] != before || words_of[1] != mix(before)))
        return false;
    memset(page, 0, PAGE);
    words_of[0] = n;
    words_of[1] = mix(n);
    if (pwrite(fd, page, PAGE, (off_t)(n % BEAT_SLOTS * PAGE)) != (ssize_t)PAGE)
        return false;
    mailbox->beat_disk = n;
    return true;
}

static uint16_t checksum(const void *data, size_t len)
{
    const uint16_t *at = data;
    uint32_t sum = 0;

    for (size_t i = 0; i < len / 2; i++)
        sum += at[i];
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t) ~(sum + (sum >> 16));
}

/* An echo from the gateway. */
static bool beat_net(int fd, uint16_t n)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a000202)};
    struct icmphdr ask = {.type = ICMP_ECHO, .un.echo = {.id = htons(77), .sequence = htons(n)}};
    uint8_t answer[256];

    ask.checksum = checksum(&ask, sizeof(ask));
    if (sendto(fd, &ask, sizeof(ask), 0, (struct sockaddr *)&to, sizeof(to)) != sizeof(ask))
        return false;
    for (;;) {
        ssize_t len = recv(fd, answer, sizeof(answer), 0);
        if (len < 0)
            return false;
        const struct icmphdr *got = (const void *)(answer + 20);
        if (len >= 28 && got->type == ICMP_ECHOREPLY && got->un.echo.sequence == htons(n))
            return true;
    }
}

static void *beat(void *arg)
{
    const struct timeval limit = {2, 0};
    int disk = open(BEAT_FILE, O_RDWR | O_CREAT | O_DIRECT, 0600),
        rng = open("/dev/hwrng", O_RDONLY);
    int net = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    char *page = map_pages(1), some[16];

    setsockopt(net, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    if (disk < 0 || rng < 0 || net < 0)
        fail("a device cannot be opened");
    for (uint16_t n = 1;; n++, pause_us(200000)) {
        pthread_mutex_lock(&lock);
        if (!beat_disk(disk, page))
            fail("disk");
        pthread_mutex_unlock(&lock);
        if (beat_net(net, n))
            mailbox->beat_net++;
        else
            fail("net");
        if (read(rng, some, sizeof(some)) == sizeof(some))
            mailbox->beat_rng++;
        else
            fail("rng");
    }
    return NULL;
}

/* ---- commands ------------------------------------------------------------------------------- */

/* How many slots of the disk are not what memory says of them. */
static unsigned verify_disk(void)
{
    int fd = open(BEAT_FILE, O_RDONLY | O_DIRECT);
    uint64_t n = mailbox->beat_disk, first = n > BEAT_SLOTS ? n - BEAT_SLOTS + 1 : 1,
             *page = map_pages(1);
    unsigned bad = 0;

    for (uint64_t i = first; i <= n; i++)
        bad += pread(fd, page, PAGE, (off_t)(i % BEAT_SLOTS * PAGE)) != (ssize_t)PAGE ||
               page[0] != i || page[1] != mix(i);
    munmap(page, PAGE);
    close(fd);
    return bad;
}

static int verify(char *out, size_t size)
{
    uint64_t bad = 0;

    few_rate = random_rate = hot_pages = work_threads = redis_on = tick_on = 0;
    pthread_mutex_lock(&lock);
    for (uint64_t i = 0; i < n_pages; i++)
        bad += sum_of(memory + i * WORDS) != sums[i];
    unsigned bad_disk = verify_disk();
    pthread_mutex_unlock(&lock);
    return snprintf(out, size, "pages %" PRIu64 " bad %" PRIu64 " bad_disk %u ", n_pages, bad,
                    bad_disk);
}

static bool obey(const char *line, char *out, size_t size)
{
    static const struct {
        const char *verb;
        _Atomic unsigned *value;
    } verbs[] = {{"few", &few_rate},      {"random", &random_rate}, {"hot", &hot_pages},
                 {"work", &work_threads}, {"steps", &work_steps},   {"redis", &redis_on},
                 {"tick", &tick_on}};
    char verb[16];
    unsigned number = 0;
    int n = sscanf(line, "%15s %u", verb, &number);

    *out = '\0';
    if (n == 1 && !strcmp(verb, "verify"))
        return verify(out, size) > 0;
    if (n == 2 && !strcmp(verb, "fill") && !memory) {
        fill(number);
        return true;
    }
    for (size_t i = 0; n == 2 && i < sizeof(verbs) / sizeof(verbs[0]); i++)
        if (!strcmp(verb, verbs[i].verb)) {
            *verbs[i].value = number;
            return true;
        }
    return false;
}

static uint64_t physical_address(const void *p)
{
    int fd = open("/proc/self/pagemap", O_RDONLY);
    uint64_t entry = 0;

    if (pread(fd, &entry, 8, (off_t)((uintptr_t)p / PAGE * 8)) != 8)
        entry = 0;
    close(fd);
    return (entry & ((1ULL << 55) - 1)) * PAGE;
}

int main(int argc, char **argv)
{
    char line[256], out[256];

    if (argc != 3)
        return 2;
    make_words();
    mailbox = map_pages(1);
    mailbox->magic = mix((uint64_t)time(NULL) ^ (uint64_t)clock());
    mlock((const void *)(uintptr_t)mailbox, PAGE);
    start_thread(change_pages, 0);
    start_thread(change_pages, 1);
    start_thread(keep_hot, 0);
    for (uint64_t i = 0; i < WORK_MAX; i++)
        start_thread(work, i);
    start_thread(redis, 0);
    start_thread(tick, 0);
    start_thread(beat, 0);
    for (;;) {
        FILE *in = fopen(argv[1], "r");
        bool got = in && fgets(line, sizeof(line), in);
        if (in)
            fclose(in);
        bool done = got && obey(line, out, sizeof(out));
        FILE *answer = fopen(argv[2], "w");
        if (!answer)
            return 1;
        fprintf(answer, "%s mailbox %" PRIu64 " magic %" PRIu64 " %sfailures %" PRIu64 "\n",
                done ? "ok" : "bad", physical_address((const void *)(uintptr_t)mailbox),
                mailbox->magic, out, mailbox->failures);
        fclose(answer);
    }
}
