SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME ?= 30s

# Debian leaves these out for users other than root; ip, haproxy and nginx are there.
export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: help
help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the static binary ./switchboard
	CGO_ENABLED=0 go build -trimpath -o switchboard ./cmd/switchboard

.PHONY: run
run: ## Run a whole cluster on this machine, with things to try
	go run ./cmd/switchboard dev

.PHONY: test
test: tools lint ## Run every check and every spec, with the race detector
	go test -race -count=1 -p 2 -timeout 20m ./...
	SWITCHBOARD_ENGINE=portable go test -race -count=1 -timeout 20m ./bridge
	SWITCHBOARD_ENGINE=portable go test -race -count=1 -timeout 20m ./cmd/switchboard -ginkgo.focus='\bT[0-9]+\b' -ginkgo.skip-file=galera_test.go
	SWITCHBOARD_ENGINE=loops go test -race -count=1 -timeout 20m ./bridge/web -ginkgo.skip-file=soak_test.go

# How many requests go past kills of their backends, and how many bytes each way.
SOAK_POSTS ?= 1000000
SOAK_BYTES ?= 10737418240
# How many lines are logged, at up to 10,000 a second, while their reader is killed.
SOAK_LINES ?= 600000
# How many requests are sent, 10,000 a second, while their log is rotated and its reader is killed.
SOAK_REQUESTS ?= 600000

.PHONY: soak
soak: tools ## Probe real databases 100,000 times each, send a million requests past kills, stream 10 GiB both ways, count 600,000 lines and requests past kills
	SOAK=1 go test -race -count=1 -p 1 -timeout 20m ./monitor/check/mysql ./monitor/check/galera ./monitor/check/postgres -ginkgo.focus-file soak_test.go
	SOAK_LINES=$(SOAK_LINES) go test -v -count=1 -timeout 20m ./pacemaker/stats -ginkgo.focus='however often it is killed' -ginkgo.v
	SOAK_REQUESTS=$(SOAK_REQUESTS) go test -v -count=1 -timeout 20m ./cmd/switchboard -ginkgo.focus='is accounted for' -ginkgo.v
	SOAK_POSTS=$(SOAK_POSTS) SOAK_BYTES=$(SOAK_BYTES) go test -v -count=1 -timeout 3h ./bridge/web -ginkgo.focus=soak -ginkgo.timeout=3h -ginkgo.v

# How many switches cut the streams, and how many bytes are checked in all, both ways: 64 GiB.
SOAK_SWITCHES ?= 1000
SOAK_STREAM_BYTES ?= 68719476736

.PHONY: soak-streams
soak-streams: ## Check every byte of 64 GiB through 1,000 switches; the other engine with SWITCHBOARD_ENGINE=portable
	SOAK_SWITCHES=$(SOAK_SWITCHES) SOAK_STREAM_BYTES=$(SOAK_STREAM_BYTES) go test -v -count=1 -timeout 3h ./bridge -ginkgo.focus='soak crosses' -ginkgo.timeout=3h -ginkgo.v

# How long a router works under a mixed load.
SOAK_TIME ?= 1h

.PHONY: soak-hour
soak-hour: tools ## Run a router for an hour under a mixed load, switches and PATCHes, and see that nothing grows
	SOAK_TIME=$(SOAK_TIME) go test -v -count=1 -timeout 48h ./cmd/switchboard -ginkgo.focus='soak has no more' -ginkgo.timeout=48h -ginkgo.v

.PHONY: lint
lint: ## Check format, vet, staticcheck, the floors and go.mod
	@unformatted=$$(gofmt -l .); \
	if [ -n "$$unformatted" ]; then echo "not formatted with gofmt:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	go run $(STATICCHECK) ./...
	go test -count=1 ./fixtures/floors
	go mod tidy -diff

.PHONY: fuzz
fuzz: ## Fuzz every fuzz target for FUZZTIME (30s) each
	@grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed -E 's|/[^/]+:func | |' | sort | \
	while read -r dir target; do \
		echo "== $$target in $$dir"; \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$dir" </dev/null; \
	done

.PHONY: guard
guard: tools ## Count again what the data path costs, and write it into fixtures/guard/figures.md
	go test -count=1 ./fixtures/guard -update
	@git --no-pager diff --stat -- fixtures/guard/figures.md

.PHONY: bench
bench: ## Measure against HAProxy, nginx and Caddy, and with real database servers
	@$(call need,gcc:gcc /usr/include/stdlib.h:libc6-dev $(PROXIES) /usr/lib/nginx/modules/ngx_stream_module.so:libnginx-mod-stream $(SERVERS))
	go run ./fixtures/bench
	go test -run '^$$' -bench 'Lookup|Table/packed' ./bridge/route
	go test -run '^$$' -bench Request ./bridge/accesslog

.PHONY: bench-quick
bench-quick: ## See in a minute that the benchmarks work, as far as their programs are there
	go run ./fixtures/bench -quick

# What is compared by make compare, and with what flags: OLD=v1.2 FLAGS="-run echo".
NEW ?= HEAD
FLAGS ?=

.PHONY: compare
compare: ## Compare two commits with benchstat: make compare OLD=main [NEW=HEAD]
	@[ -n "$(OLD)" ] || { echo "make compare OLD=commit [NEW=commit] [FLAGS='-rounds 10 -run echo']"; exit 1; }
	@$(call need,git:git haproxy:haproxy)
	go run ./fixtures/bench compare -old "$(OLD)" -new "$(NEW)" $(FLAGS)

# The proxies that are measured beside ours, and set up in a spec.
PROXIES := haproxy:haproxy nginx:nginx caddy:caddy

# The servers that both specs and benchmarks run.
SERVERS := redis-server:redis-server mariadbd:mariadb-server mariadb:mariadb-client \
	/usr/lib/galera/libgalera_smm.so:galera-4 rsync:rsync \
	/usr/lib/postgresql/*/bin/initdb:postgresql psql:postgresql-client

# What the specs and the race detector need beside Go.
.PHONY: tools
tools: ## Install what the specs need (Debian, as root), or say what is missing
	@$(call need,gcc:gcc /usr/include/stdlib.h:libc6-dev git:git curl:curl chromium:chromium ip:iproute2 redis-benchmark:redis-tools sysbench:sysbench logrotate:logrotate strace:strace valgrind:valgrind \
		/usr/lib/nginx/modules/ngx_http_lua_module.so:libnginx-mod-http-lua /usr/share/lua/5.1/nginx/redis.lua:lua-nginx-redis \
		$(PROXIES) $(SERVERS))

# need looks for program:package and /file:package pairs. As root it installs the packages that
# are missing. Otherwise it says which those are: specs that need them are then
# skipped, but with CI set that is a failure. The loop is run again after an
# install, since a package may not have brought what it should.
define need
missing() { \
	for pair in $(1); do \
		program="$${pair%%:*}"; \
		case "$$program" in /*) compgen -G "$$program" >/dev/null;; *) command -v "$$program" >/dev/null;; esac || printf '%s ' "$${pair##*:}"; \
	done; \
}; \
command -v go >/dev/null || { echo "go is not installed; see go.mod for the version"; exit 1; }; \
packages=$$(missing); \
if [ -n "$$packages" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	export DEBIAN_FRONTEND=noninteractive; \
	{ apt-get update && apt-get install -y --no-install-recommends $$packages; } || echo "installing $$packages failed"; \
	packages=$$(missing); \
fi; \
if [ -n "$$packages" ]; then \
	echo "missing Debian packages: $$packages(install them, or run this as root)"; \
	if [ -n "$${CI:-}" ]; then exit 1; fi; \
	echo "what needs them will be left out"; \
fi
endef
