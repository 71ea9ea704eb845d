/* err.c - texts of error codes. */
#include "base/err.h"

#include <stddef.h>
#include <string.h>

static const struct {
    int code;
    const char *text;
} texts[] = {
    {ERR_CHECKSUM, "checksum mismatch"},
    {ERR_READ_ONLY, "the store is read-only after an error; restart the daemon to recover it"},
    {ERR_DAMAGED, "damaged structure"},
    {ERR_FORMAT_NEWER, "the store was written by a newer version of Varve"},
    {ERR_NOT_A_STORE, "not a Varve store"},
    {ERR_STORE_FULL, "the store is full"},
    {ERR_IN_USE, "in use"},
    {ERR_BAD_NAME, "not a valid name"},
    {ERR_BAD_SIZE, "not a valid size"},
    {ERR_HELD, "held"},
    {ERR_PAUSED, "the machine is paused"},
    {ERR_ASKED_FOR, "a client is connected by that name to a disk of another vm"},
    {ERR_HALF_MADE, "half-made: what makes it is under way, or was cut off"},
    {ERR_NO_VERSION, "no such version"},
    {ERR_UNRELATED, "the disks have no common origin"},
};

int err_errno(int code)
{
    return -code & ((1 << ERR_SUBTYPE_SHIFT) - 1);
}

const char *err_text(int code)
{
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        if (texts[i].code == code)
            return texts[i].text;
    const char *text = strerrordesc_np(err_errno(code));
    return text ? text : "unknown error";
}
