/* forms.c - forms of nodes, read many at a time (forms.h). */
#include "image/forms.h"

#include "base/checksum.h"
#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW_BYTES (128u << 10) /* at most, but for one form */
#define GAP_BYTES    (8u << 10)   /* that is read in vain rather than another time */
#define MOST_BYTES   (1u << 20)   /* of all forms */
#define LEAST_BYTES  (64u << 10)

/* One read, of forms that lie close together. */
struct form_window {
    struct list link; /* in forms->windows */
    struct storage_req req;
    struct iovec iov;
    struct forms *forms;
    struct log_file *file;
    uint64_t offset, end; /* in the file */
    struct form *first;   /* of its forms */
};

struct forms *forms_new(struct table *table, uint32_t max)
{
    struct forms *forms = calloc(1, sizeof(*forms) + max * sizeof(struct form));
    uint16_t *places = calloc(2 * (size_t)max, sizeof(*places));
    if (!forms || !places) {
        free(forms);
        free(places);
        return NULL;
    }
    assert(max <= FORMS_MOST && !(max & (max - 1)));
    forms->table = table;
    forms->places = places;
    forms->max = forms->n_most = max;
    forms->max_bytes = table->budget_bytes / 16;
    if (forms->max_bytes > MOST_BYTES)
        forms->max_bytes = MOST_BYTES;
    if (forms->max_bytes < LEAST_BYTES)
        forms->max_bytes = LEAST_BYTES;
    list_init(&forms->windows);
    return forms;
}

void forms_free(struct forms *forms)
{
    if (!forms)
        return;
    forms_clear(forms);
    free(forms->places);
    free(forms);
}

void forms_clear(struct forms *forms)
{
    assert(!forms->n_reading);
    struct list *l;
    while ((l = list_pop_front(&forms->windows))) {
        struct form_window *w = container_of(l, struct form_window, link);
        free(w->iov.iov_base);
        free(w);
    }
    if (forms->n)
        memset(forms->places, 0, 2 * forms->max * sizeof(*forms->places));
    forms->n = forms->n_asked = 0;
    forms->bytes = 0;
}

/* ---- finding -------------------------------------------------------------------------------- */

/* Where the number of an address stands in places, or would. */
static uint32_t place_of(const struct forms *forms, uint64_t address)
{
    uint32_t mask = 2 * forms->max - 1;
    uint32_t at = (address * 0x9e3779b97f4a7c15u) >> 40 & mask;
    while (forms->places[at] && forms->all[forms->places[at] - 1].entry.address != address)
        at = (at + 1) & mask;
    return at;
}

bool forms_want(struct forms *forms, const struct entry *entry)
{
    uint32_t place = place_of(forms, entry->address);
    uint32_t bytes = entry_slots(entry) << TABLE_SHIFT;
    struct form_read where = {0};
    if (forms->places[place])
        return true;
    if (forms->n >= forms->n_most || (forms->n && forms->bytes + bytes > forms->max_bytes))
        return false;
    struct form *form = &forms->all[forms->n++];
    forms->places[place] = forms->n;
    forms->bytes += bytes;
    *form = (struct form){.entry = *entry};
    form->code = form_locate(forms->table->log, *entry, &where);
    form->file = where.file;
    form->offset = where.offset;
    return true;
}

int forms_get(const struct forms *forms, const struct entry *entry, const uint8_t **ret)
{
    uint32_t place = place_of(forms, entry->address);
    const struct form *form = &forms->all[forms->places[place] - 1];
    if (!forms->places[place])
        return -EAGAIN;
    if (!form->bytes)
        return form->code ? form->code : -EAGAIN;
    *ret = form->bytes;
    return memcmp(&form->entry, entry, sizeof(*entry)) == 0 ? 0 : ERR_DAMAGED;
}

/* Must the base of a delta be known, too? */
static bool wants_base(const uint8_t *bytes, uint64_t older)
{
    const struct node_header *h = (const struct node_header *)bytes;
    return h->form == NODE_DELTA && h->base.address > older;
}

bool forms_want_node(struct forms *forms, const struct entry *entry, uint64_t older)
{
    const uint8_t *bytes = NULL;
    int code = forms_get(forms, entry, &bytes);
    if (code == -EAGAIN)
        return forms_want(forms, entry);
    return code < 0 || !wants_base(bytes, older) ||
           forms_want(forms, &((const struct node_header *)bytes)->base);
}

int forms_get_node(const struct forms *forms, const struct entry *entry, uint64_t older,
                   struct node *node)
{
    const uint8_t *own = NULL, *full = NULL;
    uint32_t family = node->tree->family;
    struct entry base;
    int code = forms_get(forms, entry, &own);
    if (code < 0)
        return code;
    const struct node_header *h = (const struct node_header *)own;
    node->self = *entry;
    node->self_born = node_born(own);
    if (wants_base(own, older)) {
        code = forms_get(forms, &h->base, &full);
        if (code < 0)
            return code;
        code = node_decode(node, family, full, entry_slots(&h->base) << TABLE_SHIFT, true, &base);
        if (code < 0)
            return code;
        node->base_born = node_born(full);
    }
    if (h->form == NODE_DELTA)
        node->base = h->base;
    return node_decode(node, family, own, entry_slots(entry) << TABLE_SHIFT, false, &base);
}

/* ---- reading -------------------------------------------------------------------------------- */

/* It was read: res bytes, or an error. */
static void check_window(struct form_window *w, int res)
{
    for (struct form *form = w->first; form; form = form->next) {
        uint32_t bytes = entry_slots(&form->entry) << TABLE_SHIFT;
        uint8_t *at = (uint8_t *)w->iov.iov_base + (form->offset - w->offset);
        const struct entry *e = &form->entry;
        if (res < 0) {
            form->code = res;
        } else if (form->offset + bytes > w->offset + (uint32_t)res) {
            form->code = ERR_CHECKSUM;
        } else if (checksum_at(e->address, at, bytes) == e->sum) {
            form->bytes = at;
        } else if (node_form_mend(at, bytes, e->address, e->sum)) {
            form->bytes = at;
            w->forms->table->stats.mended++;
        } else {
            form->code = ERR_CHECKSUM;
        }
    }
}

static void window_was_read(struct storage_req *req, int res)
{
    struct form_window *w = container_of(req, struct form_window, req);
    struct forms *forms = w->forms;
    w->file->readers--;
    forms->table->n_loading--;
    check_window(w, res);
    if (--forms->n_reading || !forms->waiter)
        return;
    struct waiter *waiter = forms->waiter;
    forms->waiter = NULL;
    waiter->wake(waiter, 0);
}

static void start_window(struct form_window *w)
{
    struct table *table = w->forms->table;
    uint64_t from = w->offset / BLOCK_BYTES * BLOCK_BYTES;
    uint64_t to = (w->end + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;
    w->offset = from;
    w->iov = (struct iovec){aligned_alloc(STORAGE_ALIGN_BYTES, to - from), to - from};
    list_push_back(&w->forms->windows, &w->link);
    if (!w->iov.iov_base) {
        check_window(w, -ENOMEM);
        return;
    }
    w->req = (struct storage_req){.done = window_was_read,
                                  .op = STORAGE_READ,
                                  .file = w->file->number,
                                  .offset_bytes = from,
                                  .length_bytes = to - from,
                                  .iov = &w->iov,
                                  .n_iov = 1};
    w->file->readers++;
    w->forms->n_reading++;
    table->n_loading++;
    table->stats.load_bytes += to - from;
    table->log->storage->submit(table->log->storage, &w->req);
}

static int by_place(const void *a, const void *b)
{
    const struct form *p = *(struct form *const *)a, *q = *(struct form *const *)b;
    if (p->file->number != q->file->number)
        return p->file->number < q->file->number ? -1 : 1;
    return p->offset < q->offset ? -1 : p->offset > q->offset;
}

static struct form_window *new_window(struct forms *forms, const struct form *first)
{
    struct form_window *w = calloc(1, sizeof(*w));
    if (!w)
        return NULL;
    list_init(&w->link);
    w->forms = forms;
    w->file = first->file;
    w->offset = w->end = first->offset;
    return w;
}

static bool is_near(const struct form_window *w, const struct form *form, uint32_t bytes)
{
    return w->file == form->file && form->offset <= w->end + GAP_BYTES &&
           form->offset + bytes <= w->offset + WINDOW_BYTES;
}

void forms_read(struct forms *forms, struct waiter *waiter)
{
    struct form *sorted[FORMS_MOST];
    struct form_window *w = NULL;
    uint32_t n = 0;
    for (uint32_t i = forms->n_asked; i < forms->n; i++)
        if (!forms->all[i].code)
            sorted[n++] = &forms->all[i];
    qsort(sorted, n, sizeof(*sorted), by_place);
    forms->n_asked = forms->n;
    forms->table->stats.loads += n;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t bytes = entry_slots(&sorted[i]->entry) << TABLE_SHIFT;
        if (!w || !is_near(w, sorted[i], bytes)) {
            if (w)
                start_window(w);
            w = new_window(forms, sorted[i]);
        }
        if (!w) {
            sorted[i]->code = -ENOMEM;
            continue;
        }
        sorted[i]->next = w->first;
        w->first = sorted[i];
        w->end = sorted[i]->offset + bytes;
    }
    if (w)
        start_window(w);
    if (forms->n_reading)
        forms->waiter = waiter;
    else
        waiter->wake(waiter, 0);
}
