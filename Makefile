# The front door; CI uses it too. Each target does its own set-up. `make` alone shows what there is.
.POSIX:
.DEFAULT_GOAL := help
.PHONY: node help run demo test test-native test-clients test-filter test-sim test-wasm test-istio bench bench-filter bench-issuer bench-core bench-count fuzz lint fmt image wasm setup clean

section = @sh tests/scripts/section.sh

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@printf '\n  ENVOY=/path/to/envoy uses that Envoy instead of the pinned one.\n'

run: ## start issuer, two Envoy hops and an echo service; Ctrl-C stops them
	@sh tests/scripts/local.sh run

demo: ## play the story: tokens good and bad, rotation under load, revocation, issuer away
	@sh tests/scripts/local.sh demo

test: setup node test-native test-clients test-wasm test-istio ## every test: units, issuer, real Envoy, clients, core as wasm, manifests

test-native: setup ## units and properties, the issuer (SQLite, PostgreSQL), the module in the real Envoy, both together
	$(section) 'Building the tests' cargo test --workspace --no-run
	$(section) 'Units, issuer on SQLite and PostgreSQL, the module in the real Envoy, both together' \
	    cargo test --workspace --no-fail-fast

test-filter: ## only core, plugin and post-link step
	$(section) 'Filter: unit and property tests' \
	    cargo test -p meshseal-core -p meshseal-filter -p meshseal-postlink -p meshseal-abi

test-clients: ## openid-client, oauth4webapi, Authlib, PyJWT and Java's HttpClient against the issuer
	$(section) 'OAuth clients of others against the issuer' sh tests/scripts/clients.sh

node:
	@sh tests/scripts/wasm-tests.sh --check

test-sim: ## simulated histories with faults (SIM_HISTORIES=5000, SIM_SECONDS, SIM_SEED)
	$(section) 'Simulated histories of issuer, database, links and workers' sh tests/scripts/sim.sh

test-wasm: ## core's suite as WebAssembly under Node
	$(section) 'Core as WebAssembly under Node' sh tests/scripts/wasm-tests.sh

test-istio: ## the manifests of istio/ and the image layouts
	$(section) 'Istio manifests and images' sh tests/image/check.sh

bench: setup ## measure everything beside its targets; writes docs/performance.md
	@sh tests/scripts/bench.sh core filter issuer

bench-filter: setup ## only the filter, beside Envoy's own jwt_authn
	@sh tests/scripts/bench.sh filter

bench-issuer: setup ## only the issuer, beside oidc-provider
	@sh tests/scripts/bench.sh issuer

bench-core: ## only the core's decisions, natively
	@sh tests/scripts/bench.sh core

bench-count: ## count the hot path's instructions; fails when they rise (ACCEPT=1 takes the new counts)
	@ACCEPT='$(ACCEPT)' sh tests/scripts/bench-count.sh

fuzz: ## run every fuzz target for a short while (FUZZ_SECONDS each)
	@sh tests/scripts/fuzz.sh

lint: ## formatting, clippy, cargo-deny
	$(section) 'Formatting' cargo fmt --all --check
	$(section) 'Clippy' cargo clippy --workspace --all-targets -- -D warnings
	$(section) 'Clippy on the module as it is built' cargo clippy -p meshseal-filter --target wasm32-wasip1 -- -D warnings
	$(section) 'Licences, bans, sources, advisories' sh tests/scripts/deny.sh

fmt: ## format the sources
	@cargo fmt --all

image: ## lay out the filter and the issuer as OCI images, without a Docker daemon
	@sh istio/image/build.sh

wasm: ## build the filter as target/meshseal.wasm
	@sh tests/scripts/toolchain.sh
	@sh tests/scripts/wasm.sh

setup: ## toolchain targets and the pinned Envoy (the other targets do it themselves)
	@sh tests/scripts/toolchain.sh
	@sh tests/scripts/envoy.sh >/dev/null

clean: ## remove everything that was built or fetched
	cargo clean
