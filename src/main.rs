//! The `coffer` program: a thin wrapper that calls the library and returns its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(coffer::cli::main())
}
