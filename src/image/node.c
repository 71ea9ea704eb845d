/* node.c - page-table nodes in memory and in the log. */
#include "image/node.h"

#include "base/checksum.h"
#include "base/crc.h"
#include "base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool is_array(const struct node *node)
{
    return node->capacity == 0 && node->entries;
}

/* Where index is in the list, or would be. */
static uint32_t list_find(const struct node *node, uint32_t index)
{
    uint32_t low = 0, high = node->n;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (node->indexes[middle] < index)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct entry node_get(const struct node *node, uint32_t index)
{
    if (is_array(node))
        return node->entries[index];
    uint32_t at = list_find(node, index);
    if (at < node->n && node->indexes[at] == index)
        return node->entries[at];
    return (struct entry){0};
}

uint32_t node_next(const struct node *node, uint32_t index)
{
    if (is_array(node)) {
        while (index < NODE_ENTRIES && entry_is_hole(&node->entries[index]))
            index++;
        return index;
    }
    uint32_t at = list_find(node, index);
    return at < node->n ? node->indexes[at] : NODE_ENTRIES;
}

bool node_each(const struct node *node, uint32_t *at, uint32_t *ret_index, struct entry *ret)
{
    if (is_array(node)) {
        *at = node_next(node, *at);
        if (*at == NODE_ENTRIES)
            return false;
        *ret_index = *at;
    } else {
        if (*at == node->n)
            return false;
        *ret_index = node->indexes[*at];
    }
    *ret = node->entries[(*at)++];
    return true;
}

static size_t entries_memory(const struct node *node)
{
    if (!node->entries)
        return 0;
    if (is_array(node))
        return NODE_ENTRIES * sizeof(struct entry) + NODE_ENTRIES / 8;
    return node->capacity * (sizeof(struct entry) + sizeof(uint16_t)) + 32;
}

size_t node_memory(const struct node *node)
{
    size_t children = node->children ? NODE_ENTRIES * sizeof(struct node *) : 0;
    return sizeof(*node) + 16 + entries_memory(node) + children;
}

static int make_array(struct node *node)
{
    struct entry *entries = calloc(NODE_ENTRIES, sizeof(*entries));
    uint64_t *changed = calloc(NODE_ENTRIES / 64, sizeof(*changed));
    if (!entries || !changed) {
        free(entries);
        free(changed);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < node->n; i++)
        entries[node->indexes[i]] = node->entries[i];
    /* A list has no memory of what changed: all of it may differ. */
    memset(changed, 0xff, NODE_ENTRIES / 8);
    free(node->entries);
    free(node->indexes);
    node->entries = entries;
    node->changed = changed;
    node->capacity = 0;
    return 0;
}

static int grow_list_to(struct node *node, uint32_t capacity)
{
    /* First the indexes: entries without a capacity are an array. */
    uint16_t *indexes = reallocarray(node->indexes, capacity, sizeof(*indexes));
    if (!indexes)
        return -ENOMEM;
    node->indexes = indexes;
    struct entry *entries = reallocarray(node->entries, capacity, sizeof(*entries));
    if (!entries)
        return -ENOMEM;
    node->entries = entries;
    node->capacity = capacity;
    return 0;
}

static int grow_list(struct node *node)
{
    uint32_t capacity = node->capacity ? node->capacity * 2 : 8;
    return grow_list_to(node, capacity > NODE_SPARSE_MAX ? NODE_SPARSE_MAX : capacity);
}

static int list_set(struct node *node, uint32_t index, struct entry entry)
{
    uint32_t at = list_find(node, index);
    bool there = at < node->n && node->indexes[at] == index;
    if (there && !entry_is_hole(&entry)) {
        node->entries[at] = entry;
        return 0;
    }
    if (there) {
        node->n--;
        memmove(node->entries + at, node->entries + at + 1, (node->n - at) * sizeof(entry));
        memmove(node->indexes + at, node->indexes + at + 1, (node->n - at) * sizeof(uint16_t));
        return 0;
    }
    if (entry_is_hole(&entry))
        return 0;
    if (node->n == node->capacity) {
        int code = grow_list(node);
        if (code < 0)
            return code;
    }
    memmove(node->entries + at + 1, node->entries + at, (node->n - at) * sizeof(entry));
    memmove(node->indexes + at + 1, node->indexes + at, (node->n - at) * sizeof(uint16_t));
    node->entries[at] = entry;
    node->indexes[at] = index;
    node->n++;
    return 0;
}

int node_set(struct node *node, uint32_t index, struct entry entry, int64_t *ret_bytes)
{
    int64_t before = entries_memory(node);
    if (!is_array(node) && node->n == NODE_SPARSE_MAX && !entry_is_hole(&entry)) {
        int code = make_array(node);
        if (code < 0)
            return code;
    }
    if (is_array(node)) {
        struct entry *at = &node->entries[index];
        node->n += entry_is_hole(at) - entry_is_hole(&entry);
        *at = entry;
        node->changed[index / 64] |= 1ULL << (index % 64);
    } else {
        int code = list_set(node, index, entry);
        if (code < 0)
            return code;
    }
    *ret_bytes = (int64_t)entries_memory(node) - before;
    return 0;
}

void node_release(struct node *node)
{
    free(node->entries);
    free(node->indexes);
    free(node->children);
    node->entries = NULL;
    node->indexes = NULL;
    node->children = NULL;
    node->capacity = 0;
    node->n = 0;
}

/* ---- forms in the log ----------------------------------------------------------------------- */

static uint32_t padded(uint32_t bytes, uint32_t to)
{
    return (bytes + to - 1) / to * to;
}

static uint32_t list_bytes(uint32_t n)
{
    return sizeof(struct node_header) + padded(n * sizeof(uint16_t), 16) + n * sizeof(struct entry);
}

static uint32_t count_changed(const struct node *node)
{
    uint32_t n = 0;
    for (uint32_t w = 0; w < NODE_ENTRIES / 64; w++)
        n += __builtin_popcountll(node->changed[w]);
    return n;
}

/* Indexes and entries of a list, from an array: those that are there, or those that changed. */
static void put_list(const struct node *node, bool changed_only, uint32_t n, uint8_t *at)
{
    uint16_t *indexes = (uint16_t *)at;
    struct entry *entries = (struct entry *)(at + padded(n * sizeof(uint16_t), 16));
    memset(at, 0, padded(n * sizeof(uint16_t), 16));
    if (!is_array(node)) {
        if (n) {
            memcpy(indexes, node->indexes, n * sizeof(uint16_t));
            memcpy(entries, node->entries, n * sizeof(struct entry));
        }
        return;
    }
    uint32_t k = 0;
    for (uint32_t i = 0; i < NODE_ENTRIES && k < n; i++) {
        if (changed_only) {
            uint64_t left = node->changed[i / 64] >> (i % 64);
            if (!left) {
                i |= 63; /* on to the next word */
                continue;
            }
            i += __builtin_ctzll(left);
        } else if (entry_is_hole(&node->entries[i])) {
            continue;
        }
        indexes[k] = i;
        entries[k++] = node->entries[i];
    }
}

/* A form's own checksum; never 0. */
static uint32_t form_crc(const uint8_t *buf, uint32_t bytes)
{
    struct node_header h = *(const struct node_header *)buf;
    h.crc = 0;
    uint32_t crc = crc32c(crc32c(0, &h, sizeof(h)), buf + sizeof(h), bytes - sizeof(h));
    return crc ? crc : 1;
}

uint32_t node_encode(const struct node *node, uint32_t family, uint64_t born, uint8_t *buf,
                     bool *ret_delta)
{
    struct node_header *h = (struct node_header *)buf;
    *h = (struct node_header){.magic = NODE_MAGIC,
                              .level = node->level,
                              .family = family,
                              .index = node->index,
                              .born = born,
                              .cleared = node->cleared};
    uint32_t full_bytes = sizeof(*h) + NODE_ENTRIES * sizeof(struct entry);
    uint32_t bytes = list_bytes(node->n) < full_bytes ? list_bytes(node->n) : full_bytes;
    *ret_delta = false;

    if (is_array(node) && !entry_is_hole(&node->self)) {
        uint32_t n = count_changed(node);
        if (list_bytes(n) * 2 <= bytes && list_bytes(n) + node->delta_bytes <= bytes) {
            h->form = NODE_DELTA;
            h->n = n;
            h->base = entry_is_hole(&node->base) ? node->self : node->base;
            put_list(node, true, n, buf + sizeof(*h));
            *ret_delta = true;
            bytes = list_bytes(n);
        }
    }
    if (!*ret_delta && bytes == full_bytes) {
        h->form = NODE_DENSE;
        h->n = NODE_ENTRIES;
        memcpy(buf + sizeof(*h), node->entries, NODE_ENTRIES * sizeof(struct entry));
    } else if (!*ret_delta) {
        h->form = NODE_SPARSE;
        h->n = node->n;
        put_list(node, false, node->n, buf + sizeof(*h));
    }
    memset(buf + bytes, 0, padded(bytes, 64) - bytes);
    bytes = padded(bytes, 64);
    h->crc = form_crc(buf, bytes);
    return bytes;
}

uint32_t node_form_bytes(const uint8_t *buf)
{
    const struct node_header *h = (const struct node_header *)buf;
    if (h->magic != NODE_MAGIC || h->level >= NODE_LEVELS || h->n > NODE_ENTRIES)
        return 0;
    if (h->form == NODE_DENSE)
        return h->n == NODE_ENTRIES ? NODE_MAX_BYTES : 0;
    return h->form == NODE_SPARSE || h->form == NODE_DELTA ? padded(list_bytes(h->n), 64) : 0;
}

bool node_form_is_whole(const uint8_t *buf, uint32_t bytes)
{
    return ((const struct node_header *)buf)->crc == form_crc(buf, bytes);
}

bool node_form_mend(uint8_t *buf, uint32_t bytes, uint64_t address, uint32_t sum)
{
    struct node_header *h = (struct node_header *)buf;
    uint32_t crc = form_crc(buf, bytes), difference = h->crc ^ crc;
    if (__builtin_popcount(difference) == 1) { /* it is in the checksum itself */
        h->crc = crc;
        if (checksum_at(address, buf, bytes) == sum)
            return true;
        h->crc ^= difference;
    }
    int64_t bit = crc32c_flipped_bit(difference, bytes);
    if (bit < 0)
        return false;
    buf[bit / 8] ^= 1 << bit % 8;
    if (checksum_at(address, buf, bytes) == sum)
        return true;
    buf[bit / 8] ^= 1 << bit % 8;
    return false;
}

void node_forget_changes(struct node *node)
{
    if (is_array(node))
        memset(node->changed, 0, NODE_ENTRIES / 8);
}

/* An empty list becomes one of what is there, of n in order. */
static int fill_list(struct node *node, uint32_t n, const uint16_t *indexes,
                     const struct entry *entries)
{
    if (n > node->capacity && grow_list_to(node, (n + 7) & ~7u) < 0)
        return -ENOMEM;
    for (uint32_t i = 0; i < n; i++) {
        node->indexes[node->n] = indexes[i];
        node->entries[node->n] = entries[i];
        node->n += !entry_is_hole(&entries[i]);
    }
    return 0;
}

static int decode_list(struct node *node, const struct node_header *h, const uint8_t *at,
                       size_t len)
{
    uint32_t index_bytes = padded(h->n * sizeof(uint16_t), 16);
    if (h->n > NODE_ENTRIES || len < index_bytes + h->n * sizeof(struct entry))
        return ERR_DAMAGED;
    const uint16_t *indexes = (const uint16_t *)at;
    const struct entry *entries = (const struct entry *)(at + index_bytes);
    int64_t ignored;
    for (uint32_t i = 0; i < h->n; i++)
        if (indexes[i] >= NODE_ENTRIES || (i && indexes[i] <= indexes[i - 1]))
            return ERR_DAMAGED;
    if (node->n == 0 && !is_array(node) && h->n <= NODE_SPARSE_MAX)
        return fill_list(node, h->n, indexes, entries);
    for (uint32_t i = 0; i < h->n; i++) {
        int code = node_set(node, indexes[i], entries[i], &ignored);
        if (code < 0)
            return code;
    }
    return 0;
}

int node_decode(struct node *node, uint32_t family, const uint8_t *buf, size_t len,
                bool base_wanted, struct entry *ret_base)
{
    const struct node_header *h = (const struct node_header *)buf;
    if (len < sizeof(*h) || h->magic != NODE_MAGIC || h->level != node->level ||
        h->family != family || h->index != node->index || (base_wanted && h->form == NODE_DELTA))
        return ERR_DAMAGED;
    const uint8_t *at = buf + sizeof(*h);
    len -= sizeof(*h);
    *ret_base = (struct entry){0};
    if (!base_wanted)
        node->cleared = h->cleared;
    if (h->form == NODE_DENSE) {
        if (len < NODE_ENTRIES * sizeof(struct entry))
            return ERR_DAMAGED;
        if (!is_array(node) && make_array(node) < 0)
            return -ENOMEM;
        memcpy(node->entries, at, NODE_ENTRIES * sizeof(struct entry));
        node->n = 0;
        for (uint32_t i = 0; i < NODE_ENTRIES; i++)
            node->n += !entry_is_hole(&node->entries[i]);
        node_forget_changes(node);
        return 0;
    }
    if (h->form == NODE_DELTA) {
        if (entry_encoding(&h->base) != ENCODING_NODE)
            return ERR_DAMAGED;
        *ret_base = h->base;
        /* First the base, then this again. */
        return entry_is_hole(&node->base) ? 0 : decode_list(node, h, at, len);
    }
    if (h->form != NODE_SPARSE)
        return ERR_DAMAGED;
    int code = decode_list(node, h, at, len);
    node_forget_changes(node);
    return code;
}

int node_decode_above(struct node *node, uint32_t family, const uint8_t *buf, size_t len,
                      uint64_t above)
{
    const struct node_header *h = (const struct node_header *)buf;
    if (len < sizeof(*h) || h->family != family || h->level != node->level ||
        h->index != node->index || node_form_bytes(buf) == 0 || node_form_bytes(buf) > len)
        return ERR_DAMAGED;
    const uint16_t *indexes = (const uint16_t *)(h + 1);
    bool dense = h->form == NODE_DENSE;
    const struct entry *entries =
        (const struct entry *)((const uint8_t *)(h + 1) +
                               (dense ? 0 : padded(h->n * sizeof(uint16_t), 16)));
    int64_t ignored;
    node->cleared = h->cleared;
    for (uint32_t i = 0; i < h->n; i++) {
        uint32_t index = dense ? i : indexes[i];
        if (entries[i].address <= above)
            continue;
        if (index >= NODE_ENTRIES)
            return ERR_DAMAGED;
        int code = node_set(node, index, entries[i], &ignored);
        if (code < 0)
            return code;
    }
    return 0;
}

uint64_t node_born(const uint8_t *buf)
{
    return ((const struct node_header *)buf)->born;
}
