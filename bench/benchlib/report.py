"""What was measured, as tables and JSON, and on what machine."""

import datetime
import json
import os
import platform
import re
import subprocess

from .stats import MIB


def machine(directory):
    """What this machine is, without its name."""
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        cpu = re.search(r"model name\s*: (.*)", f.read())
    with open("/proc/meminfo", encoding="ascii") as f:
        memory_kib = int(f.readline().split()[1])
    kind, device = _mount_of(directory)
    return {
        "cpu": cpu.group(1) if cpu else platform.machine(), "cpus": os.cpu_count(),
        "memory_gib": round(memory_kib / (1 << 20)),
        "kernel": platform.release(), "file_system": kind, "device": os.path.basename(device),
        "virtual": _first_line(["systemd-detect-virt", "--vm"]),
        "fio": _first_line(["fio", "--version"]), "qemu-nbd": _first_line(["qemu-nbd", "--version"]),
        "nbdkit": _first_line(["nbdkit", "--version"]),
        "varve": _first_line(["git", "-C", os.path.dirname(__file__), "describe", "--always",
                              "--dirty"]),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _first_line(argv):
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return (done.stdout.splitlines() or ["unknown"])[0].strip()


def _mount_of(directory):
    """(file system, device) under a directory: the mount point with the longest matching path."""
    best = ("", "unknown", "unknown")
    path = os.path.realpath(directory) + "/"
    with open("/proc/mounts", encoding="utf-8") as f:
        for line in f:
            device, point, kind = line.split()[:3]
            if path.startswith(point.rstrip("/") + "/") and len(point) >= len(best[0]):
                best = (point, kind, device)
    return best[1:]


def cpu_ticks():
    """(all, stolen) ticks of the machine so far; stolen ones went to other guests of the host."""
    with open("/proc/stat", encoding="ascii") as f:
        fields = [int(x) for x in f.readline().split()[1:9]]
    return sum(fields), fields[7]


def table(header, lines):
    """A Markdown table that also reads well as text."""
    cells = [header] + lines
    widths = [max(len(str(row[i])) for row in cells) for i in range(len(header))]

    def line(row):
        return "| " + " | ".join(str(c).ljust(w) for c, w in zip(row, widths)) + " |"

    return "\n".join([line(header), "|" + "|".join("-" * (w + 2) for w in widths) + "|"]
                     + [line(row) for row in lines])


def speeds(rows):
    """Median speed and 99th percentile of every side."""
    lines = []
    for row in rows:
        for i, (label, side) in enumerate(row["sides"].items()):
            fast = (f"{side['median'] / MIB:.0f} MiB/s" if row["metric"] == "bytes_per_s"
                    else f"{side['median'] / 1000:.1f}k/s")
            speeds_seen = [r[row["metric"]] for r in side["rounds"]]
            low, high = min(speeds_seen) / side["median"] - 1, max(speeds_seen) / side["median"] - 1
            lines.append([row["title"] if i == 0 else "", label, fast,
                          f"{low:+.0%} {high:+.0%}", f"{side['p99_us']:.0f} us",
                          f"{side['server_cpus']:.2f}"])
    return table(["work", "side", "median", "rounds", "p99", "CPUs of the server"], lines)


def checks(rows):
    """Every figure beside what it must reach."""
    lines = []
    for row in rows:
        for i, c in enumerate(row["checks"]):
            asked = [f"{sign} {limit:g}{c['unit']}" for sign, limit in
                     ((">=", c["floor"]), ("<=", c["ceiling"])) if limit is not None]
            verdict = {None: "", True: "yes", False: "**no**"}[c["ok"]]
            lines.append([row["title"] if i == 0 else "", c["what"], number(c["value"], c["unit"]),
                          f"{number(c['min'], '')} to {number(c['max'], '')}",
                          " ".join(asked), verdict])
    return table(["work", "what", "figure", "rounds", "asked", "reached"], lines)


def number(value, unit):
    text = f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value < 0.1 else f"{value:.2f}"
    return text + unit


def markdown(result):
    m, rows = result["machine"], result["rows"]
    out = [f"## {result['date']}", "",
           f"{m['cpus']} x {m['cpu']} ({m['virtual']}), {m['memory_gib']} GiB, Linux {m['kernel']}, "
           f"{m['file_system']} on {m['device']}; {m['fio']}, {m['qemu-nbd']}, {m['nbdkit']}; "
           f"Varve {m['varve']}.", "",
           f"{result['rounds']} rounds of {result['seconds']:g} s, sides in turn; medians. "
           f"Load before {m['load_before']}, CPU time stolen by the host "
           f"{result['stolen']:.1%}." + (" Quick run: not for publishing." if result["quick"] else ""),
           ""]
    if any(row["sides"] for row in rows):
        out += [speeds(rows), ""]
    if any(row["checks"] for row in rows):
        out += ["A figure is the ratio of medians; \"rounds\" are the least and the greatest of the "
                "rounds' own.", "", checks(rows), ""]
    notes = [f"- {row['title']}: {note}." for row in rows for note in row["notes"]]
    failed = [f"- FAILED: {f['title']}: {f['error']}" for f in result["failed"]]
    return "\n".join(out + notes + failed) + "\n"


def write_json(path, result):
    """Whole or not at all."""
    with open(path + ".new", "w", encoding="utf-8") as f:
        json.dump(result, f, indent=1)
        f.write("\n")
    os.replace(path + ".new", path)


def today():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
