"""lifeline.py - a guest that works on a file system while the server of its disk dies and returns.

The load writes files of random bytes with fsync, reads them back past the cache at times, removes
old ones, and appends each file's checksum, computed from what was written, to a list in the
guest's memory: the list cannot be hurt by what happens to the disk.
"""
import time

LOAD = r"""
mkdir -p /mnt/load
cat >/tmp/load.sh <<'END'
i=0
while [ ! -e /tmp/load.stop ]; do
    f=/mnt/load/f$((i % 24))
    head -c $(( (i % 13 + 1) * 40000 + i )) /dev/urandom >/tmp/load.data
    sum=$(sha256sum </tmp/load.data)
    rm -f $f
    dd if=/tmp/load.data of=$f bs=32768 conv=fsync 2>/tmp/load.err ||
        echo "write $f: $(cat /tmp/load.err)" >>/tmp/load.bad
    echo "${sum%% *}  $f" >/tmp/sum.f$((i % 24))
    if [ $((i % 5)) = 4 ]; then
        echo 3 >/proc/sys/vm/drop_caches
        [ "$(sha256sum <$f)" = "$sum" ] || echo "read back $f" >>/tmp/load.bad
    fi
    i=$((i + 1))
    echo $i >/tmp/load.new
    mv /tmp/load.new /tmp/load.count # never half a number
done
touch /tmp/load.done
END
rm -f /tmp/load.stop /tmp/load.done /tmp/load.bad /tmp/sum.*; echo 0 >/tmp/load.count
sh /tmp/load.sh >/dev/null 2>&1 &
"""


class Load:
    """The load in the guest behind a logged-in console, in its directory /mnt/load."""

    def __init__(self, console):
        self.console = console
        console.check(LOAD)

    def count(self):
        """How many files were written."""
        return int(self.console.check("cat /tmp/load.count"))

    def wait_for_progress(self, files, timeout):
        """Wait until so many more files were written. Returns the seconds it took."""
        begin = time.monotonic()
        wanted = self.count() + files
        while self.count() < wanted:
            if time.monotonic() - begin > timeout:
                raise self.console.failure(f"the guest wrote nothing for {timeout} s")
            time.sleep(0.2)
        return time.monotonic() - begin

    def finish(self, timeout=120):
        """Stop it and compare every file with its checksum, read from the disk. Returns (files
        written, list of problems)."""
        self.console.check("touch /tmp/load.stop; until [ -e /tmp/load.done ]; do sleep 0.2; done",
                           timeout)
        count = self.count()
        problems = self.console.check("cat /tmp/load.bad 2>/dev/null || true").splitlines()
        self.console.check("sync; echo 3 >/proc/sys/vm/drop_caches", timeout)
        status, out = self.console.run("cat /tmp/sum.f* | sha256sum -c", timeout)
        if status != 0:
            problems += [line for line in out.splitlines() if not line.endswith(": OK")]
        errors = self.console.run("dmesg | grep -E 'I/O error|EXT4-fs (error|warning)|blk_update'")[1]
        return count, problems + errors.splitlines()
