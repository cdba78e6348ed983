# Everything a person does with this repository. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BUILT := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
TESTKIT := $(BUILT)/debug/berth-testkit

.PHONY: help
help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: needs
needs: ## install the Debian packages that the node and its tests need (apt, as root); says what it does
	@tools/needs

.PHONY: build
build: ## the daemon (dev profile), the static shim and helper (profile small), the testkit
	@tools/build

.PHONY: wasm
wasm: ## the shim for WebAssembly, which has a workspace and a target directory of its own
	@tools/build-wasm

.PHONY: demo
demo: needs build wasm ## a node that runs real pods, loses its daemon and finds everything again
	@"$(TESTKIT)" demo

.PHONY: test
test: needs build wasm ## every test but the long ones; prints how many ran
	@tools/test short

.PHONY: test-long
test-long: needs build ## the long tests: endurance, churn, wide interleavings
	@tools/test long

.PHONY: test-cgroup2
test-cgroup2: needs build ## tests in a machine with cgroup v2 (QEMU), with cgroupfs and with systemd: DRIVER=one ONLY="words"
	@tools/test-cgroup2 $(DRIVER) -- $(ONLY)

.PHONY: property
property: SECONDS ?= 3600
property: needs build ## random calls, crashes, faults and configurations, for an hour or for SECONDS=n
	BERTH_PROPERTY_SECONDS=$(SECONDS) cargo test --locked -p berth-testkit --test property -- --nocapture

.PHONY: fuzz
fuzz: TARGET ?= all
fuzz: SECONDS ?= 60
fuzz: ## fuzz targets for what others send: TARGET=cni, nri, shim, spdy or websocket for SECONDS=n; without it each in its turn
	@tools/fuzz run $(TARGET) $(SECONDS)

.PHONY: node
node: needs build ## a node in the foreground to play with, in namespaces of its own
	@"$(TESTKIT)" node

.PHONY: conformance
conformance: needs build ## the CRI conformance suite: CRITEST=path to critest, ARGS="more for it"; without one only its node
	@tools/needs busybox
	@"$(TESTKIT)" conformance $(CRITEST) $(ARGS)

.PHONY: kubelet
kubelet: needs build ## every shape of pod by a real kubelet: KUBELET=path to one, ONLY=part of a shape's name, GATES='more of its feature gates'
	@"$(TESTKIT)" kubelet "$(or $(KUBELET),$(error say KUBELET=path to a kubelet))" "$(ONLY)" $(addprefix --gate ,$(GATES))

.PHONY: mutants
mutants: needs ## deliberate faults in the product, each of which must make a test fail
	@tools/mutants/run

.PHONY: bench
bench: ## Berth beside Debian's containerd and the bare commands, in one run; writes docs/bench.md
	@tools/needs
	@tools/bench

.PHONY: install
install: ## build for use and install below DESTDIR and PREFIX (default /usr)
	@tools/install

.PHONY: check
check: fmt clippy rules docs ## format, lints, dependency rules, licences, documentation

.PHONY: fmt clippy rules docs
fmt: ## only the format
	cargo fmt --all --check
	cargo fmt --manifest-path crates/shim-wasm/Cargo.toml --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
clippy: ## only the lints
	cargo clippy --workspace --all-targets --locked -- -D warnings
rules: ## only the rules that no compiler knows: dependencies, licences, lengths, names, links
	@tools/rules/all
docs: ## only the documentation
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked
