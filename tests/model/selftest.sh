#!/bin/sh
# The test bed must pass a right store and find each classical mistake in a wrong one.
# usage: selftest.sh TOY-MODEL
toy=$1
out=$(mktemp)
trap 'rm -f "$out"' EXIT
bad=0
for profile in mix every sweep fault; do
    if ! "$toy" --profile $profile --points 1000 >"$out" 2>&1; then
        echo "a right store is blamed ($profile):"
        cat "$out"
        bad=1
    fi
done
for bug in flush-no-sync fua-no-sync sync-early ack-early ack-order no-prefix no-crc \
    trim-not-logged trim-edges extents recovery-not-durable lost-update; do
    if TOY_BUG=$bug "$toy" --profile mix --points 3000 >"$out" 2>&1; then
        echo "not found: $bug"
        bad=1
    else
        echo "found: $bug: $(grep FAILED "$out")"
    fi
done
if "$toy" --lie --profile mix --points 3000 >"$out" 2>&1; then
    echo "not found: a medium whose syncs do nothing"
    bad=1
fi
exit $bad
