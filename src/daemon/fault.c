/* fault.c - the table of faults. */
#include "daemon/fault.h"

#include "base/err.h"

#include <errno.h>

const struct fault_info fault_table[] = {
    {FAULT_FAILED, "failed", "Anything that has no number of its own; the sentence says what.",
     EXIT_FAILED},
    {FAULT_NOT_FOUND, "not-found", "There is no vm, disk or job of that name.", EXIT_NOT_FOUND},
    {FAULT_EXISTS, "exists", "The name is taken.", EXIT_CONFLICT},
    {FAULT_BUSY, "busy",
     "A client uses the disk or version, or the operation is under way already.", EXIT_CONFLICT},
    {FAULT_BAD_NAME, "bad-name", "Not a valid name of a vm, disk or version.", EXIT_USAGE},
    {FAULT_BAD_SIZE, "bad-size", "Not a valid size of a disk.", EXIT_USAGE},
    {FAULT_BAD_ARGUMENT, "bad-argument", "Wrong number, type or value of arguments.", EXIT_USAGE},
    {FAULT_NO_VERSION, "no-version", "The vm is there, the version is not.", EXIT_NOT_FOUND},
    {FAULT_HELD, "held", "The version is held; it cannot be removed before it is released.",
     EXIT_CONFLICT},
    {FAULT_UNRELATED, "unrelated", "The disks have no common origin and cannot be compared.",
     EXIT_USAGE},
    {FAULT_ALREADY, "already", "It is so already: held, or released.", EXIT_CONFLICT},
    {FAULT_STORE_FULL, "store-full", "The store has no space left for this.", EXIT_FAILED},
    {FAULT_READ_ONLY, "read-only",
     "The store is read-only after an error of its disk; restarting the daemon recovers it.",
     EXIT_FAILED},
    {FAULT_DAMAGED, "damaged", "Bytes of the store do not match their checksum.", EXIT_FAILED},
    {FAULT_IO, "io-error", "The disk under the store reported an error.", EXIT_FAILED},
    {FAULT_NO_MEMORY, "no-memory", "The daemon has no memory left for this.", EXIT_FAILED},
    {FAULT_UNSUPPORTED, "unsupported", "This daemon or store cannot do that.", EXIT_FAILED},
    {FAULT_NOT_FROZEN, "not-frozen",
     "The guest's agent did not freeze its file systems, and no version was taken.", EXIT_FAILED},
    {FAULT_CHANGED, "changed",
     "The vm is not any more what the stream goes on from, or the disk has not the size that it "
     "was "
     "said to have.",
     EXIT_CONFLICT},
    {-500, "xmlrpc-internal", "The XML-RPC library failed.", EXIT_FAILED},
    {-501, "xmlrpc-type", "An XML-RPC value has the wrong type.", EXIT_USAGE},
    {-502, "xmlrpc-index", "An XML-RPC array is too short.", EXIT_USAGE},
    {-503, "xmlrpc-parse", "The request is not well-formed XML-RPC.", EXIT_FAILED},
    {-506, "xmlrpc-no-such-method", "There is no such method; system.listMethods lists them.",
     EXIT_FAILED},
    {-509, "xmlrpc-limit", "The request is too large or nested too deep.", EXIT_FAILED},
    {-510, "xmlrpc-utf8", "A string is not valid UTF-8.", EXIT_USAGE},
};
const size_t fault_table_size = sizeof(fault_table) / sizeof(fault_table[0]);

const struct fault_info *fault_find(int number)
{
    for (size_t i = 0; i < fault_table_size; i++)
        if (fault_table[i].number == number)
            return &fault_table[i];
    return &fault_table[0];
}

enum fault fault_from_code(int code)
{
    switch (code) {
    case ERR_BAD_NAME:
        return FAULT_BAD_NAME;
    case ERR_BAD_SIZE:
        return FAULT_BAD_SIZE;
    case ERR_NO_VERSION:
        return FAULT_NO_VERSION;
    case ERR_HELD:
        return FAULT_HELD;
    case ERR_UNRELATED:
        return FAULT_UNRELATED;
    case ERR_READ_ONLY:
        return FAULT_READ_ONLY;
    case ERR_CHECKSUM:
    case ERR_DAMAGED:
        return FAULT_DAMAGED;
    }
    switch (err_errno(code)) {
    case ENOENT:
        return FAULT_NOT_FOUND;
    case EEXIST:
        return FAULT_EXISTS;
    case EALREADY:
        return FAULT_ALREADY;
    case EBUSY:
        return FAULT_BUSY;
    case ESTALE:
        return FAULT_CHANGED;
    case ENOSPC:
        return FAULT_STORE_FULL;
    case EINVAL:
    case ENAMETOOLONG: /* of a path that a socket or a file is to have */
        return FAULT_BAD_ARGUMENT;
    case EIO:
        return FAULT_IO;
    case ENOMEM:
        return FAULT_NO_MEMORY;
    case EOPNOTSUPP:
        return FAULT_UNSUPPORTED;
    default:
        return FAULT_FAILED;
    }
}

enum exit_code exit_from_code(int code)
{
    return code == 0 ? EXIT_OK : fault_find(fault_from_code(code))->exit_code;
}
