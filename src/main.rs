//! The `coffer` program: a thin wrapper that calls the library and returns its exit code.

use coffer::sys::Wiping;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: Wiping = Wiping;

fn main() -> ExitCode {
    ExitCode::from(coffer::cli::main())
}
