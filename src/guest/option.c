/* option.c - the value of a QEMU option. */
#include "guest/option.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add(struct option *o, char *key, char *value)
{
    if (!value || o->n == OPTION_PARTS_MAX) {
        free(key);
        free(value);
        o->failed = true;
        return;
    }
    o->parts[o->n++] = (struct option_part){key, value};
}

/* One part, up to a comma that stands alone. */
static const char *parse_part(struct option *o, const char *text)
{
    char *copy = malloc(strlen(text) + 1), *key = NULL, *value = copy;
    size_t n = 0;

    if (!copy) {
        o->failed = true;
        return "";
    }
    for (; *text && (*text != ',' || text[1] == ','); text++) {
        text += *text == ',';
        copy[n++] = *text;
    }
    copy[n] = '\0';
    char *equals = strchr(copy, '=');
    if (equals) {
        *equals = '\0';
        key = copy;
        value = strdup(equals + 1);
    }
    add(o, key, value);
    return *text ? text + 1 : text;
}

bool option_parse(struct option *o, const char *text)
{
    *o = (struct option){};
    while (*text && !o->failed)
        text = parse_part(o, text);
    return !o->failed;
}

void option_free(struct option *o)
{
    for (unsigned i = 0; i < o->n; i++) {
        free(o->parts[i].key);
        free(o->parts[i].value);
    }
    o->n = 0;
}

char *option_print(const struct option *o)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);

    if (!out)
        return NULL;
    for (unsigned i = 0; i < o->n; i++) {
        const struct option_part *part = &o->parts[i];
        if (i)
            fputc(',', out);
        if (part->key)
            fprintf(out, "%s=", part->key);
        for (const char *c = part->value; *c; c++) {
            if (*c == ',')
                fputc(',', out);
            fputc(*c, out);
        }
    }
    if (fclose(out) != 0 || o->failed) {
        free(text);
        return NULL;
    }
    return text;
}

static int find(const struct option *o, const char *key)
{
    if (!*key)
        return o->n && !o->parts[0].key ? 0 : -1;
    for (int i = (int)o->n - 1; i >= 0; i--)
        if (o->parts[i].key && !strcmp(o->parts[i].key, key))
            return i;
    return -1;
}

const char *option_get(const struct option *o, const char *key)
{
    int i = find(o, key);
    return i < 0 ? NULL : o->parts[i].value;
}

bool option_is(const struct option *o, const char *key, const char *value)
{
    const char *is = option_get(o, key);
    return is && !strcmp(is, value);
}

bool option_is_on(const struct option *o, const char *key)
{
    const char *value = option_get(o, key);

    if (value)
        return !strcmp(value, "on") || !strcmp(value, "yes") || !strcmp(value, "true");
    for (unsigned i = 1; i < o->n; i++)
        if (!o->parts[i].key && !strcmp(o->parts[i].value, key))
            return true;
    return false;
}

void option_set(struct option *o, const char *key, const char *value)
{
    int i = find(o, key);
    char *copy = strdup(value);

    if (i < 0) {
        add(o, *key ? strdup(key) : NULL, copy);
    } else if (copy) {
        free(o->parts[i].value);
        o->parts[i].value = copy;
    } else {
        o->failed = true;
    }
}

unsigned option_drop(struct option *o, const char *key)
{
    unsigned kept = 0, n = o->n;

    for (unsigned i = 0; i < n; i++) {
        const struct option_part *part = &o->parts[i];
        if (part->key ? !strcmp(part->key, key) : i && !strcmp(part->value, key)) {
            free(part->key);
            free(part->value);
        } else {
            o->parts[kept++] = *part;
        }
    }
    o->n = kept;
    return n - kept;
}
