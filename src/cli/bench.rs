use super::Common;
use crate::error::Result;
#[derive(Debug, clap::Args)]
pub(super) struct BenchArgs {}
pub(super) fn run(_c: &Common, _a: &BenchArgs) -> Result<u8> {
    Ok(0)
}
