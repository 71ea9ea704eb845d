/* fuzz-ram.c - any text in place of QEMU's list of memory blocks, and of a line of /proc/PID/maps:
 * no crash, and what is taken for a block is one. */
#include "guest/ram-internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_blocks(const struct ram_block *blocks, int n)
{
    for (int i = 0; i < n; i++) {
        const struct ram_block *b = &blocks[i];
        assert(memchr(b->name, '\0', sizeof(b->name)) && *b->name);
        assert(b->used_bytes && b->used_bytes <= b->total_bytes && b->used_bytes % 4096 == 0);
        assert(b->page_bytes >= 4096 && !(b->page_bytes & (b->page_bytes - 1)));
        assert(b->host % 4096 == 0 && b->host <= b->host + b->total_bytes);
        for (int j = 0; j < i; j++)
            assert(strcmp(b->name, blocks[j].name) != 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct ram_block blocks[RAM_BLOCKS_MAX];
    struct mapping mapping;
    struct why why = {};
    char *text = malloc(size + 1);

    assert(text);
    memcpy(text, data, size);
    text[size] = '\0';
    int n = ram_parse(text, blocks, &why);
    assert(n > 0 || (n < 0 && *why.text));
    assert(n <= RAM_BLOCKS_MAX);
    check_blocks(blocks, n);
    if (mapping_parse(text, &mapping) == 0)
        assert(mapping.start < mapping.end && strlen(mapping.path) < sizeof(mapping.path));
    free(text);
    return 0;
}
