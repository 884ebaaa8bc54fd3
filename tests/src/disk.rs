//! A disk that is small, to be filled and emptied: a tmpfs of its own. Takes root.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The file that fills it.
const BALLAST: &str = "ballast";
/// Bytes written at a time while it is filled.
const PIECE_BYTES: usize = 64 << 10;

/// A mounted disk; dropping it takes it away, also from under a process.
#[derive(Debug)]
pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// Whether disks can be mounted here; if not, why.
    ///
    /// # Errors
    /// If no temporary folder can be made.
    pub fn possible() -> Result<Result<(), String>> {
        let folder = tempfile::tempdir().context("failed to make a temporary folder")?;
        Ok(Self::mount(folder.path(), 1).map(drop).map_err(|error| format!("{error:#}")))
    }

    /// Mounts one of so many MiB; the folder is made if it is not there.
    ///
    /// # Errors
    /// If it cannot be mounted.
    pub fn mount(at: &Path, mib: u32) -> Result<Self> {
        std::fs::create_dir_all(at).with_context(|| format!("failed to create {}", at.display()))?;
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "roadstead-test"]).arg(at).output();
        let output = output.context("failed to run mount")?;
        ensure!(output.status.success(), "a tmpfs cannot be mounted: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(Self { at: at.to_owned() })
    }

    /// Takes all the room that is left.
    ///
    /// # Errors
    /// If it fails before the disk is full.
    pub fn fill(&self) -> Result<()> {
        let mut ballast = File::options().create(true).append(true).open(self.at.join(BALLAST)).context("failed to open the ballast")?;
        let piece = vec![0xa5; PIECE_BYTES];
        loop {
            match ballast.write(&piece) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context("the disk cannot be filled"),
            }
        }
    }

    /// Makes room again.
    ///
    /// # Errors
    /// If it cannot.
    pub fn free(&self) -> Result<()> {
        std::fs::remove_file(self.at.join(BALLAST)).context("the ballast cannot be removed")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that has a file open there keeps it until it ends.
        let done = Command::new("umount").arg("-l").arg(&self.at).status();
        if !done.is_ok_and(|status| status.success()) {
            eprintln!("{} could not be unmounted", self.at.display());
        }
    }
}

/// Names a test that could not be run here. `cargo xtask test` repeats the line in its summary, and counts it as a failure where `CI=true`.
///
/// # Errors
/// If it cannot be said.
pub fn not_run(test: &str, why: &str) -> Result<()> {
    // Not `println!`, which the test harness keeps to itself as long as the test passes.
    writeln!(std::io::stdout(), "\nnot run: {test}: {why}").context("failed to write to stdout")
}
