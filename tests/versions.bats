#!/usr/bin/bats
# Versions as their users meet them: taking, listing, comparing, going back, cloning, removing; and that
# what is refused changes nothing. BUILD names the build directory. Exit codes as in cli.bats.

bats_require_minimum_version 1.5.0
load lib/cli

setup_file() {
    export BUILD=${BUILD:-$PWD/build}
    export PATH=$BUILD:$PATH
    export TOP=$(mktemp -d /tmp/varve-bats-XXXXXX)
    export VARVE_RUN=$TOP/run STORE=$TOP/store
    unset NO_COLOR
    varve init "$STORE" --capacity 2G
    start_daemon
}

teardown_file() {
    stop_daemon
    rm -rf "$TOP"
}

# What a failed test left must not fail the next one.
teardown() {
    [ -z "${BATS_TEST_COMPLETED:-}" ] || return 0
    [ -z "${client:-}" ] || kill "$client" 2>/dev/null || true
    varve --json ls --versions --unmeasured | jq -r '.[] | select(.held) | .vm + "@" + .name' | xargs -r varve release
    sleep 0.2
    varve --json ls | jq -r '.[].name' | xargs -r varve rm --yes
}

# write EXPORT BYTE OFFSET [LENGTH]: fill a range of a disk with a byte.
write() {
    qemu-io -f raw -c "write -q -P $2 $3 ${4:-64k}" -c flush "nbd+unix:///$1?socket=$VARVE_RUN/nbd.sock"
}

# holds EXPORT BYTE OFFSET [LENGTH]: the range is full of that byte.
holds() {
    run qemu-io -r -f raw -c "read -P $2 $3 ${4:-64k}" "nbd+unix:///$1?socket=$VARVE_RUN/nbd.sock"
    [ "$status" -eq 0 ] && [[ $output != *"verification failed"* ]] || { echo "$1 at $3: $output"; return 1; }
}

# as refused in lib/cli.bash, and no version is other than before.
unchanged() {
    local before=$(varve --json ls --versions --unmeasured)
    refused "$@" || return 1
    [ "$(varve --json ls --versions --unmeasured)" = "$before" ] || { echo "versions changed"; return 1; }
}

names() {
    varve --json ls --unmeasured "$1" | jq -r '[.[].name] | join(" ")'
}

# A client of a disk until killed; its pid in $client.
connect() {
    /usr/bin/python3 -m nbd -u "nbd+unix:///$1?socket=$VARVE_RUN/nbd.sock" -c 'import time; time.sleep(60)' 3>&- &
    client=$!
    for _ in $(seq 100); do
        [ "$(varve --json show "${1%%/*}" | jq '[.disks[].users] | add')" -gt 0 ] && return
        sleep 0.05
    done
    return 1
}

# ---- taking and listing -------------------------------------------------------------------------

@test "a version is what the disks were, all of them, and takes no copy" {
    varve create w --size 1G
    varve disk add w/data 64M
    write w 1 0 1M
    write w/data 1 0
    used=$(varve --json df | jq -r .data)
    [ "$(varve snap w@one --note 'the first')" = w@one ]
    [ "$(varve --json df | jq -r .data)" = "$used" ]
    write w 2 0
    write w/data 2 0
    varve snap w@two
    holds w@one 1 0
    holds w/data@one 1 0
    holds w/root@two 2 0
    holds w@two 1 64k
    holds w/data@two 2 0
    varve --json ls w >"$TOP/ls"
    jq -e '.[0] | .vm == "w" and .name == "one" and .note == "the first" and .consistency == "crash" and .held == false
        and .used == "1114112" and .exclusive == "131072" and .shared == "983040" and (.guid | length) == 32
        and .origin == ""' "$TOP/ls"
    jq -e '.[1] | .name == "two" and .origin == "w@one" and .exclusive == "0"' "$TOP/ls"
    jq -e '.[0].created | fromdateiso8601 > 1600000000' "$TOP/ls"
    varve ls w | grep -q '^w@one .* crash  *1.1M  *128K  *960K  *-  *the first$'
    varve show w@one | grep -q '^note  *the first$'
    [ "$(varve --json show w@two | jq -r '[.disks[].name] | sort | join(" ")')" = "data root" ]
    varve --json show w | jq -e '.versions == 2 and .origin == "w@two"'
    varve ls | grep -q '^w .* 2  *1.1G'
    varve rm --yes w
}

@test "without a name it is the time, with -2, -3 behind it when that is taken: by a clock that jumps back, too" {
    varve create w --size 1M
    now=$(date +%s)
    for second in $(seq 0 19); do # all names of the next seconds are taken
        varve snap "w@$(date -u -d "@$((now + second))" +%Y-%m-%dT%H-%M-%SZ)"
    done
    a=$(varve snap w) b=$(varve snap w)
    [[ $a =~ ^w@[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}-[0-9]{2}-[0-9]{2}Z-2$ ]]
    [[ $b =~ Z-[23]$ ]]
    [ "$a" != "$b" ]
    # By age, not by name or time.
    [ "$(varve --json ls w | jq -r '.[-1].name')" = "${b#w@}" ]
    [ "$(varve --json snap w | jq -r '.consistency')" = crash ]
    varve rm --yes w
}

@test "snap refuses bad names and notes" {
    varve create w --size 1M
    varve snap w@taken
    unchanged 4 'there is a version "w@taken" already' varve snap w@taken
    unchanged 3 'no vm "ghost"' varve snap ghost@v
    unchanged 3 'no vm "ghost"' varve snap ghost
    for name in 'a b' a/b . '' 'ä' a@b; do
        unchanged 2 'use 1 to 64 letters' varve snap "w@$name"
        unchanged 2 'use 1 to 64 letters' varve rename w@taken "w@$name"
    done
    for name in .. a..b ..b; do
        unchanged 2 'two dots stand between the ends of a range' varve snap "w@$name"
        unchanged 2 'two dots stand between the ends of a range' varve rename w@taken "$name"
    done
    unchanged 2 '65 characters' varve snap "w@$(printf 'x%.0s' {1..65})"
    unchanged 2 '1025 bytes' varve snap w@n --note "$(printf 'x%.0s' {1..1025})"
    unchanged 2 'control character' varve snap w@n --note $'a\nb'
    unchanged 2 'not UTF-8' varve snap w@n --note $'\xff'
    varve snap w@n --note "$(printf 'ä%.0s' {1..512})"
    unchanged 2 'no way to quiesce' varve snap w@q --quiesce maybe
    unchanged 2 '1 to 60 seconds' varve snap w@q --quiesce auto --timeout 61
    unchanged 2 'no number of seconds' varve snap w@q --timeout soon
    unchanged 1 'no version was taken: there is no guest agent' varve snap w@q --quiesce require
    unchanged 3 'cannot find' varve snap w@q --quiesce require --agent "$TOP/none"
    varve rm --yes w
}

@test "text that is not UTF-8 is refused, and nothing is done with what else was said" {
    varve create w --size 1M
    varve snap w@a
    varve snap w@b
    latin=$'t\xebst'
    unchanged 2 'not UTF-8' varve restore w@a --as "$latin"
    unchanged 2 'not UTF-8' varve rm --yes w@a "w@$latin"
    unchanged 2 'not UTF-8' varve rm --yes w@a "$latin"
    unchanged 2 'not UTF-8' varve rm --yes "$latin" w@a
    unchanged 2 'not UTF-8' varve snap "w@$latin"
    unchanged 2 'not UTF-8' varve snap w --quiesce "$latin"
    unchanged 2 'not UTF-8' varve checkpoint w -m "$latin"
    unchanged 2 'not UTF-8' varve checkpoint "w@$latin"
    unchanged 2 'not UTF-8' varve rollback w@a --keep "$latin"
    unchanged 2 'not UTF-8' varve create other --role "$latin"
    unchanged 2 'not UTF-8' varve hold "w@$latin"
    unchanged 2 'not UTF-8' varve rename w "$latin"
    unchanged 2 'not UTF-8' varve clone w@a "$latin"
    unchanged 2 'not UTF-8' varve send w@b --from "$latin" -o "$TOP/stream"
    unchanged 2 'not UTF-8' varve attach w --qmp "$STORE" --disk "root=a,data=$latin"
    expect 2 '"t\xebst" is not UTF-8' varve snap "w@$latin"
    mkdir "$TOP/$latin" # files may have any names
    touch "$TOP/$latin/sock"
    unchanged 2 'not UTF-8' varve restore w@a --qmp "$TOP/$latin/sock"
    unchanged 2 'not UTF-8' varve snap w --quiesce auto --agent "$TOP/$latin/sock"
    varve export w@a "$TOP/$latin/a.img"
    varve import "$TOP/$latin/a.img" again
    varve rm --yes w again
}

@test "text that XML-RPC cannot carry is refused" {
    varve create w --size 1M
    unchanged 2 'has a character that Varve cannot keep' varve snap w@n -m 'before 🚀'
    unchanged 2 'has a character that Varve cannot keep' varve snap w@n -m $'a\x1bb'
    unchanged 2 'has a character that Varve cannot keep' varve show 🚀
    unchanged 2 'has a character that Varve cannot keep' varve create w2 --role $'\xef\xbf\xbe'
    varve snap w@n -m 'vor dem Umbau: größer ✓'
    [ "$(varve --json show w@n | jq -r .note)" = 'vor dem Umbau: größer ✓' ]
    # The daemon's sentences are cut between characters.
    unchanged 2 'use 1 to 64 letters' varve show "a$(printf 'ü%.0s' {1..40})"
    unchanged 2 '"aüüüüüüüüü..." has 70 characters' varve show "a$(printf 'ü%.0s' {1..69})"
    unchanged 2 'it may have 64' varve show "a$(printf 'ü%.0s' {1..300})"
    varve rm --yes w
}

@test "snap --quiesce auto without an agent warns and takes it" {
    varve create w --size 1M
    run --separate-stderr varve snap w@q --quiesce auto
    [ "$status" -eq 0 ] && [ "$output" = w@q ]
    [[ $stderr == *"as after a crash, since the guest was not frozen"* ]]
    [ "$(varve --json show w@q | jq -r .consistency)" = crash ]
    varve rm --yes w
}

@test "rename, hold and release" {
    varve create w --size 1M
    varve snap w@a
    varve snap w@b
    varve rename w@a w@first
    varve rename w@b second
    [ "$(names w)" = "first second" ]
    unchanged 4 'already' varve rename w@first second
    unchanged 2 'stays with its vm' varve rename w@first x@first
    unchanged 3 'no version "a"' varve rename w@a b
    varve hold w@first w@second
    varve --json ls w | jq -e 'all(.held)'
    varve ls w | grep -q 'held'
    unchanged 4 '"w@first" is held already' varve hold w@first
    unchanged 4 '"w@first" is held, and nothing was removed' varve rm --yes w@first
    unchanged 4 'is held' varve rm --yes w
    unchanged 4 'is held' varve rm --yes w@..
    # What would be refused is not said to be done.
    for what in w@first w w@.. 'w@second w@first'; do
        run -4 varve rm --yes $what
        said=$output
        unchanged 4 'is held' varve rm --dry-run $what
        [ "$output" = "$said" ]
    done
    unchanged 4 '"w@first" is held, and nothing was removed' varve --json rm -n w@first
    varve release w@first
    run -0 varve rm --dry-run w@first
    unchanged 4 'is not held' varve release w@first
    unchanged 4 '"w@second" is held, and nothing was removed' varve rm --yes w@first w@second
    unchanged 3 'no version "zz"' varve hold w@zz
    unchanged 2 'names no version' varve hold w
    unchanged 2 'names no version' varve release w@
    varve release w@second
    varve rm --yes w
}

@test "a renamed vm takes its versions along" {
    varve create w --size 1M
    write w 1 0
    varve snap w@v
    varve clone w@v c
    varve rename w w2
    holds w2@v 1 0
    expect 3 'no vm' varve ls w
    [ "$(varve --json show c | jq -r .origin)" = w2@v ]
    varve rm --yes w2 c
}

# ---- cloning and going back ---------------------------------------------------------------------

@test "clones are disks of their own, to any depth, and live on when what they came from is gone" {
    varve create w --size 64M
    write w 1 0
    varve snap w@v
    write w 2 0
    varve clone w@v c1
    holds c1 1 0
    write c1 3 64k
    varve snap c1@v
    varve clone c1@v c2
    write c2 4 128k
    holds w 0 64k
    holds c1 0 128k
    [ "$(varve --json show c2 | jq -r .origin)" = c1@v ]
    varve rm --yes w
    varve rm --yes c1
    holds c2 1 0
    holds c2 3 64k
    holds c2 4 128k
    [ "$(varve --json show c2 | jq -r .origin)" = "" ]
    varve snap c2@v
    unchanged 4 'there is a vm "c2" already' varve clone c2@v c2
    unchanged 3 'no version "x"' varve clone c2@x new
    unchanged 3 'no vm "ghost"' varve clone ghost@v new
    unchanged 3 'no vm "ghost"' varve clone ghost new
    unchanged 2 'use 1 to 64 letters' varve clone c2@v a/b
    unchanged 2 'names no version' varve clone c2@ new
    varve rm --yes c2
}

@test "clone of a vm takes a version first, says so, and leaves none when it fails" {
    varve create w --size 1M
    write w 7 0
    run --separate-stderr varve clone w c
    [ "$status" -eq 0 ] && [ -z "$output" ]
    [[ $stderr == *"c was cloned from the version w@"*", which was taken for it"* ]]
    holds c 7 0
    [ "$(varve --json show c | jq -r .origin)" = "w@$(names w)" ]
    unchanged 4 'already' varve clone w c
    varve rm --yes w c
}

@test "rollback goes back, keeps what it replaces, and leaves the other versions" {
    varve create w --size 64M
    write w 1 0
    varve snap w@a
    write w 2 0
    varve snap w@b
    varve disk add w/new 1M
    varve disk resize w/root 128M
    write w 3 0
    kept=$(varve rollback w@a)
    [[ $kept =~ ^w@before-rollback-[0-9T:-]+Z(-[0-9]+)?$ ]]
    holds w 1 0
    varve --json show w | jq -e '.origin == "w@a" and (.disks | length) == 1 and .disks[0].size == "67108864"'
    holds "$kept" 3 0
    varve --json show "$kept" | jq -e '(.disks | length) == 2 and ([.disks[] | select(.name == "root").size] == ["134217728"])'
    holds w@b 2 0
    # There and back again.
    [ "$(varve rollback "$kept" --keep back)" = w@back ]
    holds w 3 0
    holds w/new 0 0
    unchanged 4 'there is a version "w@back" already' varve rollback w@a --keep back
    unchanged 2 'Say so with --yes' varve rollback w@a --discard </dev/null
    unchanged 2 'exclude each other' varve rollback w@a --discard --keep x
    unchanged 2 'names no version' varve rollback w
    unchanged 3 'no version "zz"' varve rollback w@zz
    unchanged 3 'no version "zz"' varve rollback w@zz --force
    n=$(varve --json ls w --unmeasured | jq length)
    [ -z "$(varve rollback w@b --discard --yes)" ]
    [ "$(varve --json ls w --unmeasured | jq length)" = "$n" ]
    holds w 2 0
    varve rm --yes w
}

@test "rollback is refused while a client is there, unless it is forced" {
    varve create w --size 64M
    write w 1 0
    varve snap w@a
    write w 2 0
    connect w/root
    unchanged 4 'was not rolled back; stop the machine, or disconnect them with --force' varve rollback w@a
    kill -0 $client
    # A missing version disconnects nobody.
    unchanged 3 'no version "zz"' varve rollback w@zz --force
    [ "$(varve --json show w | jq '.disks[0].users')" = 1 ]
    run --separate-stderr varve rollback w@a --force
    [ "$status" -eq 0 ]
    [[ $stderr == *"1 client(s) of w were disconnected"* ]]
    [ "$(varve --json show w | jq '.disks[0].users')" = 0 ]
    kill $client
    holds w 1 0
    # Readers of versions are nobody's concern.
    connect w@a
    varve rollback w@a --force
    unchanged 4 'version "w@a" is in use by 1 client(s)' varve rm --yes w@a
    unchanged 4 'version "w@a" is in use by 1 client(s)' varve rm --yes w
    unchanged 4 'version "w@a" is in use by 1 client(s)' varve rm --dry-run w@a
    unchanged 4 'version "w@a" is in use by 1 client(s)' varve rm --dry-run w
    kill $client
    for _ in $(seq 100); do varve rm --yes w 2>/dev/null && break; sleep 0.05; done
    expect 3 'no vm' varve show w
}

@test "a client that comes back by itself is let in after a forced rollback, not during it" {
    varve create w --size 64M
    write w 1 0
    varve snap w@a
    write w 2 0
    cat >"$TOP/stubborn.py" <<'END'
import nbd, sys, time
reconnected = 0
end = time.monotonic() + 60
while time.monotonic() < end:
    try:
        h = nbd.NBD()
        h.connect_uri(sys.argv[1])
        while True:
            h.pread(4096, 0)
    except nbd.Error:
        reconnected += 1
END
    pids=()
    for _ in 1 2 3; do
        /usr/bin/python3 "$TOP/stubborn.py" "nbd+unix:///w?socket=$VARVE_RUN/nbd.sock" 3>&- &
        pids+=($!)
    done
    for _ in $(seq 100); do [ "$(varve --json show w | jq '.disks[0].users')" = 3 ] && break; sleep 0.05; done
    for i in $(seq 20); do
        varve rollback w@a --force --keep "k$i" 2>/dev/null
    done
    for _ in $(seq 100); do [ "$(varve --json show w | jq '.disks[0].users')" = 3 ] && break; sleep 0.05; done
    [ "$(varve --json show w | jq '.disks[0].users')" = 3 ]
    kill "${pids[@]}"
    holds w 1 0
    for _ in $(seq 100); do varve rm --yes w 2>/dev/null && break; sleep 0.05; done
}

@test "QEMU comes back by itself after a forced rollback, and reads what the version has" {
    varve create w --size 64M
    write w 1 0
    varve snap w@a
    write w 2 0
    node=driver=raw,file.driver=nbd,file.server.type=unix,file.server.path=$VARVE_RUN/nbd.sock
    mkfifo "$TOP/commands"
    qemu-io --image-opts "$node,file.export=w,file.reconnect-delay=60" <"$TOP/commands" >"$TOP/qemu-io" 2>&1 3>&- &
    client=$!
    exec 4>"$TOP/commands"
    echo 'read -P 2 0 64k' >&4
    for _ in $(seq 200); do grep -q 'read 65536' "$TOP/qemu-io" && break; sleep 0.05; done
    varve rollback w@a --force
    echo 'read -P 1 0 64k' >&4
    echo quit >&4
    exec 4>&-
    wait $client
    [ "$(grep -c 'read 65536/65536' "$TOP/qemu-io")" = 2 ]
    ! grep -i 'fail\|error' "$TOP/qemu-io"
    # And a bitmap of what changed, where QEMU reads one: "data": false is what differs.
    write w 3 1M
    qemu-img map --output=json --image-opts "$node,file.export=w,file.x-dirty-bitmap=varve:changed:a" >"$TOP/map"
    [ "$(jq -c '[.[] | select(.data == false) | [.start, .length]]' "$TOP/map")" = '[[1048576,65536]]' ]
    for _ in $(seq 100); do varve rm --yes w 2>/dev/null && break; sleep 0.05; done
}

# ---- removing -----------------------------------------------------------------------------------

@test "rm takes many names and ranges, and all bytes come back" {
    varve create w --size 64M
    varve create x --size 1M
    sleep 1
    before=$(varve --json df | jq -r .data)
    for i in 1 2 3 4 5 6 7 8 9; do
        write w $i 0
        varve snap w@v$i
    done
    varve snap x@only
    unchanged 2 'Remove 2 version(s) of vm w? Say so with --yes' varve rm w@v1 w@v2 </dev/null
    unchanged 2 'Remove 0 vm(s) and 4 version(s)? Say so' varve rm w@v2..v4 x@only </dev/null
    unchanged 2 'Remove vm w with its 1 disk(s), 9 version(s) and all data on them?' varve rm w </dev/null
    unchanged 3 'no version "v0"' varve rm --yes w@v1 w@v0
    unchanged 3 'no version "v0"' varve rm --yes w@v0..v3
    unchanged 3 'no vm "ghost"' varve rm --yes x@only ghost
    unchanged 2 'w@v5 is younger than w@v2; write the older one first: w@v2..v5' varve rm --yes w@v5..v2
    unchanged 2 'names no version' varve rm --yes w@
    run -0 varve rm --dry-run w@v2..v4
    [[ $output == *'w@v2 '*'w@v3 '*'w@v4 '*192K* ]]
    [ "$(varve --json rm -n w@v2..v4 x@only | jq -c '[.[] | [.vm, .whole, .versions, .bytes]]')" = \
        '[["w",false,["v2","v3","v4"],"196608"],["x",false,["only"],"0"]]' ]
    # The youngest is what the head shows, too.
    [ "$(varve --json rm -n w@v9 | jq -r '.[0].bytes')" = 0 ]
    [ "$(varve --json rm -n w | jq -c '.[0] | [.whole, .bytes]')" = '[true,"589824"]' ]
    run -0 varve rm --dry-run w
    [[ $output == *'w '*576K*'w@v1 '* && $output != *share* ]]
    # What a clone shares stays.
    varve clone w@v9 y
    run -0 varve rm --dry-run w y
    [[ $output == *'What these vms share with each other is not counted'* ]]
    [ "$(varve --json rm -n w y | jq -c '[.[].bytes]')" = '["524288","0"]' ]
    write y 1 0
    [ "$(varve --json rm -n w y | jq -c '[.[].bytes]')" = '["589824","65536"]' ]
    varve rm --yes y
    run -3 varve rm --dry-run y
    varve rm --yes w@v2..v4 x@only
    [ "$(names w)" = "v1 v5 v6 v7 v8 v9" ]
    varve rm --yes w@..v5 w@v7 w@v7 w@v7..v7
    [ "$(names w)" = "v6 v8 v9" ]
    varve rm --yes w@v8..
    [ "$(names w)" = v6 ]
    holds w@v6 6 0
    holds w 9 0
    varve rm --yes w@..
    [ -z "$(names w)" ]
    varve rm --yes w@..
    varve rm --yes w
    varve rm --yes x x@only x
    for _ in $(seq 100); do
        varve --json df | jq -e --arg b "$before" '.pending == "0" and .data == $b' && break
        sleep 0.1
    done
    varve --json df | jq -e --arg b "$before" '.pending == "0" and .data == $b'
}

@test "rm removes what it asked about, and not what came while it asked" {
    varve create w --size 1M
    varve snap w@a
    varve snap w@b
    mkfifo "$TOP/answer"
    script -qec "varve rm w@a.." /dev/null <"$TOP/answer" >"$TOP/asked" 2>&1 3>&- &
    client=$!
    exec 4>"$TOP/answer"
    for _ in $(seq 200); do grep -q 'Remove 2 version' "$TOP/asked" && break; sleep 0.05; done
    varve snap w@late
    echo y >&4
    wait $client
    exec 4>&-
    [ "$(names w)" = late ]
    grep -q '^2 version(s) of vm w removed' "$TOP/asked"
    varve rm --yes w
}

@test "more versions than one change removes go by one command" {
    varve create w --size 1M
    for _ in $(seq 30); do
        for _ in $(seq 20); do varve snap w; done
    done >"$TOP/names"
    [ "$(varve --json show w | jq .versions)" = 600 ]
    last=$(tail -1 "$TOP/names")
    varve hold "$last"
    run -4 varve rm --yes w@..
    [[ $output == *"\"$last\" is held, and nothing was removed"* ]]
    [ "$(varve --json show w | jq .versions)" = 600 ]
    varve release "$last"
    varve rm --yes "$(head -1 "$TOP/names")..$(tail -1 "$TOP/names" | sed 's/^w@//')"
    [ "$(varve --json show w | jq .versions)" = 0 ]
    varve rm --yes w
}

# ---- comparing ----------------------------------------------------------------------------------

@test "diff shows data, zeros and what was discarded, by disk" {
    varve create w --size 1T
    varve disk add w/gone 1M
    varve disk add w/other 1M
    write w 1 0 1M
    write w 1 500G
    write w/other 1 0
    varve snap w@a
    varve snap w@same
    write w 2 64k
    qemu-io -f raw -c 'discard -q 128k 64k' -c 'write -q -z 256k 64k' -c 'write -q -P 3 900G 4k' \
        "nbd+unix:///w?socket=$VARVE_RUN/nbd.sock"
    varve disk rm --yes w/gone
    varve disk rm --yes w/other
    varve disk add w/other 2M
    varve disk add w/new 1M
    write w/new 5 0
    varve snap w@b
    varve --json diff w@a w@b >"$TOP/diff"
    jq -e '.from == "w@a" and .to == "w@b"' "$TOP/diff"
    [ "$(jq -c '[.disks[] | [.name, .state]] | sort' "$TOP/diff")" = \
        '[["gone","removed"],["new","added"],["other","replaced"],["root","both"]]' ]
    [ "$(jq -c '.disks[] | select(.name == "root").extents | map([.offset, .length, .type])' "$TOP/diff")" = \
        '[[65536,65536,"data"],[131072,65536,"discarded"],[262144,65536,"zero"],[966367641600,4096,"data"]]' ]
    [ "$(jq -c '.disks[] | select(.name == "new").extents | map([.offset, .length, .type])' "$TOP/diff")" = '[[0,65536,"data"]]' ]
    # To the head; back; to itself.
    write w 9 0 4k
    [ "$(varve --json diff w@b w | jq -c '[.disks[] | select(.extents != []) | .name, .extents[0].length]')" = '["root",4096]' ]
    varve diff w@b w@a | grep -q '^root  *changed  *1T  *192K  *0  *4K  *'
    varve diff w@a w@same | grep -q '^root  *same  *1T  *0  *0  *0  *0$'
    # A clone has the same origin; another vm has not.
    varve clone w@b c
    write c 9 4M 4k
    [ "$(varve --json diff w@b c | jq -c '[.disks[] | select(.extents != []) | .name, .extents[0].offset]')" = '["root",4194304]' ]
    varve create z --size 1T
    expect 2 'no disk of "w" and "z" has a common origin' varve diff w@a z
    expect 2 'names no version' varve diff w w@a
    expect 3 'no version "zz"' varve diff w@zz w
    expect 3 'no version "zz"' varve diff w@a w@zz
    expect 3 'no vm "ghost"' varve diff w@a ghost
    varve rm --yes w c z
}

@test "diff of a disk that was resized tells of its new size and what is in it" {
    varve create w --size 1M
    write w 1 0 1M
    varve snap w@a
    varve disk resize w/root 2M
    write w 2 1536k
    varve snap w@b
    varve disk resize --yes w/root 512k
    varve snap w@c
    [ "$(varve --json diff w@a w@b | jq -c '.disks[0] | [.from_size, .to_size, (.extents | map([.offset, .length, .type]))]')" = \
        '[1048576,2097152,[[1572864,65536,"data"]]]' ]
    [ "$(varve --json diff w@b w@c | jq -c '.disks[0] | [.from_size, .to_size, .extents]')" = '[2097152,524288,[]]' ]
    varve diff w@b w@c | grep -q '^root  *changed  *2M to 512K'
    varve rm --yes w
}

@test "many differences come in many pages" {
    varve create w --size 1G
    varve snap w@a
    /usr/bin/python3 - "nbd+unix:///w?socket=$VARVE_RUN/nbd.sock" <<'END'
import nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
buf = nbd.Buffer.from_bytearray(b"x" * 4096)
for i in range(20000):
    h.aio_pwrite(buf, i * 8192)
    while h.aio_in_flight() > 60:
        h.poll(-1)
while h.aio_in_flight():
    h.poll(-1)
END
    varve --json diff w@a w | jq -e '.disks[0].extents | length == 20000
        and (to_entries | all(.value.offset == .key * 8192 and .value.length == 4096 and .value.type == "data"))'
    varve diff w@a w | grep -q '^root .* 78M .* 20000$'
    varve rm --yes w
}

# ---- the tree, exports, the end -----------------------------------------------------------------

@test "the tree shows what came from what" {
    varve create t --size 1M
    varve snap t@a
    varve snap t@b
    varve clone t@a c
    varve snap c@x
    varve rollback t@a --keep left
    varve ls --tree | sed 's/ *[0-9T:Z-]* *[0-9]* *$//; s/  *now *$//' >"$TOP/tree"
    diff - <(sed 1d "$TOP/tree") <<'END'
t@a
|- c@x
|  c
|- t@b
|  t@left
t
END
    [ "$(varve --json ls --tree | jq -c '[.[] | select(.vm == "t" or .vm == "c") | [.name, .kind, .parent]] | sort')" = \
        '[["c","vm","c@x"],["c@x","version","t@a"],["t","vm","t@a"],["t@a","version",null],["t@b","version","t@a"],["t@left","version","t@b"]]' ]
    expect 2 'takes no name' varve ls --tree t
    [ "$(varve --json ls --versions | jq length)" = 4 ]
    varve rm --yes t c
}

@test "versions are read-only exports that no list shows" {
    varve create w --size 64M
    write w 1 0 1M
    varve snap w@a
    uri="nbd+unix:///w/root@a?socket=$VARVE_RUN/nbd.sock"
    nbdinfo --json "$uri" | jq -e '.exports[0] | .is_read_only and .can_multi_conn and .can_cache
        and ."export-size" == 67108864'
    [[ $(nbdinfo --list "nbd+unix://?socket=$VARVE_RUN/nbd.sock") != *@* ]]
    run qemu-io -f raw -c 'write -P 2 0 64k' "$uri"
    [[ $output == *[Rr]ead-only* || $output == *"ermission"* ]]
    holds w@a 1 0
    write w 2 0
    nbdcopy "$uri" "$TOP/a.raw"
    cmp -n 1048576 "$TOP/a.raw" <(head -c 1048576 /dev/zero | tr '\0' '\1')
    varve export w@a "$TOP/a.qcow2"
    qemu-img compare -f raw -F qcow2 "$TOP/a.raw" "$TOP/a.qcow2"
    expect 3 'no version "b"' varve export w@b "$TOP/b.raw"
    expect 3 'version "w@a" has no disk "x"' varve export w/x@a "$TOP/b.raw"
    expect 2 'names no version' varve export w@ "$TOP/b.raw"
    [ ! -e "$TOP/b.raw" ]
    # Changed blocks, as a backup program asks for them.
    nbdinfo --map=varve:changed:a "nbd+unix:///w?socket=$VARVE_RUN/nbd.sock" >"$TOP/map"
    diff <(awk '{ print $1, $2, $3 }' "$TOP/map") - <<'END'
0 65536 1
65536 67043328 0
END
    for _ in $(seq 100); do varve rm --yes w 2>/dev/null && break; sleep 0.05; done
}

@test "versions live through kill -9 and an orderly end, and the store is whole" {
    varve create w --size 64M
    write w 1 0
    varve snap w@a --note kept
    varve hold w@a
    varve clone w@a c
    write w 2 0
    varve rollback w@a --keep replaced
    before=$(varve --json ls --versions)
    kill -9 "$(cat "$TOP/pid")"
    start_daemon
    [ "$(varve --json ls --versions)" = "$before" ]
    stop_daemon
    start_daemon
    [ "$(varve --json ls --versions)" = "$before" ]
    holds w@a 1 0
    holds w@replaced 2 0
    holds c 1 0
    varve check
    varve release w@a
    varve rm --yes w c
}

@test "without a daemon every verb says so" {
    stop_daemon
    for command in "snap w" "hold w@a" "release w@a" "rollback w@a" "clone w@a c" "diff w@a w" "rm --yes w@a" "ls w" \
        "ls --tree" "rename w@a b" "show w@a"; do
        expect 5 'no daemon answers' varve $command
    done
    start_daemon
}

@test "send --from wants a version's name" {
    varve create w --size 1M
    varve snap w@a
    for from in '' w@ @; do
        unchanged 2 'vers' varve send w@a --from "$from" -o "$TOP/stream"
        [ ! -e "$TOP/stream" ]
    done
    expect 2 '--from "w@" names no version' varve send w@a --from w@ -o "$TOP/stream"
    varve rm --yes w
}

# ---- what is more than the command can do --------------------------------------------------------

@test "run refuses a vm with more disks than it gives a machine" {
    varve create w --size 1M
    for i in {1..24}; do varve disk add "w/d$i" 4096; done
    unchanged 1 'has 25 disks, and varve run gives a machine up to 24' varve run w -m 64M
    [ ! -e "$VARVE_RUN/vm/w/pid" ]
    varve rm --yes w
}

@test "export replaces nothing but a plain file" {
    varve create w --size 1M
    mkfifo "$TOP/pipe"
    for force in '' --force; do
        unchanged 2 'is no plain file' varve export $force w "$TOP/pipe"
        [ -p "$TOP/pipe" ]
    done
    [ -z "$(ls "$TOP" | grep partial)" ]
    varve rm --yes w
}

@test "an answer that is longer than any should be is told as that" {
    mkdir "$TOP/long-run"
    /usr/bin/python3 - "$TOP/long-run/varve.sock" 3>&- <<'END' &
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
client = listener.accept()[0]
client.recv(65536)
try:
    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (65 << 20))
except OSError:
    pass
END
    client=$!
    for _ in $(seq 100); do [ ! -S "$TOP/long-run/varve.sock" ] || break; sleep 0.05; done
    expect 1 'answered to vm.list is longer than the 64 MiB' varve --run "$TOP/long-run" ls
    wait "$client"
}
