/* fault.h - the faults of the control API: stable numbers and names. Any thread.
 *
 * A number, once given out, keeps its meaning for ever; clients decide by it, people read the
 * sentence that travels beside it. Negative numbers are those of the XML-RPC conventions and of
 * libxmlrpc; they are in the table too, so that docs/api.md lists all that a client may meet. */
#ifndef VARVE_DAEMON_FAULT_H
#define VARVE_DAEMON_FAULT_H

#include <stddef.h>

enum fault {
    FAULT_FAILED = 1,
    FAULT_NOT_FOUND = 100,
    FAULT_EXISTS = 101,
    FAULT_BUSY = 102,
    FAULT_BAD_NAME = 103,
    FAULT_BAD_SIZE = 104,
    FAULT_BAD_ARGUMENT = 105,
    FAULT_NO_VERSION = 106,
    FAULT_HELD = 107,
    FAULT_UNRELATED = 108,
    FAULT_ALREADY = 109,
    FAULT_STORE_FULL = 110,
    FAULT_READ_ONLY = 111,
    FAULT_DAMAGED = 112,
    FAULT_IO = 113,
    FAULT_NO_MEMORY = 114,
    FAULT_UNSUPPORTED = 115,
    FAULT_NOT_FROZEN = 116,
    FAULT_CHANGED = 117,
};

/* Exit codes of the commands (DESIGN section 3). */
enum exit_code {
    EXIT_OK = 0,
    EXIT_FAILED = 1,
    EXIT_USAGE = 2,
    EXIT_NOT_FOUND = 3,
    EXIT_CONFLICT = 4,
    EXIT_UNREACHABLE = 5,
};

struct fault_info {
    int number;
    const char *name, *meaning;
    enum exit_code exit_code; /* what the command line makes of it */
};
extern const struct fault_info fault_table[];
extern const size_t fault_table_size;

/* The entry of a number; that of FAULT_FAILED for one that is not in the table. */
const struct fault_info *fault_find(int number);

/* The fault for a negative error code of the store or the system. */
enum fault fault_from_code(int code);

/* The exit code for a negative error code. */
enum exit_code exit_from_code(int code);

#endif
