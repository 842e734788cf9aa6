# The only entry point. `make demo` shows it working, `make test` checks everything; both fetch what they need.

SHELL := /bin/sh
BUILD := $(or $(CARGO_TARGET_DIR),target)
CARGO := cargo
# A registry that is busy for a moment must not cost a whole run.
export CARGO_NET_RETRY := 10

.DEFAULT_GOAL := help
.PHONY: help demo soak bench bench-guard test fuzz lint build deb tarball clean fmt tools kafka hosts

help:
	@echo "make demo    real Kafka, both daemons, a mixed set of files, every byte compared (KEEP=1 stays up;"
	@echo "             BOOTSTRAP=HOST:PORT uses that broker; DEMO_DIR=DIR is the work folder)"
	@echo "make test    lint, then every test, the end-to-end tests against a real Kafka among them"
	@echo "make soak    every fault, at random, for MINUTES=60; ends with the table of what was injected and what was lost"
	@echo "             (ONLY=NAME,... TIMES=N runs these so often; FULL=1 each as often as docs/reliability.md wants; SEED=S)"
	@echo "make fuzz    hostile bytes for everything that reads them, RUNS=10000000 inputs per target (TARGET=NAME for one)"
	@echo "make bench   product and bare client in turn, and the table against the targets (docs/performance.md); for a quiet machine"
	@echo "             (ONLY=ROW,... PAIRS=5 SIZE=2GB LARGE=10GB PLOTS=docs; streamsend-bench --help has more)"
	@echo "make bench-guard  instructions of the pure cores against the recorded ones (part of make test; STREAMSEND_BLESS=1 renews them)"
	@echo "make lint    formatting, clippy, documentation, house rules"
	@echo "make build   release binaries in $(BUILD)/release"
	@echo "make deb     the Debian package, in $(BUILD)/package"
	@echo "make tarball the same for other systems, with an install script"
	@echo "make fmt     formats the sources"
	@echo "make clean   removes everything that was built or fetched"

tools:
	@scripts/ensure-tools

# With a broker given there is nothing to fetch.
demo: tools $(if $(BOOTSTRAP),,kafka)
	$(CARGO) build --release --locked --package streamsend --package testkit --bins
	@exec $(BUILD)/release/streamsend-demo

soak: tools kafka
	$(CARGO) build --release --locked --package streamsend --package testkit --package simulation --bins
	@exec $(BUILD)/release/streamsend-soak --minutes $(or $(MINUTES),60) $(if $(ONLY),--only $(ONLY)) $(if $(TIMES),--times $(TIMES)) \
		$(if $(FULL),--full) $(if $(SEED),--seed $(SEED))

bench: tools kafka
	$(CARGO) build --release --locked --package streamsend --package testkit --bins
	@exec $(BUILD)/release/streamsend-bench $(if $(ONLY),--only $(ONLY)) $(if $(PAIRS),--pairs $(PAIRS)) $(if $(SIZE),--size $(SIZE)) \
		$(if $(LARGE),--large $(LARGE)) $(if $(PLOTS),--plots $(PLOTS))

bench-guard: tools
	$(CARGO) build --release --locked --package guard
	@$(BUILD)/release/streamsend-guard

test: tools kafka hosts lint bench-guard
	$(CARGO) build --locked --bins
	$(CARGO) test --workspace --locked
	$(CARGO) test --package simulation --features seeded --test mutations --locked

fuzz: tools
	@scripts/fuzz $(or $(RUNS),10000000) $(TARGET)

lint: tools
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" $(CARGO) doc --workspace --no-deps --document-private-items --locked --quiet
	@scripts/house-rules

build: tools
	$(CARGO) build --release --locked --bins

deb tarball: build
	@scripts/package $@ release

# The base system of the hosts that tests boot, before anything long begins. If it cannot be made now, those tests try again, and say it.
hosts: tools
	@if [ "$$(id -u)" = 0 ] && command -v mmdebstrap >/dev/null; then scripts/host-base || true; fi

kafka: tools
	@scripts/kafka-libs

fmt: tools
	$(CARGO) fmt --all

clean:
	$(CARGO) clean
