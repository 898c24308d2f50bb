# make test runs every test there is, real clients included; it installs them first (Debian 12, as root).

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.1
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0
FUZZTIME = 30s
FLOODS = /tmp/floods
PEERS = /tmp/peers

.PHONY: build deb test clients lint vuln bench bench-flood bench-peers fuzz fmt

build:
	CGO_ENABLED=0 go build -trimpath ./cmd/spillway

# A Debian package beside the Makefile: make deb VERSION=1.2.3 GOARCH=arm64. What git does not know the version of sorts before any release.
VERSION = 0~git$(shell git log -1 --format=%cd.%h --date=format:%Y%m%d%H%M)
deb: export GOARCH := $(or $(GOARCH),$(shell go env GOARCH))
deb:
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o "$$dir/spillway" ./cmd/spillway && \
	deploy/debian/build "$(VERSION)" "$$GOARCH" "$$dir/spillway" .

# Twice: with the race detector, then as users run it, with the tests it would disturb (allocations) and the real clients.
test: clients lint vuln
	go test -race -timeout=15m ./...
	go test -count=1 -p=1 -timeout=25m -tags=e2e ./...

clients:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then .ci/install && .ci/install-web; \
	else echo "not root on Debian: the tests tagged e2e need what .ci/install and .ci/install-web list"; fi

lint:
	@out=$$(gofmt -l .); [ -z "$$out" ] || { echo "gofmt these (make fmt): $$out"; exit 1; }
	go vet -tags=e2e ./...
	go run $(STATICCHECK) -tags=e2e ./...

# Only a vulnerability found fails; a machine that cannot reach the database says so and goes on.
vuln:
	@out=$$(go run $(GOVULNCHECK) ./... 2>&1); status=$$?; \
	if echo "$$out" | grep -q 'fetching vulnerabilities'; then echo "govulncheck skipped, no database: $$out" | head -n 1; \
	else echo "$$out"; exit $$status; fi

bench:
	go test -run='^$$' -bench=. -timeout=40m ./internal/bench

# Floods of the real program, with shedding and without, and of opentracker: an hour, on a machine that does nothing else.
bench-flood:
	go test -run='^$$' -bench='^BenchmarkFlood' -timeout=3h ./internal/bench -flood.out=$(FLOODS) -flood.length=10s -flood.patience=20ms

# Other trackers beside this one, those that .ci/install-peers has installed: within 8 minutes, on a machine that does nothing else.
bench-peers:
	go test -run='^$$' -bench='^BenchmarkPeers$$' -benchtime=1x -timeout=30m ./internal/bench -peers.out=$(PEERS) -rounds=5 -turn=1s

# Each fuzz target in turn, FUZZTIME each.
fuzz:
	@for pkg in $$(go list ./...); do \
		for f in $$(go test -list='^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$f"; go test -run='^$$' -fuzz="^$$f$$" -fuzztime=$(FUZZTIME) -fuzzminimizetime=1s $$pkg || exit 1; \
		done; \
	done

fmt:
	gofmt -w .
