//! The `coffer` program: parse, run, print, exit code. All of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(coffer::cli::main())
}
