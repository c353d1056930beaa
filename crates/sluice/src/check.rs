//! `sluice check`: validates a configuration.

use std::path::PathBuf;

/// Validates a router configuration; every problem is listed, and the exit code is 78.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sluice check -c config/router.yaml")]
pub(crate) struct Check {
    /// The configuration.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Prints the configuration in full, defaults included.
    #[arg(long)]
    print_config: bool,
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the result is for the terminal")]
pub(crate) fn run(check: &Check) -> anyhow::Result<()> {
    let config = router::config::load(&check.config)?;
    router::serve::try_out(&config)?;
    for exposed in router::config::exposed(&config, Some(&check.config)) {
        eprintln!("warning: {exposed}");
    }
    if check.print_config {
        print!("{}", serde_yaml::to_string(&config)?);
    } else {
        println!("{} is valid", check.config.display());
    }
    Ok(())
}
