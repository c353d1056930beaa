//! Finds the files of the workspace and asks cargo about it, for the tests in `tests/`.
//!
//! Each file there checks one promise about the workspace's shape: `layering` which crate may use
//! which, `files` what every source file looks like, `links` that the documentation leads
//! somewhere, `configs` that every configuration file can be read.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// Folders that hold what was built or measured, not what was written.
const SKIPPED: [&str; 3] = ["target", "results", "node_modules"];

/// The workspace's top folder.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map(Path::to_owned).unwrap_or_default()
}

/// Every file below `folder` whose name ends in one of `extensions`, in order; hidden folders and
/// what was built are left out.
///
/// # Errors
///
/// When a folder cannot be read. A folder that is not there has no files.
pub fn files(folder: &Path, extensions: &[&str]) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|it| it.to_str()).unwrap_or_default();
            if path.is_dir() {
                if !name.starts_with('.') && !SKIPPED.contains(&name) {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|it| extensions.iter().any(|of| it == *of)) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What cargo prints when asked `arguments` in the workspace; it asks no network.
///
/// # Errors
///
/// When cargo cannot be run or fails, with what it said.
pub fn cargo(arguments: &[&str]) -> io::Result<String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let output =
        Command::new(cargo).args(arguments).arg("--offline").current_dir(root()).output()?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}
