#!/usr/bin/bats
# The command and the daemon as their users meet them: what each command does, and that bad input gets a
# sentence and a stable exit code and changes nothing. BUILD names the build directory.
#
# Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 conflict, 5 daemon unreachable.

bats_require_minimum_version 1.5.0
load lib/cli

setup_file() {
    export BUILD=${BUILD:-$PWD/build}
    export PATH=$BUILD:$PATH
    export TOP=$(mktemp -d /tmp/varve-bats-XXXXXX)
    chmod 755 "$TOP"
    export VARVE_RUN=$TOP/run STORE=$TOP/store
    unset NO_COLOR
    varve init "$STORE" --capacity 2G
    start_daemon
    # 20 MiB with a hole in the middle, in every format.
    dd if=/dev/urandom of="$TOP/a.raw" bs=1M count=2 status=none
    truncate -s 20M "$TOP/a.raw"
    dd if=/dev/urandom of="$TOP/a.raw" bs=1M count=1 seek=12 conv=notrunc status=none
    for f in qcow2 vmdk vhdx vdi; do
        qemu-img convert -O $f "$TOP/a.raw" "$TOP/a.$f"
    done
}

teardown_file() {
    # Guests of tests that failed.
    for file in "$VARVE_RUN"/vm/*/pid; do
        [ -e "$file" ] && grep -qs "$TOP" "/proc/$(cat "$file")/cmdline" && kill -9 "$(cat "$file")"
    done
    stop_daemon
    rm -rf "$TOP"
}

# ---- life of a vm -------------------------------------------------------------------------------

@test "create, ls, show, rename and rm" {
    varve create life --size 10G --role database
    run -0 varve ls
    [[ $output == *life*database*10G* ]]
    [ "$(varve --json show life | jq -r '.disks[0].size')" = 10737418240 ]
    varve rename life death
    expect 3 'no vm "life"' varve show life
    varve rm --yes death
    expect 3 'no vm "death"' varve show death
}

@test "disks are added, resized and removed" {
    varve create d --size 1M
    varve disk add d/data 8192
    varve disk resize d/data 1T
    [ "$(varve --json show d | jq -r '.disks[] | select(.name == "data").size')" = 1099511627776 ]
    refused 2 'Say so with --yes' varve disk resize d/data 1M </dev/null
    varve disk resize --yes d/data 1M
    refused 2 'Say so with --yes' varve disk rm d/data </dev/null
    varve disk rm --yes d/data
    [ "$(varve --json show d | jq '.disks | length')" = 1 ]
    varve rm --yes d
}

@test "data is on stdout, messages are on stderr" {
    [ -z "$(varve show nobody 2>/dev/null)" ]
    [ -z "$(varve ls 2>&1 >/dev/null)" ]
    varve --json df | jq -e '.capacity | tonumber > 1e9' >/dev/null
    varve stats | grep -q '[a-z]  *[0-9]'
    [ "$(varve version | wc -l)" = 2 ]
    varve create shown --size 1M
    for command in ls "ls shown" "show shown" stats df version check; do
        [ "$(varve --json $command | jq -s length)" = 1 ] # one value, and nothing beside it
        [[ $(varve $command) != [{[]* ]]
    done
    varve rm --yes shown
}

@test "removal asks at a terminal and takes no for an answer" {
    varve create asked
    for command in "rm asked" "disk rm asked/d" "disk resize asked/d 4096"; do
        varve disk add asked/d 1M 2>/dev/null || true
        run script -qec "varve $command" /dev/null <<<"n"
        [ "$status" -eq 1 ]
        [[ $output == *"nothing was changed"* ]]
        [ "$(varve --json show asked | jq -r '.disks[0].size')" = 1048576 ]
    done
    run -0 script -qec "varve rm asked" /dev/null <<<"y"
    expect 3 'no vm' varve show asked
}

@test "colours only on a terminal, and never with NO_COLOR" {
    run script -qec "varve show nobody" /dev/null </dev/null
    [[ $output == *$'\033[31m'* ]]
    NO_COLOR=1 run script -qec "varve show nobody" /dev/null </dev/null
    [[ $output != *$'\033[31m'* ]]
    run varve show nobody
    [[ $output != *$'\033'* ]]
}

# ---- import and export --------------------------------------------------------------------------

@test "every format goes in and comes out as it was, holes too" {
    for f in raw qcow2 vmdk vhdx vdi; do
        varve import "$TOP/a.$f" "in-$f"
        used=$(varve --json show in-$f | jq -r '.disks[0].used')
        [ "$used" -ge 3145728 ] && [ "$used" -le 4194304 ] || { echo "$f uses $used"; return 1; }
        run -0 varve export "in-$f" "$TOP/out.$f"
        [ -z "$output" ]
        qemu-img compare -f raw -F "$f" "$TOP/a.raw" "$TOP/out.$f"
        used=$(du -k "$TOP/out.$f" | cut -f1)
        most=4096
        [ $f = vhdx ] && most=5120 # it has a log of 1 MiB
        [ "$used" -ge 3072 ] && [ "$used" -le $most ] || { echo "out.$f takes $used KiB"; return 1; }
        varve rm --yes "in-$f"
    done
    [ -z "$(find "$TOP" -name '*.partial-*')" ]
    rm "$TOP"/out.*
}

@test "an import goes into a new vm, or a new disk of an old one, never into an old disk" {
    varve import "$TOP/a.qcow2" two/boot
    varve import "$TOP/a.raw" two/data --format raw
    [ "$(varve --json show two | jq -r '[.disks[].name] | sort | join(" ")')" = "boot data" ]
    refused 4 'already' varve import "$TOP/a.raw" two
    refused 4 'already' varve import "$TOP/a.raw" two/data
    varve rm --yes two
}

@test "a size that is no whole number of sectors is padded" {
    head -c 10000 /dev/urandom >"$TOP/odd.raw"
    varve import "$TOP/odd.raw" odd --format raw
    [ "$(varve --json show odd | jq -r '.disks[0].size')" = 10240 ]
    varve export odd "$TOP/odd.out"
    cmp -n 10000 "$TOP/odd.raw" "$TOP/odd.out"
    varve rm --yes odd
    head -c 100 /dev/urandom >"$TOP/odd.raw"
    varve import "$TOP/odd.raw" odd --format raw
    [ "$(varve --json show odd | jq -r '.disks[0].size')" = 4096 ]
    varve rm --yes odd
}

@test "export refuses a file that exists, unless forced" {
    varve create e --size 1M
    echo precious >"$TOP/e.img"
    refused 4 'exists; replace it with --force' varve export e "$TOP/e.img"
    [ "$(cat "$TOP/e.img")" = precious ]
    varve export e "$TOP/e.img" --force
    [ "$(stat -c %s "$TOP/e.img")" = 1048576 ]
    expect 1 'cannot write' varve export e "$TOP/no/such/dir.img"
    # Where others may write, no link of theirs is followed; $$ is the command's own process.
    mkdir -m 1777 "$TOP/shared"
    (umask 027; sh -c 'ln -s "$TOP/theirs.img" "$TOP/shared/e.img.partial-$$"; exec varve export e "$TOP/shared/e.img"')
    [ ! -e "$TOP/theirs.img" ]
    [ "$(stat -c '%F %a %s' "$TOP/shared/e.img")" = 'regular file 640 1048576' ]
    expect 3 'no disk "nope"' varve export e/nope "$TOP/x.img"
    expect 3 'no vm' varve export nobody "$TOP/x.img"
    # A file system that is too small.
    if [ "$(id -u)" = 0 ]; then
        varve import "$TOP/a.raw" big
        mkdir "$TOP/tight"
        for f in raw qcow2; do
            expect 1 'make room on the file system' unshare -m sh -c 'cd "$TOP/tight" &&
                mount -t tmpfs -o size=1M none . && cd "$TOP/tight" &&
                { varve export big out.'$f'; r=$?; [ -z "$(ls -A)" ] || echo left: *; exit $r; }'
            [[ $output != *left:* ]]
        done
        varve rm --yes big
    fi
    varve rm --yes e
}

@test "truncated and damaged images are refused and nothing half-made stays" {
    for f in qcow2 vmdk vhdx vdi; do
        head -c $(($(stat -c %s "$TOP/a.$f") - 700000)) "$TOP/a.$f" >"$TOP/cut.$f"
        refused 1 'damaged' varve import "$TOP/cut.$f" cut
    done
    head -c 1000 "$TOP/a.qcow2" >"$TOP/cut.qcow2"
    refused 1 'damaged' varve import "$TOP/cut.qcow2" cut --format qcow2
    refused 1 'damaged, or not of the format' varve import "$TOP/a.raw" cut --format qcow2
    : >"$TOP/empty"
    refused 1 'is empty' varve import "$TOP/empty" cut
    refused 3 'cannot read' varve import "$TOP/nothing-there" cut
    refused 1 'is a directory' varve import "$TOP" cut
    refused 2 'is no format' varve import "$TOP/a.raw" cut --format luks
}

@test "what begins like no image is raw, and says so; what is named otherwise is refused" {
    for name in a.img a noise.bin; do
        cp "$TOP/a.raw" "$TOP/$name"
        run --separate-stderr -0 varve import "$TOP/$name" guessed
        [[ $stderr == *"$name has no header of an image format and is taken as raw"* ]]
        varve rm --yes guessed
        run -0 varve import "$TOP/$name" guessed --format raw
        [ -z "$output" ]
        varve rm --yes guessed
        rm "$TOP/$name"
    done
    run -0 varve import "$TOP/a.raw" guessed
    [ -z "$output" ]
    varve rm --yes guessed
    for f in qcow2 vmdk vhdx vdi; do
        cp "$TOP/a.$f" "$TOP/headless.$f"
        dd if=/dev/zero of="$TOP/headless.$f" bs=1K count=1 conv=notrunc status=none
        refused 1 "is named as $f and does not begin like one" varve import "$TOP/headless.$f" guessed
        rm "$TOP/headless.$f"
    done
    qemu-img create -q -f qed "$TOP/other.qed" 1M
    refused 1 'has the format qed; Varve imports raw, qcow2, vmdk, vhdx and vdi' varve import "$TOP/other.qed" guessed
}

@test "an image that names other files is refused unless it is trusted" {
    qemu-img create -q -f qcow2 -b "$TOP/a.raw" -F raw "$TOP/overlay.qcow2"
    refused 1 'backing file' varve import "$TOP/overlay.qcow2" overlay
    varve import "$TOP/overlay.qcow2" overlay --allow-backing
    varve export overlay "$TOP/overlay.raw"
    cmp "$TOP/a.raw" "$TOP/overlay.raw"
    varve rm --yes overlay
    qemu-img create -q -f qcow2 -o data_file="$TOP/secret",data_file_raw=on "$TOP/outside.qcow2" 1M
    refused 1 'data file' varve import "$TOP/outside.qcow2" outside
    qemu-img convert -O vmdk -o subformat=monolithicFlat "$TOP/a.raw" "$TOP/flat.vmdk"
    refused 1 'extent' varve import "$TOP/flat.vmdk" flat
}

# ends_interrupted CHILD: it ends soon and with 1, and the last that it said to $TOP/errors is why.
ends_interrupted() {
    local code=0 begun=$SECONDS
    wait $1 || code=$?
    [ $((SECONDS - begun)) -le 15 ] || { echo "it went on for $((SECONDS - begun)) s"; return 1; }
    [ $code -eq 1 ] || { echo "exit $code, not 1"; return 1; }
    [ "$(tail -n 1 "$TOP/errors")" = "varve: interrupted" ] || { cat "$TOP/errors"; return 1; }
}

@test "an interrupted import or export leaves nothing" {
    truncate -s 8G "$TOP/large.raw"
    # Data that takes a while: one page in each 64 KiB.
    python=/usr/bin/python3
    $python - "$TOP/large.raw" <<'EOF'
import os, sys
f = os.open(sys.argv[1], os.O_WRONLY)
for i in range(20000):
    os.pwrite(f, os.urandom(4096), i * 65536)
EOF
    varve create old --size 1M
    before=$(varve --json ls)
    for signal in INT TERM HUP; do
        for name in large old/large; do
            varve import "$TOP/large.raw" $name --format raw 3>&- 2>"$TOP/errors" &
            child=$!
            for _ in $(seq 100); do
                varve --json ls | grep -q '"provisional": true' && break
                sleep 0.02
            done
            varve --json ls | grep -q '"provisional": true'
            kill -$signal $child
            ends_interrupted $child
            [ "$(varve --json ls)" = "$before" ]
        done
    done
    varve rm --yes old
    varve import "$TOP/large.raw" large --format raw
    for signal in INT TERM HUP; do
        varve export large "$TOP/large.out" 3>&- 2>"$TOP/errors" &
        child=$!
        for _ in $(seq 100); do
            compgen -G "$TOP/large.out.partial-*" && break
            sleep 0.02
        done
        kill -$signal $child
        ends_interrupted $child
        fails compgen -G "$TOP/large.out*"
    done
    varve rm --yes large
    rm "$TOP/large.raw"
}

@test "progress has percent, rate and time left, on a terminal only" {
    truncate -s 4G "$TOP/slow.raw"
    dd if=/dev/urandom of="$TOP/slow.raw" bs=1M count=400 conv=notrunc status=none
    run -0 script -qec "varve import $TOP/slow.raw slow" /dev/null </dev/null
    [[ $output =~ importing\ +[0-9.]+\ %\ +[0-9.]+[KMGT]?/s\ +[0-9:]+\ left ]]
    run -0 script -qec "varve export slow $TOP/slow.out.raw" /dev/null </dev/null
    [[ $output =~ exporting\ +[0-9.]+\ %\ +[0-9.]+[KMGT]?/s\ +[0-9:]+\ left ]]
    rm "$TOP/slow.out.raw"
    varve rm --yes slow
    run -0 varve import "$TOP/slow.raw" slow
    [ -z "$output" ]
    varve rm --yes slow
    rm "$TOP/slow.raw"
}

# ---- bad input ----------------------------------------------------------------------------------

@test "bad names" {
    varve create taken --size 1M
    refused 4 'there is a vm "taken" already' varve create taken
    local long=$(printf 'x%.0s' {1..65})
    refused 2 '65 characters' varve create "$long"
    refused 2 '65 characters' varve rename taken "$long"
    refused 2 '65 characters' varve disk add "taken/$long" 1M
    refused 2 '65 characters' varve import "$TOP/a.raw" "$long"
    refused 2 '65 characters' varve import "$TOP/a.raw" "taken/$long"
    for name in a/b 'a b' . .. '' a@b 'ä'; do
        refused 2 'use 1 to 64 letters' varve create "$name"
        refused 2 'use 1 to 64 letters' varve rename taken "$name"
    done
    refused 2 'use 1 to 64 letters' varve disk add taken/a/b 1M
    refused 2 'names no disk' varve disk add taken 1M
    refused 2 'use 1 to 64 letters' varve import "$TOP/a.raw" taken/a/b
    refused 4 'already' varve disk add taken/root 1M
    varve create other
    refused 4 'already' varve rename taken other
    refused 3 'no vm "ghost"' varve rename ghost other
    refused 3 'no vm "ghost"' varve rm --yes ghost
    refused 3 'no vm "ghost"' varve disk add ghost/d 1M
    refused 3 'no disk "d"' varve disk rm --yes taken/d
    varve create "$(printf 'x%.0s' {1..64})"
    varve rm --yes "$(printf 'x%.0s' {1..64})"
    varve rm --yes taken
    varve rm --yes other
}

@test "bad sizes" {
    varve create s --size 1M
    for size in 0 1 4095 4097 9223372036854775808 18446744073709551616 129P; do
        refused 2 'multiple of 512 bytes from 4096 bytes to 128 PiB' varve create s2 --size $size
        refused 2 'multiple of 512 bytes from 4096 bytes to 128 PiB' varve disk add s/d $size
        refused 2 'multiple of 512 bytes from 4096 bytes to 128 PiB' varve disk resize --yes s/root $size
    done
    for size in -1 ten 1Q '' 1.2.3G; do
        refused 2 'is not a size' varve create s2 "--size=$size"
    done
    varve create s2 --size 128P
    [ "$(varve --json show s2 | jq -r '.disks[0].size')" = 144115188075855872 ]
    varve rm --yes s2
    varve rm --yes s
}

@test "wrong usage" {
    expect 2 'is no command' varve frobnicate
    expect 2 'there are: disk add, disk rm, disk resize' varve disk
    expect 2 'there are: disk add, disk rm, disk resize' varve help disk frob
    for words in "help disk" "disk --help" "disk -h" "--help disk"; do
        expect 0 'disk resize  Change the size of a disk' varve $words
    done
    expect 2 'usage: varve rename VM[@VERSION] NEW; see varve help rename' varve rename one
    expect 2 'usage: varve create [OPTION...] VM' varve create
    expect 2 'is no option' varve ls --bogus
    expect 2 'wants a value' varve create x --size
    expect 2 'usage' varve ls -- x
    expect 2 'is no option of varved' varved --bogus
    expect 2 'not a role' varve create x --role king
    expect 2 'wants a size' varved --init --store "$TOP/x" --capacity lots
    [ ! -e "$TOP/x" ]
    run varve
    [ "$status" -eq 2 ]
}

@test "init refuses what would destroy or cannot work" {
    expect 4 'there is a store' varve init "$STORE"
    mkdir "$TOP/full" && touch "$TOP/full/file"
    expect 2 'full is not empty; name an empty directory' varve init "$TOP/full"
    [ "$(ls "$TOP/full")" = file ]
    expect 2 'at least 512M' varve init "$TOP/small" --capacity 100M
    [ ! -e "$TOP/small" ]
    expect 3 'the directory above it is missing' varve init "$TOP/a/b/c"
    expect 1 'or a smaller --capacity' varve init "$TOP/large" --capacity 4E
    [ ! -e "$TOP/large" ]
}

@test "a second daemon is refused, by its run directory and by its store" {
    expect 4 'another varved (process' varved --store "$TOP/none" --run "$VARVE_RUN"
    expect 4 'another daemon has the store' varved --store "$STORE" --run "$TOP/run2"
    expect 4 'another daemon has the store' varve check --store "$STORE"
    varve ls
    varve init "$TOP/third" --capacity 512M
    mkdir -m 700 "$TOP/run3"
    touch "$TOP/run3/nbd.sock"
    expect 4 'nbd.sock is there and is no socket; move it away' \
        varved --store "$TOP/third" --run "$TOP/run3"
    rm -r "$TOP/run3" "$TOP/third"
}

@test "an opening on a full file system ends with a sentence" {
    [ "$(id -u)" = 0 ] || skip "mounting takes root"
    mkdir "$TOP/little"
    expect 1 'file system of the store at' unshare -m timeout -s KILL 60 sh -c 'cd "$TOP/little" &&
        mount -t tmpfs -o size=600M none . && cd "$TOP/little" && varve init s --capacity 512M &&
        fallocate -l $(($(df --output=avail -B1 . | tail -1) - 20000000)) fill &&
        varved --store s --run "$TOP/run4"'
}

@test "who renames a vm in use is told what that means; an import into a full store, too" {
    varve create before --size 600M
    (
        exec /usr/bin/python3 -m nbd -u "nbd+unix:///before/root?socket=$VARVE_RUN/nbd.sock" -c 'import time; time.sleep(60)'
    ) 3>&- &
    client=$!
    for _ in $(seq 100); do
        [ "$(varve --json show before | jq '.disks[0].users')" = 1 ] && break
        sleep 0.05
    done
    run --separate-stderr varve rename before after
    kill "$client"
    [ "$status" -eq 0 ]
    [[ $stderr == *"will not find before when they connect again"* ]]
    for _ in $(seq 100); do varve rm --yes after 2>/dev/null && break; sleep 0.05; done
    dd if=/dev/urandom of="$TOP/much.raw" bs=1M count=2200 status=none
    refused 1 'the store is full, see varve df' varve import "$TOP/much.raw" overfull --format raw
    rm "$TOP/much.raw"
}

@test "a name by which a client is connected to a vm that was renamed is given to no other" {
    varve create asked --size 1M
    varve create other --size 1M
    varve snap asked@good
    varve send asked@good -o "$TOP/asked.stream"
    (
        exec /usr/bin/python3 -m nbd -u "nbd+unix:///asked/root?socket=$VARVE_RUN/nbd.sock" -c 'import time; time.sleep(60)'
    ) 3>&- &
    client=$!
    for _ in $(seq 100); do
        [ "$(varve --json show asked | jq '.disks[0].users')" = 1 ] && break
        sleep 0.05
    done
    refused 4 'there is a vm "asked" already' varve create asked
    varve rename asked kept
    said="a client of vm \"kept\" (process $client) is connected by the name \"asked/root\""
    refused 4 "$said" varve create asked --size 1M
    refused 4 "$said" varve clone kept@good asked
    refused 4 "$said" varve rename other asked
    refused 4 "$said" varve import "$TOP/a.raw" asked --format raw
    refused 4 "$said" varve recv asked -i "$TOP/asked.stream"
    varve clone kept@good beside
    varve rename kept asked # back
    varve rename asked kept
    kill "$client"
    varve create asked --size 1M
    varve rm --yes asked kept other beside
    rm "$TOP/asked.stream"
}

@test "stores that are not there, not stores, or newer" {
    expect 3 'make one with: varve init' varved --store "$TOP/none" --run "$TOP/run2"
    mkdir -p "$TOP/notastore" && echo hi >"$TOP/notastore/file"
    expect 2 'is not a store' varved --store "$TOP/notastore" --run "$TOP/run2"
    varve init "$TOP/newer" --capacity 1G
    /usr/bin/python3 - "$TOP/newer/varve.store" <<'EOF'
import struct, sys
def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff
with open(sys.argv[1], "r+b") as f:
    block = bytearray(f.read(4096))
    old = struct.unpack_from("<I", block, 8)[0]
    struct.pack_into("<I", block, 8, 0)
    assert crc32c(block) == old, "the super block's checksum is made in another way"
    struct.pack_into("<I", block, 12, struct.unpack_from("<I", block, 12)[0] + 1)
    struct.pack_into("<I", block, 8, crc32c(block))
    f.seek(0)
    f.write(block)
EOF
    sum=$(cat "$TOP/newer/varve.store" | md5sum)
    expect 1 'newer version of Varve' varved --store "$TOP/newer" --run "$TOP/run2"
    expect 1 'newer version of Varve' varve check --store "$TOP/newer"
    [ "$(cat "$TOP/newer/varve.store" | md5sum)" = "$sum" ]
}

@test "a socket path that is too long" {
    long=$TOP/$(printf 'y%.0s' {1..100})
    expect 2 'a Unix socket' varve --run "$long" ls
    expect 2 "a Unix socket's may have 107; choose a shorter run directory with --run" \
        varved --store "$STORE" --run "$long"
    [ ! -e "$long" ]
}

@test "no permission" {
    [ "$(id -u)" = 0 ] || skip "only root can become somebody without permission"
    cp "$BUILD/varve" "$BUILD/varved" "$TOP"
    refused 5 'no permission' runuser -u nobody -- "$TOP/varve" --run "$VARVE_RUN" ls
    refused 5 'no permission' runuser -u nobody -- "$TOP/varve" --run "$VARVE_RUN" create theirs
    refused 1 'no permission' runuser -u nobody -- "$TOP/varve" check --store "$STORE"
    refused 1 'no permission' runuser -u nobody -- "$TOP/varve" init "$TOP/theirs"
    [ ! -e "$TOP/theirs" ]
    refused 1 'cannot make the run directory' runuser -u nobody -- "$TOP/varved" --store "$STORE" --run "$TOP/run3"
    install -d -m 700 -o nobody "$TOP/own"
    refused 1 'no permission to open the store' runuser -u nobody -- "$TOP/varved" --store "$STORE" --run "$TOP/own"
    mkdir -m 777 "$TOP/open"
    refused 1 'others may write to the run directory' varved --store "$STORE" --run "$TOP/open"
    # A root that may not read everything: the daemon answers it, the image does not.
    install -m 0 "$TOP/a.qcow2" "$TOP/locked.qcow2"
    refused 1 "cannot read $TOP/locked.qcow2: Permission denied" \
        setpriv --bounding-set -dac_override,-dac_read_search varve import "$TOP/locked.qcow2" locked
}

@test "configuration: unknown keys, bad values, a missing file" {
    printf '[store]\ncache-sise = 1G\n' >"$TOP/bad.conf"
    expect 2 'bad.conf:2: unknown key "cache-sise" in [store]; the nearest one is cache-size' \
        varved --store "$STORE" --run "$TOP/run2" --config "$TOP/bad.conf"
    printf '[daemon]\nio-engine = magic\n' >"$TOP/bad.conf"
    expect 2 'bad.conf:2: io-engine' varved --store "$STORE" --run "$TOP/run2" --config "$TOP/bad.conf"
    expect 2 'cannot open the configuration' varved --store "$STORE" --config "$TOP/none.conf"
}

@test "where io_uring is forbidden threads serve, and it is said; who insists on it is told" {
    varve init "$TOP/plain" --capacity 512M
    # A seccomp filter: io_uring_setup() gives EPERM.
    cat >"$TOP/forbid.py" <<'EOF'
import ctypes, os, struct, sys
LOAD, JEQ, RETURN = 0x20, 0x15, 0x06
program = b"".join(struct.pack("<HBBI", *i) for i in (
    (LOAD, 0, 0, 0), (JEQ, 0, 1, 425), (RETURN, 0, 0, 0x00050001), (RETURN, 0, 0, 0x7fff0000)))
libc, text = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(program)
filter = struct.pack("HxxxxxxP", 4, ctypes.addressof(text))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, filter) == 0, ctypes.get_errno()
os.execvp(sys.argv[1], sys.argv[1:])
EOF
    forbidden="/usr/bin/python3 $TOP/forbid.py varved --store $TOP/plain --run $TOP/plain-run"
    printf '[daemon]\nio-engine = io_uring\n' >"$TOP/insist.conf"
    expect 1 'io_uring cannot be used here: Operation not permitted; set io-engine = auto' \
        $forbidden --config "$TOP/insist.conf"
    $forbidden >"$TOP/plain.log" 2>&1 3>&- &
    pid=$!
    for _ in $(seq 100); do varve --run "$TOP/plain-run" df >/dev/null 2>&1 && break; sleep 0.05; done
    varve --run "$TOP/plain-run" version | grep 'threads)$'
    grep -q 'io_uring cannot be used here' "$TOP/plain.log"
    fails grep -q 'io_uring cannot be used here' "$TOP/log"
    varve --run "$TOP/plain-run" import "$TOP/a.qcow2" there
    varve --run "$TOP/plain-run" export there "$TOP/there.raw"
    cmp "$TOP/a.raw" "$TOP/there.raw"
    kill $pid && wait $pid
    rm "$TOP/there.raw"
}

@test "without qemu-img and QEMU the package is named" {
    varve create bare --size 1M
    mkdir -p "$TOP/bin" && ln -sf "$BUILD/varve" "$TOP/bin/varve"
    refused 1 'apt install qemu-utils' env PATH="$TOP/bin" varve import "$TOP/a.qcow2" x
    expect 1 'apt install qemu-utils' env PATH="$TOP/bin" varve export bare "$TOP/x.raw"
    expect 1 'apt install qemu-system-x86' env PATH="$TOP/bin" varve run bare
    expect 1 'apt install qemu-system-x86' env PATH="$TOP/bin" varve run bare --accel tcg
    varve rm --yes bare
}

# ---- the daemon's life --------------------------------------------------------------------------

@test "a killed daemon is unreachable, and comes back with everything" {
    varve import "$TOP/a.raw" survivor
    kill -9 "$(cat "$TOP/pid")"
    for _ in $(seq 100); do
        kill -0 "$(cat "$TOP/pid")" 2>/dev/null || break
        sleep 0.05
    done
    expect 5 'no daemon answers' varve ls
    [ -S "$VARVE_RUN/varve.sock" ] # a stale socket, which the next daemon replaces
    start_daemon
    kill -9 "$(cat "$TOP/pid")" # while it dies, the next one waits for its locks
    start_daemon
    varve export survivor "$TOP/survivor.raw"
    cmp "$TOP/a.raw" "$TOP/survivor.raw"
    varve check
    varve rm --yes survivor
}

# half_import NAME: an import of something large under NAME (VM/DISK) that is under way; its process
# is $child.
half_import() {
    [ -e "$TOP/big.raw" ] || {
        truncate -s 8G "$TOP/big.raw"
        dd if=/dev/urandom of="$TOP/big.raw" bs=1M count=600 conv=notrunc status=none
    }
    varve import "$TOP/big.raw" "$1" 3>&- &
    child=$!
    for _ in $(seq 200); do
        varve show "${1%/*}" 2>/dev/null | grep -q "^${1#*/} .*" && return
        sleep 0.02
    done
    return 1
}

@test "an export whose daemon dies says so, and leaves nothing" {
    dd if=/dev/urandom of="$TOP/gone.raw" bs=1M count=500 status=none
    varve import "$TOP/gone.raw" gone
    varve export gone "$TOP/gone.vdi" 3>&- 2>"$TOP/gone.errors" &
    child=$!
    for _ in $(seq 200); do [ -n "$(find "$TOP" -name 'gone.vdi.partial-*' -size +0)" ] && break; sleep 0.01; done
    kill -STOP "$(cat "$TOP/pid")" # so that it does not end before
    kill -9 "$(cat "$TOP/pid")"
    code=0
    wait $child || code=$?
    cat "$TOP/gone.errors"
    [ $code -eq 5 ]
    grep -q 'exporting failed.*Input/output error' "$TOP/gone.errors"
    grep -q 'the daemon is gone: no daemon answers' "$TOP/gone.errors"
    fails compgen -G "$TOP/gone.vdi*"
    start_daemon
    varve rm --yes gone
    rm "$TOP/gone.raw"
}

@test "what an import leaves half-made does not outlive the daemon" {
    varve create old --size 1M
    for name in halfway/root old/data; do
        half_import $name
        kill -9 "$(cat "$TOP/pid")"
        code=0
        wait $child || code=$?
        [ $code -eq 5 ]
        sleep 0.2
        start_daemon
        run varve show "${name%/*}"
        [[ $output != *"${name#*/} "*8G* ]]
    done
    expect 3 'no vm' varve show halfway
    [ "$(varve --json show old | jq -r '.disks[].name')" = root ]
    varve rm --yes old
    rm "$TOP/big.raw"
}

@test "an import that is killed leaves something that is marked, not used, and can be removed" {
    varve create old --size 1M
    for name in halfway/root old/data; do
        half_import $name
        kill -9 $child
        fails wait $child
        for _ in $(seq 100); do # qemu-img dies with it
            [ "$(varve --json show ${name%/*} | jq '[.disks[].users] | add')" = 0 ] && break
            sleep 0.05
        done
        varve show "${name%/*}" | grep -q provisional
        expect 4 'is half-made' varve export $name "$TOP/half.raw"
        [ ! -e "$TOP/half.raw" ]
        run -0 nbdinfo --list "nbd+unix://?socket=$VARVE_RUN/nbd.sock"
        [[ $output != *"$name"* ]]
    done
    expect 4 'vm halfway is half-made' varve run halfway --accel tcg
    expect 4 'vm halfway is half-made' varve import "$TOP/a.raw" halfway/more
    expect 4 'vm halfway is half-made' varve import "$TOP/a.raw" halfway
    expect 4 'vm halfway is half-made' varve snap halfway@v
    expect 4 'vm halfway is half-made' varve snap halfway@v --quiesce require
    expect 4 'vm halfway is half-made' varve clone halfway whole
    expect 4 'vm halfway is half-made' varve rename halfway whole
    expect 4 'vm halfway is half-made' varve rollback halfway@v
    expect 4 'vm halfway is half-made' varve disk add halfway/more 1M
    expect 4 'vm halfway is half-made' varve disk resize halfway/root 16G
    expect 4 'disk old/data is half-made' varve disk resize old/data 16G
    expect 3 'no vm' varve show whole
    [ "$(varve --json ls halfway | jq length)" = 0 ]
    varve --json run old -m 64M --accel tcg >"$TOP/old.json" 2>"$TOP/old.errors"
    grep -q 'disk data is half-made by an import: the guest does not get it' "$TOP/old.errors"
    pid=$(jq .pid "$TOP/old.json")
    fails grep -q old/data /proc/$pid/cmdline
    kill -9 $pid
    varve disk rm --yes old/data
    varve import "$TOP/a.raw" old/data
    varve rm --yes halfway
    for _ in $(seq 100); do varve rm --yes old 2>/dev/null && break; sleep 0.05; done
    rm "$TOP/big.raw"
}

@test "SIGTERM stops in order: exit 0, no sockets, a store that checks" {
    varve create orderly --size 1M
    pid=$(cat "$TOP/pid")
    stop_daemon
    [ ! -e "$VARVE_RUN/varve.sock" ]
    [ ! -e "$VARVE_RUN/nbd.sock" ]
    grep -q 'stopping after SIGTERM' "$TOP/log"
    expect 0 'no problems in' varve check --store "$STORE"
    expect 2 '--json goes with an online check' varve --json check --store "$STORE"
    start_daemon
    varve show orderly
    varve rm --yes orderly
}

@test "SIGTERM is heard during recovery: exit 0, and the next daemon recovers" {
    varve import "$TOP/a.raw" recovered
    kill -9 "$(cat "$TOP/pid")"
    # The signal is there before the first step.
    expect 0 'stopping after SIGTERM: the opening of the store' timeout -s KILL 60 /usr/bin/python3 -c '
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
os.kill(os.getpid(), signal.SIGTERM)
os.execvp("varved", ["varved", "--store", sys.argv[1], "--run", sys.argv[2]])' "$STORE" "$VARVE_RUN"
    [ ! -e "$VARVE_RUN/nbd.sock" ] || expect 5 'no daemon answers' varve ls
    start_daemon
    varve --json stats | jq -e '.[] | select(.name == "replayed_batches").value | tonumber > 0'
    varve export recovered "$TOP/recovered.raw"
    cmp "$TOP/a.raw" "$TOP/recovered.raw"
    varve rm --yes recovered
}

@test "sockets and directories are private" {
    [ "$(stat -c %a "$VARVE_RUN")" = 700 ]
    [ "$(stat -c %a "$VARVE_RUN/varve.sock")" = 600 ]
    [ "$(stat -c %a "$VARVE_RUN/nbd.sock")" = 600 ]
}

@test "systemd is told when it is ready and when it stops" {
    varve init "$TOP/notify-store" --capacity 1G
    /usr/bin/python3 - "$TOP" <<'EOF'
import os, signal, socket, subprocess, sys
top = sys.argv[1]
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(top + "/notify")
s.settimeout(20)
p = subprocess.Popen(["varved", "--store", top + "/notify-store", "--run", top + "/notify-run"],
                     env=dict(os.environ, NOTIFY_SOCKET=top + "/notify"))
try:
    assert s.recv(100) == b"READY=1"
    assert os.path.exists(top + "/notify-run/varve.sock")
    p.send_signal(signal.SIGINT)
    assert s.recv(100) == b"STOPPING=1"
    assert p.wait(20) == 0
finally:
    p.kill()
EOF
}

@test "the unit starts the daemon that is installed, and lets machines outlive it" {
    local dest=$TOP/installed unit service
    DESTDIR=$dest meson install -C "$BUILD" --no-rebuild >"$TOP/install.log"
    unit=$(find "$dest" -name varved.service)
    service=$(sed -n '/^\[Service\]/,/^\[Install\]/p' "$unit")
    grep -qx 'Type=notify' <<<"$service"
    local start=$(sed -n 's/^ExecStart=//p' <<<"$service")
    [ "$("$dest${start%% *}" --version)" = "$(varved --version)" ]
    [ "${start#* }" = "--store /var/lib/varve --run /run/varve" ]
    if command -v systemd-analyze >/dev/null; then
        sed -i "s|^ExecStart=/|ExecStart=$dest/|" "$unit"
        run -0 systemd-analyze verify --man=no "$unit"
        [ -z "$output" ] || { echo "$output"; return 1; }
    fi
    rm -r "$dest"
    grep -qx 'KillMode=process' <<<"$service"
    grep -qx 'OOMPolicy=continue' <<<"$service"
}

@test "check finds a damaged page, online and offline" {
    varve init "$TOP/hurt" --capacity 1G
    VARVE_RUN=$TOP/hurt-run
    varved --store "$TOP/hurt" --run "$VARVE_RUN" 2>/dev/null 3>&- &
    pid=$!
    for _ in $(seq 100); do varve ls >/dev/null 2>&1 && break; sleep 0.05; done
    varve import "$TOP/a.raw" victim
    run -0 varve check
    [[ $output == "no problems in "* ]]
    kill $pid && wait $pid
    /usr/bin/python3 - "$TOP" <<'EOF'
import glob, sys
page = open(sys.argv[1] + "/a.raw", "rb").read(4096)
for name in glob.glob(sys.argv[1] + "/hurt/log/*"):
    data = open(name, "rb").read()
    at = data.find(page)
    if at >= 0:
        with open(name, "r+b") as f:
            f.seek(at + 100)
            f.write(bytes([data[at + 100] ^ 1]))
        sys.exit(0)
sys.exit("the page is in no log file")
EOF
    run varve check --store "$TOP/hurt"
    [ "$status" -eq 1 ]
    [[ $output == *victim/root*page\ 0\ *damaged* ]] || { echo "$output"; return 1; }
    varved --store "$TOP/hurt" --run "$VARVE_RUN" 2>/dev/null 3>&- &
    pid=$!
    for _ in $(seq 100); do varve ls >/dev/null 2>&1 && break; sleep 0.05; done
    run varve check
    [ "$status" -eq 1 ]
    [[ $output == *victim/root*page\ 0\ *damaged* ]]
    run -0 varve check --tables-only
    kill $pid && wait $pid
}

@test "a check can be cancelled" {
    dd if=/dev/urandom of="$TOP/much.raw" bs=1M count=500 status=none
    varve import "$TOP/much.raw" much --format raw
    varve check 3>&- >"$TOP/check.out" 2>&1 &
    child=$!
    sleep 0.3
    expect 4 'under way' varve check
    kill -INT $child
    fails wait $child
    grep -q 'the check was cancelled' "$TOP/check.out"
    varve check
    # One that runs does not hold up an orderly stop.
    varve check 3>&- >"$TOP/check.out" 2>&1 &
    child=$!
    sleep 0.2
    stop_daemon
    fails wait $child
    start_daemon
    varve rm --yes much
    rm "$TOP/much.raw"
}

@test "paths given relative to a directory work from everywhere" {
    cd "$TOP"
    varve init rel-store --capacity 1G
    varved --store rel-store --run rel-run 2>/dev/null 3>&- &
    pid=$!
    cd /
    export VARVE_RUN=$TOP/rel-run
    for _ in $(seq 100); do varve ls >/dev/null 2>&1 && break; sleep 0.05; done
    varve import "$TOP/a.qcow2" x
    cd "$TOP" && varve --run rel-run export x rel.raw
    cmp rel.raw a.raw
    kill $pid && wait $pid
}

# ---- running a guest ----------------------------------------------------------------------------

@test "run starts QEMU, says how to reach it, and refuses to do it twice" {
    varve create guest --size 16M
    varve disk add guest/data 16M
    varve --json run guest -m 128M --accel tcg >"$TOP/guest.json"
    pid=$(jq .pid "$TOP/guest.json")
    tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q 'reconnect-delay'
    grep -q '/dev/shm' "/proc/$pid/maps"
    [ -S "$(jq -r .console "$TOP/guest.json")" ]
    [ "$(stat -c %a "$VARVE_RUN/vm/guest")" = 700 ]
    refused 4 'runs already' varve run guest --accel tcg
    refused 4 'is in use' varve run guest --accel tcg --name second
    refused 4 'in use' varve rm --yes guest
    refused 4 'in use' varve disk rm --yes guest/data
    /usr/bin/python3 - "$(jq -r .qmp "$TOP/guest.json")" <<'EOF'
import json, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
f = s.makefile("rw")
def command(name):
    f.write(json.dumps({"execute": name}) + "\n")
    f.flush()
    while True:
        answer = json.loads(f.readline())
        if "return" in answer or "error" in answer:
            return answer["return"]
assert "QMP" in json.loads(f.readline())
command("qmp_capabilities")
assert command("query-status")["running"]
assert len(command("query-block")) == 2
command("quit")
EOF
    for _ in $(seq 100); do [ -d /proc/$pid ] || break; sleep 0.05; done
    sleep 0.2
    varve rm --yes guest
}

@test "run refuses bad options before anything starts" {
    varve create bad --size 16M
    expect 2 'forwards no port' varve run bad --forward tcp:x:22
    expect 2 'multiple of 1M' varve run bad -m 1000
    expect 1 'does not fit into /dev/shm' varve run bad -m 100T
    expect 2 'no number of processors' varve run bad --cpus 0
    expect 2 'no accelerator' varve run bad --accel xen
    expect 2 'belong to --kernel' varve run bad --append x
    for name in a/b 'a b' .a '' a,b "$(printf 'x%.0s' {1..65})"; do
        expect 2 'is no name of a machine' varve run bad --name "$name"
    done
    expect 1 'QEMU did not start' varve run bad --accel tcg -m 64M -- -bogus
    expect 3 'no vm' varve run nobody
    varve create diskless
    expect 2 'no disk to boot from' varve run diskless --accel tcg
    varve rm --yes bad
    varve rm --yes diskless
}

@test "KVM is used where it works" {
    varve create fast --size 16M
    if varve --json run fast -m 64M --accel kvm >"$TOP/fast.json"; then
        varve stop --force fast
        for _ in $(seq 100); do [ "$(varve --json show fast | jq '.disks[0].users')" = 0 ] && break; sleep 0.05; done
        run --separate-stderr -0 varve --json run fast -m 64M
        [ "$(jq -r .accel <<<"$output")" = kvm ]
        [ -z "$stderr" ]
    else
        run --separate-stderr -0 varve --json run fast -m 64M
        [ "$(jq -r .accel <<<"$output")" = tcg ]
        [[ $stderr == *"the guest runs under TCG"* ]]
    fi
    varve stop --force fast
    for _ in $(seq 100); do varve rm --yes fast 2>/dev/null && break; sleep 0.05; done
    expect 3 'no vm' varve show fast
}

@test "without KVM a guest runs under TCG with a message, and --accel kvm says why not" {
    [ "$(id -u)" = 0 ] || skip "hiding /dev/kvm takes root"
    varve create nokvm --size 16M
    # A mount namespace in which /dev/kvm is something else.
    expect 1 'KVM does not work here' unshare -m sh -c \
        'touch "$TOP/k" && mount --bind "$TOP/k" /dev/kvm 2>/dev/null || [ ! -e /dev/kvm ]; varve run nokvm -m 64M --accel kvm'
    run unshare -m sh -c \
        'mount --bind "$TOP/k" /dev/kvm 2>/dev/null || [ ! -e /dev/kvm ]; varve run nokvm -m 64M'
    [ "$status" -eq 0 ]
    [[ $output == *"the guest runs under TCG"* ]]
    pid=$(cat "$VARVE_RUN/vm/nokvm/pid")
    kill -9 "$pid"
    for _ in $(seq 100); do varve rm --yes nokvm 2>/dev/null && break; sleep 0.05; done
    expect 3 'no vm' varve show nokvm
}

# ---- documents ----------------------------------------------------------------------------------

@test "every command has help, a place in varve(1) and in the completion" {
    run -0 varve help
    for c in init create import export ls show rename rm snap hold release rollback clone diff 'disk add' 'disk rm' 'disk resize' run console stop stats df check version help; do
        [[ $output == *"$c"* ]]
        varve help $c | grep -q "^Usage: varve $c"
        varve $c --help | grep -q "^Examples:"
        varve help --man | grep -q "^.SS varve $c "
    done
    [ -z "$(varve help --man | man -l --warnings - 2>&1 >/dev/null)" ]
    [ -z "$(varve-docs varved.8 | man -l --warnings - 2>&1 >/dev/null)" ]
    [ -z "$(varve-docs varve.conf.5 | man -l --warnings - 2>&1 >/dev/null)" ]
    varved --help | grep -q -- --capacity
    [ "$(varved --version)" = "varved $(varve version | sed -n 's/^varve //p')" ]
}

@test "bash completes commands, options, vms and versions" {
    varve create zebra
    varve snap zebra@one
    varve snap zebra@two
    bash -c '
        eval "$(varve help --completion bash)"
        complete_line() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _varve; echo "${COMPREPLY[*]}"; }
        [[ $(complete_line varve im) == import ]] || exit 1
        [[ $(complete_line varve disk re) == resize ]] || exit 2
        [[ $(complete_line varve create x --s) == --size ]] || exit 3
        [[ $(complete_line varve show zeb) == zebra ]] || exit 4
        [[ $(complete_line varve import --format q) == qcow2 ]] || exit 5
        [[ $(complete_line varve rm zebra @) == "one two" ]] || exit 6
        [[ $(complete_line varve rollback zebra @ t) == two ]] || exit 7
        [[ $(complete_line varve rm zebra @ one zeb) == zebra ]] || exit 8
        [[ $(complete_line varve snap x --quiesce r) == require ]] || exit 9'
    varve rm --yes zebra
}
