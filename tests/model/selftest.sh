#!/bin/sh
# The test bed must pass a right store and find each classical mistake in a wrong one.
# usage: selftest.sh TOY-MODEL
toy=$1
out=$(mktemp)
trap 'rm -f "$out"' EXIT
bad=0
for profile in mix every sweep fault versions; do
    if ! "$toy" --profile $profile --points 1000 >"$out" 2>&1; then
        echo "a right store is blamed ($profile):"
        cat "$out"
        bad=1
    fi
done
# usage: find_bugs PROFILE BUG...
find_bugs() {
    profile=$1
    shift
    for bug; do
        if TOY_BUG=$bug "$toy" --profile "$profile" --points 3000 >"$out" 2>&1; then
            echo "not found: $bug"
            bad=1
        elif grep -q 'signal\|test bug' "$out"; then
            echo "found, but not as it should be: $bug: $(grep FAILED "$out")"
            bad=1
        else
            echo "found: $bug: $(grep FAILED "$out")"
        fi
    done
}
find_bugs mix flush-no-sync fua-no-sync sync-early ack-early ack-order no-prefix no-crc \
    trim-not-logged trim-edges extents recovery-not-durable lost-update
find_bugs versions snap-late snap-mixed snap-half snap-no-prefix snap-no-sync snap-replayed-late \
    version-mutable version-writable version-resized note-lost time-lost hold-not-logged rename-not-logged \
    held-ignored list-by-name list-page origin clone-shares clone-of-head rollback-keeps \
    rollback-not-replayed rollback-loses-disk remove-frees-shared remove-takes-clones \
    remove-not-all adopt-stale diff-misses-trim diff-end diff-everything measure-shared measure-no-head space-leaks
if "$toy" --lie --profile mix --points 3000 >"$out" 2>&1; then
    echo "not found: a medium whose syncs do nothing"
    bad=1
fi
exit $bad
