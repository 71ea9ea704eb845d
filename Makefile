# A front of a few lines: meson does the building (build/), the scripts do the rest. Every target
# installs the Debian packages that it needs by itself (scripts/setup); on a system where they are
# already there that costs a dpkg-query.

MESON_FLAGS ?= --buildtype=release -Ddebug=true
prefix ?= /usr/local

all:
	@scripts/setup build
	@test -f build/build.ninja || meson setup build $(MESON_FLAGS) --prefix=$(prefix)
	@ninja -C build

demo:
	@scripts/setup demo
	@$(MAKE) --no-print-directory all
	@scripts/demo

check check-long:
	@scripts/setup check $(if $(filter check-long,$@),long)
	@scripts/check $(if $(filter check-long,$@),--long)

bench:
	@scripts/setup bench
	@$(MAKE) --no-print-directory all
	@bench/run $(BENCH_FLAGS)

guests:
	@scripts/setup demo
	@scripts/guest-tiny
	@scripts/guest-debian

# A prefix that is named counts for a build that is there already, too.
install: all
ifneq ($(origin prefix), file)
	@meson configure build --prefix=$(prefix)
	@ninja -C build
endif
	meson install -C build --no-rebuild

# Keeps the guest images, which take minutes: make distclean removes them too.
clean:
	@rm -rf build-asan build-tsan
	@if [ -d build ]; then find build -mindepth 1 -maxdepth 1 ! -name guest -exec rm -rf {} +; fi

distclean:
	rm -rf build build-asan build-tsan

format:
	@scripts/setup check
	git ls-files '*.c' '*.h' | xargs clang-format -i

.PHONY: all demo check check-long bench guests install clean distclean format
