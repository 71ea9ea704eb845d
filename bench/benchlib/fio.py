"""fio: the one client of every side.

Always by a job file: the nbd engine takes its uri from nowhere else. A run that reports an error, or
did no I/O, is an exception, never a number.
"""

import json
import os
import subprocess

from .servers import processors

# Everything that makes a workload what it is. size and offset bound it, seconds or io_size end it.
WORKLOADS = {
    "randwrite": {"rw": "randwrite", "bs": "4k", "iodepth": 32, "norandommap": 1},
    "randread": {"rw": "randread", "bs": "4k", "iodepth": 32, "norandommap": 1},
    "flush8": {"rw": "randwrite", "bs": "4k", "iodepth": 32, "norandommap": 1, "fsync": 8},
    "seqwrite": {"rw": "write", "bs": "1m", "iodepth": 8},
    "seqread": {"rw": "read", "bs": "1m", "iodepth": 8},
    "skewwrite": {"rw": "randwrite", "bs": "4k", "iodepth": 32, "norandommap": 1,
                  "random_distribution": "zoned:90/10:10/90"},
    "fill": {"rw": "write", "bs": "1m", "iodepth": 8, "end_fsync": 1},
    "fill-half": {"rw": "write", "bs": "1m", "iodepth": 8, "end_fsync": 1, "refill_buffers": 1,
                  "buffer_compress_percentage": 50, "buffer_compress_chunk": 4096},
    "verify": {"rw": "randwrite", "bs": "4k", "iodepth": 32, "verify": "crc32c", "verify_fatal": 1,
               "do_verify": 1, "verify_state_save": 0},
}


class FioError(Exception):
    pass


def job_text(target, workload, *, seconds=None, ramp_s=0, io_size=None, size=None, offset=0, seed=1):
    """The job file. target: the lines that say what to work on (Server.target)."""
    # Without randrepeat=0 fio takes the same sequence whatever the seed.
    lines = ["[global]", "thread=1", "randrepeat=0", f"randseed={seed}", "percentile_list=50:99:99.9:99.99"]
    lines += [f"{k}={v}" for k, v in target.items()]
    lines += ["[work]"]
    lines += [f"{k}={v}" for k, v in WORKLOADS[workload].items()]
    if seconds is not None:
        lines += ["time_based=1", f"runtime={seconds}"]
        if ramp_s:
            lines += [f"ramp_time={ramp_s}"]
    for key, value in (("io_size", io_size), ("size", size), ("offset", offset or None)):
        if value is not None:
            lines += [f"{key}={value}"]
    return "\n".join(lines) + "\n"


def parse(text):
    """What a round needs, out of fio's JSON. Raises FioError on any error that fio tells."""
    start = text.find("{")  # fio may print warnings before it
    if start < 0:
        raise FioError(f"fio printed no JSON: {text[-500:]!r}")
    job = json.loads(text[start:])["jobs"][0]
    if job.get("error"):
        raise FioError(f"fio: error {job['error']} ({os.strerror(job['error'])})")
    side = max((job["write"], job["read"]), key=lambda s: s["io_bytes"])
    if not side["io_bytes"]:
        raise FioError("fio did no I/O")
    percentile = side["clat_ns"].get("percentile", {})
    result = {
        "iops": side["iops"],
        "bytes_per_s": side["bw_bytes"],
        "bytes": side["io_bytes"],
        "seconds": side["runtime"] / 1000,
        "p50_us": percentile.get("50.000000", 0) / 1000,
        "p99_us": percentile.get("99.000000", 0) / 1000,
        "p999_us": percentile.get("99.900000", 0) / 1000,
        "p9999_us": percentile.get("99.990000", 0) / 1000,
        "max_us": side["clat_ns"].get("max", 0) / 1000,
    }
    sync = job.get("sync", {}).get("lat_ns", {})
    if sync.get("N") and "percentile" in sync:
        result["flushes"] = sync["N"]
        result["flush_p99_us"] = sync["percentile"]["99.000000"] / 1000
    return result


def start(directory, procs, target, workload, **bounds):
    """Start fio and return its Popen; its report will be in directory/fio.json."""
    job = os.path.join(directory, "fio.job")
    with open(job, "w", encoding="ascii") as f:
        f.write(job_text(target, workload, **bounds))
    report = os.path.join(directory, "fio.json")
    if os.path.exists(report):
        os.unlink(report)
    return procs.spawn(["fio", "--output-format=json", f"--output={report}", job], cwd=directory,
                       cpus=processors()[1], stdout=subprocess.DEVNULL, log=os.path.join(directory, "fio.err"))


def run(directory, procs, target, workload, *, timeout_s=None, **bounds):
    """Run fio to its end and return parse()'s dict. timeout_s: a run that hangs is an error."""
    child = start(directory, procs, target, workload, **bounds)
    if timeout_s is None:
        timeout_s = 120 + 2 * (bounds.get("seconds") or 0) + (bounds.get("io_size") or 0) / (4 << 20)
    try:
        code = child.wait(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise FioError(f"fio {workload} did not end within {timeout_s:.0f} s") from None
    finally:
        procs.end(child)
    with open(os.path.join(directory, "fio.err"), encoding="utf-8", errors="replace") as f:
        said = f.read()[-1000:]
    report = os.path.join(directory, "fio.json")
    text = ""
    if os.path.exists(report):
        with open(report, encoding="utf-8", errors="replace") as f:
            text = f.read()
    if code:
        raise FioError(f"fio {workload} ended with {code}: {said.strip()} {text[:300].strip()}")
    return parse(text)
