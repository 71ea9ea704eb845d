# What the bats tests of the command share. They set TOP (a scratch directory), STORE and VARVE_RUN.

start_daemon() {
    varved --store "$STORE" --run "$VARVE_RUN" >"$TOP/log" 2>&1 3>&- &
    echo $! >"$TOP/pid"
    for _ in $(seq 200); do
        varve df >/dev/null 2>&1 && return
        sleep 0.05
    done
    cat "$TOP/log" >&2
    return 1
}

stop_daemon() {
    kill "$(cat "$TOP/pid")"
    for _ in $(seq 200); do
        kill -0 "$(cat "$TOP/pid")" 2>/dev/null || return 0
        sleep 0.05
    done
    return 1
}

# expect CODE SENTENCE COMMAND...: the exit code, and a part of what is said.
expect() {
    local code=$1 sentence=$2
    shift 2
    run "$@"
    [ "$status" -eq "$code" ] || { echo "exit $status, not $code: $output"; return 1; }
    [[ $output == *"$sentence"* ]] || { echo "does not say \"$sentence\": $output"; return 1; }
}

# refused CODE SENTENCE COMMAND...: the same, and no vm or disk is other than before.
refused() {
    local before=$(varve --json ls)
    expect "$@" || return 1
    [ "$(varve --json ls)" = "$before" ] || { echo "something changed"; return 1; }
}

# A command that must fail, in this shell (which `run` is not).
fails() {
    if "$@"; then
        echo "$* did not fail"
        return 1
    fi
}
