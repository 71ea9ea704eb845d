#!/usr/bin/env bats
# scripts/setup: quick and silent when nothing is missing, one clear sentence when it cannot help.

setup() {
    setup=$BATS_TEST_DIRNAME/../../scripts/setup
    fake=$BATS_TEST_TMPDIR/bin
    mkdir "$fake"
}

# A dpkg-query that calls everything installed but the named package; other programs are real.
fake_dpkg() {
    cat >"$fake/dpkg-query" <<END
#!/bin/sh
for p; do case \$p in -*|*\{*|$1) ;; *) echo "ii  \$p" ;; esac; done
END
    chmod +x "$fake/dpkg-query"
}

fake_id() {
    printf '#!/bin/sh\necho %s\n' "$1" >"$fake/id"
    printf '#!/bin/sh\necho "$*" >>"%s/apt.log"\n' "$fake" >"$fake/apt-get"
    chmod +x "$fake/id" "$fake/apt-get"
}

@test "nothing missing: says nothing, installs nothing" {
    fake_dpkg none
    fake_id 0
    PATH=$fake:$PATH run "$setup" build check demo bench
    [ "$status" -eq 0 ]
    [ -z "$output" ]
    [ ! -e "$fake/apt.log" ]
}

@test "one package missing: it alone is installed" {
    fake_dpkg liburing-dev
    fake_id 0
    PATH=$fake:$PATH run "$setup" build
    [ "$status" -eq 0 ]
    [[ $output == *"installing for build: liburing-dev"* ]]
    grep -q "update" "$fake/apt.log"
    grep -q "install --no-install-recommends liburing-dev$" "$fake/apt.log"
}

@test "not root: says what to run, installs nothing" {
    fake_dpkg liburing-dev
    fake_id 1000
    PATH=$fake:$PATH run "$setup" build
    [ "$status" -eq 1 ]
    [[ $output == *"only root"*"apt-get install liburing-dev"* ]]
    [ ! -e "$fake/apt.log" ]
}

@test "not Debian: says so and lists the packages" {
    for p in bash tr sort awk comm dirname; do ln -s "$(command -v $p)" "$fake/$p"; done
    PATH=$fake run "$setup" build
    [ "$status" -eq 1 ]
    [[ $output == *"not a Debian system"*"liburing-dev"* ]]
}

@test "an unknown target is refused" {
    run "$setup" nonsense
    [ "$status" -eq 1 ]
    [[ $output == *"no target 'nonsense'"* ]]
}
