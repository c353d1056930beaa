//! stub
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sluice demo")]
pub(crate) struct Demo {}
pub(crate) fn run(_: &Demo) -> anyhow::Result<()> {
    Ok(())
}
