/* err.h - error codes. Any thread.
 *
 * Functions return 0 or a negative code. A code is a negative errno, or one of Varve's own, which
 * is an errno with a subtype: err_errno() gives the errno that a caller outside Varve understands.
 */
#ifndef VARVE_BASE_ERR_H
#define VARVE_BASE_ERR_H

#define ERR_SUBTYPE_SHIFT      12
#define ERR_CODE(err, subtype) (-((err) | ((subtype) << ERR_SUBTYPE_SHIFT)))

enum err {
    ERR_CHECKSUM = ERR_CODE(5 /* EIO */, 1),  /* bytes do not match the checksum kept for them */
    ERR_READ_ONLY = ERR_CODE(5 /* EIO */, 2), /* store is read-only after a failed write or sync */
    ERR_DAMAGED =
        ERR_CODE(5 /* EIO */, 3), /* a structure makes no sense though its checksum fits */
    ERR_FORMAT_NEWER = ERR_CODE(95 /* EOPNOTSUPP */, 1), /* written by a newer Varve */
    ERR_NOT_A_STORE = ERR_CODE(22 /* EINVAL */, 1),      /* no store there */
    ERR_STORE_FULL = ERR_CODE(28 /* ENOSPC */, 1), /* capacity reached; the reserve is kept back */
    ERR_IN_USE = ERR_CODE(16 /* EBUSY */, 1),      /* another daemon or client holds it */
    ERR_BAD_NAME = ERR_CODE(22 /* EINVAL */, 2),   /* not a valid vm, disk or version name */
    ERR_BAD_SIZE = ERR_CODE(22 /* EINVAL */, 3),   /* size zero, unaligned or too large */
    ERR_HELD = ERR_CODE(16 /* EBUSY */, 2),        /* a version that is held cannot be removed */
    ERR_PAUSED = ERR_CODE(16 /* EBUSY */, 3),      /* a machine that is to run for this */
    ERR_ASKED_FOR = ERR_CODE(16 /* EBUSY */, 4),   /* a client knows another vm by that name */
    ERR_HALF_MADE = ERR_CODE(16 /* EBUSY */, 5),   /* provisional, where a whole is wanted */
    ERR_NO_VERSION = ERR_CODE(2 /* ENOENT */, 1),  /* the vm is there, the version is not */
    ERR_UNRELATED = ERR_CODE(22 /* EINVAL */, 4),  /* two disks that have no common origin */
};

/* The positive errno under a negative code. */
int err_errno(int code);

/* One short phrase for people, without a full stop. Never NULL; static storage. */
const char *err_text(int code);

#endif
