//! Arguments to command; exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    floe::cli::run()
}
