use super::Common;
use crate::error::Result;
#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {}
pub(super) fn run(_c: &Common, _a: &DemoArgs) -> Result<u8> {
    Ok(0)
}
