//! Arguments to command; exit code; the allocator of the program.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// glibc's keeps an arena for every few threads, and what large bodies took: twice the memory.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    floe::cli::run()
}
