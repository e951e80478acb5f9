# The whole manual of the working tree. CI runs exactly these (.ci/run).

# Everything CI runs.
ci: fmt lint deny test protocol-tests

# Formatting is as rustfmt says.
fmt:
    cargo fmt --all --check

# No warning of the compiler or clippy.
lint:
    cargo clippy --workspace --all-targets -- -D warnings

# Licences, sources, banned versions of dependencies.
deny:
    cargo fetch --quiet --locked
    cargo deny --offline check licenses bans sources

# All Rust tests, stock librdkafka against the real binary among them.
test:
    cargo test --workspace

# Clients and engines of other languages against the real binary.
protocol-tests:
    protocol-tests/run

# The same, and docs/compatibility.md from what it finds.
compatibility:
    protocol-tests/run --write-docs

# Ten seconds of fuzzing for each decoder, after a build of ten minutes; needs a nightly toolchain. Every
# test run has the short form of it: seeds and their mutations.
fuzz:
    fuzz/run

# Serve with embedded defaults.
serve:
    cargo run --release -- serve
